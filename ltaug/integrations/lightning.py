"""Long-tailed training by the Trainer of Lightning.

::

    plan = METHODS["unimix_bayias"].plan(labels, epochs=10)
    loader = DataLoader(PairDataset(dataset), batch_size=128, sampler=plan.sampler)
    Trainer(max_epochs=10, callbacks=[LongTailCallback(plan)]).fit(Module(plan), loader)

where the module's ``training_step`` gets mixed batches::

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return self.plan.criterion(self(inputs), targets)

Written for Lightning 2.5 and 2.6, as ``lightning`` or as ``pytorch_lightning``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ltaug.integrations._plans import check_identity, check_labels, check_plan, check_samples, identity
from ltaug.integrations.datasets import mix_batch
from ltaug.methods import TrainingPlan

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ImportError(
            '`ltaug.integrations.lightning` needs Lightning. Install it with `pip install "lightning>=2.5"`.'
        ) from error

__all__ = ["LongTailCallback"]


class LongTailCallback(Callback):  # type: ignore[misc]
    """Callback that lets a Trainer of Lightning follow a plan.

    The module's ``training_step`` gets ``(inputs, targets)``, mixed in the main process, which knows the epoch, and on
    the device, in place of the loader's batch; of batches that are dictionaries it gets one with both mixed, as
    :func:`ltaug.integrations.datasets.mix_batch` makes it. Other hooks get the batch as it was loaded. The callback
    chooses the epoch of the plan before the loader is read, also when a training is resumed and workers read ahead,
    moves the losses to the device, and sets batch norm in second stages. Validation, testing and prediction are
    untouched.

    Yours remain: the loader, ``DataLoader(PairDataset(dataset), sampler=plan.sampler)``, which Lightning divides
    between processes; ``plan.attach(model)`` where the module makes its network; the optimiser, of
    ``plan.parameter_groups(model)`` where a second stage has several learning rates; and ``plan.criterion``. Gradients
    of ``accumulate_grad_batches`` are averaged by Lightning.

    Between processes Lightning shuffles what an epoch draws once more, equally on all: what is drawn stays, its order
    does not, so that ``class_aware`` no longer has the samples of a class in a row.

    Checkpoints record method, epochs, seed and a fingerprint of the labels; resuming with another plan is an error.

    Args:
        plan: made from the labels of the training set, in its order, with as many epochs as ``max_epochs``.
        inputs: of batches that are dictionaries, as those of ``datasets`` are, the column that is mixed.
        labels: of such batches, the column of the labels. ``training_step`` gets the dictionary with these two mixed.

    Raises:
        ValueError: when a training starts: the numbers of epochs or samples differ, or the labels, where
            :func:`ltaug.labels_of` can read them; the method has nothing to train, the loader does not draw from
            ``plan.sampler``, or a checkpoint was made by another plan. In a step: a dictionary has no such columns.
    """

    def __init__(self, plan: TrainingPlan, *, inputs: str = "image", labels: str = "label") -> None:
        check_plan(plan, getattr(plan, "epochs", 0), "max_epochs")
        self.plan, self.inputs, self.labels = plan, inputs, labels
        self._changed: nn.Module | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Choose the epoch, and give ``training_step`` mixed batches; before the optimiser and DDP are made."""
        if stage != "fit":
            return
        if not trainer.fast_dev_run:
            check_plan(self.plan, trainer.max_epochs, "max_epochs")
        self.plan.set_epoch(trainer.current_epoch)
        self._set_batch_norm(pl_module)
        self._restore()
        # As Lightning does for a compiled module: an attribute of this one module stands before its method.
        pl_module.training_step = self._mixing(pl_module.training_step)
        self._changed = pl_module

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Choose the epoch that is resumed, before the loader's workers begin to read it."""
        if trainer.state.fn != "fit":
            return
        check_identity(self.plan, checkpoint["callbacks"].get(self.state_key))
        self.plan.set_epoch(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the losses to the device, and check the loader."""
        self.plan.to(pl_module.device)
        self._check_loader(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the epoch; releases up to 2.5 do not tell the samplers of several processes."""
        self.plan.set_epoch(trainer.current_epoch)
        self._set_batch_norm(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        self._restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its own ``training_step`` back."""
        self._restore()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the plan."""
        return identity(self.plan)

    def _mixing(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)  # Lightning looks at its arguments
        def training_step(batch: Any, *arguments: Any, **options: Any) -> Any:
            several = isinstance(batch, list | tuple) and bool(batch)
            if isinstance(batch[0] if several else batch, Mapping):
                mixed: Any = mix_batch(self.plan, batch, self.inputs, self.labels)
            else:
                mixed = self.plan.mix(batch)
            return step(mixed, *arguments, **options)

        self._before = step
        return training_step

    def _restore(self) -> None:
        if self._changed is not None:
            self._changed.__dict__.pop("training_step", None)
            if self._changed.training_step != self._before:  # it was an attribute before, of a compiled module
                self._changed.training_step = self._before  # type: ignore[assignment]
            self._changed = None

    def _set_batch_norm(self, module: nn.Module) -> None:
        if self.plan.method.batch_norm != "train":
            self.plan.train(module)

    def _check_loader(self, trainer: Any) -> None:
        """Raise ValueError unless the training samples come from the plan's sampler, a share to each process."""
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "batch_sampler"):
            raise ValueError(
                f"The training must have one `DataLoader`, but has a {type(loader).__name__}. Pass "
                "`DataLoader(PairDataset(dataset), sampler=plan.sampler)`."
            )
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        shared = getattr(sampler, "num_replicas", 1)
        # Lightning deals the samples of any sampler to processes by a wrapper of a wrapper.
        drawn = getattr(getattr(sampler, "dataset", None), "_sampler", sampler)
        if drawn is not self.plan.sampler:
            raise ValueError(
                f"The loader must draw from the plan's sampler, but does from a {type(drawn).__name__}. Make it with "
                "`DataLoader(PairDataset(dataset), sampler=plan.sampler)`, without `batch_sampler`, `shuffle` or "
                "`overfit_batches`."
            )
        if shared != trainer.world_size:
            raise ValueError(
                f"The {trainer.world_size} processes must share the samples, but each would see all of them. Leave "
                "`use_distributed_sampler` at True."
            )
        check_samples(self.plan, len(loader.dataset))
        check_labels(self.plan, loader.dataset, (self.labels,))
