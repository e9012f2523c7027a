"""The data of a recipe: a small good one passes, and every rule catches a planted bad one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ltaug
from ltaug import PairDataset, ResidentLoader
from ltaug.scripts import loaded_script
from ltaug.testing import DATA_RULES, ContractError, check_data
from ltaug.testing._base import generator_states

COUNTS = [30, 20, 8, 2]


@dataclass
class Settings:
    batch_size: int = 8
    seed: int = 0


class Data:
    """Signals of a length of 6, in memory."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.train_labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))[
            torch.randperm(60, generator=generator)
        ]
        self.class_names = ["walking", "sitting", "standing", "lying"]
        self.class_counts = ltaug.class_counts(self.train_labels, 4)
        self.splits: Any = ("test",)
        self.inputs = torch.randn(60, 3, 6, generator=generator)

    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        return self.loader(accelerator, cfg.batch_size, sampler=sampler, drop_last=True)

    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return self.loader(accelerator, 10 * accelerator.num_processes)

    def loader(self, accelerator: Any, batch_size: int, **settings: Any) -> Any:
        return ResidentLoader(
            self.inputs,
            self.train_labels,
            batch_size=batch_size,
            device=accelerator.device,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            **settings,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {"class_counts": self.class_counts, "size": 60}


class Plain(DataLoader[Any]):
    """A plain loader, with `set_epoch` passed on."""

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)  # type: ignore[attr-defined]


def test_good_data_pass() -> None:
    before = generator_states()
    check_data(Data())
    check_data(Data(), Settings())
    check_data(Data(), Settings(), batches=None)
    check_data(Data(), Settings(batch_size=9), num_processes=3)
    data = Data()
    data.splits = ("test", "held_out")
    data.describe = lambda: "60 signals"  # type: ignore[attr-defined]
    data.held_out_note = lambda: "10 signals"  # type: ignore[attr-defined]
    data.preprocessing, data.sample_rate = {"mean": [0.0]}, 16000  # type: ignore[attr-defined]
    check_data(data, Settings())
    assert generator_states() == before


def test_a_plain_loader_passes_on_one_process() -> None:
    class Torch(Data):
        def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
            return Plain(PairDataset(TensorDataset(self.inputs, self.train_labels)), cfg.batch_size, sampler=sampler)

        def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
            return Plain(TensorDataset(self.inputs, self.train_labels), 7)

    check_data(Torch(), Settings(), num_processes=1)
    with pytest.raises(ContractError, match="the labels of 2 processes, put together, are not those of one"):
        check_data(Torch(), Settings())


def changed(**attributes: Any) -> Callable[[], Data]:
    def make() -> Data:
        data = Data()
        for name, value in attributes.items():
            setattr(data, name, value(data) if callable(value) and name in ("train_labels", "class_counts") else value)
        return data

    return make


class WithoutFingerprint(Data):
    fingerprint = property()  # type: ignore[assignment]


class ForgetsSetEpoch(Data):
    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        return DataLoader(TensorDataset(self.inputs, self.train_labels), cfg.batch_size, sampler=sampler)


class Shuffles(Data):
    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        order = list(range(60))
        random.Random(0).shuffle(order)
        return self.loader(accelerator, cfg.batch_size, sampler=order, drop_last=True)


class IgnoresPairs(Data):
    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        return super().train_loader(cfg, getattr(sampler, "first", sampler), accelerator)


