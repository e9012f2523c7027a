"""Figures that show what a long tail does to a model: curves, classes by frequency, confusions, calibration, weights.

Every function returns a ``matplotlib.figure.Figure`` and, where one panel is enough, draws on a given ``ax`` if there
is one. No function touches ``pyplot`` or any other global state, so figures can be made without a display and in
threads: ``figure.savefig("name.png")``. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from ltaug.plots._numbers import MAX_BARS as MAX_BARS
from ltaug.plots._style import BLACK as BLACK
from ltaug.plots._style import BLUE as BLUE
from ltaug.plots._style import GREEN as GREEN
from ltaug.plots._style import GREY as GREY
from ltaug.plots._style import GROUP_COLORS as GROUP_COLORS
from ltaug.plots._style import ORANGE as ORANGE
from ltaug.plots._style import PURPLE as PURPLE
from ltaug.plots._style import RUN_COLORS as RUN_COLORS
from ltaug.plots._style import RUN_STYLES as RUN_STYLES
from ltaug.plots._style import SKY as SKY
from ltaug.plots._style import VERMILLION as VERMILLION
from ltaug.plots.calibration import (
    compare_reliability_diagrams,
    mean_class_probability,
    probability_violins,
    reliability_diagram,
)
from ltaug.plots.classes import (
    class_counts,
    compare_per_class_accuracy,
    compare_shot_accuracy,
    label_occurrence,
    label_suppression,
    per_class_accuracy,
    smoothing_shapes,
    xi_aug_distribution,
)
from ltaug.plots.confusion import MAX_CELLS as MAX_CELLS
from ltaug.plots.confusion import compare_log_confusion_matrices, log_confusion_matrix
from ltaug.plots.correction import accuracy_against_lambda, correction_factors, shifted_test_accuracy
from ltaug.plots.model import batch_norm_statistics, classifier_weight_norms, logit_statistics
from ltaug.plots.multi_label import labelwise_reliability, per_label_precision
from ltaug.plots.segmentation import accuracy_by_pixel_share, segmented_scene, trust_by_condition
from ltaug.plots.sound import spectrogram
from ltaug.plots.sweeps import accuracy_by_setting, accuracy_by_two_settings
from ltaug.plots.training import confidence_accuracy_density, learning_curves

__all__ = [
    "accuracy_against_lambda",
    "accuracy_by_pixel_share",
    "accuracy_by_setting",
    "accuracy_by_two_settings",
    "batch_norm_statistics",
    "class_counts",
    "classifier_weight_norms",
    "compare_log_confusion_matrices",
    "compare_per_class_accuracy",
    "compare_reliability_diagrams",
    "compare_shot_accuracy",
    "confidence_accuracy_density",
    "correction_factors",
    "label_occurrence",
    "label_suppression",
    "labelwise_reliability",
    "learning_curves",
    "log_confusion_matrix",
    "logit_statistics",
    "mean_class_probability",
    "per_class_accuracy",
    "per_label_precision",
    "probability_violins",
    "reliability_diagram",
    "segmented_scene",
    "shifted_test_accuracy",
    "smoothing_shapes",
    "spectrogram",
    "trust_by_condition",
    "xi_aug_distribution",
]
