"""Long-tailed training by the Trainer of transformers, and prior shift inside a model of transformers.

::

    plan = METHODS["unimix_bayias"].plan(labels, epochs=10)
    trainer = LongTailTrainer(model, TrainingArguments("out", num_train_epochs=10), train_dataset=dataset, plan=plan)
    trainer.train()
    fold_prior_shift(trainer.model, plan.logits_prior(), target_prior).save_pretrained("deployed")

:func:`trainer_loss` is for those who need only a loss. Written for transformers 4.57 and later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from ltaug._arguments import as_number, checked
from ltaug.integrations._plans import check_identity, check_labels, check_plan, check_samples, identity
from ltaug.methods import TrainingPlan, find_classifier
from ltaug.posthoc.shift import as_target, log_prior_shift
from ltaug.priors import Counts, as_counts
from ltaug.samplers import PairDataset

try:
    import transformers
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "`ltaug.integrations.transformers` needs transformers and accelerate. Install them with `pip install "
        '"transformers[torch]>=4.57"`.'
    ) from error

__all__ = ["LongTailMixin", "LongTailTrainer", "fold_prior_shift", "trainer_loss"]

IGNORED = -100
"""What the Trainer does not count among the labels."""
PARTNER = "ltaug_partner"
"""The second samples of pairs, in a batch."""
RECORD = "prior_shift"
"""Where a model's config says what :func:`fold_prior_shift` has added to the bias."""


# --- the loss ---------------------------------------------------------------------------------------------------------


