"""SeededLoader: the same batches on any number of processes and workers, for samples of any form; last batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltaug import ClassPowerSampler, PairSampler
from ltaug.loaders import SamplePair, SeededLoader

SIZE = 23
LABELS = torch.arange(SIZE) % 4


class Noisy(Dataset):
    """Inputs that tell their index, and a number that the augmentation has drawn."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        return torch.tensor([float(k), float(torch.rand(()))]), int(LABELS[k])


def sampler(paired: bool = False) -> Any:
    first = ClassPowerSampler(LABELS, 0.0, seed=2)
    return PairSampler(first, ClassPowerSampler(LABELS, -1.0, seed=2)) if paired else first


def flat(batch: Any) -> list[Tensor]:
    return [batch] if isinstance(batch, Tensor) else [tensor for part in batch for tensor in flat(part)]


def epoch_of(epoch: int = 1, *, first: int = 0, processes: int = 1, paired: bool = False, **words: Any) -> list[Tensor]:
    """All tensors of an epoch, step by step, put together from all processes."""
    words = {"sampler": sampler(paired), "drop_last": True, "seed": 3, **words}
    parts = []
    for process in range(processes):
        loader = SeededLoader(Noisy(), 6, num_processes=processes, process_index=process, **words)
        loader.set_epoch(epoch, first)
        parts.append([flat(batch) for batch in loader])
        assert len(parts[-1]) == len(loader)
    return [torch.cat(tensors) for step in zip(*parts, strict=True) for tensors in zip(*step, strict=True)]


@pytest.mark.parametrize("paired", [False, True])
def test_the_same_on_any_number_of_processes_and_workers_and_after_resuming(paired: bool) -> None:
    alone, each = epoch_of(paired=paired), 4 if paired else 2
    others = [epoch_of(paired=paired, processes=processes) for processes in (2, 3)]
    others += [alone[:each] + epoch_of(paired=paired, first=1), epoch_of(paired=paired, num_workers=2)]
    for other in others:
        assert len(other) == len(alone) == 3 * each
        assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))
    assert not torch.equal(epoch_of(2, paired=paired)[0], alone[0])


def test_batches_are_those_of_the_sampler() -> None:
    order = sampler()
    order.set_epoch(1)
    inputs, labels = torch.cat(epoch_of()[::2]), torch.cat(epoch_of()[1::2])
    assert inputs[:, 0].tolist() == [float(k) for k in order.indices()[:18]]
    assert torch.equal(labels, LABELS[inputs[:, 0].long()])


def test_pairs_are_augmented_apart() -> None:
    loader = SeededLoader(Noisy(), 6, sampler=sampler(paired=True), drop_last=True)
    loader.set_epoch(0)
    for batch in loader:
        assert isinstance(batch, SamplePair)
        (inputs, labels), (partner_inputs, partner_labels) = batch
        assert inputs.shape == partner_inputs.shape == (6, 2)
        assert labels.shape == partner_labels.shape == (6,)
        assert not torch.equal(inputs[:, 1], partner_inputs[:, 1])


