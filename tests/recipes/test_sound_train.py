"""The recipe esc50_lt from the command line: what a run leaves, evaluation again, a sweep's table, the quick-start."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recipe_support import (
    ROOT,
    SMALL_SOUND,
    Done,
    Launcher,
    contents,
    copy_recipe,
    imported,
    rows,
    settings,
    summary,
    tiny_model,
)
from safetensors.torch import load_file
from test_smoke import FILES

from ltaug.metrics import classification_report

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

# Two seconds at 4 kHz, which the mel filters still make something of.
LOW_RATE = {"sample_rate": 4000, "crop_length": 4000, "mels": 16, "test_crops": 2, "threads": 1}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, copied to a place where nothing else of the repository is."""
    return copy_recipe(tmp_path_factory.mktemp("elsewhere") / "my_recipe", recipe="esc50_lt")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a small network."""
    return copy_recipe(tmp_path_factory.mktemp("tiny") / "recipe", tiny_model(recipe="esc50_lt"), recipe="esc50_lt")


@pytest.fixture(scope="module")
def launched(launcher: Launcher, recipe: Path) -> tuple[Path, Done]:
    """Two epochs of the quick-start's network on synthetic sounds, mixed, the loss corrected by the training prior."""
    pytest.importorskip("timm")
    pytest.importorskip("torchaudio")
    out = recipe.parent / "run"
    arguments = settings(recipe, "unimix_bayias", out, eval_every=2, **LOW_RATE)
    return out, launcher.run(recipe / "train.py", *arguments, cwd=recipe.parent).good()


@pytest.fixture(scope="module")
def run(launched: tuple[Path, Done]) -> Path:
    return launched[0]


