"""Figures: what is drawn where, on the artists themselves; and the shapes of data that real runs have."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ltaug import metrics, plots
from ltaug.longtail import exponential_counts


def png(figure: Figure) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(data, format="png", dpi=50)
    return data.getvalue()


def heights(figure: Figure) -> list[float]:
    """Heights of the bars of the first axes, from left to right."""
    bars = [bar for container in figure.axes[0].containers for bar in container]
    return [bar.get_height() for bar in sorted(bars, key=lambda bar: bar.get_x())]


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def random_predictions(num_classes: int, samples: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (samples,), generator=generator)
    logits = torch.randn(samples, num_classes, generator=generator)
    logits[torch.arange(samples), labels] += 2
    return (1.5 * logits).softmax(1), labels


# Accuracy of every class


def test_bars_stand_in_the_order_of_training_counts() -> None:
    figure = plots.per_class_accuracy([0.1, 0.9, 0.5, 0.3], [5, 500, 50, 6])
    assert heights(figure) == pytest.approx([90, 50, 30, 10])


def test_shading_covers_each_group_and_no_more() -> None:
    figure = plots.per_class_accuracy([0.5] * 6, [15, 400, 300, 100, 20, 19])
    spans = {
        to_hex(p.get_facecolor()): p.get_extents().transformed(figure.axes[0].transData.inverted())
        for p in patches(figure)
    }
    assert {color: (box.x0, box.x1) for color, box in spans.items()} == {
        plots.GROUP_COLORS["many"].lower(): pytest.approx((0.5, 2.5)),
        plots.GROUP_COLORS["medium"].lower(): pytest.approx((2.5, 4.5)),
        plots.GROUP_COLORS["few"].lower(): pytest.approx((4.5, 6.5)),
    }


def patches(figure: Figure) -> list:
    """The shaded spans of the first axes: its patches that are no bar."""
    bars = {id(bar) for container in figure.axes[0].containers for bar in container}
    return [patch for patch in figure.axes[0].patches if id(patch) not in bars]


def test_group_means_agree_with_the_metric() -> None:
    probs, labels = random_predictions(30)
    counts = exponential_counts(500, 30, 100)
    expected = metrics.shot_accuracy(probs, labels, counts)
    figure = plots.per_class_accuracy(metrics.per_class_accuracy(probs, labels), counts)
    assert legend(figure) == [f"{name} {100 * value:.1f}" for name, value in expected.items()]


def test_an_empty_group_is_left_out() -> None:
    figure = plots.per_class_accuracy([0.5, 0.7], [500, 5])
    assert legend(figure) == ["many 50.0", "few 70.0"]
    assert len(patches(figure)) == 2


def test_a_class_without_test_sample_has_a_cross_and_no_bar() -> None:
    figure = plots.per_class_accuracy([math.nan, 0.9, 0.4], [300, 200, 150])
    assert heights(figure) == pytest.approx([90, 40])
    (cross,) = (line for line in figure.axes[0].lines if line.get_label() == "no test sample")
    assert cross.get_xdata().tolist() == [1.0]
    assert "many 65.0" in legend(figure)


def test_a_group_without_any_test_sample_says_so() -> None:
    figure = plots.per_class_accuracy([0.5, math.nan], [500, 5])
    assert "few –" in legend(figure)
    png(figure)


def test_many_classes_share_bars_within_a_group() -> None:
    counts = torch.cat([torch.full((500,), 200), torch.full((501,), 5)])
    accuracy = torch.cat([torch.ones(500), torch.zeros(501)])
    values = heights(plots.per_class_accuracy(accuracy, counts))
    assert len(values) <= plots.MAX_BARS + 3
    assert set(values) == {100.0, 0.0}  # a bar across the border would lie between


def test_accuracy_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`accuracy` .* 3 classes .* shape \[2\]"):
        plots.per_class_accuracy([0.1, 0.2], [1, 2, 3])


# Confusions


def test_confusion_is_sorted_and_has_the_truth_across() -> None:
    #         predicted 0, 1, 2
    confusion = [[7, 1, 0], [0, 9, 0], [0, 4, 2]]
    image = plots.log_confusion_matrix(confusion, class_counts=[10, 500, 50]).axes[0].images[0]
    # Rows of an image are y, the prediction; class order 1, 2, 0.
    expected = np.log1p([[9, 4, 1], [0, 2, 0], [0, 0, 7]])
    np.testing.assert_allclose(image.get_array(), expected)


def test_without_counts_classes_keep_their_order() -> None:
    image = plots.log_confusion_matrix([[1, 2], [3, 4]]).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), np.log1p([[1, 3], [2, 4]]))


def test_sparse_and_dense_confusions_draw_the_same() -> None:
    probs, labels = random_predictions(20)
    dense = metrics.confusion_matrix(probs, labels)
    counts = exponential_counts(500, 20, 100)
    one, other = (plots.log_confusion_matrix(c, counts).axes[0].images[0] for c in (dense, dense.to_sparse()))
    np.testing.assert_array_equal(one.get_array(), other.get_array())


def test_shared_cells_lose_no_sample() -> None:
    size = 1001
    indices = torch.stack([torch.arange(size), torch.arange(size).flip(0)])
    sparse = torch.sparse_coo_tensor(indices, torch.ones(size), (size, size), check_invariants=True)
    cells = np.expm1(plots.log_confusion_matrix(sparse).axes[0].images[0].get_array())
    assert max(cells.shape) <= plots.MAX_CELLS
    assert cells.sum() == pytest.approx(size)


@pytest.mark.parametrize(
    ("confusion", "counts", "message"),
    [
        ([[1, 2, 3], [4, 5, 6]], None, r"square.*\[2, 3\]"),
        ([[1, 2], [3, 4]], [1, 2, 3], "2 classes, but `class_counts` 3"),
        ([[1, -2], [3, 4]], None, "negative"),
    ],
)
def test_bad_confusions_are_refused(confusion: list[list[int]], counts: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.log_confusion_matrix(confusion, counts)


# Calibration


@pytest.mark.parametrize("bins", [5, 15, 20])
def test_printed_calibration_errors_are_the_metrics(bins: int) -> None:
    probs, labels = random_predictions(10)
    text = plots.reliability_diagram(probs, labels, bins=bins).axes[0].texts[0].get_text()
    ece = metrics.expected_calibration_error(probs, labels, bins=bins)
    mce = metrics.maximum_calibration_error(probs, labels, bins=bins)
    assert text == f"ECE {100 * ece:.1f} %\nMCE {100 * mce:.1f} %"


def test_reliability_bars_span_from_accuracy_to_confidence() -> None:
    probs = torch.tensor([[0.9, 0.1]] * 4 + [[0.7, 0.3]] * 2)
    labels = torch.tensor([0, 0, 1, 1, 0, 0])  # too sure at 0.9 (half right), too modest at 0.7 (all right)
    figure = plots.reliability_diagram(probs, labels, bins=10)
    found = {c.get_label(): [(b.get_x(), b.get_y(), b.get_height()) for b in c] for c in figure.axes[0].containers}
    assert found["accuracy"] == [pytest.approx((60, 0, 100)), pytest.approx((80, 0, 50))]
    assert found["too sure"] == [pytest.approx((80, 50, 40), abs=1e-4)]
    assert found["too modest"] == [pytest.approx((60, 70, 30), abs=1e-4)]
    shares = [bar.get_height() for bar in figure.axes[1].containers[0]]
    assert sum(shares) == pytest.approx(100)


# Curves


def test_curves_take_the_epochs_that_were_evaluated() -> None:
    rows = [{"epoch": e, "loss": 5.0 - e, "lr": 0.1} for e in range(4)]
    rows[1]["top1"], rows[3]["top1"], rows[3]["few"], rows[1]["many"] = 0.2, 0.4, None, math.nan
    figure = plots.learning_curves(rows)
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [1, 3]
    assert line.get_ydata().tolist() == pytest.approx([20, 40])
    assert legend(figure) == ["all 40.0"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [5, 4, 3, 2]


def test_a_repeated_epoch_counts_once_and_the_later_row_wins() -> None:
    rows = [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 9.0}, {"epoch": 1, "loss": 2.0}]
    line = plots.learning_curves(rows).axes[1].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0, 1], [3, 2])


def test_steps_of_the_learning_rate_are_marked_and_smooth_schedules_are_not() -> None:
    def marks(rates: list[float]) -> list[float]:
        figure = plots.learning_curves([{"epoch": e, "loss": 1.0, "lr": rate} for e, rate in enumerate(rates)])
        return [line.get_xdata()[0] for line in figure.axes[1].lines[1:]]

    assert marks([0.05, 0.1, 0.1, 0.01, 0.01, 0.001]) == [3, 5]
    assert marks([0.1 * (1 + math.cos(math.pi * e / 10)) for e in range(11)]) == []


@pytest.mark.parametrize(
    "rows", [[], [{}], [{"epoch": 0, "loss": None}], [{"epoch": 0, "loss": math.inf, "top1": "x"}]]
)
def test_curves_of_a_run_that_has_nothing_yet(rows: list[dict[str, object]]) -> None:
    figure = plots.learning_curves(rows)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
        "no epoch was evaluated yet",
        "no epoch was trained yet",
    ]
    png(figure)


# Counts and comparisons


def test_the_tail_falls_and_its_groups_are_counted() -> None:
    figure = plots.class_counts([19, 101, 100, 20, 500])
    values = np.concatenate([patch.get_data().values for patch in figure.axes[0].patches])
    assert values.tolist() == [500, 101, 100, 20, 19]
    assert legend(figure) == ["2 many", "2 medium", "1 few"]
    assert "\nratio 26.32" in figure.axes[0].texts[0].get_text()


def test_a_tail_with_empty_classes_has_no_imbalance_ratio() -> None:
    figure = plots.class_counts([500, 0])
    assert "ratio" not in figure.axes[0].texts[0].get_text()
    png(figure)


def test_groups_without_a_value_in_any_run_are_left_out_of_the_comparison() -> None:
    figure = plots.compare_shot_accuracy(
        {"a": {"top1": 0.5, "few": None}, "b": {"top1": 0.25, "few": math.nan, "many": 0.75}}
    )
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["all", "many"]
    assert heights(figure) == pytest.approx([50, 25, 75])


def test_compared_curves_are_sorted_and_smoothed_over_known_classes() -> None:
    counts = torch.arange(1, 46)
    accuracy = torch.linspace(0, 1, 45).double()
    accuracy[10] = math.nan
    (line,) = plots.compare_per_class_accuracy({"run": accuracy}, counts).axes[0].lines
    values = np.array(line.get_ydata())
    assert (np.diff(values) < 0).all()
    assert values[20] == pytest.approx(100 * float(accuracy[[23, 24, 25]].mean()))  # rank 21 is class 24; window 3
    assert values[34] == pytest.approx(100 * float(accuracy[[9, 11]].mean()))  # the NaN in the middle is passed over


def test_a_compared_run_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match="accuracy of UniMix"):
        plots.compare_per_class_accuracy({"CE": [0.1, 0.2], "UniMix": [0.1]}, [5, 4])


# All of them


def every_figure(num_classes: int) -> list[Figure]:
    counts = exponential_counts(1000, num_classes, 200)
    counts = counts[torch.randperm(num_classes, generator=torch.Generator().manual_seed(0))]
    probs, labels = random_predictions(num_classes)
    accuracy = metrics.per_class_accuracy(probs, labels)
    pairs = torch.stack([labels, probs.argmax(1)])
    confusion = torch.sparse_coo_tensor(pairs, torch.ones(len(labels)), (num_classes,) * 2, check_invariants=True)
    return [
        plots.per_class_accuracy(accuracy, counts),
        plots.log_confusion_matrix(confusion, counts, class_names=[f"$name_{i}" for i in range(num_classes)]),
        plots.reliability_diagram(probs, labels),
        plots.class_counts(counts),
        plots.compare_per_class_accuracy({"$one": accuracy, "_two": accuracy}, counts),
    ]


@pytest.mark.parametrize("num_classes", [2, 10, 8142])
def test_every_figure_of_few_and_many_classes(num_classes: int) -> None:
    for figure in every_figure(num_classes):
        assert png(figure).startswith(b"\x89PNG")


def test_names_are_shown_as_they_are() -> None:
    broken = r"costs $\frac{5$ or 6"  # as a formula, it would not parse
    figure = plots.compare_shot_accuracy({"_hidden": {"top1": 0.1}, broken: {"top1": 0.2}})
    assert [label.strip("\u200a").replace(r"\$", "$") for label in legend(figure)] == ["_hidden", broken]
    png(figure)
    png(plots.log_confusion_matrix([[1, 2], [3, 4]], class_names=[r"$\frac{$", "_"]))


@pytest.mark.parametrize("grid", [True, False])
def test_figures_draw_on_given_axes(grid: bool) -> None:
    probs, labels = random_predictions(5)
    figure = Figure(figsize=(12, 4))
    axes = figure.subplots(1, 3) if grid else [figure.add_axes((0.05 + 0.33 * i, 0.1, 0.25, 0.8)) for i in range(3)]
    others = axes[1].get_position().bounds
    assert plots.reliability_diagram(probs, labels, ax=axes[0]) is figure
    assert plots.class_counts([5, 4, 3], ax=axes[2]) is figure
    assert len(figure.axes) == 4
    assert axes[1].get_position().bounds == others
    upper, lower = axes[0].get_position(), figure.axes[3].get_position()
    assert lower.y1 <= upper.y0
    assert (lower.x0, lower.x1) == pytest.approx((upper.x0, upper.x1))
    png(figure)


def test_figures_can_be_made_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: png(plots.class_counts([500, 50, 5])), range(8)))
    assert len(set(images)) == 1


def test_matplotlib_is_imported_late_and_pyplot_never() -> None:
    code = (
        "import io, sys, ltaug.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.class_counts([3, 2]).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install \"ltaug\[plots\]\""):
        plots.class_counts([3, 2])
