"""Class-aware draws of a stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ltaug.loaders import ClassPowerStream

COUNTS = [800, 150, 50]
SAMPLES = [
    (k, label) for k, label in enumerate(torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS)).tolist())
]


def shuffled(seed: int = 0) -> list[tuple[int, int]]:
    order = torch.randperm(len(SAMPLES), generator=torch.Generator().manual_seed(seed))
    return [SAMPLES[k] for k in order.tolist()]


class Numbers(IterableDataset[Any]):
    """Samples that workers share among them."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        yield from shuffled(self.epoch)[first::step]


@pytest.mark.parametrize("tau", [0.0, 0.5, -1.0])
def test_classes_come_by_the_power(tau: float) -> None:
    wanted = torch.tensor(COUNTS).double() ** tau
    stream = ClassPowerStream(shuffled() * 3, COUNTS, tau, held=10)
    found = torch.tensor([label for _, label in stream]).bincount(minlength=3)
    assert found.sum() == 3000
    assert stats.chisquare(found.numpy(), (3000 * wanted / wanted.sum()).numpy()).pvalue > 1e-3


def test_tau_1_is_the_stream_and_partners_have_a_power_of_their_own() -> None:
    pairs = list(ClassPowerStream(shuffled(), COUNTS, 1.0, partner_tau=-1.0))
    assert [first for first, _ in pairs] == shuffled()
    wanted = 1.0 / torch.tensor(COUNTS).double()
    found = torch.tensor([label for _, (_, label) in pairs]).bincount(minlength=3)
    assert stats.chisquare(found.numpy(), (1000 * wanted / wanted.sum()).numpy()).pvalue > 1e-3


def test_what_is_held_is_a_uniform_choice() -> None:
    """Of 100 samples of one class, the 10 held at the end are early and late ones alike."""
    thirds = torch.zeros(4)
    for seed in range(200):
        stream = ClassPowerStream([(k, 0) for k in range(100)], [100], 0.0, held=10, ahead=100, seed=seed)
        thirds += torch.tensor([k // 25 for k, _ in stream]).bincount(minlength=4)
    # Draws of one set are of the same ten samples: a tenth as many count as independent.
    assert stats.chisquare((thirds / 10).numpy()).pvalue > 1e-3


def test_every_epoch_has_draws_of_its_own_and_comes_again() -> None:
    stream = ClassPowerStream(Numbers(), COUNTS, 0.0)
    first, second = list(stream), list(stream)
    assert first != second
    stream.set_epoch(0)
    assert list(stream) == first
    assert list(ClassPowerStream(Numbers(), COUNTS, 0.0, seed=1)) != first
    stream.set_epoch(3)
    assert stream.dataset.epoch == 3


def test_in_workers() -> None:
    def epochs() -> list[list[int]]:
        loader = DataLoader(ClassPowerStream(Numbers(), COUNTS, 1.0, partner_tau=0.0), 50, num_workers=2)
        torch.manual_seed(3)
        return [[k for _, partner in ((b[0], b[1]) for b in loader) for k in partner[0].tolist()] for _ in range(2)]

    first, second = epochs()
    assert len(first) == 1000
    assert first != second  # although each epoch's workers start from one and the same object
    assert epochs() == [first, second]


def test_a_transform_is_of_what_is_drawn() -> None:
    rows = [{"x": k, "label": y} for k, y in shuffled()]
    stream = ClassPowerStream(rows, COUNTS, 0.0, label="label", transform=lambda row: row["x"] + 0.5)
    assert all(isinstance(x, float) for x in stream)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`held` must be at least 1, but is 0"):
        ClassPowerStream(SAMPLES, COUNTS, held=0)
    with pytest.raises(ValueError, match=r"`dataset` must be something that is iterated, but is a int"):
        ClassPowerStream(3, COUNTS)
    with pytest.raises(ValueError, match=r"`label`='label' must be where samples have their class"):
        next(iter(ClassPowerStream(SAMPLES, COUNTS, label="label")))
    for counts in (COUNTS[:2], [1, 0, 1]):
        with pytest.raises(ValueError, match=r"`class_counts` must count every class of the stream, but a sample has"):
            list(ClassPowerStream(SAMPLES, counts))