class Augments(Dataset[Any]):
    """Adds noise from torch's global generator, which no epoch seeds."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data.inputs[index] + torch.rand(()), self.data.train_labels[index]

    def __len__(self) -> int:
        return 60


class AugmentsTraining(Data):
    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        return Plain(PairDataset(Augments(self)), cfg.batch_size, sampler=sampler)


class AugmentsEvaluation(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return Plain(Augments(self), 10)


class EvaluatesInAnotherOrder(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return self.loader(accelerator, 10, sampler=list(range(59, -1, -1)))


class EvaluatesAPart(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return self.loader(accelerator, 10, sampler=list(range(20)))


class IgnoresProcesses(Data):
    def loader(self, accelerator: Any, batch_size: int, **settings: Any) -> Any:
        return ResidentLoader(self.inputs, self.train_labels, batch_size=batch_size, **settings)


class SharesUnevenly(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        share = slice(0, 40) if accelerator.process_index == 0 else slice(40, 60)
        share = share if accelerator.num_processes > 1 else slice(0, 60)
        return ResidentLoader(self.inputs[share], self.train_labels[share], batch_size=10)


class YieldsPixels(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return Plain(TensorDataset(self.inputs.mul(9).byte(), self.train_labels), 10)


class YieldsDictionaries(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return Plain([{"input": x, "label": y} for x, y in zip(self.inputs, self.train_labels, strict=True)], 10)  # type: ignore[arg-type]


class YieldsNaN(Data):
    def eval_loader(self, cfg: Any, split: str, accelerator: Any) -> Any:
        return Plain(TensorDataset(self.inputs.log(), self.train_labels), 10)


class ReadsNothing(Data):
    def train_loader(self, cfg: Any, sampler: Any, accelerator: Any) -> Any:
        raise FileNotFoundError("no folder `clips`")


TWINS: list[tuple[str, Callable[[], Data], str]] = [
    ("parts", WithoutFingerprint, "no `fingerprint`"),
    ("labels", changed(train_labels=lambda data: data.train_labels.float()), r"float32 \[60\]"),
    ("labels", changed(train_labels=lambda data: data.train_labels + 1), "range from 1 to 4, but there are 4 names"),
    ("class names", changed(class_names=[0, 1, 2, 3]), "has, or is, 0"),
    ("class names", changed(class_names=("a", "b", "c", "d")), r"\('a'"),
    ("class names", changed(class_names=["a", "b", "c", "a"]), "has 'a' twice"),
    ("class names", changed(class_names=["a", "b", "c", "caf\udce9"]), r"has 'caf\\udce9'"),  # lost when it is written
    ("class counts", changed(class_counts=lambda data: COUNTS), "an object of type list, for 4 names"),
    ("class counts", changed(class_counts=lambda data: torch.tensor([31, 20, 8, 2])), r"\[31, 20, 8, 2\], but"),
    ("splits", changed(splits=["test"]), r"\['test'\]"),
    ("splits", changed(splits=("train", "test")), "'train', 'test'"),
    ("fingerprint", changed(fingerprint=lambda: {"now": random.random()}), "two calls give different values"),
    ("fingerprint", changed(fingerprint=lambda: "abc"), 'is "abc"'),
    ("fingerprint", changed(fingerprint=lambda: {"labels": object()}), "AttributeError"),
    ("optional parts", changed(describe=lambda: 60), "`describe.*` is an object of type int"),
    ("optional parts", changed(sample_rate=0), "`sample_rate` is 0"),
    ("optional parts", changed(preprocessing={"model": object()}), "`preprocessing`"),
    ("order of the sampler", ReadsNothing, "FileNotFoundError: no folder `clips`"),
    ("order of the sampler", Shuffles, "but the sampler draws"),
    ("epochs", ForgetsSetEpoch, "has no `set_epoch`"),
    ("epochs", AugmentsTraining, "the second iteration of epoch 1 differs from the first"),
    ("pairs", IgnoresPairs, "batch 0 is an object of type tuple of 2"),
    ("evaluation", AugmentsEvaluation, "the second iteration differs"),
    ("evaluation", EvaluatesInAnotherOrder, "but `train_labels`"),
    ("evaluation", EvaluatesAPart, "but `train_labels`"),
    ("batches", YieldsPixels, r"inputs uint8 \[10, 3, 6\]"),
    ("batches", YieldsNaN, "batch 0 has inputs that are NaN or infinite"),
    ("batches", YieldsDictionaries, "batch 0 has an object of type dict"),
    ("processes", IgnoresProcesses, "the labels of 2 processes, put together, are not those of one"),
    ("processes", SharesUnevenly, r"2 processes have \[4, 2\] batches"),
]


@pytest.mark.parametrize(("rule", "make", "seen"), TWINS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_is_seen(rule: str, make: Callable[[], Data], seen: str) -> None:
    with pytest.raises(ContractError, match=seen) as caught:
        check_data(make(), Settings())
    assert caught.value.rule == rule
    assert caught.value.fix == DATA_RULES[rule].fix


def test_every_rule_has_a_twin() -> None:
    assert {rule for rule, _, _ in TWINS} == set(DATA_RULES)


def test_without_settings_the_loaders_are_not_touched() -> None:
    check_data(ReadsNothing())


RECIPES: dict[str, dict[str, Any]] = {
    "cifar_lt": {"dataset": "digits"},
    "esc50_lt": {"dataset": "synthetic", "batch_size": 16},
    "imagenet_lt": {"dataset": "digits", "batch_size": 32, "workers": 0, "image_size": 64},
    "inaturalist": {"dataset": "digits", "batch_size": 32, "workers": 0, "image_size": 64},
    "synthia_rgbd": {
        **{"dataset": "rendered", "batch_size": 4, "workers": 0, "height": 32, "width": 48},
        **{"train_scenes": 8, "held_out_scenes": 2, "test_scenes": 2},
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_data_of_our_recipes_pass(name: str, root: Path) -> None:
    with loaded_script(root / "recipes" / name / "train.py") as script:
        cfg = script.Config(**RECIPES[name])
        check_data(script.load_data(cfg), cfg, batches=2)


@pytest.mark.parametrize(
    ("recipe", "settings", "name"),
    [
        ("cifar_lt", {"dataset": "cifar10"}, "cifar10_ir100"),
        ("cifar_lt", {"dataset": "cifar10", "profile": "step"}, "cifar10_step_ir100"),
        ("imagenet_lt", {"dataset": "folder", "data_dir": "/my/birds/"}, "birds"),
        ("imagenet_lt", {"dataset": "hub", "hub_id": "owner/urban", "profile": "step"}, "urban_ir100"),
        ("imagenet_lt", {"data_dir": "/data/imagenet"}, "imagenet_lt"),
        ("inaturalist", {"dataset": "json", "data_dir": "/my/fungi"}, "fungi"),
        ("inaturalist", {"data_dir": "/data/2018"}, "inaturalist2018"),
        ("esc50_lt", {"dataset": "folder", "data_dir": "/my/frog calls", "profile": "natural"}, "frog-calls"),
        ("synthia_rgbd", {"dataset": "folder", "data_dir": "/my/streets"}, "streets"),
    ],
)
def test_runs_are_named_after_their_data(recipe: str, settings: dict[str, Any], name: str, root: Path) -> None:
    with loaded_script(root / "recipes" / recipe / "train.py") as script:
        assert script.Config(**settings).data_name == name


def test_every_recipe_is_checked(root: Path) -> None:
    assert {path.parent.name for path in (root / "recipes").glob("*/train.py")} == set(RECIPES)
