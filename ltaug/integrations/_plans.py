"""What every framework has to know of a plan: whether it fits the training, and which one a checkpoint was made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import StackDataset, Subset, TensorDataset

from ltaug.integrations.datasets import WRAPPERS, labels_of
from ltaug.methods import TrainingPlan
from ltaug.priors import rarest_label


def check_plan(plan: Any, epochs: int, setting: str) -> None:
    """Raise ValueError unless a plan can be trained, for as many epochs as the framework will.

    Args:
        plan: anything.
        epochs: of the framework.
        setting: where they are set.
    """
    if not isinstance(plan, TrainingPlan):
        raise ValueError(
            f"`plan` must be a plan, such as `METHODS['unimix_bayias'].plan(labels, epochs=90)`, but is of type "
            f"{type(plan).__name__}."
        )
    if not plan.method.trained:
        raise ValueError(
            f"`plan` has nothing to train: the classifier {plan.method.classifier} is computed. Call "
            "`plan.attach(model)` and `plan.fold(model)` instead."
        )
    if epochs != plan.epochs:
        raise ValueError(
            f"`plan` is of {plan.epochs} epochs, but `{setting}` comes to {epochs}, so that its phases would begin at "
            "other places or never. Make them equal."
        )


def check_samples(plan: TrainingPlan, samples: int) -> None:
    """Raise ValueError unless the data set has as many samples as the plan has labels."""
    if samples != len(plan.labels):
        raise ValueError(
            f"`plan` was made from the labels of {len(plan.labels)} samples, but the training set has {samples}. Make "
            "it from the labels of this very set, in its order."
        )


def check_labels(plan: TrainingPlan, dataset: Any, columns: Sequence[str] = ()) -> None:
    """Raise ValueError if the labels of a data set are known, and are not those of the plan, in their order.

    Args:
        plan: of as many samples as the data set has.
        dataset: of any kind; labels are read as :func:`ltaug.labels_of` does, which loads no sample.
        columns: where they may be in a table of ``datasets``, the first that it has; else they are not known.
    """
    inner = dataset
    while isinstance(inner, Subset) or (type(inner).__module__.partition(".")[0], type(inner).__name__) in WRAPPERS:
        inner = inner.dataset
    library = type(inner).__module__.partition(".")[0]
    table = library == "datasets"
    column = next((name for name in columns if table and name in inner.column_names), None)
    parts = inner.tensors if isinstance(inner, TensorDataset) else getattr(inner, "datasets", (0, 0))
    if (table and column is None) or (isinstance(inner, TensorDataset | StackDataset) and len(parts) != 2):
        return
    try:
        found = labels_of(dataset, column)
        if found.ndim == 2 and plan.several is not None:
            found = rarest_label(found, len(plan.class_counts))
        elif found.ndim == 2 or plan.several is not None:
            return
    except Exception:  # of a class of anybody's own: no labels, or something else by such a name
        return
    # A transform, or a class of one's own, may number the classes anew.
    exact = inner.format["type"] != "custom" if table else library in ("timm", "torchvision")
    if not _agree(found.cpu().numpy(), plan.labels.numpy(), not (exact or isinstance(inner, TensorDataset))):
        where = "of" if column is None else f"in column {column!r} of"
        raise ValueError(
            f"`plan` was made from other labels than those {where} the training set, or in another order. Make it from "
            "the set that is trained on, after shuffling and filtering."
        )


def _agree(found: Any, wanted: Any, numbered_anew: bool) -> bool:
    """Whether labels are the same; or whether each of them is always the same one of the others."""
    if not numbered_anew:
        return bool((found == wanted).all())
    return bool(np.unique(np.stack([found, wanted]), axis=1).shape[1] == len(np.unique(found)))


def identity(plan: TrainingPlan) -> dict[str, Any]:
    """What makes a resumed plan the same one, for a checkpoint: plain values, as JSON has them."""
    labels = hashlib.sha256(plan.labels.numpy().tobytes()).hexdigest()[:16]
    whole = {"method": plan.method.changes(), "epochs": plan.epochs, "seed": plan.seed, "labels": labels}
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def check_identity(plan: TrainingPlan, recorded: dict[str, Any] | None) -> None:
    """Raise ValueError if a checkpoint was made by another plan, or by none."""
    if recorded is None:
        raise ValueError(
            "The checkpoint was made without a plan, and cannot be resumed with one. Load its weights into the model, "
            "and train anew."
        )
    for name, now in identity(plan).items():
        if recorded.get(name) != now:
            raise ValueError(
                f"The checkpoint was made by a plan with {name} {recorded.get(name)}, but `plan` has {now}. Resume "
                "with the same plan; or load the weights into the model, and train anew."
            )