class TestEvaluation:
    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("processes", [1, 2, 3, 6])
    def test_in_order_with_a_last_batch(self, processes: int, workers: int) -> None:
        """23 samples: the last batch has 5, of which one of six processes gets none."""
        shares = [
            list(SeededLoader(Noisy(), 6, num_processes=processes, process_index=k, num_workers=workers))
            for k in range(processes)
        ]
        assert {len(share) for share in shares} == {4}
        steps = list(zip(*shares, strict=True))
        inputs = torch.cat([part[0] for step in steps for part in step])
        assert inputs[:, 0].tolist() == list(range(SIZE))
        assert torch.equal(torch.cat([part[1] for step in steps for part in step]), LABELS)
        sizes = [len(part[0]) for part in steps[-1]]
        assert (sum(sizes), max(sizes) - min(sizes)) == (5, 0 if processes == 1 else 1)
        empty = [part for part in steps[-1] if not len(part[0])]
        assert len(empty) == (processes == 6)
        for part in empty:
            assert (part[0].shape, part[0].dtype, part[1].shape, part[1].dtype) == (
                (0, 2),
                torch.float32,
                (0,),
                torch.int64,
            )

    def test_is_that_of_a_plain_loader(self) -> None:
        dataset = [(torch.full((2,), float(k)), k) for k in range(10)]
        for ours, theirs in zip(SeededLoader(dataset, 4), DataLoader(dataset, 4), strict=True):  # type: ignore[arg-type]
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class TestSamplesOfAnyForm:
    def test_mappings_texts_and_nested_ones(self) -> None:
        dataset: Any = [{"ids": torch.tensor([k, k]), "more": (torch.tensor(k), "text")} for k in range(5)]
        first, last = SeededLoader(dataset, 3, num_processes=3, process_index=0, device="cpu")
        assert first["ids"].tolist() == [[0, 0]]
        assert [list(part) if isinstance(part, tuple | list) else part.tolist() for part in first["more"]] == [
            [0],
            ["text"],
        ]
        assert last["ids"].shape == (0, 2)
        assert (last["more"][0].shape, list(last["more"][1])) == ((0,), [])

    def test_a_collation_of_ones_own(self) -> None:
        """Sequences of different lengths, alone and in pairs."""
        dataset: Any = [(torch.arange(k + 1.0), k) for k in range(8)]

        def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
            inputs = torch.nn.utils.rnn.pad_sequence([each for each, _ in samples], batch_first=True)
            return inputs, torch.tensor([label for _, label in samples])

        inputs, labels = next(iter(SeededLoader(dataset, 4, collate_fn=collate)))
        assert (inputs.shape, labels.tolist()) == ((4, 4), [0, 1, 2, 3])
        one = ClassPowerSampler([0] * 8, 0.0)
        pairs = PairSampler(one, ClassPowerSampler([0] * 8, 0.0, seed=1))
        (inputs, labels), (others, _) = next(iter(SeededLoader(dataset, 4, sampler=pairs, collate_fn=collate)))
        assert inputs.shape == (4, int(labels.max()) + 1)
        assert len(others) == 4

    def test_inputs_are_finished_on_the_device(self, device: torch.device) -> None:
        seen = []

        def finish(inputs: Tensor) -> Tensor:
            seen.append(inputs.device.type)
            return inputs * 2

        dataset: Any = [(torch.tensor(float(k)), k) for k in range(6)]
        (inputs, labels) = next(iter(SeededLoader(dataset, 6, device=device, finish=finish)))
        assert (inputs.tolist(), labels.tolist()) == ([0, 2, 4, 6, 8, 10], list(range(6)))
        assert inputs.device.type == labels.device.type == seen[0] == device.type
        pairs = PairSampler(ClassPowerSampler([0] * 6), ClassPowerSampler([0] * 6, seed=1))
        for half in next(iter(SeededLoader(dataset, 6, sampler=pairs, device=device, finish=finish))):
            assert torch.equal(half[0].cpu(), 2.0 * half[1].cpu())
        tensors: Any = [torch.tensor(float(k)) for k in range(4)]
        assert next(iter(SeededLoader(tensors, 4, finish=finish))).tolist() == [0, 2, 4, 6]


def test_what_is_drawn_next_does_not_change() -> None:
    before = torch.get_rng_state()
    epoch_of()
    assert torch.equal(before, torch.get_rng_state())


def test_workers_live_as_long_as_the_loader() -> None:
    loader = SeededLoader(Noisy(), 6, sampler=sampler(), drop_last=True, num_workers=1)
    lists = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        lists.append(list(loader))
    workers = loader._loader._iterator._workers  # type: ignore[union-attr]
    assert [worker.is_alive() for worker in workers] == [True]
    assert not torch.equal(lists[0][0][0], lists[1][0][0])


def test_faults() -> None:
    for words, message in (
        ({"batch_size": 24, "drop_last": True}, "`batch_size`=24 exceeds the 23 samples of an epoch"),
        ({"batch_size": 5, "num_processes": 2}, "must be a positive multiple of the 2 processes"),
        ({"batch_size": 4, "seed": -1}, "`seed` must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            SeededLoader(Noisy(), **words)
    loader = SeededLoader(Noisy(), 6)
    with pytest.raises(ValueError, match=r"`first_step` must lie in 0\.\.4"):
        loader.set_epoch(0, 5)
