"""Runs and data sets on a hub on loopback, by the real client: cards, push, pull, and what goes wrong, in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from hub_server import TOKEN, HubServer, asked_by_this_process, serving
from torch import nn

import ltaug.hub
import ltaug.hub._client
import ltaug.report._card
from ltaug import PriorShift
from ltaug.__main__ import main
from ltaug.correction import Correction
from ltaug.errors import UserError
from ltaug.posthoc import LabelwisePriorShift, VectorScaling
from ltaug.report._card import shared_command, text
from ltaug.run import RunFolder
from ltaug.scripts import find_recipe, run_script
from ltaug.vision import read_digits

NAMES = ["cat", "dog | wolf", "<b>emu</b>"]
COUNTS = torch.tensor([300, 30, 3])
PRIOR = COUNTS / COUNTS.sum()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with serving() as server, asked_by_this_process(server, tmp_path / "home"):
        without_figures(server.patch)
        server.patch.setattr(ltaug.hub._client.time, "sleep", lambda seconds: None)
        server.patch.setattr(ltaug.hub._client, "PATIENCE", 5.0)
        yield server


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """They take longer than all the rest, and are looked at by a test of the card."""
    patch.setattr(ltaug.report._card, "_drawn", lambda draw, path, obliged: path.write_bytes(b"PNG") > 0)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def make_run(folder: Path, **info: Any) -> Path:
    """A finished run as training leaves it, in a place with a name that nobody else should read."""
    script = "/place/of/ada/secret/recipes/cifar_lt/train.py"
    run = RunFolder(
        folder, {"method": "erm", "epochs": 3, "dataset": "cifar10", "data_dir": "/place/of/ada/secret/cifar"}
    )
    places = "--out /place/of/ada/secret/out --data_dir=/place/of/ada/secret/cifar"
    run.write("command.txt", f"python {script} --method erm {places}\n")
    run.log(epoch=0, loss=1.0)
    labels = torch.arange(3).repeat(20)
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)) + 2 * nn.functional.one_hot(labels, 3)
    run.save_logits(logits, labels)
    run.save_per_class(NAMES, COUNTS, torch.tensor([0.9, 0.5, 0.25]))
    what = {"class_names": NAMES, "class_counts": COUNTS, "method": "erm", "logits_prior": PRIOR}
    what |= {"logits_prior_reason": "the training prior", "preprocessing": {"kind": "small_images"}, **info}
    run.save_model(network().state_dict(), what)
    final = {"top1": 0.55, "many": 0.9, "medium": 0.5, "few": 0.25, "ece": 0.1, "nll": 1.0}
    settings = {"data_dir": "/place/of/ada/secret/cifar", "out": "/place/of/ada/secret/out"}
    what |= {"name": "erm", "seed": 7, "final": final, "settings": settings, "parameters": 15}
    run.write_json("summary.json", what)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "erm")


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line with which it ends."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


class TestCard:
    def test_what_it_says(self, run: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(ltaug.report._card, "FIGURE_DPI", 40)
        correction = Correction(PRIOR, [1, 1, 1], calibrator=VectorScaling(3))
        correction.tune(*RunFolder.open(run).load_logits())
        correction.save(run)
        words = ("push", run, "ada/digits", "--dry_run", tmp_path / "out", "--license", "mit")
        assert "Or push the run without an exported file: `--formats none`" in refused(capsys, *words)
        words += ("--formats", "none")  # into the same folder
        assert "Nothing was uploaded" in said(capsys, *words)
        card = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
        data = card.data
        assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "ltaug", "image-classification")
        assert data.datasets == ["uoft-cs/cifar10"]
        assert {"long-tailed", "ltaug", "erm"} <= set(data.tags)
        assert data.language is None
        found = {(each.metric_name, each.metric_value) for each in data.eval_results}
        assert {("top-1 accuracy", 0.55), ("few-shot accuracy", 0.25), ("expected calibration error", 0.1)} <= found
        words = card.text
        for part in (
            "from 300 to 3 a class",
            "the **training prior**",
            "90.1 % (cat) to 0.901 %",
            "Why: the training prior",
            "| few-shot accuracy | 25.0 % |",
            "(seed 7)",
            "python recipes/cifar_lt/train.py --method erm --out out --data_dir=cifar",
            "60 samples, equally many of every class",
            "by 6.4 points (one standard error)",  # sqrt(0.55 * 0.45 / 60)
            r"| dog \| wolf | 30 | ",
            "&lt;b&gt;emu&lt;/b&gt;",
            "the mean of their accuracies is 25.0 %, that of many-shot classes 90.0 %",
            "it calibrates (VectorScaling), then it shifts from the prior that the logits are under to",
            '`from_pretrained("ada/digits"'.strip("`"),
        ):
            assert part in words, part
        assert "model.onnx" not in words
        for name in ("counts.png", "accuracy.png", "reliability.png"):
            assert f"]({name})" in words
            assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
        secrets = [path.name for path in (tmp_path / "out").iterdir() if b"secret" in path.read_bytes()]
        assert secrets == []
        without_figures(monkeypatch)
        said(capsys, "push", run, "ada/digits", "--formats", "none", "--dry_run", tmp_path / "out")  # anew

    def test_scenes(self, tmp_path: Path, monkeypatch: Any) -> None:
        """Numbers of all pixels and of some are told apart, the unit is pixels, and there are no shot groups."""
        without_figures(monkeypatch)
        run = make_run(tmp_path / "run", preprocessing={"kind": "scenes", "modality": "depth"})
        folder = RunFolder.open(run)
        folder.write_json("summary.json", folder.summary() | {"final": {"top1": 0.9, "miou": 0.4, "few": 0.1}})
        (run / "correction.json").unlink(missing_ok=True)
        (tmp_path / "out").mkdir()
        words = ltaug.report._card.write_card(run, tmp_path / "out", "ada/x", files=["model.onnx"]).read_text()
        assert "Metrics are of all test pixels; the figures, and the accuracies of the classes above, of 60 of" in words
        assert "on 60 test" not in words
        assert "the shares of the training pixels" in words
        assert "# batch: float32 depths in metres [N, H, W]" in words
        assert "shot" not in words
        assert "samples" not in words.partition("## Results")[2].partition("## Training")[0]
        assert not (tmp_path / "out" / "counts.png").exists()

    @pytest.mark.parametrize(
        ("prior", "words"),
        [
            ([1 / 3] * 3, "the **uniform prior**"),
            ([0.5, 0.3, 0.2], "a **prior of their own**, from 50 %"),
            (None, "No prior of the logits is recorded"),
        ],
    )
    def test_the_prior_in_words(self, tmp_path: Path, monkeypatch: Any, prior: Any, words: str) -> None:
        without_figures(monkeypatch)
        run = make_run(tmp_path / "run", logits_prior=prior)
        ltaug.hub.write_model_folder(run, tmp_path / "out", "ada/x", formats=())
        assert words in (tmp_path / "out" / "README.md").read_text()

    def test_text_is_text(self) -> None:
        assert text("![x](http://a/b.png)\n---") == r"!\[x\](http://a/b.png) ---"
        assert shared_command("python train.py\npython '/home/my ada/train.py' --a b/c") == (
            "python 'home/my ada/train.py' --a b/c"
        )


class TestRoundTrip:
    def test_push_and_pull(self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any) -> None:
        Correction(PRIOR, [1, 1, 2], class_names=NAMES).save(run)
        (run / "checkpoints" / "epoch_00001").mkdir(parents=True)
        (run / "checkpoints" / "epoch_00001" / "state.bin").write_bytes(b"x" * 100)
        words = ("push", run, "ada/digits", "--formats", "none", "--message", "first", "--private")
        assert "/ada/digits/commit/" in said(capsys, *words)
        repo = hub.repos["model", "ada/digits"]
        assert repo.private
        assert repo.messages == ["initial commit", "first"]  # one commit
        assert hub.asked("POST .*/commit") == ["POST /api/models/ada/digits/commit/main"]
        assert set(repo.files()) == {
            *(
                "README.md",
                "counts.png",
                "accuracy.png",
                "reliability.png",
                "model.safetensors",
                "ltaug.json",
                ".gitattributes",
            ),
            *("config.yaml", "summary.json", "per_class.csv", "correction.safetensors", "correction.json"),
        }
        assert hub.asked("POST /api/validate-yaml")

        pulled = tmp_path / "pulled"
        assert "is the run ada/digits" in said(capsys, "pull", "ada/digits", pulled)
        for name in ("model.safetensors", "ltaug.json", "per_class.csv", "correction.json"):
            assert (pulled / name).read_bytes() == (run / name).read_bytes()
        assert Correction.load(pulled).target_prior.tolist() == [0.25, 0.25, 0.5]  # type: ignore[union-attr]
        assert RunFolder.open(pulled).info()["class_names"] == NAMES

        inputs, own = torch.randn(5, 1, 2, 2), network()
        for place in (pulled, run, "ada/digits"):
            model = PriorShift.from_pretrained(
                place, nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), target_prior=[1, 1, 2]
            )
            torch.testing.assert_close(
                model(inputs), own(inputs) + torch.log(torch.tensor([0.25, 0.25, 0.5]) / PRIOR), rtol=1e-5, atol=1e-5
            )
        with pytest.raises(UserError, match=r"do not fit `model`: size mismatch for 1\.weight"):
            PriorShift.from_pretrained(pulled, nn.Sequential(nn.Flatten(), nn.Linear(5, 3)))

    def test_a_second_push_replaces_the_first(self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any) -> None:
        Correction(PRIOR, class_names=NAMES).save(run)
        ltaug.hub.push_run(run, "ada/m", formats=(), logits=True)
        pulled = ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        first = hub.repos["model", "ada/m"].branches["main"][-1]
        assert (pulled / "correction.json").exists()
        assert (pulled / "logits.safetensors").exists()
        for name in ("correction.json", "correction.safetensors"):
            (run / name).unlink()
        ltaug.hub.push_run(run, "ada/m", formats=())
        ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        assert not list(pulled.glob("correction.*"))  # or it would correct other logits
        assert not (pulled / "logits.safetensors").exists()
        ltaug.hub.pull_run("ada/m", tmp_path / "pulled", revision=first)
        assert (pulled / "correction.json").exists()
        # The same again is no commit.
        commits = len(hub.repos["model", "ada/m"].messages)
        ltaug.hub.push_run(run, "ada/m", formats=())
        assert len(hub.repos["model", "ada/m"].messages) == commits
        # What was made of the weights in a pulled folder stays with them, and goes with them.
        ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        Correction(PRIOR, class_names=NAMES).save(pulled)
        for name in ("corrected.json", "model.onnx", "notes.txt"):
            (pulled / name).write_text("{}")
        ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        assert (pulled / "correction.json").exists()
        folder = RunFolder.open(run)
        folder.save_model({name: 2 * value for name, value in network().state_dict().items()}, folder.info())
        ltaug.hub.push_run(run, "ada/m", formats=())
        written = ltaug.hub._runs.write_atomically
        with pytest.MonkeyPatch.context() as patch:

            def full(path: Path, content: Any) -> None:
                if path.name == "summary.json":
                    raise OSError(28, "No space left on device")
                written(path, content)

            patch.setattr(ltaug.hub._runs, "write_atomically", full)
            with pytest.raises(OSError, match="No space"):
                ltaug.hub.pull_run("ada/m", pulled)
        said = "corrected.json, correction.safetensors, correction.json, model.onnx in"
        assert f"{said} {pulled} belonged to what is replaced by this revision" in capsys.readouterr().err
        assert not (pulled / "ltaug.json").exists()  # half of it is no run
        ltaug.hub.pull_run("ada/m", pulled)
        assert not [name for name in ltaug.hub._runs._MADE if (pulled / name).exists()]
        assert (pulled / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
        assert (pulled / "notes.txt").exists()

    def test_a_branch(self, hub: HubServer, run: Path, tmp_path: Path) -> None:
        ltaug.hub.push_run(run, "ada/m", formats=(), revision="seed1")
        assert set(hub.repos["model", "ada/m"].files()) == {".gitattributes"}
        assert (ltaug.hub.pull_run("ada/m", tmp_path / "pulled", revision="seed1") / "ltaug.json").exists()
        with pytest.raises(UserError, match="no such branch, tag or commit"):
            ltaug.hub.pull_run("ada/m", tmp_path / "other", revision="seed2")

    def test_a_public_one_does_not_take_what_is_private(self, hub: HubServer, run: Path) -> None:
        ltaug.hub.push_run(run, "ada/m", formats=())
        with pytest.raises(UserError, match="is on the hub already, for everybody to read"):
            ltaug.hub.push_run(run, "ada/m", formats=(), private=True)

    def test_other_peoples_folders(self, hub: HubServer, run: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            ltaug.hub.push_run(run, f"ada/{name}", formats=())
        before = (run / "model.safetensors").read_bytes()
        with pytest.raises(UserError, match="holds files that were not pulled"):
            ltaug.hub.pull_run("ada/a", run)
        assert (run / "model.safetensors").read_bytes() == before
        ltaug.hub.pull_run("ada/a", tmp_path / "pulled")
        with pytest.raises(UserError, match=r"holds the model 'ada/a'\. Name a new folder for 'ada/b'"):
            ltaug.hub.pull_run("ada/b", tmp_path / "pulled")
        (run / "checkpoints").mkdir()
        with pytest.raises(UserError, match="holds other files, such as checkpoints"):
            ltaug.hub.write_model_folder(run, run, "ada/a", formats=())

    def test_code_stays_there(self, hub: HubServer, run: Path, tmp_path: Path) -> None:
        ltaug.hub.write_model_folder(run, tmp_path / "out", "eve/m", formats=())
        (tmp_path / "out" / "modeling.py").write_text("raise SystemExit")
        (tmp_path / "out" / "weights.bin").write_bytes(b"pickle")
        (tmp_path / "out" / "deep").mkdir()
        (tmp_path / "out" / "deep" / "x.json").write_text("{}")
        hub.add("eve/m", tmp_path / "out")
        pulled = ltaug.hub.pull_run("eve/m", tmp_path / "pulled")
        names = {path.name for path in pulled.iterdir()}
        assert "ltaug.json" in names
        assert not names & {"modeling.py", "weights.bin", "deep"}

    def test_without_its_recipe_the_exported_file_is_the_network(
        self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any
    ) -> None:
        """What :mod:`ltaug.export` writes is tested with it: here a file stands for it."""
        own, asked, calibrator = network(), [], None

        def export(source: Path, out: Path, *, format: str, script: Any) -> None:
            out.write_bytes(b"exported as " + format.encode())

        class Opened:
            def __init__(self, path: Path) -> None:
                assert path.read_bytes() == b"exported as onnx"
                # The prior of a correction that started from another one than the run's.
                self.info = {"calibrator": calibrator, "logits_prior": [0.5, 0.25, 0.25]}

            def __call__(self, inputs: torch.Tensor, class_prior: torch.Tensor) -> torch.Tensor:
                asked.append(class_prior.tolist())
                return own(inputs)

        hub.patch.setattr("ltaug.export.export_run", export)
        hub.patch.setattr("ltaug.export.load_exported", Opened)
        said(capsys, "push", run, "ada/m", "--formats", "onnx,pt2")
        assert {"model.onnx", "model.pt2"} <= set(hub.repos["model", "ada/m"].files())
        card = hub.repos["model", "ada/m"].files()["README.md"].decode()
        assert 'hf_hub_download("ada/m", "model.onnx")' in card
        assert "load programs of people whom you trust" in card
        pulled = ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        inputs = torch.randn(4, 1, 2, 2)
        model = PriorShift.from_pretrained(pulled, target_prior=PRIOR)
        torch.testing.assert_close(model(inputs), own(inputs))
        assert asked == [[0.5, 0.25, 0.25]]  # that the file's logits are under: nothing is shifted twice
        calibrator = "TemperatureScaling"
        with pytest.raises(UserError, match=r"model\.onnx`, whose logits are calibrated \(TemperatureScaling"):
            PriorShift.from_pretrained(pulled)
        model = PriorShift.from_pretrained(pulled, nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), target_prior=PRIOR)
        torch.testing.assert_close(model(inputs), own(inputs))
        (pulled / "model.onnx").unlink()
        with pytest.raises(UserError, match=r"No network can be made of .*pulled`: .* and it has no model\.onnx"):
            PriorShift.from_pretrained(pulled)  # a program of torch is not run

    def test_a_network_of_timm(self, run: Path) -> None:
        timm = pytest.importorskip("timm")
        network = timm.create_model("test_resnet", num_classes=3).eval()
        folder = RunFolder.open(run)
        folder.save_model(network.state_dict(), folder.info())
        config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {"num_classes": 3}}
        folder.write_json("config.json", config)
        model, images = PriorShift.from_pretrained(run), torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(images), network(images) + torch.log(1 / 3 / PRIOR))

    def test_several_labels(self, run: Path) -> None:
        folder = RunFolder.open(run)
        folder.save_model(network().state_dict(), folder.info() | {"several_labels": True})
        with pytest.raises(UserError, match=r"several labels a sample: load it by `LabelwisePriorShift\.from_p"):
            PriorShift.from_pretrained(run, network())
        model = LabelwisePriorShift.from_pretrained(run, network(), target_prior=PRIOR)
        assert isinstance(model, LabelwisePriorShift)
        folder.save_model(network().state_dict(), folder.info() | {"several_labels": False, "logits_prior": None})
        with pytest.raises(UserError, match="records no prior of its logits"):
            PriorShift.from_pretrained(run, network())

    @pytest.mark.slow
    def test_a_fresh_process_without_recipes(self, hub: HubServer, tmp_path: Path) -> None:
        """A trained run, its exported file, and the package alone: the same logits.

        Run it by ``pytest -m slow tests/test_hub.py``.
        """
        trained, place = tmp_path / "trained", tmp_path / "elsewhere"
        words = ["--protocol", "digits", "--epochs", "1", "--precision", "fp32", "--report", "false"]
        run_script(find_recipe("cifar_lt") / "train.py", [*words, "--out", str(trained)])
        ltaug.hub.push_run(trained, "ada/m")
        digits, (logits, _) = read_digits(), RunFolder.open(trained).load_logits()
        place.mkdir()
        torch.save({"raw": digits.images(digits.test), "logits": logits}, place / "known.pt")
        package = Path(ltaug.__file__).parent
        shutil.copytree(package, tmp_path / "alone" / "ltaug", ignore=shutil.ignore_patterns("_recipes", "__pycache__"))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "fresh"), "HF_HUB_DISABLE_XET": "1"}
        environment["PYTHONPATH"] = str(tmp_path / "alone")
        code = (
            "import ltaug, ltaug.scripts, torch\n"
            "from ltaug.__main__ import main\n"
            "assert not any(place.exists() for place in ltaug.scripts.PLACES)\n"
            "main(['pull', 'ada/m'])\n"
            "known = torch.load('known.pt')\n"
            "prior = ltaug.run.RunFolder.open('m').info()['logits_prior']\n"
            "model = ltaug.PriorShift.from_pretrained('m', target_prior=prior)\n"
            "torch.testing.assert_close(model(known['raw']), known['logits'], rtol=1e-4, atol=1e-4)\n"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


class TestFaults:
    def test_names(self, run: Path, capsys: Any) -> None:
        for name in ("digits", "https://hf.co/ada/digits", "ada/dig its", "../x", "ada/a--b"):
            assert f"{name!r} is no name on the hub: it must be OWNER/NAME" in refused(capsys, "pull", name)
        assert "is no name on the hub" in refused(capsys, "push", run, "digits")

    def test_unfinished(self, hub: HubServer, run: Path, capsys: Any) -> None:
        (run / "summary.json").unlink()
        assert "is no finished run: it has no summary.json" in refused(capsys, "push", run, "ada/m")
        assert not hub.seen

    @pytest.mark.parametrize(
        ("token", "owner", "line"),
        [
            (
                None,
                "ada",
                "nobody is logged in. Make a token that may write, and log in with `hf auth login` or set HF_TOKEN",
            ),
            ("hf_wrong", "ada", "does not know the token that is set. Make a new one"),
            (TOKEN, "eve", "you may not write there. OWNER must be the account that is logged in"),
        ],
    )
    def test_who_may_not_write(
        self, hub: HubServer, run: Path, capsys: Any, token: str | None, owner: str, line: str
    ) -> None:
        hub.patch.delenv("HF_TOKEN")
        if token:
            hub.patch.setenv("HF_TOKEN", token)
        printed = refused(capsys, "push", run, f"{owner}/m", "--formats", "none")
        assert line in printed
        if owner == "ada":  # said before anything is written, or data are read
            assert not hub.asked("POST")
            assert line in refused(capsys, "push-data", "ada/d", "--recipe", "cifar_lt")
        assert printed.endswith("Nothing of it is to be seen there: it appears as a whole.")
        assert not hub.repos

    def test_missing_gated_and_none_of_ours(
        self, hub: HubServer, tmp_path: Path, capsys: Any, monkeypatch: Any
    ) -> None:
        hub.add("eve/gated", {"ltaug.json": b"{}", "model.safetensors": b""}, gated=True)
        hub.add("eve/other", {"pytorch_model.bin": b""})
        hub.add("eve/private", {"ltaug.json": b"{}"}, private=True)
        line = refused(capsys, "pull", "eve/nothing", tmp_path / "x")
        assert "There is no model 'eve/nothing' on the hub that this account may read. Check its name." in line
        assert "'eve/other' is no run of ltaug: it has no ltaug.json" in refused(
            capsys, "pull", "eve/other", tmp_path / "x"
        )
        where = f"Accept them at {hub.endpoint}/eve/gated, "
        line = refused(capsys, "pull", "eve/gated", tmp_path / "x")
        assert f"{where}with the account that is logged in here." in line
        hub.patch.delenv("HF_TOKEN")
        line = refused(capsys, "pull", "eve/gated", tmp_path / "y")
        assert f"{where}then log in with `hf auth login` or set HF_TOKEN." in line
        line = refused(capsys, "pull", "eve/private", tmp_path / "z")
        assert "that everybody may read. If it is private, log in with `hf auth login`" in line
        with pytest.raises(
            UserError, match=r"There is no folder 'eve/nothing'\. As a name on the hub: There is no model"
        ):
            PriorShift.from_pretrained("eve/nothing")

    @pytest.mark.parametrize("where", ["POST .*/commit", "PUT /lfs", "GET /api"])
    def test_a_busy_hub_is_asked_again(self, hub: HubServer, run: Path, tmp_path: Path, where: str) -> None:
        hub.fails(503, where, times=2)
        ltaug.hub.push_run(run, "ada/m", formats=())
        pulled = ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        assert (pulled / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()

    def test_one_that_stays_busy(self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any) -> None:
        ltaug.hub.push_run(run, "ada/m", formats=())
        hub.fails(503)
        line = refused(capsys, "push", run, "ada/m", "--formats", "none")
        busy = f"{hub.endpoint} is busy (503), also when asked again. Try it later."
        assert f"'ada/m' could not be written to the hub: {busy}" in line
        line = refused(capsys, "pull", "ada/m", tmp_path / "x")
        assert f"'ada/m' could not be loaded from the hub: {hub.endpoint} is busy (503)" in line

    def test_a_broken_transfer_is_resumed(self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any) -> None:
        hub.fails("broken", "PUT /lfs", times=2)
        ltaug.hub.push_run(run, "ada/m", formats=())
        hub.fails("broken", "GET /lfs", times=2)
        pulled = ltaug.hub.pull_run("ada/m", tmp_path / "pulled")
        assert (pulled / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
        hub.fails("broken", "GET /lfs")
        shutil.rmtree(tmp_path / "home" / "hub")
        line = refused(capsys, "pull", "ada/m", tmp_path / "x")
        assert "the transfer broke off, also when it was resumed. The same command goes on with it." in line
        hub.faults.clear()
        said(capsys, "pull", "ada/m", tmp_path / "x")
        assert (tmp_path / "x" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
        hub.blobs.clear()
        hub.repos.clear()
        hub.fails("broken", "PUT /lfs")
        line = refused(capsys, "push", run, "ada/n", "--formats", "none")
        assert "'ada/n' could not be written to the hub: the transfer broke off" in line

    def test_offline(self, hub: HubServer, run: Path, tmp_path: Path, capsys: Any) -> None:
        ltaug.hub.push_run(run, "ada/m", formats=())
        cached = ltaug.hub.pull_run("ada/m")
        hub.shutdown()
        hub.server_close()
        huggingface_hub.close_session()
        line = refused(capsys, "push", run, "ada/m", "--formats", "none")
        assert f"'ada/m' could not be written to the hub: {hub.endpoint} does not answer. Check the network" in line
        assert "does not answer. Check the network" in refused(capsys, "pull", "ada/n", tmp_path / "x")
        hub.patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert ltaug.hub.pull_run("ada/m") == cached
        line = refused(capsys, "pull", "ada/n", tmp_path / "x")
        assert "HF_HUB_OFFLINE=1 keeps its client offline, and it is not in the cache. Unset it." in line
        line = refused(capsys, "push", run, "ada/m", "--formats", "none")
        assert "HF_HUB_OFFLINE=1 keeps its client offline. Unset it." in line
