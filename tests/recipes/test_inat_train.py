"""The recipe inaturalist as it is launched, on a small tree with its JSON files; and what its configs mean."""

from __future__ import annotations

import csv
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from recipe_support import ROOT, Launcher, copy_recipe, imported, rows, settings, summary
from safetensors.torch import load_file

from ltaug import CosineClassifier, effective_number_weights, shift_logits

pytest.importorskip("timm")

RECIPE = ROOT / "recipes" / "inaturalist"
# Without batch norm, whose statistics are those of each process.
TINY = '''
"""A network that trains in milliseconds."""

from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        self.fc = nn.Linear(72, num_classes)

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        return self.fc(self.body(x))


def build_model(num_classes, cfg):
    return Net(num_classes)


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
'''
KILLED = """

import os
import pathlib
import signal

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")


def kill_at_last_step(module, inputs):
    if module.training and FIRST_LIFE.exists():
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
SIZES, HELD_OUT, STEPS = (30, 16, 9, 5), 2, 6
"""Training images of the classes; how many of each are held out; steps of an epoch of the others."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four species in the official layout: of different colours, but noisy."""
    folder, random = tmp_path_factory.mktemp("inat"), np.random.default_rng(0)
    categories = [{"id": 10 * k, "name": f"Genus species{k}", "supercategory": "Aves"} for k in range(4)]
    for name, sizes in (("train", SIZES), ("val", (6,) * 4)):
        labels = np.repeat(range(4), sizes)
        listed = {"categories": categories, "images": [], "annotations": []}
        for k, label in enumerate(labels.tolist()):
            path = f"train_val2018/Aves/{10 * label}/{name}{k}.jpg"
            pixels = random.integers(0, 120, (40, 48, 3)) + 30 * np.array([label, 3 - label, label % 2])
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
            listed["images"].append({"id": k, "file_name": path})
            listed["annotations"].append({"image_id": k, "category_id": 10 * label})
        (folder / f"{name}2018.json").write_text(json.dumps(listed))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("tiny_inat") / "recipe", TINY, recipe="inaturalist")


def words(recipe: Path, images: Path, out: Path, **changes: object) -> list[str]:
    """Arguments of two epochs of deferred re-weighting, the second one weighted."""
    values = {
        "dataset": "inaturalist2018",
        "data_dir": images,
        "held_out_per_class": HELD_OUT,
        "image_size": 32,
        "augmentation": "plain",
        "batch_size": 8,
        "reweight_at": 0.5,
        "warmup_epochs": 0,
    }
    return settings(recipe, "ce_drw", out, **values | changes)


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tiny: Path, images: Path) -> Path:
    """A run on one process that nothing stopped."""
    out = tiny.parent / "runs" / "inaturalist2018_test_resnet_ce_drw_seed0"
    launcher.run(tiny / "train.py", *words(tiny, images, out)).good()
    return out


def test_a_run_knows_its_data_and_prior(whole: Path) -> None:
    values, info = summary(whole), json.loads((whole / "ltaug.json").read_text())
    counts = [size - HELD_OUT for size in SIZES]
    assert values["class_counts"] == counts
    assert values["training_images"] == sum(counts)
    assert values["imbalance_ratio"] == pytest.approx(28 / 3)
    assert info["class_names"] == [f"Genus species{k}" for k in range(4)]
    weighted = torch.tensor(counts) * effective_number_weights(counts)
    assert info["logits_prior"] == pytest.approx((weighted / weighted.sum()).tolist())
    assert rows(whole)[1]["top1"] > 0.3


def test_resumes_inside_an_epoch_in_the_same_bits(
    launcher: Launcher, tiny: Path, images: Path, whole: Path, tmp_path: Path
) -> None:
    recipe = Path(shutil.copytree(tiny, tmp_path / "recipe"))
    (recipe / "model.py").write_text(TINY + KILLED)
    (recipe / "first_life").write_text(str(STEPS + 4))  # in the second epoch, behind the checkpoint of its third step
    arguments = words(recipe, images, tmp_path / "run", checkpoint_steps=3)
    assert launcher.run(recipe / "train.py", *arguments).code == -9
    again = launcher.run(recipe / "train.py", *arguments, "--resume", "true").good()
    assert f"Resumed after epoch 1 of 2, step 3 of {STEPS}." in again.out
    ours, theirs = ((run / "model.safetensors").read_bytes() for run in (tmp_path / "run", whole))
    assert ours == theirs


def test_two_processes_equal_one(launcher: Launcher, tiny: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    for process in launcher.ranks(tiny / "train.py", *words(tiny, images, tmp_path / "two", accumulate=2)):
        process.wait().good()
    assert summary(tmp_path / "two")["num_processes"] == 2
    for a, b in zip(rows(whole), rows(tmp_path / "two"), strict=True):
        assert (a.pop("many"), b.pop("many")) == (None, None)  # there is no such class
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)
    a, b = (load_file(run / "logits.safetensors")["logits"] for run in (whole, tmp_path / "two"))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_second_stage_learns_another_classifier(launcher: Launcher, tiny: Path, whole: Path) -> None:
    config = tiny / "configs" / "crt.yaml"
    arguments = ("--config", config, "--from_run", whole, "--epochs", 1, "--batch_size", 8)
    launcher.run(tiny / "train_stage2.py", *map(str, arguments)).good()
    out = whole.parent / "inaturalist2018_test_resnet_crt_seed0"
    assert (summary(out)["stage1"], summary(out)["index_hash"]) == ("ce_drw", summary(whole)["index_hash"])
    before, after = (load_file(run / "model.safetensors") for run in (whole, out))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    assert json.loads((out / "ltaug.json").read_text())["logits_prior"] == pytest.approx([0.25] * 4)


