"""The recipes of large image sets, in this process: resuming inside an epoch, averages, stages, protocols."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ltaug.scripts import loaded_script
from ltaug.tables import read_published
from ltaug.training import settings_of
from ltaug.vision.networks import build_timm_model

RECIPES = ("imagenet_lt", "inaturalist")
SIZES, HELD_OUT, STEPS = (30, 16, 9, 5), 2, 6
"""Training images of the classes; how many of each are held out; steps of an epoch of the others."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four species, in the official layout and so that their folders are classes: of different colours, but noisy."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    categories = [{"id": 10 * k, "name": f"Genus species{k}"} for k in range(4)]
    for split, name, sizes in (("train", "train", SIZES), ("test", "val", (6,) * 4)):
        listed: dict[str, list] = {"categories": categories, "images": [], "annotations": []}
        for k, label in enumerate(np.repeat(range(4), sizes).tolist()):
            path = f"{split}/{label}/{name}{k}.png"
            pixels = random.integers(0, 120, (40, 48, 3)) + 30 * np.array([label, 3 - label, label % 2])
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
            listed["images"].append({"id": k, "file_name": path})
            listed["annotations"].append({"image_id": k, "category_id": 10 * label})
        (folder / f"{name}2018.json").write_text(json.dumps(listed))
    return folder


