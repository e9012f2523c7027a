"""Class-aware draws of a stream."""

from __future__ import annotations

import copy
import pickle
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


def drawn(loader: DataLoader) -> list[int]:
    return [k for _, partner in loader for k in partner[0].tolist()]


def stream_of(seed: int = 0, epoch: int | None = None) -> ClassPowerStream:
    stream = ClassPowerStream(Numbers(), COUNTS, 1.0, partner_tau=0.0, seed=seed)
    if epoch is not None:
        stream.set_epoch(epoch)
    return stream


@pytest.mark.parametrize("persistent", [False, True])
def test_in_workers(persistent: bool) -> None:
    """Draws depend on seed and epoch alone, which move on by themselves or are chosen."""

    def loader_of(stream: ClassPowerStream) -> DataLoader:
        return DataLoader(stream, 50, num_workers=2, persistent_workers=persistent)

    stream = stream_of()
    loader = loader_of(stream)
    epochs = [drawn(loader) for _ in range(3)]
    assert stream.epoch == 2
    assert len(epochs[0]) == 1000
    assert len({tuple(each) for each in epochs}) == 3
    torch.manual_seed(5)  # whatever the state of torch's generator
    for epoch in (0, 2):
        assert drawn(loader_of(stream_of(epoch=epoch))) == epochs[epoch]
    stream.set_epoch(1)  # of the same loader
    assert [drawn(loader), drawn(loader)] == epochs[1:]
    assert drawn(loader_of(stream_of(seed=1))) != epochs[0]


@pytest.mark.filterwarnings("ignore:.*worker processes in total.*")
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_agree_on_the_epoch(persistent: bool) -> None:
    """Also where loops break off, and where the loader's generator is seeded alike for each epoch."""
    for broken in range(3):
        stream, generator = stream_of(), torch.Generator()
        loader = DataLoader(stream, 50, num_workers=3, persistent_workers=persistent, generator=generator)
        for _ in range(broken):
            generator.manual_seed(0)
            next(iter(loader))
        generator.manual_seed(0)
        wanted = drawn(DataLoader(stream_of(epoch=broken), 50, num_workers=3))
        assert drawn(loader) == wanted
        assert stream.epoch == broken


def test_workers_and_none_count_on_from_each_other() -> None:
    alone, stream = stream_of(), stream_of()
    epochs = [list(alone) for _ in range(3)]
    drawn(DataLoader(stream, 50, num_workers=1))
    assert list(stream) == epochs[1]
    drawn(DataLoader(stream, 50, num_workers=2))
    assert stream.epoch == 2
    assert list(copy.deepcopy(stream)) == list(stream) == list(stream_of(epoch=3))
    assert pickle.loads(pickle.dumps(stream)).epoch == 3


def test_workers_tell_datasets_the_epoch() -> None:
    """Whose epoch is in shared memory, where two workers would count it up at the same time."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": [k for k, _ in SAMPLES], "label": [y for _, y in SAMPLES]})

    def epochs(workers: int, first: int = 0) -> list[list[int]]:
        table = rows.to_iterable_dataset(num_shards=2).shuffle(seed=0, buffer_size=100)
        stream = ClassPowerStream(table, COUNTS, 1.0, label="label")
        stream.set_epoch(first)
        loader = DataLoader(stream, 50, num_workers=workers)
        return [[k for batch in loader for k in batch["x"].tolist()] for _ in range(3 - first)]

    for workers in (0, 2):
        found = epochs(workers)
        assert len({tuple(each) for each in found}) == 3
        assert all(sorted(each) == list(range(1000)) for each in found)
        assert epochs(workers, first=1) == found[1:]


def test_set_epoch_warns_only_of_what_was_not_drawn(recwarn: pytest.WarningsRecorder) -> None:
    stream = stream_of(epoch=3)
    drawn(DataLoader(stream, 50, num_workers=1))
    stream.set_epoch(2)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"`set_epoch\(1\)` came after `set_epoch\(2\)`"):
        stream.set_epoch(1)


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
    for label in (0.7, torch.tensor(1.5), "1"):
        with pytest.raises(ValueError, match=r"`label`=1 must be where samples have their class: .*no whole number"):
            list(ClassPowerStream([(0, label)], COUNTS))
    assert list(ClassPowerStream([(0, 1.0)], COUNTS)) == [(0, 1.0)]
    with pytest.raises(ValueError, match=r"`dataset` must be iterated anew in each epoch, but a generator comes only"):
        ClassPowerStream((sample for sample in SAMPLES), COUNTS)
    for counts in (COUNTS[:2], [1, 0, 1]):
        with pytest.raises(ValueError, match=r"`class_counts` must count every class of the stream, but a sample has"):
            list(ClassPowerStream(SAMPLES, counts))
