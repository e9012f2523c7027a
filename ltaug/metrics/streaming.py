"""All numbers of a results table at once, from a whole set or batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ltaug._arguments import checked
from ltaug.metrics._inputs import (
    ROWS_CHECKED,
    Probs,
    check_not_probs,
    check_num_classes,
    chunks,
    read_logits,
    read_probs,
)
from ltaug.metrics.calibration import (
    adaptive_calibration_error,
    add_gaps,
    bin_sums,
    check_bins,
    expected_error,
    leading_classes,
    maximum_error,
)
from ltaug.metrics.scores import leading_ranks, nll_of_logits, nll_of_probs, residuals, shot_means, softmax, square_sum
from ltaug.priors import Counts, as_array, as_counts, comparable, shot_groups

__all__ = ["StreamingReport", "classification_report"]


@checked
def classification_report(
    probs: Probs,
    labels: Counts,
    class_counts: Counts,
    *,
    bins: int = 15,
    many: int = 100,
    few: int = 20,
    ignore_index: int | None = None,
) -> dict[str, float]:
    """Every number of a long-tailed results table, as fractions.

    Args:
        probs: probabilities [N, C] of the test samples.
        labels: their class indices, int [N].
        class_counts: **training** samples a class, [C].
        bins: bins of the four calibration errors.
        many: as in :func:`shot_accuracy`.
        few: as in :func:`shot_accuracy`.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Returns:
        Floats under the keys top1, top5, many, medium, few, balanced_accuracy, macro_f1, confidence, ece, mce,
        classwise_ece, brier, nll, adaptive_ece. top5 is the accuracy of the top min(5, C), so it is informative only
        for C > 5 and is 1 otherwise. confidence is the mean probability of the predicted class. An empty shot group is
        NaN. The others are those of the functions of these names: :func:`balanced_accuracy`,
        :func:`adaptive_calibration_error`.

    >>> report = classification_report([[0.75, 0.25]] * 4, [0, 0, 0, 1], class_counts=[500, 5])
    >>> report["top1"], report["many"], report["few"], report["ece"]
    (0.75, 1.0, 0.0, 0.0)
    """
    report = StreamingReport(class_counts, bins=bins, many=many, few=few, logits=False, ignore_index=ignore_index)
    report.update(probs, labels)
    return report.compute() | {"adaptive_ece": adaptive_calibration_error(probs, labels, bins, ignore_index)}


class StreamingReport:
    """Classification report of a set that comes batch by batch, on one process or several.

    Only sums are kept, C * (bins + 3) numbers and a few more, never the logits: enough for a training set of any size.
    The result is that of :func:`classification_report` on the whole set, within rounding, but for adaptive_ece, whose
    bins depend on all samples. From logits the NLL is
    log-sum-exp minus the label's logit, which stays right where the probability underflows and
    :func:`negative_log_likelihood` has to clip it.

    Every tensor of ``state`` is a sum over samples, so several processes need one line between the last ``update`` and
    ``compute``: ``report.state = accelerator.reduce(report.state, "sum")``. accelerate repeats samples until every
    process has as many; ``Accelerator(even_batches=False)`` keeps them from counting twice.

    Args:
        class_counts: **training** samples a class, [C].
        bins: bins of the three calibration errors.
        many: as in :func:`shot_accuracy`.
        few: as in :func:`shot_accuracy`.
        logits: whether ``update`` is given logits; otherwise probabilities. The first batch of logits is checked for
            probabilities passed by mistake.
        ignore_index: a label whose samples are left out, such as 255; labels [N, ...] may then be dense, too.

    Raises:
        ValueError: a class count is negative, ``bins`` is below 1, or ``few`` exceeds ``many``.

    >>> report = StreamingReport(class_counts=[500, 5])
    >>> report.update(torch.tensor([[0.0, -2.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    >>> report.update(torch.tensor([[0.0, -1e4]]), torch.tensor([1]))
    >>> result = report.compute()
    >>> round(result["top1"], 4), result["many"], result["few"], round(result["nll"])
    (0.6667, 1.0, 0.0, 3333)
    """

    @checked
    def __init__(
        self,
        class_counts: Counts,
        *,
        bins: int = 15,
        many: int = 100,
        few: int = 20,
        logits: bool = True,
        ignore_index: int | None = None,
    ) -> None:
        check_bins(bins)
        self.class_counts = as_counts(class_counts)
        self.bins, self.many, self.few, self.logits, self.ignore_index = bins, many, few, logits, ignore_index
        self.checked = not logits  # probabilities are checked in every batch
        shot_groups(self.class_counts, many, few)  # fail now, not after an hour of batches, if a threshold is wrong
        num_classes = self.class_counts.numel()

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.state: dict[str, Tensor] = {
            "labels": zeros(num_classes).long(),  # samples of every class, the correct ones, the predictions
            "hits": zeros(num_classes).long(),
            "predicted": zeros(num_classes).long(),
            "top5": zeros().long(),
            "bin_counts": zeros(bins).long(),  # by confidence: samples, correct ones, summed confidence
            "bin_hits": zeros(bins).long(),
            "bin_confidence": zeros(bins),
            "gaps": zeros(num_classes, bins),  # summed p_c - 1[y = c] by class and bin of p_c
            "brier": zeros(),
            "nll": zeros(),
        }
        """Sums over the samples so far: int64 and float64 tensors, on the device of the last batch."""

    def update(self, outputs: Probs, labels: Counts) -> None:
        """Add a batch of any size.

        Args:
            outputs: logits [N, C], or probabilities with ``logits=False``. Half precision is read in single.
            labels: class indices, int [N].

        Raises:
            ValueError: as for the other metrics; a logit is NaN or infinite (-inf may mask a class); or the logits of
                the first batch are probabilities. The sums are then left as they were.
        """
        if self.ignore_index is not None:
            labels = comparable(as_array(labels, "labels"))
            if bool((labels.long() == self.ignore_index).all()):
                return  # another batch has more
        read = read_logits if self.logits else read_probs
        tensor, labels = read(outputs, labels, self.ignore_index)
        if not self.checked:
            check_not_probs(tensor[:ROWS_CHECKED])
            self.checked = True
        num_classes = self.class_counts.numel()
        check_num_classes(tensor, num_classes, "class_counts", "logits" if self.logits else "probs")
        state = self.state = {name: total.to(tensor.device) for name, total in self.state.items()}
        state["labels"] += torch.bincount(labels, minlength=num_classes)
        for block, y in chunks(tensor, labels):
            probs = softmax(block) if self.logits else block
            leading = leading_classes(probs, self.bins)
            top, ranks = leading[0][:, 0], leading_ranks(leading[0], probs, block, y)
            state["hits"] += torch.bincount(y[ranks < 1], minlength=num_classes)
            state["predicted"] += torch.bincount(block.argmax(1), minlength=num_classes)
            state["top5"] += (ranks < min(5, num_classes)).sum()
            for name, total in zip(("counts", "hits", "confidence"), bin_sums(top, ranks < 1, self.bins), strict=True):
                state[f"bin_{name}"] += total
            residual = residuals(probs, y)
            state["brier"] += square_sum(residual)
            add_gaps(state["gaps"], leading, residual)
            nll = nll_of_logits(block, y, top) if self.logits else nll_of_probs(block, y)
            state["nll"] += nll.sum()

    def merge(self, other: StreamingReport) -> None:
        """Add the sums of another report, of another process or another part of the set.

        Args:
            other: a report with the same settings; it is not changed.

        Raises:
            ValueError: ``other`` was made with other settings.
        """
        names = ("bins", "many", "few", "logits", "ignore_index")
        different = [name for name in names if getattr(self, name) != getattr(other, name)]
        if self.class_counts.tolist() != other.class_counts.tolist():
            different.insert(0, "class_counts")
        if different:
            raise ValueError(
                f"`other` must have the settings of this report, but differs in `{'`, `'.join(different)}`: sums of "
                "different things cannot be added. Make both with the same arguments."
            )
        self.state = {name: total + other.state[name].to(total.device) for name, total in self.state.items()}

    def compute(self) -> dict[str, float]:
        """Compute the report of all samples so far; more may follow.

        Returns:
            The numbers of :func:`classification_report`, but for adaptive_ece.

        Raises:
            ValueError: there was no sample yet.
        """
        state = self.state
        n = int(state["labels"].sum())
        if n == 0:
            raise ValueError("No metric is defined on no sample: call `update(outputs, labels)` before `compute()`.")
        recalls = state["hits"].double() / state["labels"]  # 0 / 0 is the NaN of a class without samples
        occur = state["labels"] + state["predicted"]
        sums = state["bin_counts"], state["bin_hits"], state["bin_confidence"]
        return {
            "top1": int(state["hits"].sum()) / n,
            "top5": int(state["top5"]) / n,
            **shot_means(recalls, self.class_counts, self.many, self.few),
            "balanced_accuracy": float(recalls.nanmean()),
            "macro_f1": float((2.0 * state["hits"].double() / occur).nanmean()),
            "confidence": float(state["bin_confidence"].sum()) / n,
            "ece": expected_error(*sums),
            "mce": maximum_error(*sums),
            "classwise_ece": float(state["gaps"].abs().sum()) / (n * len(recalls)),
            "brier": float(state["brier"]) / n,
            "nll": float(state["nll"]) / n,
        }