class Net(nn.Module):
    """A network that trains in milliseconds, with batch norm, dropout, and a classifier somewhere inside."""

    mixing_layers = ("input", "body.2")

    def __init__(self, num_classes: int, norm: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.head = nn.ModuleDict({"drop": nn.Dropout(0.5), "fc": nn.Linear(72, num_classes)})

    def get_classifier(self) -> nn.Module:
        return self.head["fc"]

    def forward(self, x: Tensor) -> Tensor:
        return self.head["fc"](self.head["drop"](self.body(x)))


class Script(SimpleNamespace):
    """A recipe's train.py, with a small network."""

    module: ModuleType
    path: str

    def words(self, method: str, out: Path, **changes: Any) -> list[str]:
        common = {
            "method": method,
            "out": out,
            "epochs": 2,
            "batch_size": 8,
            "image_size": 32,
            "augmentation": "plain",
            "held_out_per_class": HELD_OUT,
            "workers": 0,
            "threads": 1,
            "precision": "fp32",
            "eval_every": 1,
            "report": False,
        }
        if changes.get("from_run"):
            for name in ("held_out_per_class", "augmentation", "image_size"):
                del common[name]
        values = common | changes
        return [str(word) for name, value in values.items() for word in (f"--{name}", value)]

    def train(self, method: str, out: Path, **changes: Any) -> Path:
        self.module.main(settings_of(self.module.Config, self.path, self.words(method, out, **changes)))
        return out


def only(recipe: str) -> Any:
    """For a test of one of the recipes, whose loops are the same text."""
    return pytest.mark.parametrize("script", [recipe], indirect=True)


@pytest.fixture(scope="module", params=RECIPES)
def script(request: pytest.FixtureRequest, root: Path) -> Iterator[Script]:
    path = root / "recipes" / request.param / "train.py"
    with pytest.MonkeyPatch.context() as patch, loaded_script(path) as module:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(module, "build_model", lambda num_classes, cfg, data: Net(num_classes, nn.BatchNorm2d(8)))
        yield Script(module=module, path=str(path), name=request.param)


@pytest.fixture(scope="module")
def data(script: Script, images: Path) -> dict[str, Any]:
    """Settings of the data: by folders in one recipe, by JSON files in the other."""
    return {"dataset": "folder" if script.name == "imagenet_lt" else "inaturalist2018", "data_dir": images}


@pytest.fixture(scope="module")
def first(script: Script, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished first stage."""
    return script.train("mixup", tmp_path_factory.mktemp("runs") / script.name, seed=3, **data)


def rows(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith(("seconds", "_per_second"))} for row in lines]


def read(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / name).read_text())


class Killed(Exception):
    """What stands for a signal."""


def kill_at(step: int, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training end at a step, counted over all epochs, before its forward pass."""
    seen, whole = iter(range(step)), script.module.train_step

    def train_step(*words: Any) -> Tensor:
        if next(seen, None) is None:
            raise Killed
        return whole(*words)

    monkeypatch.setattr(script.module, "train_step", train_step)


def test_a_run_knows_its_data_and_prior(script: Script, data: dict[str, Any], first: Path) -> None:
    info, summary = read(first, "ltaug.json"), read(first, "summary.json")
    assert info["class_names"] == (
        list("0123") if "folder" in data.values() else [f"Genus species{k}" for k in range(4)]
    )
    assert info["class_counts"] == [size - HELD_OUT for size in SIZES]
    assert info["held_out"] == "8 images that training did not use (4 of 4 classes, 2 to 2 each)"
    assert info["preprocessing"]["image_size"] == 32
    counts = np.array(info["class_counts"])
    assert info["logits_prior"] == pytest.approx((counts / counts.sum()).tolist())
    assert (summary["method"], summary["dataset"]) == ("mixup", data["dataset"])
    held_out = load_file(first / "held_out.safetensors")
    assert held_out["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows(first)[1]["loss"] < rows(first)[0]["loss"]


@only("imagenet_lt")
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("unimix_bayias", {"ema": 0.9, "accumulate": 2, "clip_norm": 0.5}),
        ("ce_drw", {"optimizer": "adamw", "warmup_epochs": 0.5}),
    ],
)
def test_resumes_inside_an_epoch_in_the_same_bits(
    script: Script,
    data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    changes: dict[str, Any],
) -> None:
    words = {**data, **changes, "checkpoint_steps": 3}
    whole = script.train(method, tmp_path / "whole", **words)
    with monkeypatch.context() as context:
        kill_at(STEPS + 4, script, context)  # in the second epoch, behind the checkpoint of its third step
        with pytest.raises(Killed):
            script.train(method, tmp_path / "run", **words)
    capsys.readouterr()
    script.train(method, tmp_path / "run", resume=True, **words)
    assert "Resumed after epoch 1 of 2, step 3." in capsys.readouterr().out
    for name in ("model.safetensors", "logits.safetensors", "held_out.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert rows(tmp_path / "run") == rows(whole)


@only("inaturalist")
def test_the_moving_average_is_tested_and_saved(
    script: Script, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """w <- d w + (1 - d) v after every step, where d rises to 0.5 as 1 - k^(-2/3)."""
    average: list[Tensor] = []
    kind = script.module.ModelEmaV3

    class Watched(kind):
        def update(self, model: nn.Module, step: int | None = None) -> None:
            super().update(model, step)
            weight = model.get_classifier().weight.detach().double().clone()
            decay = min(0.5, 1 - step ** (-2 / 3)) if step else 0.0
            average.append(weight if not average else decay * average[-1] + (1 - decay) * weight)

    monkeypatch.setattr(script.module, "ModelEmaV3", Watched)
    run = script.train("erm", tmp_path / "run", ema=0.5, **data)
    assert len(average) == 2 * STEPS
    saved = load_file(run / "model.safetensors")["head.fc.weight"].double()
    torch.testing.assert_close(saved, average[-1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(saved, average[-2], rtol=1e-4, atol=1e-6)


@only("imagenet_lt")
def test_accumulation_changes_nothing_but_memory(
    script: Script, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of different sizes count by their samples."""
    monkeypatch.setattr(script.module, "build_model", lambda num_classes, cfg, data: NoNoise(num_classes))
    one, three = (script.train("bayias", tmp_path / str(parts), accumulate=parts, epochs=1, **data) for parts in (1, 3))
    for a, b in zip(rows(one), rows(three), strict=True):
        assert {key: value for key, value in a.items() if value is not None} == pytest.approx(
            {key: value for key, value in b.items() if value is not None}, rel=1e-4, abs=1e-5
        )
    a, b = (load_file(run / "logits.safetensors")["logits"] for run in (one, three))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class NoNoise(Net):
    """Without what depends on the other samples of a batch, and without dropout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, nn.GroupNorm(2, 8))
        self.head["drop"] = nn.Identity()


@only("inaturalist")
def test_the_gradient_is_clipped(
    script: Script, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain SGD moves the weights by at most the rate times the largest norm."""
    norms: list[float] = []

    def build(num_classes: int, cfg: Any, data: Any) -> nn.Module:
        model = Net(num_classes, nn.BatchNorm2d(8))
        before = [parameter.detach().clone() for parameter in model.parameters()]

        def measure(module: nn.Module, inputs: Any) -> None:
            if module.training:
                moved = [(a.detach() - b).square().sum() for a, b in zip(module.parameters(), before, strict=True)]
                norms.append(float(torch.stack(moved).sum().sqrt()))
                for a, b in zip(module.parameters(), before, strict=True):
                    b.copy_(a.detach())

        model.register_forward_pre_hook(measure)
        return model

    monkeypatch.setattr(script.module, "build_model", build)
    words = {"momentum": 0, "weight_decay": 0, "lr": 1.0, "clip_norm": 0.01, "epochs": 1, **data}
    script.train("erm", tmp_path / "run", **words)
    assert max(norms[1:]) <= 0.01 * 1.001
    assert max(norms[1:]) > 0.005


@pytest.fixture
def train(script: Script, first: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train a second stage of the first one."""

    def run(method: str, name: str = "second", **changes: Any) -> Path:
        return script.train(method, tmp_path / name, from_run=first, **changes)

    return run


@only("inaturalist")
class TestSecondStages:
    @pytest.mark.parametrize("method", ["crt", "mislas", "tau_norm"])
    def test_the_network_stays(self, train: Callable[..., Path], first: Path, method: str) -> None:
        changes = {"set.classifier_tau": 0.5, "set.tune_tau": False} if method == "tau_norm" else {}
        out = train(method, **changes)
        before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
        assert before.keys() == after.keys()
        statistics = {name for name in before if "running" in name or "num_batches" in name}
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed - {"head.fc.bias"} == {"head.fc.weight"} | (statistics if method == "mislas" else set())
        if method == "tau_norm":
            weight = before["head.fc.weight"].double()
            expected = (weight / weight.norm(dim=1, keepdim=True) ** 0.5).float()
            torch.testing.assert_close(after["head.fc.weight"], expected, rtol=1e-5, atol=1e-6)
        trained = method in ("crt", "mislas")
        assert read(out, "ltaug.json")["logits_prior"] == (pytest.approx([0.25] * 4) if trained else None)
        for name in ("training_indices", "class_counts"):
            assert read(out, "data.json")[name] == read(first, "data.json")[name]

    def test_nearest_class_mean_is_that_of_the_training_set(
        self, script: Script, train: Callable[..., Path], first: Path
    ) -> None:
        out = train("ncm")
        cfg = settings_of(script.module.Config, script.path, ["--config", str(first / "config.yaml")])
        data = script.module.load_data(cfg)
        net = Net(4, nn.BatchNorm2d(8)).eval()
        net.load_state_dict(load_file(first / "model.safetensors"))
        alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
        with torch.no_grad():
            batches = data.eval_loader(cfg, "train", alone)
            features = torch.cat([net.body(inputs) for inputs, _ in batches]).double()
        means = torch.stack([features[data.train_labels == k].mean(0) for k in range(4)])
        distances = -torch.cdist(features, means).square()
        layer = load_file(out / "model.safetensors")
        logits = features @ layer["head.fc.weight"].double().T + layer["head.fc.bias"].double()
        torch.testing.assert_close(logits.softmax(1), distances.softmax(1), atol=1e-4, rtol=0)

    def test_resumes_inside_an_epoch_in_the_same_bits(
        self, script: Script, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = train("mislas", "whole", checkpoint_steps=2)
        with monkeypatch.context() as context:
            kill_at(STEPS + 3, script, context)
            with pytest.raises(Killed):
                train("mislas", checkpoint_steps=2)
        run = train("mislas", checkpoint_steps=2, resume=True)
        assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@only("imagenet_lt")
def test_adapters_are_merged_and_a_second_stage_starts_from_them(
    script: Script, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the recipe's own model.py."""
    pytest.importorskip("peft")
    monkeypatch.setattr(script.module, "build_model", sys.modules["model"].build_model)
    words = {"model": "test_vit", "image_size": 64, "freeze": True, "lora_rank": 2, "epochs": 1, "batch_size": 16}
    run = script.train("bayias", tmp_path / "run", **{**data, **words})
    state = load_file(run / "model.safetensors")
    plain = build_timm_model("test_vit", 4, image_size=64)
    plain.load_state_dict(state)
    assert read(run, "summary.json")["parameters"] < sum(each.numel() for each in plain.parameters()) / 10
    logits = load_file(run / "logits.safetensors")["logits"]
    cfg = settings_of(script.module.Config, script.path, ["--config", str(run / "config.yaml")])
    alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    with torch.no_grad():
        batches = script.module.load_data(cfg).eval_loader(cfg, "test", alone)
        again = torch.cat([plain.eval()(inputs) for inputs, _ in batches])
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-4)
    second = script.train("crt", tmp_path / "crt", from_run=run, epochs=1)
    assert load_file(second / "model.safetensors").keys() == state.keys()


def test_bad_settings_leave_no_folder(script: Script, data: dict[str, Any], tmp_path: Path) -> None:
    for changes, message in (
        ({"batch_size": 4000}, "`batch_size`=4000 exceeds the 52 samples"),
        ({"data_dir": tmp_path / "nothing"}, "nothing' is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            script.train("erm", tmp_path / "run", **{**data, **changes})
    with pytest.raises(ValueError, match="Manifold mixup mixes whole batches"):
        script.train("manifold_mixup", tmp_path / "run", accumulate=2, **data)
    assert not (tmp_path / "run").exists()


class TestProtocols:
    @staticmethod
    def settings(script: Script, first: Path, *words: str) -> Any:
        return settings_of(script.module.Config, script.path, [*words, "--out", "unused"])

    def test_the_defaults_are_the_published_ones(self, script: Script, first: Path) -> None:
        cfg = self.settings(script, first)
        large = {"imagenet_lt": (90, 5e-4, "color"), "inaturalist": (200, 1e-4, "plain")}[script.name]
        assert (cfg.epochs, cfg.weight_decay, cfg.augmentation) == large
        assert (cfg.batch_size, cfg.lr, cfg.momentum, cfg.schedule, cfg.model) == (256, 0.1, 0.9, "cosine", "resnet50")

    def test_every_one_can_be_read(self, script: Script, first: Path) -> None:
        names = sorted(path.stem for path in (Path(script.path).parent / "protocols").glob("*.yaml"))
        assert {"digits", "lift", "mislas", "vit"} <= set(names)
        for name in names:
            cfg = self.settings(script, first, "--protocol", name)
            assert cfg.model == "resnet10" or timm.is_model(cfg.model.partition(".")[0])
            second = self.settings(script, first, "--protocol", name, "--method", "mislas", "--from_run", str(first))
            rate = 0.2 if name == "decouple" else 0.1
            assert (second.lr, second.optimizer, second.schedule) == (rate, "sgd", "cosine"), name

    def test_mislas(self, script: Script, first: Path) -> None:
        epochs, second = {"imagenet_lt": (180, 10), "inaturalist": (200, 30)}[script.name]
        assert self.settings(script, first, "--protocol", "mislas", "--method", "mixup").epochs == epochs
        cfg = self.settings(script, first, "--protocol", "mislas", "--method", "mislas", "--from_run", str(first))
        assert (cfg.epochs, cfg.batch_size) == (second, 256)  # the protocol's, not the small first stage's

    def test_what_is_published_for_a_data_set_is_found(self, script: Script, first: Path) -> None:
        cfg = self.settings(script, first, "--method", "lade")
        assert (cfg.chosen_method().lade_alpha, cfg.chosen_method().lade_lambda) == (0.05, 0.5)
        assert self.settings(script, first, "--method", "mixup").chosen_method().alpha == 0.2


def test_published_numbers_are_of_known_networks(root: Path) -> None:
    networks = ("resnet10", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "inception_v3")
    for recipe, low, high in (("imagenet_lt", 23, 68), ("inaturalist", 58, 74)):
        for line in read_published(root / "recipes" / recipe / "published.csv"):
            assert line["model"] in networks
            assert low < float(line["top1"]) < high


def test_the_loop_is_the_same_text(root: Path) -> None:
    """But for the docstring and the protocol's defaults."""
    texts = [(root / "recipes" / recipe / "train.py").read_text().splitlines() for recipe in RECIPES]
    changed = [line[2:] for line in difflib.ndiff(*texts) if line[0] in "+-"]
    after = texts[0].index("def main(cfg: Config) -> None:")
    assert not set(changed) & set(texts[0][after:])
    assert len(changed) <= 14
