"""Samplers and plans inside the loops of others: every epoch has an order of its own, whoever counts the epochs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ltaug import METHODS, ClassPowerSampler, DeferredSampler, PairDataset, PairSampler

LABELS = torch.tensor([0] * 40 + [1] * 16 + [2] * 8)
SAMPLES = TensorDataset(torch.arange(64.0)[:, None], LABELS)

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|log_every_n_steps|LeafSpec|isinstance.treespec).*")


def pairs() -> PairSampler:
    """UniMix's."""
    return PairSampler(ClassPowerSampler(LABELS, tau=1, replacement=False), ClassPowerSampler(LABELS, tau=-1))


def deferred() -> DeferredSampler:
    """Class-balanced from epoch 2 on."""
    return DeferredSampler(ClassPowerSampler(LABELS, 1, replacement=False), ClassPowerSampler(LABELS, 0), epoch=2)


def orders(sampler: Any, epochs: int = 3) -> list[list[Any]]:
    """The first epochs, each chosen."""
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


def drawn(batch: Any) -> list[Any]:
    """The samples of a batch: numbers, or pairs of them."""
    if isinstance(batch[0], Tensor):
        return batch[0][:, 0].int().tolist()
    return list(zip(drawn(batch[0]), drawn(batch[1]), strict=True))


def seen(loader: Any) -> list[Any]:
    """An iteration of a loader."""
    return [sample for batch in loader for sample in drawn(batch)]


def pair_loader(sampler: Any, workers: int = 0) -> DataLoader:
    """As the README has it."""
    return DataLoader(PairDataset(SAMPLES), batch_size=8, sampler=sampler, num_workers=workers)


class TestPlainLoop:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_three_epochs_have_three_orders(self, workers: int) -> None:
        wanted = orders(pairs())
        assert wanted[0] != wanted[1] != wanted[2] != wanted[0]
        loader = pair_loader(pairs(), workers)
        assert [seen(loader) for _ in range(3)] == wanted

    def test_two_ranks_agree(self) -> None:
        # Each process shards the order that it draws itself, from generators of its own.
        ranks = []
        for rank in range(2):
            torch.manual_seed(rank)
            loader = pair_loader(pairs())
            ranks.append([seen(loader) for _ in range(3)])
        assert ranks[0] == ranks[1]

    def test_a_plan_follows_the_iterations(self) -> None:
        chosen, walking = (METHODS["lob_mixup_deferred"].plan(LABELS, epochs=4, batch_size=8) for _ in range(2))
        loader = pair_loader(walking.sampler)
        for epoch in range(4):
            chosen.set_epoch(epoch)
            assert seen(loader) == list(map(tuple, chosen.sampler.indices().tolist()))
            assert walking.epoch == epoch
            assert torch.equal(walking.seen_prior(), chosen.seen_prior())

    def test_half_an_epoch_is_an_epoch(self) -> None:
        sampler, wanted = pairs(), orders(pairs(), 2)
        assert next(iter(sampler)) == wanted[0][0]
        assert list(sampler) == wanted[1]


class TestAccelerate:
    @pytest.fixture
    def accelerator(self) -> Iterator[Any]:
        accelerate = pytest.importorskip("accelerate")
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        yield accelerate.Accelerator(cpu=True)
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)

    def test_three_epochs_have_three_orders(self, accelerator: Any) -> None:
        loader = accelerator.prepare(pair_loader(pairs()))
        assert [seen(loader) for _ in range(3)] == orders(pairs())

    def test_a_resumed_run_chooses_on_the_prepared_loader(self, accelerator: Any) -> None:
        loader = accelerator.prepare(DataLoader(SAMPLES, batch_size=8, sampler=deferred()))
        loader.set_epoch(2)
        assert [seen(loader) for _ in range(2)] == orders(deferred(), 4)[2:]

    @pytest.mark.parametrize("make", [pairs, deferred, lambda: METHODS["erm"].plan(LABELS, epochs=9).sampler])
    def test_choosing_on_the_sampler_is_noticed(self, accelerator: Any, make: Any) -> None:
        sampler = make()
        loader = accelerator.prepare(pair_loader(sampler))
        sampler.set_epoch(2)
        with pytest.warns(
            UserWarning, match=r"`set_epoch\(0\)` came after `set_epoch\(2\)`.* `set_epoch` of the prepar"
        ):
            next(iter(loader))

    def test_a_loop_that_chooses_on_both_is_not_told_off(self, accelerator: Any) -> None:
        sampler = pairs()
        loader = accelerator.prepare(pair_loader(sampler))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for epoch, wanted in enumerate(orders(pairs())):
                sampler.set_epoch(epoch)
                loader.set_epoch(epoch)
                assert seen(loader) == wanted

    def test_two_ranks_see_one_epoch_together(self) -> None:
        data_loader = pytest.importorskip("accelerate.data_loader")
        shards = []
        for rank in range(2):
            batches = pair_loader(pairs()).batch_sampler
            shards.append(data_loader.BatchSamplerShard(batches, num_processes=2, process_index=rank))
        for wanted in orders(pairs()):
            steps = zip(*map(list, shards), strict=True)
            assert [index for step in steps for batch in step for index in batch] == wanted