def test_evaluation_tunes_on_held_out_images(launcher: Launcher, tiny: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    arguments = (run, "--target_prior", "uniform", "--strength", "auto")
    done = launcher.run(tiny / "evaluate.py", *arguments).good()
    assert f"Tuned on {4 * HELD_OUT} held-out images." in done.out
    corrected, tensors = json.loads((run / "corrected.json").read_text()), load_file(run / "logits.safetensors")
    source = torch.tensor(json.loads((run / "ltaug.json").read_text())["logits_prior"])
    shifted = shift_logits(tensors["logits"], source, torch.ones(4), corrected["strength"])
    expected = (shifted.argmax(1) == tensors["labels"]).double().mean().item()
    assert corrected["final"]["top1"] == pytest.approx(expected)
    assert corrected["uncorrected"] == pytest.approx(summary(whole)["final"], nan_ok=True)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(f"held_out_per_class: {HELD_OUT}", "held_out_per_class: 0"))
    said = launcher.run(tiny / "evaluate.py", *arguments).error()
    assert "this run has trained on all. Train one with `--held_out_per_class 1`" in said


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with imported(RECIPE, "config", "classifier", "loader", "method", "model", "sweep") as found:
        yield found


def read(modules: SimpleNamespace, method: str) -> object:
    """The settings of a config."""
    path = RECIPE / "configs" / f"{method}.yaml"
    second = "stage1" in yaml.safe_load(path.read_text())
    kind = modules.config.Stage2Config if second else modules.config.Config
    return modules.config.parse_config(["--config", str(path)], kind)


