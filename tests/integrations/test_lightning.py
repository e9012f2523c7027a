"""Plans in the Trainer of Lightning, by a callback."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset

from ltaug import METHODS, MixUp, PairDataset, TrainingPlan

lightning = pytest.importorskip("lightning")

from ltaug.integrations.lightning import LongTailCallback  # noqa: E402

LABELS = torch.tensor([0] * 20 + [1] * 8 + [2] * 4)
NUMBERS = torch.arange(32.0)
SAMPLES = TensorDataset(NUMBERS[:, None].repeat(1, 4), LABELS)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(num_workers|no .val_dataloader|callbacks used to create|log_every_n_steps).*",
    "ignore:.*(LeafSpec|treespec|in eval mode).*",
)


def plan_of(name: str, epochs: int = 3, **changes: Any) -> TrainingPlan:
    method = METHODS[name].replace(**changes) if changes else METHODS[name]
    return method.plan(LABELS, epochs=epochs, batch_size=8)


class Constant(MixUp):
    """A mixer without chance."""

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        return torch.full((len(targets),), 0.25)


class Module(lightning.LightningModule):
    """A classifier; notes what it is trained on."""

    def __init__(self, plan: TrainingPlan, rate: float = 0.001) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plan, self.rate = plan, rate
        self.net = plan.attach(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)))
        self.seen: list[tuple[int, int, Tensor, Tensor]] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        self.seen.append((self.current_epoch, self.plan.epoch, inputs[:, 0], targets))
        return self.plan.criterion(self.net(inputs), targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(batch[1])
        F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], self.rate)


def loader_of(plan: TrainingPlan, workers: int = 0, **more: Any) -> DataLoader:
    return DataLoader(PairDataset(SAMPLES), batch_size=8, num_workers=workers, **{"sampler": plan.sampler, **more})


def trainer_of(plan: TrainingPlan, **more: Any) -> Any:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return lightning.Trainer(**{**quiet, "max_epochs": plan.epochs, "callbacks": [LongTailCallback(plan)], **more})


def fit(plan: TrainingPlan, workers: int = 0, ckpt_path: Path | None = None, **more: Any) -> tuple[Module, Any]:
    module, trainer = Module(plan), trainer_of(plan, **more)
    resumed = {} if ckpt_path is None else {"ckpt_path": ckpt_path}
    trainer.fit(module, loader_of(plan, workers), **resumed)
    return module, trainer


class TestTraining:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_phases_switch(self, workers: int) -> None:
        plan = plan_of("unimix_bayias", epochs=3, mix_until=0.6, rebalance_from=0.3)
        module, _ = fit(plan, workers)
        assert [(epoch, planned) for epoch, planned, *_ in module.seen] == [(k, k) for k in range(3) for _ in range(4)]
        assert [targets.is_floating_point() for *_, targets in module.seen] == [True] * 8 + [False] * 4
        plan.set_epoch(2)
        drawn = torch.cat([inputs for *_, inputs, _ in module.seen[8:]])
        assert torch.equal(drawn, NUMBERS[plan.sampler.indices()])

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_is_the_loop_written_out(self, accumulate: int) -> None:
        plan, same = (plan_of("mixup_bayias", epochs=2) for _ in range(2))
        plan.mixer, same.mixer = Constant(3), Constant(3)
        module, _ = fit(plan, accumulate_grad_batches=accumulate)
        wanted = Module(same)
        optimizer = torch.optim.SGD(wanted.parameters(), 0.001)
        for epoch in range(2):
            same.set_epoch(epoch)
            for k, pairs in enumerate(same.sampler.indices().split(8)):
                inputs, targets = same.mix([(SAMPLES[each][0], SAMPLES[each][1]) for each in pairs.T])
                (same.criterion(wanted.net(inputs), targets) / accumulate).backward()
                if (k + 1) % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
        for found, value in zip(module.net.parameters(), wanted.net.parameters(), strict=True):
            torch.testing.assert_close(found, value)

    def test_validation_is_untouched(self) -> None:
        plan = plan_of("unimix", epochs=1)
        module = Module(plan)
        step = module.training_step
        trainer_of(plan).fit(module, loader_of(plan), DataLoader(SAMPLES, batch_size=16))
        assert all(torch.equal(*each) for each in zip(module.validated[-2:], LABELS.split(16), strict=True))
        assert module.training_step == step
        assert "training_step" not in vars(module)

    def test_a_training_that_failed_leaves_the_module_as_it_was(self) -> None:
        plan = plan_of("unimix", epochs=1)
        module = Module(plan)
        with pytest.raises(ValueError, match="must draw from the plan's sampler"):
            trainer_of(plan).fit(module, DataLoader(SAMPLES, batch_size=8))
        assert "training_step" not in vars(module)

    @pytest.mark.parametrize("name", ["crt", "mislas"])
    def test_batch_norm_of_a_second_stage(self, name: str) -> None:
        plan = plan_of(name, epochs=2)
        module = Module(plan)
        before = copy.deepcopy(module.net[1].state_dict())
        trainer_of(plan).fit(module, loader_of(plan), DataLoader(SAMPLES, batch_size=16))
        after = module.net[1].state_dict()
        assert torch.equal(after["weight"], before["weight"])
        assert torch.equal(after["running_mean"], before["running_mean"]) == (name == "crt")

    @pytest.mark.parametrize("name", ["ldam_drw", "bbn", "manifold_mixup", "remix_drw", "drs", "lade"])
    def test_methods_train(self, name: str) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.inner(x)

        class Blocks(Module):
            def __init__(self, plan: TrainingPlan) -> None:
                super().__init__(plan_of("erm"))
                self.plan = plan
                self.net = plan.attach(nn.Sequential(Block(), Block(), nn.Flatten(), nn.Linear(4, 3)))

        changes = {"manifold_layers": ("input", "0")} if name == "manifold_mixup" else {}
        plan = plan_of(name, **changes)
        module = Blocks(plan)
        trainer_of(plan).fit(module, loader_of(plan))
        assert [planned for _, planned, *_ in module.seen] == [k for k in range(3) for _ in range(4)]


class TestDictionaries:
    @staticmethod
    def table(**more: Any) -> Any:
        datasets = pytest.importorskip("datasets")
        columns = {"pixels": SAMPLES.tensors[0].tolist(), "kind": LABELS.tolist(), **more}
        return datasets.Dataset.from_dict(columns).with_format("torch")

    @staticmethod
    def fit(plan: TrainingPlan, table: Any, **names: str) -> list[Any]:
        seen = []

        class OfDictionaries(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                seen.append(batch)
                return self.plan.criterion(self.net(batch["pixels"]), batch["kind"])

        loader = DataLoader(PairDataset(table), batch_size=8, sampler=plan.sampler)
        trainer_of(plan, callbacks=[LongTailCallback(plan, **names)]).fit(OfDictionaries(plan), loader)
        return seen

    @pytest.mark.parametrize("name", ["unimix_bayias", "erm"])
    def test_are_mixed(self, name: str) -> None:
        plan = plan_of(name, epochs=1)
        plan.mixer = Constant(3) if plan.mixer else None
        seen = self.fit(plan, self.table(place=list(range(32))), inputs="pixels", labels="kind")
        plan.set_epoch(0)
        for batch, chosen in zip(seen, plan.sampler.indices().split(8), strict=True):
            first, second = chosen.T if chosen.ndim == 2 else (chosen, chosen)
            assert batch["place"].tolist() == first.tolist()
            wanted = 0.25 * NUMBERS[first] + 0.75 * NUMBERS[second]
            torch.testing.assert_close(batch["pixels"][:, 0], wanted)
            assert batch["kind"].shape == ((8, 3) if name == "unimix_bayias" else (8,))

    def test_errors_name_the_column(self) -> None:
        plan = plan_of("unimix", epochs=1)
        with pytest.raises(ValueError, match=r"`inputs`='image' must be a column of the batch, which has pixels, kind"):
            self.fit(plan, self.table())
        with pytest.raises(ValueError, match=r"other labels than those in column 'kind' of the training set"):
            self.fit(plan, self.table().shuffle(seed=1), inputs="pixels", labels="kind")


class TestResuming:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_equals_the_uninterrupted_training(self, workers: int, tmp_path: Path) -> None:
        def deferred() -> TrainingPlan:
            plan = plan_of("lob_mixup_deferred", epochs=4, rebalance_from=0.5)
            plan.mixer = Constant(3)
            return plan

        whole, _ = fit(deferred(), workers)
        keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        plan = deferred()
        fit(plan, workers, callbacks=[LongTailCallback(plan), keep], enable_checkpointing=True)
        again, _ = fit(deferred(), workers, ckpt_path=tmp_path / "epoch=1.ckpt")
        assert [each[:2] for each in again.seen] == [each[:2] for each in whole.seen[8:]]
        for found, wanted in zip(again.seen, whole.seen[8:], strict=True):
            assert torch.equal(found[2], wanted[2])
        for found, value in zip(again.net.parameters(), whole.net.parameters(), strict=True):
            torch.testing.assert_close(found, value)

    def test_fit_that_goes_on(self) -> None:
        plan = plan_of("drs", epochs=3)
        module, trainer = Module(plan), trainer_of(plan, max_epochs=3)
        trainer.fit(module, loader_of(plan))
        first = len(module.seen)
        trainer_of(plan).fit(module, loader_of(plan))  # a plan begins anew with every trainer
        assert [each[:2] for each in module.seen[first:]] == [each[:2] for each in module.seen[:first]]

    def test_another_plan(self, tmp_path: Path) -> None:
        _, trainer = fit(plan_of("bayias"))
        trainer.save_checkpoint(tmp_path / "done.ckpt")
        with pytest.raises(ValueError, match=r"made by a plan with method \{'loss': 'prior_corrected'\}"):
            fit(plan_of("erm"), ckpt_path=tmp_path / "done.ckpt")
        plan = plan_of("bayias")
        plain, trainer = Module(plan), trainer_of(plan, callbacks=[])
        trainer.fit(plain, loader_of(plan))
        trainer.save_checkpoint(tmp_path / "plain.ckpt")
        with pytest.raises(ValueError, match="made without a plan"):
            fit(plan_of("bayias"), ckpt_path=tmp_path / "plain.ckpt")


class TestErrors:
    def test_other_epochs(self) -> None:
        with pytest.raises(ValueError, match="of 3 epochs, but `max_epochs` comes to 5"):
            fit(plan_of("erm"), max_epochs=5)
        fit(plan_of("erm"), max_epochs=5, fast_dev_run=True)

    def test_what_is_no_plan(self) -> None:
        with pytest.raises(ValueError, match="`plan` must be a plan"):
            LongTailCallback(METHODS["erm"])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "change",
        [{"sampler": None, "shuffle": True}, {"sampler": plan_of("erm").sampler}],
        ids=["shuffle", "another plan"],
    )
    def test_another_sampler(self, change: dict[str, Any]) -> None:
        plan = plan_of("erm")
        with pytest.raises(ValueError, match="must draw from the plan's sampler"):
            trainer_of(plan).fit(Module(plan), loader_of(plan, **change))

    def test_a_batch_sampler(self) -> None:
        plan = plan_of("erm")
        with pytest.raises(ValueError, match="must draw from the plan's sampler"):
            trainer_of(plan).fit(
                Module(plan), DataLoader(SAMPLES, batch_sampler=BatchSampler(range(32), 8, drop_last=False))
            )
        batches = BatchSampler(plan.sampler, 8, drop_last=False)
        trainer_of(plan).fit(Module(plan), DataLoader(PairDataset(SAMPLES), batch_sampler=batches))

    def test_several_loaders(self) -> None:
        plan = plan_of("erm")
        with pytest.raises(ValueError, match="must have one `DataLoader`, but has a dict"):
            trainer_of(plan).fit(Module(plan), {"a": loader_of(plan), "b": loader_of(plan)})

    def test_processes_that_each_see_all_samples(self) -> None:
        plan = plan_of("erm")
        trainer = SimpleNamespace(train_dataloader=loader_of(plan), world_size=2)
        with pytest.raises(ValueError, match=r"2 processes must share the samples.*`use_distributed_sampler` at True"):
            LongTailCallback(plan).on_train_start(trainer, Module(plan))

    def test_other_samples_than_labels(self) -> None:
        plan = plan_of("erm")
        longer: Dataset = torch.utils.data.ConcatDataset([SAMPLES, SAMPLES])
        loader = DataLoader(PairDataset(longer), batch_size=8, sampler=plan.sampler)
        with pytest.raises(ValueError, match="labels of 32 samples, but the training set has 64"):
            trainer_of(plan).fit(Module(plan), loader)

    def test_labels_in_another_order(self) -> None:
        plan = plan_of("erm")
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).tolist()
        for samples in (torch.utils.data.Subset(SAMPLES, order), torch.utils.data.StackDataset(NUMBERS, LABELS[order])):
            loader = DataLoader(PairDataset(samples), batch_size=8, sampler=plan.sampler)
            with pytest.raises(
                ValueError, match="made from other labels than those of the training set, or in another"
            ):
                trainer_of(plan).fit(Module(plan), loader)


# --- several processes ------------------------------------------------------------------------------------------------


def in_processes(folder: Path) -> None:
    """What each process saw, in a file of its own."""
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    for name, path in (("whole", None), ("resumed", folder / "epoch=0.ckpt")):
        plan = plan_of("drs", rebalance_from=0.5)
        callbacks = [LongTailCallback(plan), keep]
        more = {"devices": 2, "strategy": "ddp", "callbacks": callbacks, "enable_checkpointing": True}
        module, _ = fit(plan, 1, path, **more)  # a worker reads ahead
        torch.save(module.seen, folder / f"{name}-{os.environ['RANK']}.pt")


def test_two_processes_share_an_epoch(tmp_path: Path, on_two_ranks: Callable[..., None]) -> None:
    on_two_ranks(in_processes, tmp_path)
    plan = plan_of("drs", rebalance_from=0.5)
    for name, first in (("whole", 0), ("resumed", 1)):
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2)]
        for rank in ranks:
            assert [each[:2] for each in rank] == [(epoch, epoch) for epoch in range(first, 3) for _ in range(2)]
        for epoch in range(first, 3):
            plan.set_epoch(epoch)
            # Lightning shuffles what is drawn once more, so that the order is its own.
            drawn = torch.cat([inputs for rank in ranks for k, _, inputs, _ in rank if k == epoch])
            assert torch.equal(drawn.sort().values, NUMBERS[plan.sampler.indices()].sort().values)
