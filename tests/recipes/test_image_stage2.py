"""The second stage of imagenet_lt: every classifier, what it changes and what not, resuming, processes, evaluation."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipe_support import Done, Launcher, copy_recipe, imported, rows, settings, summary
from safetensors.torch import load_file, save_file

from ltaug import shift_logits
from ltaug.labelshift import estimate_prior
from ltaug.posthoc import TemperatureScaling

pytest.importorskip("timm")

MODEL = '''
"""A small network with what a second stage meets: batch norm, dropout, and a classifier somewhere inside."""

from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.head = nn.ModuleDict({"drop": nn.Dropout(0.5), "fc": nn.Linear(72, num_classes)})

    def get_classifier(self):
        return self.head["fc"]

    def forward(self, x):
        return self.head["fc"](self.head["drop"](self.body(x)))


def build_model(num_classes, cfg):
    return Net(num_classes)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
'''
KILLED = """

import os
import pathlib
import signal
import torch

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")


def kill_at_last_step(module, inputs):
    if torch.is_grad_enabled() and FIRST_LIFE.exists():
        steps = int(FIRST_LIFE.read_text()) - 1
        FIRST_LIFE.write_text(str(steps))
        if steps == 0:
            FIRST_LIFE.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


build = build_model


def build_model(num_classes, cfg):
    model = build(num_classes, cfg)
    model.register_forward_pre_hook(kill_at_last_step)
    return model
"""
QUICK = {"threads": 1, "augmentation": "color", "image_size": 32, "test_per_class": 20, "imbalance_ratio": 50}
TRAINED = ("crt", "lws", "mislas")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
COMPUTED = ("tau_norm", "ncm")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and digits to tune on, which are those of the test set."""
    folder = copy_recipe(tmp_path_factory.mktemp("image_stage2") / "recipe", MODEL, recipe="imagenet_lt")
    old, new = (f'Source("The digits", names, part.take(rest), {sets})' for sets in ("part.take(test)",) * 2)
    new = new.replace("part.take(test))", "part.take(test), part.take(test))")
    text = (folder / "data.py").read_text()
    assert old in text
    (folder / "data.py").write_text(text.replace(old, new))
    return folder


@pytest.fixture(scope="module")
def first(launcher: Launcher, recipe: Path) -> Path:
    """A finished first stage."""
    out = recipe.parent / "runs" / "first"
    launcher.run(recipe / "train.py", *settings(recipe, "erm", out, seed=3, **QUICK)).good()
    return out


def second(recipe: Path, method: str, first: Path, out: Path | None, **changes: object) -> list[str]:
    """Arguments of a short second stage."""
    values = {"from_run": first} | ({"epochs": 2, "batch_size": 32} if method in TRAINED else {}) | changes
    values |= {"out": out} if out else {}
    words = ["--config", str(recipe / "configs" / f"{method}.yaml")]
    return words + [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def trained(launcher: Launcher, recipe: Path, first: Path) -> Callable[[str], tuple[Path, Done]]:
    """The run folder of a second stage on one process, and what it said; each is trained once."""
    runs: dict[str, Done] = {}

    def run(method: str) -> tuple[Path, Done]:
        if method not in runs:
            changes = {"tau": 0.5} if method == "tau_norm" else {}
            arguments = second(recipe, method, first, None, **changes)
            runs[method] = launcher.run(recipe / "train_stage2.py", *arguments).good()
        return first.parent / f"digits_ir50_test_resnet_{method}_seed3", runs[method]

    return run


@pytest.mark.parametrize("method", [*TRAINED, *COMPUTED])
def test_every_classifier(
    launcher: Launcher, recipe: Path, first: Path, trained: Callable[[str], tuple[Path, Done]], method: str
) -> None:
    out, done = trained(method)
    values = summary(out)
    assert (values["name"], values["stage1"], values["seed"]) == (method, "erm", 3)
    assert values["epochs"] == (2 if method in TRAINED else 0)
    assert (out / "stage1.yaml").read_bytes() == (first / "config.yaml").read_bytes()
    for name in ("index_hash", "parameters", "training_images"):
        assert values[name] == summary(first)[name]
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    # The network is the first stage's; the classifier is another one; batch norm follows only where it is told to.
    statistics = {name for name in before if name.endswith(STATISTICS)}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed - {"head.fc.bias"} == {"head.fc.weight"} | (statistics if method == "mislas" else set())
    if method == "tau_norm":
        weight = before["head.fc.weight"].double()
        expected = (weight / weight.norm(dim=1, keepdim=True) ** 0.5).float()
        torch.testing.assert_close(after["head.fc.weight"], expected, rtol=1e-5, atol=1e-6)
        assert not after["head.fc.bias"].any()
    if method == "lws":
        scale = after["head.fc.weight"] / before["head.fc.weight"]
        torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-4, atol=0)
    prior = json.loads((out / "ltaug.json").read_text())["logits_prior"]
    assert prior == (pytest.approx([0.1] * 10) if method in TRAINED else None)
    if method in ("mislas", "ncm"):
        again = launcher.run(recipe / "evaluate.py", out).good()
        line = next(line for line in done.out.splitlines() if line.startswith(f"| {method}"))
        assert line in again.out.splitlines()
        assert summary(out)["final"] == pytest.approx(values["final"], nan_ok=True)
    if method == "ncm":
        said = launcher.run(recipe / "evaluate.py", out, "--target_prior", "train").error()
        assert "does not say which prior its logits are under" in said


