"""The data of cifar_lt: which samples are trained on, and which others are kept for corrections."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recipe_support import ROOT, imported

from ltaug import ClassPowerSampler, PairSampler
from ltaug.errors import UserError
from ltaug.vision import SmallImages


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[..., Any]]:
    """load_data of the recipe, with some settings."""
    with imported(ROOT / "recipes" / "cifar_lt"):
        data = sys.modules["data"]
        yield lambda **settings: data.load_data(data.DataSettings(**settings))


@pytest.fixture(scope="module")
def numbered() -> Iterator[Callable[..., Any]]:
    """The same with samples that are their own indices in the whole training set."""
    with imported(ROOT / "recipes" / "cifar_lt"):
        data = sys.modules["data"]
        read = data.read_splits

        def named(cfg: Any) -> Any:
            splits = read(cfg)
            splits.inputs = lambda indices: indices.double().reshape(-1, 1)
            return splits

        data.read_splits = named
        yield lambda **settings: data.load_data(data.DataSettings(**({"dataset": "digits"} | settings)))


def indices(data: Any, split: str) -> list[int]:
    return data.inputs[split].flatten().long().tolist()


@pytest.mark.parametrize(
    ("dataset", "digest"),
    [
        ("digits", "523ba124ea13e0cd0373d6fadc1f6c82c25c76760ffd683932515f2564a60b13"),
        ("cifar10", "eec3bb8333edfcbbfbd2d5bb7502e3c01b5ac337fd2d3565782147c01d11d505"),
    ],
)
def test_the_subset_is_the_published_one(
    load: Callable[..., Any], dataset: str, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which images are taken is known without decoding one.
    monkeypatch.setattr(
        SmallImages,
        "images",
        lambda self, indices=slice(None): torch.zeros(len(self.labels[indices]), 1, 1, 3, dtype=torch.uint8),
    )
    folder = ROOT.parent / "shared" / "data" / dataset
    if dataset == "cifar10" and not folder.is_dir():
        pytest.skip("the images are not there")
    data = load(dataset=dataset, data_dir=str(folder) if folder.is_dir() else None)
    assert data.index_hash == digest
    assert data.fingerprint()["training_indices"] == digest


def test_what_is_no_image_is_not_shared_as_one(numbered: Callable[..., Any], load: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"its samples are torch.float64. Write one"):
        numbered().shared(SimpleNamespace())  # settings of somebody's own have no `columns`
    assert load(dataset="digits").shared(SimpleNamespace(columns=("img", "label"))).media == "image"


def test_the_fingerprint_sees_every_change(numbered: Callable[..., Any]) -> None:
    def changed(change: Callable[[Any], Any]) -> dict[str, Any]:
        data = numbered(imbalance_ratio=5)
        change(data)
        return {name: str(value) for name, value in data.fingerprint().items()}

    def pixel(split: str) -> Callable[[Any], None]:
        return lambda data: data.inputs[split].view(-1)[5].add_(1)

    def swapped(data: Any) -> None:
        data.labels["train"] = torch.tensor([1, 0, *range(2, 10)])[data.labels["train"]]

    def exchanged(data: Any) -> None:
        data.inputs["train"], data.inputs["test"] = data.inputs["test"], data.inputs["train"]

    def reordered(data: Any) -> None:
        data.inputs["train"] = data.inputs["train"].flip(0)

    changes = [lambda _: None, pixel("train"), pixel("test"), swapped, exchanged, reordered]
    assert changed(changes[0]) == changed(changes[0])
    assert len({tuple(changed(change).items()) for change in changes}) == len(changes)


class TestHeldOut:
    """Samples that are kept from training."""

    def test_are_of_every_class_and_not_trained_on(self, numbered: Callable[..., Any]) -> None:
        settings = {"held_out_per_class": 20, "imbalance_ratio": 5}
        data = numbered(**settings)
        train, held_out = indices(data, "train"), indices(data, "held_out")
        assert not set(train) & set(held_out)
        assert len(set(held_out)) == 200
        assert data.labels["held_out"].bincount().tolist() == [20] * 10
        assert data.class_counts[0] == 114 - 20
        assert data.class_counts.tolist() == data.train_labels.bincount().tolist()
        assert data.splits == ("test", "held_out")
        again, other = numbered(**settings), numbered(**settings, data_seed=1)
        assert indices(again, "held_out") == held_out
        assert set(indices(other, "held_out")) != set(held_out)

    def test_without_them_what_is_left_over_serves(self, numbered: Callable[..., Any]) -> None:
        data = numbered(imbalance_ratio=5)
        assert not set(indices(data, "train")) & set(indices(data, "held_out"))
        sizes = data.labels["held_out"].bincount(minlength=10).tolist()
        assert sizes == [min(100, 114 - n) for n in data.class_counts.tolist()]
        assert sizes[0] == 0
        note = data.held_out_note()
        assert "(9 of 10 classes, up to 92 each; no samples of 0, whose errors a searched strength misses)" in note

    def test_do_not_change_what_is_trained_on(self, numbered: Callable[..., Any]) -> None:
        """The largest class is as large as what is left of it; else the subset is the same as ever."""
        for seed in (0, 1):
            plain, kept = numbered(data_seed=seed), numbered(data_seed=seed, held_out_per_class=3)
            assert plain.class_counts[0] - kept.class_counts[0] == 3

    def test_none_are_left_of_a_natural_profile(self, numbered: Callable[..., Any]) -> None:
        data = numbered(profile="natural")
        assert data.splits == ("test",)
        assert len(data.train_labels) == 1140

    def test_that_leave_nothing_are_refused(self, load: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="`held_out_per_class`=114 leaves no training samples of class 0"):
            load(dataset="digits", held_out_per_class=114)


class TestLoaders:
    def test_train_in_a_sampler_s_order_with_augmentation(self, load: Callable[..., Any]) -> None:
        data = load(dataset="digits", imbalance_ratio=50)
        labels = data.train_labels
        cfg = SimpleNamespace(batch_size=32, seed=0, crop_padding=2, flip=False)
        one = SimpleNamespace(device="cpu", num_processes=1, process_index=0)
        pairs = PairSampler(ClassPowerSampler(labels, 1.0, replacement=False), ClassPowerSampler(labels))
        loader = data.train_loader(cfg, pairs, one)
        loader.set_epoch(1)
        assert len(loader) == 314 // 32
        drawn = labels[pairs.indices()]
        for k, ((x, y), (other, partner)) in enumerate(loader):
            assert x.shape == other.shape == (32, 1, 16, 16)
            assert torch.equal(torch.stack([y, partner], 1), drawn[32 * k : 32 * (k + 1)])

    def test_evaluate_every_sample_once_in_order(self, load: Callable[..., Any]) -> None:
        data = load(dataset="digits", imbalance_ratio=50)
        for processes in (1, 2, 3):
            for split in ("train", *data.splits):
                parts = []
                for index in range(processes):
                    one = SimpleNamespace(device="cpu", num_processes=processes, process_index=index)
                    parts.append([y for _, y in data.eval_loader(None, split, one)])
                assert len({len(part) for part in parts}) == 1  # equally many batches
                together = torch.cat([torch.cat(batch) for batch in zip(*parts, strict=True)])
                assert torch.equal(together, data.labels[split])

    def test_pixels_are_normalised_by_the_training_set(self, load: Callable[..., Any]) -> None:
        data = load(dataset="digits", imbalance_ratio=50)
        one = SimpleNamespace(device="cpu", num_processes=1, process_index=0)
        pixels = torch.cat([x for x, _ in data.eval_loader(None, "train", one)])
        assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
        assert pixels.std().item() == pytest.approx(1, abs=1e-3)