@pytest.fixture(scope="module")
def evaluated(
    launcher: Launcher, recipe: Path, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A copy of the run without what an evaluation makes, evaluated; and what was said."""
    copy = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, copy)
    for name in ("logits.safetensors", "per_class.csv", "report.html"):
        (copy / name).unlink()
    arguments = [recipe / "evaluate.py", copy, "--target_prior", "uniform"]
    return copy, launcher.run(*arguments, cwd=recipe.parent).good().out


class TestRun:
    def test_has_every_file_and_no_other(self, run: Path) -> None:
        assert {name for name in contents(run) if not name.startswith("checkpoints/")} == FILES
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"epoch_00001", "epoch_00002"}

    def test_says_what_it_does(self, launched: tuple[Path, Done]) -> None:
        out = launched[1].out
        assert (
            "unimix_bayias: 120 training clips of 10 classes [32, 23, 17, 13, 10, 8, 6, 5, 3, 3], 80 test clips" in out
        )
        assert re.search(r"mel_timm of \d\.\d M parameters, 1 process\(es\), no", out)
        assert re.findall(r"epoch (\d)/2  loss \d\.\d+  lr [\d.]+  top1 [\d.]+ .* clips_per_second", out) == ["2"]
        assert out.count("| unimix_bayias |") == 1
        assert "| top-5 error |" in re.sub(" +", " ", out)

    def test_summary(self, run: Path) -> None:
        values = summary(run)
        assert (values["name"], values["dataset"], values["model"]) == ("unimix_bayias", "synthetic", "mel_timm")
        assert (values["num_processes"], values["precision"], values["epochs"]) == (1, "no", 2)
        assert values["training_clips"] == sum(values["class_counts"]) == 120
        assert values["unreadable_clips"] == 0
        assert re.fullmatch("[0-9a-f]{64}", values["index_hash"])
        assert values["wall_time_s"] > 0 < values["clips_per_second"]
        assert values["peak_memory_bytes"] > 2**20
        final = values["final"]
        assert set(final) >= {"top1", "top5", "many", "medium", "few", "ece", "nll"}
        assert final == {name: rows(run)[-1][name] for name in final}  # the last epoch's, not the best one's

    def test_metrics_are_of_the_kept_logits(self, run: Path) -> None:
        kept = load_file(run / "logits.safetensors")
        assert kept["labels"].tolist() == [label for label in range(10) for _ in range(8)]
        torch.testing.assert_close(kept["logits"].exp().sum(1), torch.ones(80))  # means of probabilities
        counts = torch.tensor(summary(run)["class_counts"])
        report = classification_report(kept["logits"].softmax(1), kept["labels"], counts)
        for name, value in summary(run)["final"].items():
            assert math.isnan(report[name]) if value is None else report[name] == pytest.approx(value), name
        hit = kept["logits"].argmax(1) == kept["labels"]
        for k, row in enumerate(csv.DictReader((run / "per_class.csv").open())):
            assert float(row["test_accuracy"]) == pytest.approx(
                hit[kept["labels"] == k].float().mean().item(), abs=1e-6
            )
            assert int(row["train_count"]) == counts[k]

    def test_rows_and_config(self, run: Path) -> None:
        first, second = rows(run)
        assert (first["epoch"], second["epoch"]) == (0, 1)
        assert [first["lr"], second["lr"]] == pytest.approx([0.0002, 0.0002])  # both are of the warm-up
        assert "top1" not in first
        values = yaml.safe_load((run / "config.yaml").read_text())
        assert (values["mixer"], values["loss"]) == ("unimix_between_class", "bayias")
        assert (values["epochs"], values["alpha"], values["backbone"]) == (2, 0.8, "test_resnet")

    def test_weights_stand_with_what_they_need(self, run: Path) -> None:
        info = json.loads((run / "ltaug.json").read_text())
        assert info["class_names"][:3] == ["rain", "wind", "bird"]
        assert info["class_counts"] == summary(run)["class_counts"]
        assert (info["sample_rate"], info["crop_length"]) == (4000, 4000)
        assert sum(info["logits_prior"]) == pytest.approx(1.0)
        assert info["logits_prior"][0] < 0.1 < info["logits_prior"][-1]  # it is corrected by more than there is
        assert {tensor.dtype for tensor in load_file(run / "model.safetensors").values()} >= {torch.float32}

    def test_mistakes_can_be_seen_and_heard(self, run: Path) -> None:
        page = (run / "report.html").read_text()
        assert not re.search(r'(src|href)="(?!data:|#)', page)
        section = page[page.index("Mistakes to hear") :]
        kept = load_file(run / "logits.safetensors")
        wrong = int((kept["logits"].argmax(1) != kept["labels"]).sum())
        assert f"{wrong} of 80 test clips are wrongly classified; the surest 8, the first 2.5 s of each." in section
        assert page.count("<audio") == 8
        confidence = [int(value) for value in re.findall(r"with a confidence of (\d+) %", section)]
        assert len(confidence) == 8
        assert confidence == sorted(confidence, reverse=True)
        # A player plays: WAV of two seconds at 4 kHz, 16 bits.
        for sound in re.findall(r'<audio[^>]*src="data:audio/\w+;base64,([^"]+)"', page):
            data = base64.b64decode(sound)
            assert data.startswith(b"RIFF")
            assert len(data) == pytest.approx(2 * 2 * 4000, abs=100)


def test_a_run_of_the_real_network_goes_on(launcher: Launcher, recipe: Path, run: Path, tmp_path: Path) -> None:
    """With the buffers of torchaudio, which safetensors has to load again."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    arguments = settings(recipe, "unimix_bayias", copy, eval_every=2, epochs=3, resume="true", **LOW_RATE)
    assert "Resumed after epoch 2 of 3." in launcher.run(recipe / "train.py", *arguments).good().out
    assert [row["epoch"] for row in rows(copy)] == [0, 1, 2]


class TestEvaluate:
    def test_makes_everything_anew_from_the_weights(self, run: Path, evaluated: tuple[Path, str]) -> None:
        assert contents(evaluated[0], but=["report.html", "corrected.json"]) == contents(run, but=["report.html"])
        assert (evaluated[0] / "report.html").read_text().count("<audio") == 8

    def test_reprints_the_very_numbers(self, launched: tuple[Path, Done], evaluated: tuple[Path, str]) -> None:
        cells = [line.split("|")[2:] for line in launched[1].out.splitlines() if line.startswith("| unimix_bayias |")]
        again = [line.split("|")[2:] for line in evaluated[1].splitlines() if line.startswith("| unimix_bayias ")]
        assert [cell.strip() for cell in again[0]] == [cell.strip() for cell in cells[0]]
        assert len(again) == 2

    def test_a_target_prior_shifts_the_logits(self, run: Path, evaluated: tuple[Path, str]) -> None:
        logits = load_file(run / "logits.safetensors")["logits"].double().numpy()
        labels = np.repeat(np.arange(10), 8)
        source = np.array(json.loads((run / "ltaug.json").read_text())["logits_prior"])
        shifted = np.exp(logits) / source  # posterior times new prior, which is 1/10 everywhere, over old prior
        shifted /= shifted.sum(1, keepdims=True)
        likelihood = -np.log(shifted[np.arange(80), labels]).mean()
        top5 = (np.argsort(-shifted, axis=1)[:, :5] == labels[:, None]).any(1).mean()
        line = next(line for line in evaluated[1].splitlines() if "(to uniform, strength 1)" in line)
        cells = [cell.strip() for cell in line.split("|")[2:]]
        assert cells[0] == f"{100 * (shifted.argmax(1) != labels).mean():.1f}"
        assert cells[1] == f"{100 * (1 - top5):.1f}"
        assert cells[-2] == f"{likelihood:.3f}"
        assert cells != [cell.strip() for cell in evaluated[1].split("| unimix_bayias  ")[-1].split("|")[1:]]

    def test_an_unfinished_run(self, launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
        run, broken = tmp_path / "run", tmp_path / "broken"
        launcher.run(tiny / "train.py", *settings(tiny, "erm", run, **SMALL_SOUND)).good()
        for name, data in contents(run).items():
            if name.startswith("checkpoints/epoch_00001") or name in ("config.yaml", "metrics.jsonl"):
                (broken / name).parent.mkdir(parents=True, exist_ok=True)
                (broken / name).write_bytes(data)
        before = contents(broken)
        done = launcher.run(tiny / "evaluate.py", broken).good()
        assert "its weights after 1 of 2 epochs" in done.err
        assert "| erm |" in done.out
        error = launcher.run(tiny / "evaluate.py", broken, "--target_prior", "uniform").error()
        assert "does not say which prior its logits are under" in error
        error = launcher.run(tiny / "evaluate.py", run, "--target_prior", "uniform", "--strength", "auto").error()
        assert "searched on held-out clips, which this recipe does not keep" in error
        assert contents(broken) == before
        assert "'nowhere' is no run folder" in launcher.run(tiny / "evaluate.py", "nowhere").error()
        data = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(data[: len(data) // 2])
        assert f"`{run / 'model.safetensors'}` is damaged" in launcher.run(tiny / "evaluate.py", run).error()


class TestSweep:
    """The runs themselves are planted, all but one: each would be a process of its own."""

    def sweep(
        self,
        launcher: Launcher,
        recipe: Path,
        out: Path,
        *words: str,
        methods: Sequence[str] = ("erm", "bc"),
        **changes,
    ) -> Done:
        values = SMALL_SOUND | {"epochs": 1, "precision": "fp32", "dataset": "synthetic"} | changes
        behind = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        arguments = ["--methods", *methods, "--seeds", "0", "1", "--out", out, *words, "--", *behind]
        return launcher.run(recipe / "sweep.py", *arguments)

    def plant(self, out: Path, name: str, final: dict[str, float | None], epochs: int = 1) -> None:
        (out / name).mkdir()
        values = {"dataset": "synthetic", "imbalance_ratio": 10.0, "profile": "pareto", "model": "envnet"}
        values |= {"epochs": epochs, "final": final, "wall_time_s": 60.0, "parameters": 1}
        (out / name / "summary.json").write_text(json.dumps(values))

    def test_trains_what_is_missing_and_makes_a_table(self, launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
        rest = {"many": None, "medium": None, "ece": 0.1}
        self.plant(tmp_path, "erm_fold5_seed1", {"top1": 0.5, "top5": 0.75, "few": 0.25, **rest})
        self.plant(tmp_path, "bc_fold5_seed0", {"top1": 0.625, "top5": 0.875, "few": 0.5, **rest})
        self.plant(tmp_path, "bc_fold5_seed1", {"top1": 0.75, "top5": 1.0, "few": 0.5, **rest})
        first = self.sweep(launcher, tiny, tmp_path).good()
        assert re.findall(r"^[\d:]{8} (\S+) \(", first.out, re.MULTILINE) == ["erm_fold5_seed0"]
        real = summary(tmp_path / "erm_fold5_seed0")
        assert (real["seed"], real["test_fold"], real["epochs"], real["name"]) == (0, 5, 1, "erm")
        values = [100 * (1 - real["final"]["top1"]), 50.0]
        lines = {line.split(" | ")[0]: line for line in first.out.splitlines()}
        assert f"| `erm` | {statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} | " in lines["| `erm`"]
        # 37.5 and 25.0: 31.25 and 12.5 / sqrt(2); no class is of medium size; the rare ones have no spread.
        wanted = "| `bc` | 31.2 ± 8.8 | 6.2 ± 8.8 | – | – | 50.0 ± 0.0 | 10.0 ± 0.0 | 2 | 1 | 1.0 |"
        assert lines["| `bc`"] == wanted

        before = contents(tmp_path, but=["table.png"])
        for words in ((), ("--table",)):
            again = self.sweep(launcher, tiny, tmp_path, *words).good()
            assert " of 4)" not in again.out
            assert wanted in again.out
        error = self.sweep(launcher, tiny, tmp_path, methods=["erm"], epochs=7).error()
        assert "`epochs` 1, asked 7" in error  # a finished run is of other settings
        assert contents(tmp_path, but=["table.png"]) == before

    def test_a_failed_run_is_told_at_the_end(self, launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
        final = {"top1": 0.5, "top5": None, "many": None, "medium": None, "few": None, "ece": None}
        self.plant(tmp_path, "erm_fold5_seed0", final)
        failing = Path(shutil.copytree(tiny, tmp_path / "recipe"))
        (failing / "train.py").write_text("raise SystemExit(2)")
        done = self.sweep(launcher, failing, tmp_path, methods=["erm"])
        assert done.code == 1
        assert "FAILED erm_fold5_seed1: it ended with code 2" in done.err
        assert "Traceback" not in done.err
        assert "| `erm` | 50.0 | – | – | – | – | – | 1 | 1 | 1.0 |" in done.out
        done = self.sweep(launcher, failing, tmp_path, methods=["erm", "bcc"])
        assert "there is no 'bcc', did you mean 'bc'?" in done.error()


def test_quickstart_puts_methods_side_by_side(launcher: Launcher, tiny: Path, tmp_path: Path) -> None:
    quick = tiny / "configs" / "quickstart.yaml"
    changes = {name: value for name, value in SMALL_SOUND.items() if name != "batch_size"}
    values = yaml.safe_load(quick.read_text())
    recipe = Path(shutil.copytree(tiny, tmp_path / "recipe"))
    (recipe / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(values | changes))
    arguments = ["--out", tmp_path / "quick", "--methods", "erm", "bc_bayias", "--epochs", "1"]
    done = launcher.run(recipe / "quickstart.py", *arguments, cwd=tmp_path).good()
    table = done.out.split("\n\n")[-2]
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["erm", "bc_bayias"]
    assert "2 methods in" in done.out
    page = (tmp_path / "quick" / "report.html").read_text()
    assert "erm" in page
    assert "bc_bayias" in page
    for method in ("erm", "bc_bayias"):
        assert {*contents(tmp_path / "quick" / method)} > FILES - {"report.html"}
        assert summary(tmp_path / "quick" / method)["name"] == method


@pytest.mark.slow
def test_envnet_trains(launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
    changes = {"model": "envnet", "crop_length": 24_014, "optimizer": "sgd", "lr": 0.01, "warmup_epochs": 0}
    changes |= {"schedule": "steps", "epochs": 1, "batch_size": 16, "test_crops": 2, "imbalance_ratio": 32}
    launcher.run(recipe / "train.py", *settings(recipe, "lob_bc", tmp_path / "run", **changes)).good()
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(10), rel=0.5)
    with imported(ROOT / "recipes" / "esc50_lt", "model") as modules, torch.device("meta"):
        expected = modules.model.EnvNet(10).state_dict()
    state = load_file(tmp_path / "run" / "model.safetensors")
    assert {name: value.shape for name, value in state.items()} == {name: expected[name].shape for name in expected}
