"""What every framework has to know of a plan: whether it fits the training, and which one a checkpoint was made by."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ltaug.methods import TrainingPlan


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