def test_nearest_class_mean_is_that_of_the_training_set(
    launcher: Launcher, recipe: Path, first: Path, trained: Callable[[str], tuple[Path, Done]], tmp_path: Path
) -> None:
    """On one process, and on two that have other images each."""
    for rank in launcher.ranks(recipe / "train_stage2.py", *second(recipe, "ncm", first, tmp_path / "two")):
        rank.wait().good()
    with imported(recipe, "config", "data", "loader", "model") as modules:
        cfg = modules.config.parse_config(["--config", str(first / "config.yaml")])
        data, net = modules.data.load_data(cfg), modules.model.build_model(10, cfg).eval()
        net.load_state_dict(load_file(first / "model.safetensors"))
        data.train.transform = modules.loader.test_transform(cfg)
        with torch.no_grad():
            images = modules.loader.test_loader(cfg, data.train, 1, 0)
            features = torch.cat([net.body(inputs) for inputs, _ in images]).double()
    means = torch.stack([features[data.train.labels == k].mean(0) for k in range(10)])
    distances = -torch.cdist(features, means).square()
    for run in (trained("ncm")[0], tmp_path / "two"):
        layer = load_file(run / "model.safetensors")
        logits = features @ layer["head.fc.weight"].double().T + layer["head.fc.bias"].double()
        torch.testing.assert_close(logits.softmax(1), distances.softmax(1), atol=1e-4, rtol=0)


def test_resumes_inside_an_epoch_in_the_same_bits(
    launcher: Launcher, recipe: Path, first: Path, trained: Callable[[str], tuple[Path, Done]], tmp_path: Path
) -> None:
    whole = trained("mislas")[0]
    copy = shutil.copytree(recipe, tmp_path / "recipe")
    (copy / "model.py").write_text(MODEL + KILLED)
    steps = summary(whole)["training_images"] // 32
    assert steps > 3
    (copy / "first_life").write_text(str(steps + 3))  # in the second epoch, behind the checkpoint of its second step
    arguments = second(copy, "mislas", first, tmp_path / "run", checkpoint_steps=2)
    assert launcher.run(copy / "train_stage2.py", *arguments).code == -9
    done = launcher.run(copy / "train_stage2.py", *arguments, "--resume", "true").good()
    assert f"Resumed after epoch 1 of 2, step 2 of {steps}." in done.out
    ours, theirs = ((run / "model.safetensors").read_bytes() for run in (tmp_path / "run", whole))
    assert ours == theirs
    assert rows(tmp_path / "run")[-1]["nll"] == rows(whole)[-1]["nll"]