class Net(nn.Module):
    """A classifier of what the samples' numbers are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)


class TestTransformers:
    def test_three_epochs_have_three_orders(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        visited: list[Any] = []

        class Trainer(transformers.Trainer):
            def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
                return pairs()

            def compute_loss(self, model: nn.Module, inputs: Any, *arguments: Any, **more: Any) -> Tensor:
                visited.extend(drawn(inputs["batch"]))
                return F.cross_entropy(model(inputs["batch"][0][0]), inputs["batch"][0][1])

        arguments = transformers.TrainingArguments(
            str(tmp_path),
            num_train_epochs=3,
            per_device_train_batch_size=8,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        )
        collate = lambda samples: {"batch": torch.utils.data.default_collate(samples)}  # noqa: E731
        Trainer(Net(), arguments, data_collator=collate, train_dataset=PairDataset(SAMPLES)).train()
        assert [visited[64 * k : 64 * (k + 1)] for k in range(3)] == orders(pairs())


class TestLightning:
    @pytest.fixture
    def lightning(self) -> Any:
        return pytest.importorskip("lightning")

    @staticmethod
    def fit(lightning: Any, sampler: Any, epochs: int, workers: int = 0, *, chosen: bool = False, **more: Any) -> Any:
        """Train; returns the orders of the epochs by number, and the trainer."""

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.orders = Net(), {}

            def train_dataloader(self) -> DataLoader:
                if chosen:
                    sampler.set_epoch(self.trainer.current_epoch)
                return pair_loader(sampler, workers)

            def training_step(self, batch: Any, _: int) -> Tensor:
                self.orders.setdefault(self.current_epoch, []).extend(drawn(batch))
                (inputs, targets) = batch if isinstance(batch[0], Tensor) else batch[0]
                return F.cross_entropy(self.net(inputs), targets)

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), 0.01)

        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, **more)
        return module.orders, trainer

    @pytest.mark.parametrize("workers", [0, 1])
    def test_three_epochs_have_three_orders(self, lightning: Any, workers: int) -> None:
        found, _ = self.fit(lightning, pairs(), 3, workers)
        assert found == dict(enumerate(orders(pairs())))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_resumed_run_chooses_where_the_loader_is_made(self, lightning: Any, tmp_path: Path, workers: int) -> None:
        _, trainer = self.fit(lightning, deferred(), 2)
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        resumed = {"ckpt_path": tmp_path / "two.ckpt", "weights_only": False}
        found, _ = self.fit(lightning, deferred(), 4, workers, chosen=True, **resumed)
        assert found == dict(list(enumerate(orders(deferred(), 4)))[2:])

    def test_a_resumed_run_that_reads_ahead_is_noticed(self, lightning: Any, tmp_path: Path) -> None:
        _, trainer = self.fit(lightning, deferred(), 2)
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        with pytest.warns(UserWarning, match=r"`set_epoch\(2\)` came while epoch 0 was being drawn.*train_dataloader"):
            self.fit(lightning, deferred(), 4, workers=1, ckpt_path=tmp_path / "two.ckpt", weights_only=False)

    @pytest.mark.parametrize("forwards", [True, False])
    def test_two_ranks_see_one_epoch_together(self, lightning: Any, forwards: bool) -> None:
        wrapper = lightning.fabric.utilities.distributed.DistributedSamplerWrapper
        ranks = [wrapper(pairs(), num_replicas=2, rank=rank, shuffle=False) for rank in range(2)]
        for epoch, wanted in enumerate(orders(pairs())):
            if forwards:  # releases up to 2.5 do not pass the epoch on
                for each in ranks:
                    each.set_epoch(epoch)
            assert [index for step in zip(*ranks, strict=True) for index in step] == wanted