def trainer_loss(criterion: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    r"""Make a function for ``Trainer(compute_loss_func=...)`` of a loss that is a mean over samples.

    The Trainer adds up the gradients of the k batches of a step as they are: it takes the function to have divided by
    the number of samples of the whole step, on all processes, ``num_items_in_batch``, and then multiplies by the number
    of processes, over which the gradients are averaged. Of n samples in a batch the function returns

    .. math:: \frac{n}{N} \cdot \text{criterion}(\text{logits}, \text{labels}),

    with n counted as the Trainer counts N (all entries but -100, so that for probabilities [n, C] both are C times as
    many). The gradient of a step is then that of the mean over its samples, however they are cut into batches and
    dealt to processes. The obvious ``lambda outputs, labels, **_: criterion(outputs.logits, labels)`` is k times as
    large: with 4 batches a step it trains at four times the learning rate, or clips all gradients, and says nothing.

    A loss that is no mean over samples, as the regulariser of LADE, still depends on how the samples are cut into
    batches.

    Args:
        criterion: ``criterion(logits, targets)``, the mean over the samples whose label is not -100. A module moves to
            the device of the logits. For the loss of a plan, which changes with the epoch, use
            :class:`LongTailTrainer`.

    Returns:
        A function of outputs, labels and ``num_items_in_batch``. The outputs are logits, an object or a dictionary
        that holds ``logits``, or a tuple that begins with them.

    Raises:
        ValueError: ``criterion`` is no function, has weights that it would average over (torch's ``weight``), or leaves
            out another label than -100; or, when called, there are no labels or no logits.

    >>> loss = trainer_loss(nn.CrossEntropyLoss())
    >>> logits, labels = torch.zeros(4, 2), torch.tensor([0, 1, 1, -100])
    >>> loss({"logits": logits}, labels, num_items_in_batch=torch.tensor(12))  # 3 of 12 samples: log(2) / 4
    tensor(0.1733)
    """
    if not callable(criterion) or isinstance(criterion, type) or getattr(criterion, "reduction", "mean") != "mean":
        raise ValueError(
            "`criterion` must be a loss that returns the mean over samples, such as `BayiasLoss(class_counts)`, but is "
            f"{criterion!r}."
        )

    if getattr(criterion, "weight", None) is not None:
        raise ValueError(
            "`criterion` divides by the sum of its `weight` in each batch, which is no mean over samples. Take "
            "`ClassWeightedLoss(nn.CrossEntropyLoss(), weight)`."
        )
    if getattr(criterion, "ignore_index", IGNORED) != IGNORED:
        raise ValueError(
            f"`criterion` leaves out the label {criterion.ignore_index}, but the Trainer counts all that are not "  # type: ignore[attr-defined]
            "-100. Give such positions the label -100 in the data set, and leave `ignore_index` out."
        )

    def compute_loss(outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        if labels is None:
            raise ValueError(
                "`labels` are missing in the batch. Name their column `labels` or `label`, and with "
                "`remove_unused_columns` let the model's forward have an argument `labels`."
            )
        logits = _logits_of(outputs)
        if isinstance(criterion, nn.Module):
            criterion.to(logits.device)
        labels = labels.to(logits.device)
        if getattr(criterion, "ignores_rows", False) and labels.is_floating_point():
            raise ValueError(
                "`labels` are probabilities, of which `criterion` leaves out rows of zeros, but the Trainer counts "
                "all. Leave its `ignore_index` out."
            )
        if num_items_in_batch is None:
            return criterion(logits, labels)
        counted = labels.ne(IGNORED).sum()
        # Under DataParallel the Trainer gives each device the same number, and multiplies by their number.
        total = torch.as_tensor(num_items_in_batch, device=logits.device).sum()
        # A mean over no sample is NaN, which a share of 0 would not mend; and `if` would wait for the device.
        return torch.where(counted > 0, criterion(logits, labels) * (counted / total), logits.sum() * 0.0)

    return compute_loss


def _logits_of(outputs: Any) -> Tensor:
    """The logits in what a model returns when it gets no labels."""
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif isinstance(outputs, tuple | list):
        found = outputs[0] if outputs else None
    elif not isinstance(outputs, Tensor):
        found = getattr(outputs, "logits", None)
    if not isinstance(found, Tensor) or found.ndim < 2:
        held = f", which holds {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
        raise ValueError(
            "The model must return logits [N, C, ...], an object with `logits`, or a tuple that begins with them, but "
            f"returned a {type(outputs).__name__}{held}."
        )
    return found


# --- the Trainer ------------------------------------------------------------------------------------------------------


class LongTailMixin:
    """Mixin that lets a Trainer follow a plan; :class:`LongTailTrainer` is that of transformers with it.

    Put it before a Trainer of your own: ``class Mine(LongTailMixin, MyTrainer): ...``. Its ``compute_loss`` then gets
    batches that are mixed already, and must not give the model the labels, which are probabilities.

    The plan decides on the sampler, the partners, the mixing, the loss, the classifier (``plan.attach`` is called
    unless you have called it), batch norm and learning rates of second stages; the Trainer on all else. Evaluation is
    untouched: plain samples, and the model's own loss.

    *Where it is mixed.* The workers of a ``DataLoader`` have a copy of the plan that stays in the epoch in which it was
    made. So they only load: both samples of every pair, collated by your collator as one batch, so that both are padded
    alike, and cut in half. Mixing happens in :meth:`compute_loss`, in the main process, which knows the epoch, and on
    the device.

    *Checkpoints.* A plan is a pure function of the epoch, and the mixing weights come from torch's generator, which the
    Trainer restores: a resumed training is the uninterrupted one. Checkpoints record method, epochs, seed and a
    fingerprint of the labels in ``trainer_state.json``; resuming with another plan is an error. Of methods that replace
    the classifier a saved model is no ordinary one: build it, ``plan.attach(model)``, and load its weights; or, of
    second stages, ``plan.fold(model)`` before saving.

    Args:
        plan: made from the labels of ``train_dataset``, in its order, with as many epochs as the Trainer has. Where
            partners come from the batch, its ``batch_size`` is that of one forward on all processes:
            ``per_device_train_batch_size`` times their number.
        input_name: what is mixed in a batch; by default the model's ``main_input_name``: pixel_values, input_values,
            ...
        label_name: what holds the class in a batch; transformers' own collators call the columns label, labels and
            label_ids alike ``labels``.
        arguments: of the Trainer.
        options: of the Trainer, by name.

    Raises:
        ValueError: plan, arguments and data set do not go together.
    """

    # What a Trainer has; the mixin stands before one.
    args: Any
    model: Any
    optimizer: Any
    train_dataset: Any
    data_collator: Any
    compute_loss_func: Any

    def __init__(
        self,
        *arguments: Any,
        plan: TrainingPlan,
        input_name: str | None = None,
        label_name: str = "labels",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.plan, self.label_name = plan, label_name
        self.input_name = str(input_name or getattr(self.model, "main_input_name", "pixel_values"))
        if self.args.max_steps <= 0:
            check_plan(plan, math.ceil(self.args.num_train_epochs), "num_train_epochs")
        else:  # the epochs are known where the loader is
            check_plan(plan, getattr(plan, "epochs", 0), "max_steps")
        self._check_arguments()
        if self.train_dataset is not None:
            self._check_dataset(self.train_dataset)
        self._attach()
        self.compute_loss_func = trainer_loss(lambda logits, targets: self.plan.criterion(logits, targets))
        self.add_callback(_FollowPlan(plan))  # type: ignore[attr-defined]

    def _check_arguments(self) -> None:
        """Raise ValueError for settings of the Trainer that the plan would overrule, or that would overrule it."""
        args, plan = self.args, self.plan
        if self.compute_loss_func is not None:
            raise ValueError(
                "`compute_loss_func` and `plan` both say what is minimised. Leave it out, and give the plan a loss of "
                "your own: `plan.criterion = ...`."
            )
        if args.label_smoothing_factor:
            raise ValueError(
                "`label_smoothing_factor` changes the loss, which is the plan's. Leave it out: METHODS has "
                "`label_smoothing` and `label_aware_smoothing`."
            )
        strategy = getattr(args, "train_sampling_strategy", "random")  # before 5.x: group_by_length
        if strategy != "random" or getattr(args, "group_by_length", False):
            name = f"train_sampling_strategy={strategy!r}" if strategy != "random" else "group_by_length"
            raise ValueError(f"`{name}` chooses the order of the samples, which is the plan's. Leave it out.")
        if getattr(self, "model_init", None) is not None:
            raise ValueError("`model_init` makes a model anew, but a plan belongs to one. Pass `model=`.")
        in_batch = plan.mixer is not None and plan.method.partner == "batch"
        if in_batch and plan.share is not None and plan.share != args.train_batch_size:
            raise ValueError(
                f"`plan` has partners from batches of {plan.share} samples a process, but the Trainer's have "
                f"{args.train_batch_size}. Make it with `batch_size={args.train_batch_size * args.world_size}, "
                f"num_processes={args.world_size}`."
            )
        if in_batch and args.auto_find_batch_size:
            raise ValueError(
                "`auto_find_batch_size` changes the batches that the plan takes partners from. Leave it out."
            )
        config = getattr(self.model, "config", None)
        kind = getattr(config, "problem_type", None)
        wanted = "single" if plan.several is None else "multi"
        if kind not in (None, f"{wanted}_label_classification"):
            labels = "have one class" if plan.several is None else "may have several labels"
            raise ValueError(
                f"The model's `config.problem_type` is {kind!r}, but the samples of the plan {labels}. Set it to "
                f"'{wanted}_label_classification'."
            )
        if getattr(config, RECORD, None) is not None:
            raise ValueError(
                "The model's bias carries a prior shift, from which training would move away. Take it out first: "
                "`fold_prior_shift(model, strength=0)`."
            )
        if config is not None:
            # Else a model that is given probabilities as labels takes them for several labels a sample.
            config.problem_type = f"{wanted}_label_classification"

    def _check_dataset(self, dataset: Any) -> None:
        """Raise ValueError unless samples can be drawn by index, and their labels are those of the plan."""
        if isinstance(dataset, IterableDataset) or not all(
            hasattr(dataset, each) for each in ("__getitem__", "__len__")
        ):
            raise ValueError(
                f"`train_dataset` must have a length and samples by index, which the plan's sampler draws, but is a "
                f"{type(dataset).__name__}. Load it without streaming."
            )
        check_samples(self.plan, len(dataset))
        if _of_the_hub(dataset) and self.args.remove_unused_columns and dataset.format["type"] == "custom":
            raise ValueError(
                "`train_dataset` has a transform (`set_transform`), but `remove_unused_columns` would take its columns "
                "away before it. Set `remove_unused_columns=False`."
            )
        check_labels(self.plan, dataset, (self.label_name, "label", "label_ids"))

    def _attach(self) -> None:
        """Give the model the method's classifier, unless it has it."""
        plan, model = self.plan, self.model
        mixed_inside = getattr(plan.mixer, "_model", None)
        if plan.classifier_name or mixed_inside is not None:
            modules = dict(model.named_modules())
            if plan.classifier_name not in modules or mixed_inside not in (None, model):
                raise ValueError("`plan` is attached to another model. Make a plan for each.")
        elif self.optimizer is not None and plan.method.classifier != "linear":
            raise ValueError(
                f"The method's classifier, {plan.method.classifier}, replaces that of the model, whose parameters "
                "`optimizers` already holds. Call `plan.attach(model)` before you make the optimiser."
            )
        else:
            plan.attach(model)
        self._set_batch_norm(model)

    def _set_batch_norm(self, model: nn.Module) -> None:
        if self.plan.method.batch_norm != "train":
            self.plan.train(model)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the Trainer, of pairs where the plan mixes them, by the plan's sampler."""
        dataset, collator = self.train_dataset, self.data_collator
        if dataset is None:
            return super().get_train_dataloader()  # type: ignore[misc,no-any-return]  # an error of its own
        self._check_dataset(dataset)
        self.plan.to(self.args.device)
        trainer: Any = self
        columns = trainer._remove_unused_columns(dataset, description="training") if _of_the_hub(dataset) else dataset
        known = trainer._get_collator_with_removed_columns(collator, description="training")
        self.train_dataset, self.data_collator = _Pairs(columns), _PairCollator(known, self.label_name)
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()  # type: ignore[misc]
        finally:
            self.train_dataset, self.data_collator = dataset, collator
        found: Any = loader.batch_sampler
        while hasattr(found, "batch_sampler"):  # accelerate's, one in the other
            found = found.batch_sampler
        if getattr(found, "sampler", None) is not self.plan.sampler:
            raise ValueError(
                "The training must be drawn by the plan's sampler, but `get_train_dataloader` or "
                f"`_get_train_sampler` of a {type(self).__name__} puts another in its place. Leave them out."
            )
        return loader

    def _get_train_sampler(self, *_: Any) -> Sampler[Any]:
        return self.plan.sampler

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """The optimiser of the Trainer; what the plan trains at another learning rate is in groups of its own."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*arguments, **options)  # type: ignore[misc]
        scaled = [group for group in self.plan.parameter_groups(self.model) if group["lr_scale"] != 1.0]
        known = any("lr_scale" in group for group in optimizer.param_groups)
        if scaled and given and not known:
            raise ValueError(
                "The method trains a part of the classifier at another learning rate, which `optimizers` does not know "
                "of. Leave it out, or build it from `plan.parameter_groups(model)`, and keep their `lr_scale`."
            )
        if scaled and not given:
            _split_by_scale(optimizer, scaled)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **options: Any,
    ) -> Any:
        """The plan's loss of a mixed batch; in evaluation the model's own."""
        compute = super().compute_loss  # type: ignore[misc]
        if not model.training:
            function, self.compute_loss_func = self.compute_loss_func, None
            try:
                return compute(model, inputs, return_outputs, num_items_in_batch, **options)
            finally:
                self.compute_loss_func = function
        self._set_batch_norm(model)
        labels = inputs.get("labels")
        inputs = self._mixed(inputs)
        if num_items_in_batch is not None and labels is not None:
            # The Trainer has counted the labels as they were: n of them, where there are n x C probabilities now.
            num_items_in_batch = num_items_in_batch * (inputs["labels"].numel() / labels.numel())
        return compute(model, inputs, return_outputs, num_items_in_batch, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as the Trainer does; a checkpoint under the names that it is resumed by."""
        with _present_names(self.model) if _internal_call else contextlib.nullcontext():
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        missing = set(load_result.missing_keys) - set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        if missing or load_result.unexpected_keys:
            raise ValueError(
                f"The checkpoint does not fit the model: it lacks {len(missing)} of its weights, such as "
                f"{min(missing, default='none')}, and holds {len(load_result.unexpected_keys)} others. Build the model "
                "that was trained."
            )
        super()._issue_warnings_after_load(load_result)  # type: ignore[misc]

    def _mixed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with its inputs and labels mixed, as the plan's epoch has it."""
        partner = inputs.get(PARTNER)
        inputs = {name: value for name, value in inputs.items() if name != PARTNER}
        for name, argument in ((self.input_name, "input_name"), ("labels", "label_name")):
            if name not in inputs:
                raise ValueError(
                    f"`{name}` is not in the batch, which holds {', '.join(inputs) or 'nothing'}. Name what is there "
                    f"with `{argument}=`; columns that the model's forward does not have are removed unless "
                    "`remove_unused_columns=False`."
                )
        batch: Any = inputs[self.input_name], inputs["labels"]
        if partner is not None:
            batch = batch, (partner[self.input_name], partner["labels"])
        size = len(batch[0] if partner is None else batch[0][0])
        others = [
            name
            for name, value in inputs.items()
            if name not in (self.input_name, "labels") and isinstance(value, Tensor) and value.shape[:1] == (size,)
        ]
        if others and self.plan.mixes(self.plan.epoch):
            raise ValueError(
                f"The batch holds `{others[0]}` beside `{self.input_name}`, one a sample, which nothing mixes: it "
                "would belong to the first sample of each pair only. Leave it out; cut or pad samples to one length "
                "instead of masking them."
            )
        mixed, targets = self.plan.mix(batch)
        return {**inputs, self.input_name: mixed, "labels": targets}


class LongTailTrainer(LongTailMixin, transformers.Trainer):  # type: ignore[misc]
    """The Trainer of transformers, following a plan; :class:`LongTailMixin` has the arguments and what they do.

    Any number of processes, accumulation steps and workers; resumed or not. The gradient of a step is that of the mean
    loss over its samples, see :func:`trainer_loss`.
    """


class _FollowPlan(TrainerCallback):  # type: ignore[misc]
    """Put the plan in the epoch that a training begins with, and see that a checkpoint was made by the same plan."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        check_plan(self.plan, state.num_train_epochs, "max_steps" if args.max_steps > 0 else "num_train_epochs")
        recorded = state.stateful_callbacks.get("LongTailPlan", {}).get("attributes")
        if state.global_step:
            check_identity(self.plan, recorded)
        state.stateful_callbacks["LongTailPlan"] = {"args": {}, "attributes": identity(self.plan)}
        # The Trainer sets the epoch of its loader, but that of one which skips batches, on several processes, does not
        # reach the sampler.
        steps = max(math.ceil(len(others["train_dataloader"]) / args.gradient_accumulation_steps), 1)
        self.plan.set_epoch(state.global_step // steps)


class _Pair(tuple[Any, Any]):
    """Two samples, told from a sample that is a tuple."""


class _Pairs(PairDataset[Any]):
    """A :class:`PairDataset` whose pairs are told from samples that are tuples."""

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return _Pair(sample) if isinstance(index, tuple | list) else sample

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        return [
            _Pair(sample) if isinstance(index, tuple | list) else sample
            for index, sample in zip(indices, self._fetch(indices), strict=True)
        ]


class _PairCollator:
    """Collate samples, or both samples of pairs as one batch that is then cut in half."""

    def __init__(self, collator: Callable[[list[Any]], Any], label_name: str) -> None:
        self.collator, self.label_name = collator, label_name

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        pairs = isinstance(samples[0], _Pair)
        batch = self.collator([first for first, _ in samples] + [second for _, second in samples] if pairs else samples)
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"`data_collator` must return a dictionary, as the Trainer needs it, but returned a "
                f"{type(batch).__name__}."
            )
        whole = {"labels" if name == self.label_name else str(name): value for name, value in batch.items()}
        if not pairs:
            return whole
        size = len(samples)
        halved = {
            name: isinstance(value, Tensor | list) and len(value) == 2 * size if not _scalar(value) else False
            for name, value in whole.items()
        }
        first = {name: value[:size] if halved[name] else value for name, value in whole.items()}
        return {**first, PARTNER: {name: whole[name][size:] for name in whole if halved[name]}}


def _scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0


@contextlib.contextmanager
def _present_names(model: Any) -> Iterator[None]:
    """Let a model be saved under the names that its weights have.

    transformers 5 writes those of many models (ViT, ...) under the names of older releases, which ``from_pretrained``
    translates back but the Trainer does not: it would resume with the weights that the model happens to have
    (huggingface/transformers#48805).
    """
    before = vars(model).get("_weight_conversions")
    model._weight_conversions = []
    try:
        yield
    finally:
        del model._weight_conversions
        if before is not None:
            model._weight_conversions = before


def _of_the_hub(dataset: Any) -> bool:
    """Whether it is a data set of Hugging Face's ``datasets``."""
    return all(hasattr(dataset, name) for name in ("column_names", "select_columns", "format"))


def _split_by_scale(optimizer: torch.optim.Optimizer, scaled: list[dict[str, Any]]) -> None:
    """Move parameters with a learning rate of their own to groups of their own, with the options that they had."""
    for group in list(optimizer.param_groups):
        for wanted in scaled:
            chosen = {id(parameter) for parameter in wanted["params"]}
            moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
                scale = wanted["lr_scale"]
                options = {name: value for name, value in group.items() if name != "params"}
                optimizer.add_param_group({**options, "params": moved, "lr": group["lr"] * scale, "lr_scale": scale})


# --- the prior of a finished model ------------------------------------------------------------------------------------


@checked
@torch.no_grad()
def fold_prior_shift(
    model: nn.Module,
    logits_prior: Counts | None = None,
    target_prior: Counts | None = None,
    strength: float | None = None,
    classifier: str | None = None,
) -> nn.Module:
    """Move a model's logits to another class prior by the bias of its classifier, so that it stays an ordinary model.

    The same logits as :class:`ltaug.PriorShift`, which wraps any model, but here nothing is wrapped: the vector
    strength (log target - log prior) is added to the bias. ``config``, ``device``, ``dtype``, ``save_pretrained``,
    ``push_to_hub`` and ``pipeline`` are the model's own, and who loads it needs no ltaug.

    What was added stands in ``model.config.prior_shift``, with the bias as it was, and is saved with the model. So a
    shift is never added to another: a second call, also after saving and loading, puts its own in the place of the
    first. ``logits_prior`` is an error then, and so is a bias that has been trained or replaced since. ``strength=0``
    restores the bias and removes the entry.

    Args:
        model: a classifier of transformers, changed in place.
        logits_prior: the prior that the logits are under, [C], as for :class:`ltaug.PriorShift`: of a plan
            ``plan.logits_prior()``. Left out of a model that is shifted already.
        target_prior: the prior to move to, [C]; uniform by default.
        strength: 1, the default, is Bayes' rule; 0 restores the model.
        classifier: name of its last linear layer; by default as :func:`ltaug.methods.find_classifier` finds it.

    Returns:
        The model.

    Raises:
        ValueError: the model has no config, or no linear classifier with bias; a class has prior 0, or the numbers of
            classes differ; ``logits_prior`` is missing, or given a second time; the bias is no longer what it was made.

    >>> config = transformers.ViTConfig(
    ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4, num_labels=2
    ... )
    >>> model = transformers.ViTForImageClassification(config).eval()
    >>> before = model.classifier.bias.tolist()
    >>> (fold_prior_shift(model, [900, 100]).classifier.bias - torch.tensor(before)).detach()
    tensor([-0.5878,  1.6094])
    >>> fold_prior_shift(model, target_prior=[1, 3]).classifier.bias.tolist() == before
    False
    >>> fold_prior_shift(model, strength=0).classifier.bias.tolist() == before
    True
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        raise ValueError(
            f"`model` must be a model of transformers, with a `config`, but is a {type(model).__name__}. For others "
            "there is `ltaug.PriorShift`."
        )
    name, linear = find_classifier(model, config.num_labels, classifier)
    if linear.bias is None or linear.out_features != config.num_labels:
        what = "no bias" if linear.bias is None else f"{linear.out_features} outputs for {config.num_labels} classes"
        raise ValueError(
            f"The model's last layer {name!r} has {what}, so that the shift cannot be a part of it. Wrap the model "
            "with `ltaug.PriorShift`, or name its last layer: `classifier=NAME`."
        )
    record = getattr(config, RECORD, None)
    if record is None:
        if logits_prior is None:
            raise ValueError(
                "`logits_prior` is needed: the prior that the logits are under. It is that of training for a model "
                "that was trained with plain cross-entropy, `plan.logits_prior()` for a plan."
            )
        record = {"bias": linear.bias.double().tolist(), "dtype": str(linear.bias.dtype).removeprefix("torch.")}
        source = as_counts(logits_prior, "logits_prior", integers=False, positive=True).double().cpu()
    else:
        if logits_prior is not None:
            raise ValueError(
                "`logits_prior` was given when the model was shifted, and is in `model.config.prior_shift`. Leave it "
                "out to move the model on; `strength=0` restores it."
            )
        source = as_counts(record["logits_prior"], integers=False).double()
        _check_bias(linear.bias, record)
    size = linear.out_features
    target = as_target(torch.ones(size) if target_prior is None else target_prior, size, "target_prior", "config")
    source, target = source / source.sum(), target.double().cpu() / target.double().cpu().sum()
    strength = 1.0 if strength is None else as_number(strength, "strength")
    if source.numel() != size:
        raise ValueError(f"`logits_prior` must hold one number for each of {size} classes, but holds {source.numel()}.")
    shift = log_prior_shift(source, target, strength)
    linear.bias.copy_(torch.tensor(record["bias"], dtype=torch.float64) + shift)
    if strength:
        record = {**record, "logits_prior": source.tolist(), "target_prior": target.tolist(), "strength": strength}
        setattr(config, RECORD, record)
    elif hasattr(config, RECORD):
        delattr(config, RECORD)
    return model


def _check_bias(bias: Tensor, record: dict[str, Any]) -> None:
    """Raise ValueError unless a bias is what its record says: the one before, and the shift."""
    shift = log_prior_shift(record["logits_prior"], record["target_prior"], record["strength"])
    expected = torch.tensor(record["bias"], dtype=torch.float64) + shift
    # It may have been rounded to the type of then, and of now.
    rounded = max(torch.finfo(getattr(torch, record["dtype"])).eps, torch.finfo(bias.dtype).eps)
    found = bias.detach().double().cpu()
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=2 * rounded, atol=2 * rounded):
        raise ValueError(
            "The bias of the classifier is no longer what `model.config.prior_shift` says: it was trained or replaced "
            "after the shift. If you know which prior the logits are under now, `del model.config.prior_shift`, and "
            "pass it."
        )