def test_two_processes_train_one_classifier(
    launcher: Launcher, recipe: Path, first: Path, trained: Callable[[str], tuple[Path, Done]], tmp_path: Path
) -> None:
    """Fixed batch norm and no dropout: the frozen network gives every image the same features on any process."""
    for rank in launcher.ranks(recipe / "train_stage2.py", *second(recipe, "crt", first, tmp_path, accumulate=2)):
        rank.wait().good()
    assert summary(tmp_path)["num_processes"] == 2
    a, b = (load_file(run / "model.safetensors")["head.fc.weight"] for run in (trained("crt")[0], tmp_path))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class TestEvaluate:
    @pytest.fixture
    def run(self, first: Path, tmp_path: Path) -> Path:
        return shutil.copytree(first, tmp_path / "run")

    @staticmethod
    def kept(run: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Test logits and labels, and the prior that the logits are under."""
        tensors, info = load_file(run / "logits.safetensors"), json.loads((run / "ltaug.json").read_text())
        return tensors["logits"], tensors["labels"], torch.tensor(info["logits_prior"], dtype=torch.float64)

    @pytest.mark.parametrize("kind", ["names", "center"])
    def test_shifts_the_kept_logits(self, launcher: Launcher, recipe: Path, run: Path, kind: str) -> None:
        logits, labels, source = self.kept(run)
        if kind == "names":
            word, target = str(run / "prior.json"), torch.arange(1.0, 11.0, dtype=torch.float64)
            Path(word).write_text(json.dumps({str(k): k + 1 for k in reversed(range(10))}))
        else:
            counts = torch.tensor(summary(run)["class_counts"], dtype=torch.float64)
            word, target = (
                kind,
                estimate_prior(logits, source, center=estimate_prior(logits, source, trend=counts.log())),
            )
        done = launcher.run(recipe / "evaluate.py", run, "--target_prior", word, "--strength", "0.5").good()
        corrected = json.loads((run / "corrected.json").read_text())
        used = torch.tensor(corrected["target_prior"], dtype=torch.float64)
        assert used == pytest.approx(target / target.sum(), abs=2e-3 if kind == "center" else 1e-6)
        expected = (shift_logits(logits, source, used, 0.5).argmax(1) == labels).double().mean().item()
        assert corrected["final"]["top1"] == pytest.approx(expected)
        assert corrected["uncorrected"] == summary(run)["final"]
        assert (corrected["tuned_on"], corrected["strength"]) == (None, 0.5)
        assert f"| erm (to {word}, strength 0.5) |" in done.out

    def test_tunes_on_the_validation_images(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        """Which are the test set's here, so that what comes out can be computed from the kept logits."""
        words = ("--target_prior", "uniform", "--strength", "auto", "--calibrate", "temperature")
        done = launcher.run(recipe / "evaluate.py", run, *words).good()
        corrected = json.loads((run / "corrected.json").read_text())
        assert "Tuned on 200 validation images.\n" in done.out
        logits, labels, source = self.kept(run)
        uniform = torch.ones(10)
        calibrated = TemperatureScaling().fit(logits, labels, logits_prior=source)(logits)
        hits = [
            (shift_logits(calibrated, source, uniform, step / 10).argmax(1) == labels).double().mean().item()
            for step in range(31)
        ]
        assert corrected["final"]["top1"] == pytest.approx(hits[round(10 * corrected["strength"])], abs=0.006)
        assert corrected["final"]["top1"] == pytest.approx(max(hits), abs=0.006)
        assert corrected["strength_curve"]["accuracy"] == pytest.approx(hits, abs=0.006)

    def test_is_told_what_is_wrong_in_a_line(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        evaluate = recipe / "evaluate.py"
        for words, said in (
            (("--strength", "2"), "`--strength` is that of a correction"),
            (("--target_prior", "uniform", "--strength", "-1"), "`--strength` must be auto or a number from 0"),
            (("--target_prior", "unifrom"), "`--target_prior` must be uniform, train, estimate, trend, center or a"),
        ):
            assert said in launcher.run(evaluate, run, *words).error()
        weights = load_file(run / "model.safetensors")
        save_file({**weights, "head.fc.weight": weights["head.fc.weight"][:9]}, run / "model.safetensors")
        assert "size mismatch for head.fc.weight" in launcher.run(evaluate, run).error()
        info = json.loads((run / "ltaug.json").read_text())
        (run / "ltaug.json").write_text(json.dumps(info | {"class_names": ["a", "b"]}))
        assert "knows classes 2 (a, b), but the data have 10 (0, 1, 2, ...)" in launcher.run(evaluate, run).error()
        (run / "model.safetensors").unlink()
        assert "has no final weights. Finish it: `train.py --resume true`" in launcher.run(evaluate, run).error()


class TestBadInput:
    def test_settings(
        self, launcher: Launcher, recipe: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with imported(recipe, "config") as modules:
            for method, changes, message in (
                ("crt", {"epochs": 0}, "`epochs` must be at least 1 to train `classifier: crt`"),
                ("ncm", {"epochs": 3}, "`classifier: ncm` is not trained: `epochs` must be 0"),
                ("crt", {"batch_norm": "fixd"}, "did you mean 'fixed'?"),
                ("crt", {"accumulate": 0}, "`accumulate` must be at least 1"),
                ("mislas", {"epoch": 3}, "did you mean 'epochs'?"),
            ):
                with pytest.raises(SystemExit):
                    modules.config.parse_config(
                        second(recipe, method, first, None, **changes), modules.config.Stage2Config
                    )
                assert message in capsys.readouterr().err
        arguments = second(recipe, "crt", first, tmp_path / "out", accumulate=3)
        said = launcher.run(recipe / "train_stage2.py", *arguments).error()
        assert "`batch_size`=32 is the global batch and must be a multiple of" in said
        assert not (tmp_path / "out").exists()

    def test_first_stage(self, recipe: Path, first: Path, tmp_path: Path) -> None:
        run = shutil.copytree(first, tmp_path / "run")
        with imported(recipe, "config", "train_stage2") as modules:

            def read(**changes: object) -> object:
                return modules.train_stage2.read_first_stage(modules.config.Stage2Config(**changes))

            with pytest.raises(ValueError, match=r"trained with configs/mixup.yaml: `--from_run runs/\.\.\.`"):
                read(stage1="mixup")
            with pytest.raises(ValueError, match=r"it has no config.yaml\. Train it first"):
                read(from_run=str(tmp_path))
            assert read(from_run=str(run)).method == "erm"
            text = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(text.replace("stream: false", "stream: true").replace("digits", "hub"))
            with pytest.raises(ValueError, match="streams its training images"):
                read(from_run=str(run))
            (run / "stage1.yaml").touch()
            with pytest.raises(ValueError, match="is itself a second stage"):
                read(from_run=str(run))

    def test_network(self, launcher: Launcher, recipe: Path, first: Path, tmp_path: Path) -> None:
        names = [str(k) for k in range(10)]
        run = shutil.copytree(first, tmp_path / "run")
        with imported(recipe, "classifier", "model") as modules:
            model = modules.model.build_model(10, None)
            place, linear = modules.classifier.find_classifier(model)
            assert (place, linear) == ("head.fc", model.head["fc"])
            (run / "model.safetensors").write_bytes(b"no weights")
            with pytest.raises(ValueError, match=r"model.safetensors` is damaged"):
                modules.classifier.load_weights(model, run, names)
            for head, said in ((model.body, "of the kind Sequential"), (torch.nn.Linear(2, 2, bias=False), "Linear")):
                model.get_classifier = lambda head=head: head
                with pytest.raises(ValueError, match=said):
                    modules.classifier.find_classifier(model)
            with pytest.raises(ValueError, match=r"does not tell by `get_classifier\(\)`"):
                modules.classifier.find_classifier(torch.nn.Linear(2, 2))
        copy = shutil.copytree(recipe, tmp_path / "recipe")
        (copy / "model.py").write_text(MODEL.replace("nn.BatchNorm2d(8)", "nn.GroupNorm(2, 8)"))
        weights = load_file(first / "model.safetensors")
        save_file({name: weights[name] for name in weights if not name.endswith(STATISTICS)}, run / "model.safetensors")
        arguments = second(copy, "mislas", run, tmp_path / "out")
        said = launcher.run(copy / "train_stage2.py", *arguments).error()
        assert "`batch_norm: shift` needs batch norm, but test_resnet has none" in said
        assert not (tmp_path / "out").exists()


class TestConfig:
    def test_own_checks(self, recipe: Path) -> None:
        with imported(recipe, "config") as modules:
            for changes, said in (
                ({"lora_rank": -1}, "`lora_rank` must not be negative"),
                ({"lora_rank": 4}, "`lora_rank`=4 puts adapters into a frozen backbone. Set `freeze: true`"),
                ({"stream": True}, "`stream` reads shards of `dataset: hub`, but `dataset` is 'imagenet_lt'"),
                ({"stream_buffer": 0}, "`stream_buffer` must be at least 1"),
            ):
                with pytest.raises(ValueError, match=re.escape(said)):
                    modules.config.Config(**changes)
            assert modules.config.Config(lora_rank=4, freeze=True).lora_rank == 4

    def test_workers_are_the_cores_of_a_process(self, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with imported(recipe, "config") as modules:
            monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
            for processes, decoders in ((1, 8), (2, 6), (24, 1)):
                monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
                cfg = modules.config.Config()
                assert (cfg.workers, cfg.decoders) == (None, decoders)
            assert modules.config.Config(workers=0).decoders == 0
            assert modules.config.Config(workers=20).decoders == 20

    def test_rate_of_the_second_stage_falls_as_a_cosine(self, recipe: Path) -> None:
        with imported(recipe, "config") as modules:
            cfg = modules.config.Stage2Config(epochs=4)
            assert [cfg.lr_factor(epoch) for epoch in (0, 1, 2, 4)] == pytest.approx([1, (2 + 2**0.5) / 4, 0.5, 0])