class TestConfigs:
    def test_are_the_published_ones(self, modules: SimpleNamespace) -> None:
        published = {"epochs": 200, "batch_size": 256, "weight_decay": 1e-4, "lr": 0.1, "momentum": 0.9, "alpha": 0.2}
        for method in ("erm", "mixup", "bayias", "lade", "ce_drw", "ldam_drw", "erm_inception_v3"):
            cfg = read(modules, method)
            assert {name: getattr(cfg, name) for name in published} == published
            assert (cfg.lr_at(0), cfg.lr_at(100), cfg.lr_at(200)) == pytest.approx((0.1, 0.05, 0))
        mislas = read(modules, "mislas")
        assert (mislas.epochs, mislas.smoothing_head, mislas.smoothing_tail, mislas.delta_lr_ratio) == (
            30,
            0.4,
            0,
            0.05,
        )
        assert (mislas.stage1, mislas.batch_norm, mislas.batch_size, mislas.weight_decay) == (
            "mixup",
            "shift",
            256,
            1e-4,
        )
        lade = read(modules, "lade")
        assert (lade.lade_lambda, lade.lade_alpha) == (0.5, 0.05)

    def test_refuse_what_does_not_fit(self, modules: SimpleNamespace) -> None:
        for changes, said in (
            ({"loss": "ldam"}, "`loss: ldam` has margins in cosines. Set `cosine_classifier: true` as well"),
            (
                {"class_weights": "effective_number", "loss": "lade"},
                "`class_weights` weight the images, but `loss: lade",
            ),
            ({"reweight_at": 0.8}, "`reweight_at` defers `class_weights`, but there are none"),
            ({"reweight_at": 1.5, "class_weights": "effective_number"}, "`reweight_at` is a share of the training"),
            ({"prior": "effective"}, "`prior` is what bayias and lade correct, but `loss` is ce"),
            ({"held_out_per_class": -1}, "`held_out_per_class` must not be negative"),
            ({"dataset": "inat"}, "`dataset` must be one of inaturalist2018, json, folder, digits, but is 'inat'"),
        ):
            with pytest.raises(ValueError, match=re.escape(said)):
                modules.config.Config(**changes)

    @pytest.mark.parametrize("method", ["lade", "erm_inception_v3", "lift_bayias"])
    def test_networks_fit_the_images(self, modules: SimpleNamespace, method: str) -> None:
        """Without weights, whose shapes decide."""
        cfg = read(modules, method)
        cfg.pretrained = False
        with torch.device("meta"):
            model = modules.model.build_model(8142, cfg).eval()
            assert model(torch.zeros(1, 3, cfg.image_size, cfg.image_size)).shape == (1, 8142)
        assert isinstance(model.get_classifier(), CosineClassifier) == cfg.cosine_classifier
        if method == "lift_bayias":
            head = sum(parameter.numel() for parameter in model.get_classifier().parameters())
            assert 0 < modules.model.count_parameters(model) - head < head

    def test_stand_in_the_table_of_published_numbers(self, modules: SimpleNamespace) -> None:
        with (RECIPE / "published.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == len({tuple(line.values())[:3] for line in lines}) > 10
        table = modules.sweep.TABLE.published
        for line in lines:
            cfg = read(modules, line["method"])
            if not hasattr(cfg, "stage1"):
                assert cfg.model == line["model"]
            assert 55 < table[line["method"], "inaturalist2018", line["model"]][line["paper"]] < 75

    def test_a_sweep_trains_first_stages_first(self, modules: SimpleNamespace) -> None:
        asked = Namespace(methods=["mislas", "erm_inception_v3"], datasets=["inaturalist2018"], seeds=[1], out="out")
        mislas, inception = modules.sweep.plan(asked, ["--data_dir", "IMAGES", "--held_out_per_class", "2"])
        assert mislas.first_stage.name == "inaturalist2018_resnet50_mixup_seed1"
        assert mislas.first_stage.settings.held_out_per_class == 2
        assert (mislas.settings.from_run, mislas.settings.data_dir) == (str(mislas.first_stage.folder), "IMAGES")
        summary = {"model": "inception_v3", "dataset": "inaturalist2018"}
        assert modules.sweep.TABLE.method(inception.name, summary) == "erm_inception_v3"


class TestMethod:
    COUNTS = torch.tensor([500, 60, 2])

    def test_deferred_weights(self, modules: SimpleNamespace) -> None:
        """Cross-entropy for 80 % of the training, then w_y ~ (1 - beta) / (1 - beta^n_y), of sum C."""
        cfg, random = read(modules, "ce_drw"), np.random.default_rng(0)
        logits, labels = random.normal(size=(9, 3)), random.integers(0, 3, 9)
        shifted = logits - logits.max(1, keepdims=True)
        nll = np.log(np.exp(shifted).sum(1)) - shifted[range(9), labels]
        weights = (1 - 0.9999) / (1 - 0.9999 ** self.COUNTS.numpy().astype(float))
        weights *= 3 / weights.sum()
        for epoch, expected in ((0, nll.mean()), (159, nll.mean()), (160, (weights[labels] * nll).mean())):
            seen = modules.method.seen_prior(cfg, self.COUNTS, None, epoch)
            loss = modules.method.make_loss(cfg, self.COUNTS, epoch, seen)
            assert loss(torch.tensor(logits), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-5)
        prior = self.COUNTS.numpy() * weights
        assert modules.method.logits_prior(cfg, self.COUNTS, None).tolist() == pytest.approx(prior / prior.sum())

    def test_ldam_takes_its_margin_from_the_cosine(self, modules: SimpleNamespace) -> None:
        cfg = read(modules, "ldam_drw")
        cosines, label = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64), 2
        margins = 0.5 * (2 / self.COUNTS.double()) ** 0.25
        expected = -torch.log_softmax(30 * (cosines - margins * torch.eye(3)[label]), 1)[0, label]
        loss = modules.method.make_loss(cfg, self.COUNTS, 0, self.COUNTS.double() / 562)
        assert loss(30 * cosines, torch.tensor([label])).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_partners_are_class_balanced_until_nothing_is_mixed(self, modules: SimpleNamespace) -> None:
        cfg, labels = read(modules, "unimix_bayias"), torch.arange(3).repeat_interleave(self.COUNTS)
        pairs = np.array(list(modules.method.make_sampler(cfg, labels, 179)))
        assert sorted(pairs[:, 0]) == list(range(562))
        drawn = np.bincount(labels[pairs[:, 1]], minlength=3)
        assert ((drawn - 562 / 3) ** 2 / (562 / 3)).sum() < 18  # chi-square of two degrees of freedom: p = 1e-4
        assert next(iter(modules.method.make_sampler(cfg, labels, 180))) in range(562)
        # What Bayias corrects is the training prior, and mixing has moved what the model saw away from it.
        mixer = modules.method.make_mixer(cfg, self.COUNTS)
        assert modules.method.logits_prior(cfg, self.COUNTS, mixer)[2] > 1 / 3


def test_half_of_the_images_are_flipped(modules: SimpleNamespace) -> None:
    cfg = modules.config.Config(image_size=16, augmentation="flip", test_resize=1)
    ramp = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    transform, image = modules.loader.train_transform(cfg), Image.fromarray(ramp)
    flipped = sum(int(transform(image)[0, 0, 0] > 127) for _ in range(400))
    assert abs(flipped - 200) < 40  # four standard deviations
    assert torch.equal(modules.loader.test_transform(cfg)(image)[0].sort().values, torch.from_numpy(ramp[..., 0]))


def test_weights_of_other_classes_are_refused(modules: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "ltaug.json").write_text(json.dumps({"class_names": ["ant", "bee"]}))
    with pytest.raises(ValueError, match=r"knows classes 2 \(ant, bee\), but the data have 3 \(ant, bee, cat\)\. Name"):
        modules.classifier.load_weights(torch.nn.Linear(1, 1), tmp_path, ["ant", "bee", "cat"])
