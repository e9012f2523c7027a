"""Accuracy by shot group, calibration and proper scores, from probabilities [N, C] and labels [N].

Everything is a fraction in 0..1 (a percentage is the reader's business), accumulates in float64 and runs where the
probabilities are. Only :class:`StreamingReport` takes logits: elsewhere pass ``logits.softmax(1)``; the error message
of a metric that is given logits says so.

:func:`multilabel_report` and its parts are for labels that may come together: probabilities [N, L], a sigmoid each, and
multi-hot targets.
"""

from ltaug.metrics._inputs import Probs as Probs
from ltaug.metrics.calibration import (
    ReliabilityBins,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
)
from ltaug.metrics.multi_label import average_precision, labelwise_calibration_error, multilabel_report
from ltaug.metrics.scores import (
    accuracy,
    balanced_accuracy,
    brier_score,
    confusion_matrix,
    macro_f1,
    negative_log_likelihood,
    per_class_accuracy,
    shot_accuracy,
)
from ltaug.metrics.segmentation import SegmentationScores, StreamingSegmentation, segmentation_scores
from ltaug.metrics.streaming import StreamingReport, classification_report

__all__ = [
    "ReliabilityBins",
    "SegmentationScores",
    "StreamingReport",
    "StreamingSegmentation",
    "accuracy",
    "adaptive_calibration_error",
    "average_precision",
    "balanced_accuracy",
    "brier_score",
    "classification_report",
    "classwise_calibration_error",
    "confusion_matrix",
    "expected_calibration_error",
    "labelwise_calibration_error",
    "macro_f1",
    "maximum_calibration_error",
    "multilabel_report",
    "negative_log_likelihood",
    "per_class_accuracy",
    "reliability_bins",
    "segmentation_scores",
    "shot_accuracy",
]
