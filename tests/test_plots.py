"""Figures: what is drawn where, on the artists themselves; and the shapes of data that real runs have."""

from __future__ import annotations

import io
import itertools
import math
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
from ltaug.plots import _numbers, model, training
from ltaug.posthoc import search_strength, shift_logits, strength_curve


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


def test_the_legend_fits_beside_the_cross() -> None:
    counts = [500] * 10 + [50] * 10 + [5] * 10
    for accuracy in ([math.nan, *[0.999] * 29], [0.999] * 30):
        figure = plots.per_class_accuracy(accuracy, counts)
        figure.draw_without_rendering()
        assert figure.axes[0].get_legend().get_window_extent().x1 <= figure.bbox.x1


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
    assert line.get_xdata().tolist() == [2, 4]  # the first epoch is 1, as in a run's log
    assert line.get_ydata().tolist() == pytest.approx([20, 40])
    assert legend(figure) == ["all 40.0"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [5, 4, 3, 2]


@pytest.mark.parametrize("epochs", [1, 12, 200])
def test_no_axis_of_epochs_has_a_0(epochs: int) -> None:
    figure = plots.learning_curves([{"epoch": e, "loss": 1.0} for e in range(epochs)])
    low, high = figure.axes[1].get_xlim()
    shown = [tick for tick in figure.axes[1].get_xticks() if low <= tick <= high]
    assert shown
    assert min(shown) >= 1


def test_a_repeated_epoch_counts_once_and_the_later_row_wins() -> None:
    rows = [{"epoch": 0, "loss": 3.0}, {"epoch": 1, "loss": 9.0}, {"epoch": 1, "loss": 2.0}]
    line = plots.learning_curves(rows).axes[1].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2], [3, 2])


def test_steps_of_the_learning_rate_are_marked_and_smooth_schedules_are_not() -> None:
    def marks(rates: list[float]) -> list[float]:
        figure = plots.learning_curves([{"epoch": e, "loss": 1.0, "lr": rate} for e, rate in enumerate(rates)])
        return [line.get_xdata()[0] for line in figure.axes[1].lines[1:]]

    assert marks([0.05, 0.1, 0.1, 0.01, 0.01, 0.001]) == [4, 6]
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


# Names of classes


def ticks(figure: Figure, position: int = 0) -> list[str]:
    return [label.get_text() for label in figure.axes[position].get_xticklabels()]


def figures_of_classes(num_classes: int, **options: list[str]) -> dict[str, tuple[Figure, int]]:
    """Every figure that has classes across, with the position of its lowest axes."""
    probs, labels = random_predictions(num_classes)
    counts = torch.arange(1, num_classes + 1)
    accuracy = [0.5] * num_classes
    confusion = metrics.confusion_matrix(probs, labels)
    return {
        "class_counts": (plots.class_counts(counts, **options), 0),
        "per_class_accuracy": (plots.per_class_accuracy(accuracy, counts, **options), 1),
        "compare_per_class_accuracy": (plots.compare_per_class_accuracy({"run": accuracy}, counts, **options), 0),
        "logit_statistics": (plots.logit_statistics(probs.log(), labels, counts, **options), 0),
        "log_confusion_matrix": (plots.log_confusion_matrix(confusion, counts, **options), 0),
        "mean_class_probability": (plots.mean_class_probability({"run": probs}, labels, counts, **options), 0),
    }


def test_few_classes_have_their_names_in_the_order_of_training_counts() -> None:
    for name, (figure, position) in figures_of_classes(3, class_names=["ant", "bee", "cow"]).items():
        assert ticks(figure, position) == ["cow", "bee", "ant"], name
        assert figure.axes[position].get_xlabel().endswith("class, most training samples first"), name
        assert figure.axes[position].get_xlim() == (0.5, 3.5), name
        png(figure)


@pytest.mark.parametrize("num_classes", [3, 21])
def test_without_names_or_with_many_classes_there_are_ranks(num_classes: int) -> None:
    names = {} if num_classes == 3 else {"class_names": [f"class {i}" for i in range(num_classes)]}
    for name, (figure, position) in figures_of_classes(num_classes, **names).items():
        figure.draw_without_rendering()
        assert ticks(figure, position)[0] == "1", name
        assert "1 = most training samples" in figure.axes[position].get_xlabel(), name


def test_long_names_are_cut_and_turned() -> None:
    for _, (figure, position) in figures_of_classes(12, class_names=["a very long name indeed"] * 12).items():
        assert all(len(text.replace("\u200a", "")) <= 14 for text in ticks(figure, position))
        assert {label.get_rotation() for label in figure.axes[position].get_xticklabels()} == {60}
        png(figure)


@pytest.mark.parametrize(
    ("num_classes", "ranks"),
    [(6, ["1", "2", "3", "4", "5", "6"]), (10, ["1", "4", "6", "8", "10"]), (10_000, ["1", "2,000", "4,000", "6,000"])],
)
def test_ranks_are_apart_and_as_long_numbers_are_elsewhere(num_classes: int, ranks: list[str]) -> None:
    figure = plots.class_counts([9] * num_classes)
    figure.draw_without_rendering()
    assert ticks(figure)[: len(ranks)] == ranks


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


# Several models side by side


def test_reliability_panels_have_the_errors_of_their_model() -> None:
    probs, labels = random_predictions(10)
    models = {"one": probs, "two": probs.sqrt() / probs.sqrt().sum(1, keepdim=True), "three": probs}
    figure = plots.compare_reliability_diagrams(models, labels, bins=20)
    for axes, (name, values) in zip(figure.axes, models.items(), strict=False):
        ece = metrics.expected_calibration_error(values, labels, bins=20)
        mce = metrics.maximum_calibration_error(values, labels, bins=20)
        assert axes.get_title() == f"{name}\nECE {100 * ece:.1f} %, MCE {100 * mce:.1f} %"
    histograms = figure.axes[3:]
    assert len({axes.get_ylim() for axes in histograms}) == 1
    for axes in histograms:
        assert sum(bar.get_height() for bar in axes.containers[0]) == pytest.approx(100)
    assert "too sure" in [text.get_text() for text in figure.legends[0].get_texts()]
    png(figure)


def test_compared_confusions_share_their_order_and_colours() -> None:
    confusions = {"one": [[7, 1], [0, 9]], "two": [[100, 0], [3, 2]]}
    figure = plots.compare_log_confusion_matrices(confusions, [5, 500])
    one, two = (axes.images[0] for axes in figure.axes[:2])
    np.testing.assert_allclose(one.get_array(), np.log1p([[9, 1], [0, 7]]))  # class 1 first, the truth across
    np.testing.assert_allclose(two.get_array(), np.log1p([[2, 0], [3, 100]]))
    assert one.get_clim() == two.get_clim() == (0, math.log1p(100))
    png(figure)
    named = plots.compare_log_confusion_matrices(confusions, [5, 500], class_names=["cow", "an elephant"])
    for axes in named.axes[:2]:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["an eleph…", "cow"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["an eleph…", "cow"]
    png(named)


def test_a_long_name_of_a_panel_takes_two_lines() -> None:
    name = "unimix_bayias_effective (seed 1, profile natural, lr 0.05)"
    figure = plots.compare_log_confusion_matrices({name: [[1]], "erm": [[1]]})
    assert figure.axes[0].get_title() == "unimix_bayias_effective\n(seed 1, profile natura…"
    png(figure)


def test_nothing_to_compare_and_bad_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="`probs` is empty"):
        plots.compare_reliability_diagrams({}, [0])
    with pytest.raises(ValueError, match="`confusions` is empty"):
        plots.compare_log_confusion_matrices({})
    with pytest.raises(ValueError, match="`confusion of two` must be square"):
        plots.compare_log_confusion_matrices({"one": [[1]], "two": [[1, 2]]})


# Probabilities by group


@pytest.mark.parametrize("of", ["prediction", "truth"])
def test_violins_stand_at_the_quartiles_of_each_group(of: str) -> None:
    probs, labels = random_predictions(6)
    counts = [400, 200, 50, 60, 5, 6]  # two classes a group
    figure = plots.probability_violins({"one": probs, "two": probs.flip(1)}, labels, counts, of=of)
    medians = [line.get_ydata()[0] for line in figure.axes[0].lines]
    expected = []
    for values in (probs, probs.flip(1)):
        shown = values.amax(1) if of == "prediction" else values[torch.arange(len(labels)), labels]
        expected += [100 * shown[labels // 2 == group].double().quantile(0.5).item() for group in range(3)]
    assert medians == pytest.approx(expected)
    places = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert [round(x) for x in places] == [0, 1, 2] * 2  # each near the tick of its group
    assert places[:3] < places[3:]
    png(figure)


def test_a_group_without_test_samples_has_no_violin() -> None:
    figure = plots.probability_violins({"run": torch.tensor([[0.9, 0.1, 0.0]] * 3)}, [0, 0, 2], [500, 50, 5])
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["many\n2 samples", "few\n1 sample"]
    png(figure)  # equal values, and a single one, have no density to estimate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": {}}, "`probs` is empty"),
        ({"of": "label"}, '`of` must be "prediction" or "truth"'),
        ({"class_counts": [1, 2, 3]}, "`class_counts` .* 2 columns of `probs` of run, but hold 3"),
        ({"labels": [0, 2]}, "`labels` must lie in 0..1"),
        ({"probs": {"run": torch.tensor([[3.0, 1.0], [0.0, 2.0]])}}, "must be probabilities"),
    ],
)
def test_bad_arguments_of_violins_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {"probs": {"run": torch.full((2, 2), 0.5)}, "labels": [0, 1], "class_counts": [5, 500], **change}
    with pytest.raises(ValueError, match=message):
        plots.probability_violins(**arguments)  # type: ignore[arg-type]


# Inside the model


def test_weight_norms_are_sorted_by_count() -> None:
    weights = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    figure = plots.classifier_weight_norms({"one": weights, "two": 2 * weights}, [50, 5, 500])
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[10, 5, 1], [20, 10, 2]]
    assert legend(figure) == ["one", "two"]


def test_norms_of_many_classes_are_smoothed_over_the_single_ones() -> None:
    norms = torch.rand(45, generator=torch.Generator().manual_seed(0)).double()
    single, smooth = plots.classifier_weight_norms({"run": norms[:, None]}, range(45, 0, -1)).axes[0].lines
    assert single.get_ydata().tolist() == norms.tolist()
    assert smooth.get_ydata()[20] == pytest.approx(float(norms[19:22].mean()))
    assert smooth.get_label() == "run"
    assert single.get_label().startswith("_")  # no legend entry


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(2, 4)])
def test_weights_of_another_shape_are_refused(weight: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"`weights` of run .* 3 classes .* shape \["):
        plots.classifier_weight_norms({"run": weight}, [3, 2, 1])


def test_logit_statistics_are_those_of_own_and_other_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (300,), generator=generator)  # class 3 has no test sample
    axes = plots.logit_statistics(logits, labels, [5, 50, 500, 1]).axes[0]
    positive, negative, limit = axes.lines
    for rank, label in enumerate([2, 1, 0, 3]):
        own, other = logits[labels == label, label], logits[labels != label, label]
        for line, band, values in zip((positive, negative), axes.collections[-2:], (own, other), strict=True):
            mean = float(values.mean())
            assert line.get_ydata()[rank] == pytest.approx(mean, nan_ok=True)
            if len(values):
                deviation = float(values.std(correction=0))
                heights = [y for x, y in band.get_paths()[0].vertices if x == rank + 1]
                assert (min(heights), max(heights)) == pytest.approx((mean - deviation, mean + deviation))
    assert set(limit.get_ydata()) == {math.log(4)}
    assert limit.get_linestyle() == "--"


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), [0, 1], r"`logits` must have shape \[N, C\].*\[2, 3\]"),
        (torch.zeros(3, 2), [0, 1], r"`logits` must have shape"),
        (torch.zeros(2, 2), [0, 2], r"`labels` must lie in 0..1, but range from 0 to 2"),
        (torch.zeros(0, 2), [], "`logits` must hold at least one sample"),
        (torch.full((2, 2), math.nan), [0, 1], r"`logits` must be finite, but row 0 .* \(2 of 2 rows do\)"),
        (torch.tensor([[0.0, 1.0], [math.inf, 0.0]]), [0, 1], "`logits` must be finite, but row 1"),
        ("logits", [0, 1], "`logits` must be a tensor or an array of numbers"),
    ],
)
def test_logits_that_do_not_fit_are_refused(logits: torch.Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.logit_statistics(logits, labels, [5, 500])


def test_logit_statistics_do_not_mind_how_large_logits_are() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 1e4 + torch.randn(3000, 200, generator=generator)
    labels = torch.randint(200, (3000,), generator=generator)
    moments = model._own_and_other_moments(logits, labels)
    own = torch.nn.functional.one_hot(labels, 200).bool()
    for (mean, deviation), mask in zip(moments, (own, ~own), strict=True):
        for k in (0, 7, 199):
            values = logits[:, k][mask[:, k]].double()
            assert mean[k] == pytest.approx(float(values.mean()))
            assert deviation[k] == pytest.approx(float(values.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize(
    "counts", [[500, 90, 80, 70, 60, 50, 40, 30, 25, 10], [500] * 18 + [50, 5], [500, 50] + [5] * 98, [500, 5]]
)
@pytest.mark.parametrize("kind", ["lines", "confusion"])
def test_every_group_is_named_and_no_name_lies_on_another(counts: list[int], kind: str) -> None:
    if kind == "lines":
        figure = plots.compare_per_class_accuracy({"run": [0.5] * len(counts)}, counts)
    else:
        figure = plots.log_confusion_matrix(torch.eye(len(counts)), counts)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = [text for text in axes.texts if not text.get_text().isdigit()]  # of the cells
    assert [text.get_text() for text in texts] == [name for name, _, _ in _numbers.group_spans(np.array(counts))]
    boxes = [text.get_window_extent() for text in texts]
    assert boxes[0].x0 >= axes.bbox.x0 - 1
    assert boxes[-1].x1 <= axes.bbox.x1 + 1
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def batch_norms(**layers: list[float]) -> dict[str, torch.Tensor]:
    state = {"fc.weight": torch.ones(2, 2)}
    for name, means in layers.items():
        state[f"{name}.running_mean"] = torch.tensor(means)
        state[f"{name}.running_var"] = torch.arange(1.0, len(means) + 1)
    return state


def test_batch_norm_channels_are_sorted_by_what_they_had_before() -> None:
    before, after = batch_norms(bn=[3, 1, 2]), batch_norms(bn=[30, 10, 20])
    after["bn.running_var"] = torch.tensor([7.0, 8.0, 9.0])
    figure = plots.batch_norm_statistics(before, after)
    drawn = [[line.get_ydata().tolist() for line in axes.lines] for axes in figure.axes]
    assert drawn == [[[1, 2, 3], [10, 20, 30]], [[1, 2, 3], [7, 8, 9]]]
    assert [axes.get_title() for axes in figure.axes] == ["bn: mean", "bn: variance"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
    png(figure)


def test_layers_that_moved_least_and_most_are_drawn_or_those_asked_for() -> None:
    before, after = batch_norms(a=[0, 0], b=[0, 0], c=[0, 0]), batch_norms(a=[1, 1], b=[5, -5], c=[0, 0])
    titles = [axes.get_title() for axes in plots.batch_norm_statistics(before, after).axes]
    assert titles == ["c: mean", "c: variance", "b: mean", "b: variance"]
    titles = [axes.get_title() for axes in plots.batch_norm_statistics(before, after, ["a"]).axes]
    assert titles == ["a: mean", "a: variance"]


@pytest.mark.parametrize(
    ("after", "layers", "message"),
    [
        (batch_norms(a=[1]), ["z"], "`layers` names 'z'.*: a\\."),
        (batch_norms(b=[1]), None, "'a.running_mean' has shape \\[1\\] in the first and None"),
        (batch_norms(a=[1, 2]), None, "same batch norm layers"),
        (batch_norms(a=[1]), [], "`layers` is empty"),
    ],
)
def test_batch_norm_layers_that_do_not_fit_are_refused(after: dict, layers: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.batch_norm_statistics(batch_norms(a=[0]), after, layers)


def test_variances_of_different_magnitudes_have_a_logarithmic_axis() -> None:
    before, wide = batch_norms(a=[0, 0]), batch_norms(a=[0, 0])
    wide["a.running_var"] = torch.tensor([0.0, 900.0])  # a dead channel
    near, far = (plots.batch_norm_statistics(before, after).axes[1] for after in (batch_norms(a=[1, 1]), wide))
    assert (near.get_yscale(), far.get_yscale()) == ("linear", "log")
    assert far.get_ylim()[0] == pytest.approx(900 / 1e4 / 1.5)


def test_a_model_without_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="`before` has no `running_mean`"):
        plots.batch_norm_statistics(batch_norms(), batch_norms())


# Corrections


def test_curves_of_lambda_are_marked_at_none_full_and_chosen() -> None:
    curves = {"one": [0.2, 0.4, 0.6, 0.5], "two": [0.8, None, 0.6, 0.7]}
    axes = plots.accuracy_against_lambda(curves, [0, 0.5, 1, 2], chosen={"one": 1.5}).axes[0]
    points = {
        (line.get_marker(), *line.get_xdata(), *np.round(line.get_ydata(), 6))
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_marker() != "None"
    }
    assert points == {("o", 0, 20), ("s", 1, 60), ("*", 1.5, 55), ("o", 0, 80), ("s", 1, 60)}
    one, two = (line for line in axes.lines if line.get_label() in curves)
    assert one.get_ydata().tolist() == pytest.approx([20, 40, 60, 50])
    assert two.get_xdata().tolist() == [0, 1, 2]  # the unknown value is passed over


def test_the_curve_of_a_search_is_drawn_as_it_comes() -> None:
    strengths, scores = strength_curve(lambda lam: 0.5 - 0.1 * (lam - 1.5) ** 2, limit=3.0)
    found = search_strength(lambda lam: 0.5 - 0.1 * (lam - 1.5) ** 2, limit=3.0, method="grid")
    axes = plots.accuracy_against_lambda({"top-1": scores}, strengths, chosen=found).axes[0]
    (star, _) = (line for line in axes.lines if line.get_marker() == "*")
    assert star.get_xydata().tolist() == [[1.5, 50.0]]
    (line,) = (line for line in axes.lines if line.get_label() == "top-1")
    assert len(line.get_xdata()) == 31


def test_lambdas_that_were_not_tried_have_no_mark() -> None:
    figure = plots.accuracy_against_lambda({"run": [0.5, 0.6]}, [0.25, 0.75])
    assert legend(figure) == ["run"]
    one_for_all = plots.accuracy_against_lambda({"a": [0.5, 0.6], "b": [0.1, 0.2]}, [0.25, 0.75], chosen=0.5)
    assert [line.get_marker() for line in one_for_all.axes[0].lines].count("*") == 3  # two curves and the legend's


@pytest.mark.parametrize(
    ("lambdas", "chosen", "message"),
    [
        ([0, 1], None, "`curves` .* 2 `lambdas`, but run has shape"),
        ([0, 2, 1], None, "`lambdas` must be numbers that rise"),
        ([0, 1, math.nan], None, "`lambdas` must be numbers that rise"),
        ([0, 1, 2], 3.0, "`chosen` must lie within `lambdas`, 0 to 2, but is 3"),
        ([0, 1, 2], {"other": 1.0}, "`chosen` names 'other'"),
    ],
)
def test_bad_curves_of_lambda_are_refused(lambdas: list[float], chosen: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.accuracy_against_lambda({"run": [0.1, 0.2, 0.3]}, lambdas, chosen)  # type: ignore[arg-type]


def test_shifted_tests_run_from_forward_to_backward() -> None:
    runs = {
        "none": {"backward 50": 0.1, "uniform": 0.3, "forward_2": 0.4, "forward-50": 0.5, "backward 2": None},
        "estimated": {"backward 2": 0.6, "uniform": math.nan},
    }
    axes = plots.shifted_test_accuracy(runs).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "2", "1", "2", "50"]
    none, estimated = (line for line in axes.lines if line.get_label() in runs)
    assert none.get_xdata().tolist() == [0, 1, 2, 4]
    assert none.get_ydata().tolist() == pytest.approx([50, 40, 30, 10])
    assert (estimated.get_xdata().tolist(), estimated.get_ydata().tolist()) == ([3], [60])
    png(plots.shifted_test_accuracy({}))


def test_shifted_tests_that_agree_are_both_seen() -> None:
    values = {"uniform": 0.5, "forward 50": 0.6, "backward 50": 0.4}
    for runs in (3, 5):
        lines = plots.shifted_test_accuracy({f"run {k}": values for k in range(runs)}).axes[0].lines[:runs]
        widths = [line.get_linewidth() for line in lines]
        sizes = [line.get_markersize() for line in lines]
        assert widths == sorted(widths, reverse=True)
        assert sizes == sorted(sizes, reverse=True)
        assert len({(line.get_linestyle(), line.get_linewidth()) for line in lines}) == runs
        assert all(line.get_linestyle() != "-" for line in lines[2:])  # through the gaps shows what lies below
        assert widths[0] - widths[-1] > 2


@pytest.mark.parametrize("name", ["forwards 50", "backward", "forward 0.5", "top1"])
def test_unknown_test_sets_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"one is '{name}'"):
        plots.shifted_test_accuracy({"run": {name: 0.5}})


# Confidence and accuracy


def test_the_density_agrees_with_the_definition_and_integrates_to_one() -> None:
    points = 0.5 + 0.08 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    axis = np.linspace(0, 1, 121)
    density = training._density(points, axis)
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)
    covariance = np.cov(points.T, bias=True) * 40 ** (-1 / 3) + 1e-4 * np.eye(2)
    offsets = np.array([axis[70], axis[55]]) - points  # x, y
    kernel = np.exp(-0.5 * np.einsum("ni,ij,nj->n", offsets, np.linalg.inv(covariance), offsets))
    expected = kernel.mean() / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))
    assert density[55, 70] == pytest.approx(expected)


def test_points_lie_where_their_epochs_were_and_the_last_is_marked() -> None:
    rows = [
        {"epoch": 0, "confidence": 0.5, "top1": 0.25},
        {"epoch": 1, "confidence": 0.75},  # not evaluated
        {"epoch": 2, "confidence": 0.875, "top1": 0.5},
    ]
    figure = plots.confidence_accuracy_density(rows)
    ideal, points, last = figure.axes[0].lines
    assert (*ideal.get_xdata(), *ideal.get_ydata(), ideal.get_color()) == (0, 100, 0, 100, "red")
    assert (points.get_xdata().tolist(), points.get_ydata().tolist()) == ([50, 87.5], [25, 50])
    assert (last.get_xdata()[0], last.get_ydata()[0]) == (87.5, 50)
    pairs = plots.confidence_accuracy_density(torch.tensor([[0.5, 0.25], [math.nan, 0.1], [0.875, 0.5]]))
    assert legend(pairs) == ["ideal", "2 points"]  # pairs have no last epoch
    png(figure)


@pytest.mark.parametrize("points", [[], [{"epoch": 0, "top1": 0.5}], torch.empty(0, 2), [[math.nan, math.nan]]])
def test_a_density_of_nothing_yet_says_so(points: object) -> None:
    figure = plots.confidence_accuracy_density(points)  # type: ignore[arg-type]
    assert figure.axes[0].texts[0].get_text() == "no epoch has both\nconfidence and accuracy"
    png(figure)


@pytest.mark.parametrize("points", [[[0.5, 0.5]] * 3, [[0.1, 0.1], [0.9, 0.9]], [[0.0, 0.0]], [[1.0, 1.0]]])
def test_points_in_one_place_or_on_a_line_have_a_density(points: list[list[float]]) -> None:
    png(plots.confidence_accuracy_density(points))


@pytest.mark.parametrize(
    ("points", "message"), [([[50.0, 40.0]], "fractions .* range from 40 to 50"), ([0.5, 0.4], r"pairs .* shape \[2\]")]
)
def test_points_that_are_no_fractions_or_pairs_are_refused(points: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.confidence_accuracy_density(points)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [None, [1.0, 2.0, 3.0, 4.0]])
def test_correction_factors_are_those_of_the_odds(target: list[float] | None) -> None:
    counts, lambdas = [40, 0, 8, 2], [0.0, 0.7, 1.0, 2.0]
    axes = plots.correction_factors(counts, lambdas, target).axes[0]
    there = np.array([0, 2, 3])  # the class without samples has no ratio
    source = np.array(counts, dtype=np.float64)[there] / 50
    prior = (np.ones(3) if target is None else np.array(target)[there]) / 10
    expected = np.sort((source[0] / source) * (prior / prior[0]))
    for line, lam in zip(axes.lines, lambdas, strict=True):
        assert line.get_xdata().tolist() == pytest.approx(expected)
        assert line.get_ydata().tolist() == pytest.approx(expected**lam)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    # Two classes whose probabilities are even: what shift_logits makes of their odds.
    logits = shift_logits(torch.zeros(1, 4).double(), [40, 1, 8, 2], target or [1] * 4, 0.7)[0]
    assert axes.lines[1].get_ydata()[-1] == pytest.approx(float((logits[3] - logits[0]).exp()))


def test_correction_factors_of_even_classes_are_1() -> None:
    figure = plots.correction_factors([5, 5], [1.0])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 1], [1, 1]]
    png(figure)


@pytest.mark.parametrize("target", [[1.0, 0.0], [1.0, 1.0, 1.0]])
def test_a_target_prior_that_does_not_fit_is_refused(target: list[float]) -> None:
    with pytest.raises(ValueError, match="`target_prior` must hold a number above 0 for each of the 2 classes"):
        plots.correction_factors([5, 2], target_prior=target)


# Sweeps


def test_a_sweep_has_means_deviations_and_seeds_at_their_values() -> None:
    sweep = {"a": {1.0: [0.5, 0.6, 0.7], -1: [0.4, None, math.nan], 0: 0.3}, "b": {0.5: [0.8, 0.9], 0: None}}
    axes = plots.accuracy_by_setting(sweep, "tau").axes[0]
    mean_a, seeds_a, mean_b, seeds_b = axes.lines
    np.testing.assert_allclose(mean_a.get_xydata(), [[-1, 40], [0, 30], [1, 60]])
    np.testing.assert_allclose(seeds_a.get_xydata(), [[1, 50], [1, 60], [1, 70]])
    np.testing.assert_allclose(mean_b.get_xydata(), [[0.5, 85]])
    np.testing.assert_allclose(seeds_b.get_xydata(), [[0.5, 80], [0.5, 90]])
    bars = [path.vertices for collection in axes.collections for path in collection.get_paths()]
    np.testing.assert_allclose(bars[0], [[1, 50], [1, 70]])  # the deviation of 50, 60, 70 is 10
    np.testing.assert_allclose(bars[1], [[0.5, 85 - 50**0.5], [0.5, 85 + 50**0.5]])
    assert len(bars) == 2
    assert legend(axes.figure) == ["a, best at 1: 60.0", "b, best at 0.5: 85.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["-1", "0", "0.5", "1"]
    assert axes.get_xlabel() == "tau"
    png(axes.figure)


def test_words_stand_in_their_order_and_near_numbers_have_no_tick_each() -> None:
    shapes = plots.accuracy_by_setting({"run": {"concave": 0.5, "linear": 0.6, "$convex": 0.4}}, "shape")
    assert shapes.axes[0].lines[0].get_xydata().tolist() == [[0, 50], [1, 60], [2, 40]]
    assert ticks(shapes) == ["concave", "linear", r"\$convex"]
    near = plots.accuracy_by_setting({"run": {0.0: 0.5, 0.001: 0.6, 1.0: 0.4}}, "lr")
    near.draw_without_rendering()
    assert "0.001" not in ticks(near)
    for figure in (shapes, near):
        png(figure)


def test_a_heat_map_has_the_mean_of_each_pair_and_frames_the_best() -> None:
    pairs = {(0.3, 0.1): [0.5, 0.7], (0.1, 0.0): 0.4, (0.3, 0.0): [0.65, None], (0.2, 0.0): math.nan}
    figure = plots.accuracy_by_two_settings(pairs, ("head", "tail"))
    axes = figure.axes[0]
    cells = axes.images[0].get_array()
    np.testing.assert_allclose(cells.filled(-1), [[40, 65], [-1, 60]])  # 0.2 has no result: neither row nor column
    assert axes.images[0].origin == "lower"
    assert {(text.get_text(), *text.get_position()) for text in axes.texts} == {
        ("40.0", 0, 0),
        ("65.0", 1, 0),
        ("60.0", 1, 1),
    }
    frame = axes.lines[0].get_xydata()
    assert (frame.min(0).tolist(), frame.max(0).tolist()) == ([0.5, -0.5], [1.5, 0.5])
    assert [[t.get_text() for t in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())] == [
        ["0.1", "0.3"],
        ["0", "0.1"],
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "tail")
    png(figure)


@pytest.mark.parametrize("name", ["CIFAR-100-LT, ratio 100", "unimix_bayias, digits, imbalance ratio 57 (asked: 50)"])
def test_the_legend_of_a_sweep_fits(name: str) -> None:
    figure = plots.accuracy_by_setting({name: {-0.75: 0.5}, "b": {-0.75: 0.4}}, "tau")
    figure.draw_without_rendering()
    box = figure.axes[0].get_legend().get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    assert legend(figure)[0].endswith(",\nbest at -0.75: 50.0" if len(name) > 26 else ", best at -0.75: 50.0")


def test_of_errors_the_smallest_is_the_best() -> None:
    bars = plots.accuracy_by_setting({"run": {0: 0.2, 1: 0.1}}, "tau", metric="ECE (%)", lower_is_better=True)
    assert legend(bars) == ["run, best at 1: 10.0"]
    assert bars.axes[0].get_ylabel() == "ECE (%)"
    cells = plots.accuracy_by_two_settings(
        {(0, 0): 0.2, (0, 1): 0.1}, ("a", "b"), metric="ECE (%)", lower_is_better=True
    )
    assert cells.axes[0].lines[0].get_xydata().min(0).tolist() == [-0.5, 0.5]
    assert cells.axes[1].get_ylabel() == "ECE (%)"


def test_a_large_heat_map_has_no_numbers_and_few_ticks() -> None:
    grid = {(a, b): (a + b) / 100 for a in range(30) for b in range(30)}
    axes = plots.accuracy_by_two_settings(grid, ("a", "b")).axes[0]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4", "8", "12", "16", "20", "24", "28"]
    png(axes.figure)


def test_a_sweep_without_results_says_so() -> None:
    for figure in (
        plots.accuracy_by_setting({}, "tau"),
        plots.accuracy_by_setting({"run": {0.0: [None]}}, "tau"),
        plots.accuracy_by_two_settings({(0.1, 0.2): math.nan}, ("a", "b")),
    ):
        assert figure.axes[0].texts[0].get_text() == "no run has a result yet"
        png(figure)


# Label distributions and smoothing


def test_parts_of_label_suppression_are_those_of_two_independent_draws() -> None:
    counts, head = [60, 25, 10, 5, 0], torch.tensor([True, True, False, False, False])
    axes = plots.label_suppression(counts, head).axes[0]
    instance, balanced = 0.85, 0.5  # of the four classes with samples, two are frequent
    pairs = [(instance, instance), (instance, balanced), (balanced, balanced)]
    expected = [
        [instance, *(p * q for p, q in pairs)],
        [0, *(p * (1 - q) + q * (1 - p) for p, q in pairs)],
        [1 - instance, *((1 - p) * (1 - q) for p, q in pairs)],
    ]
    np.testing.assert_allclose(
        [[bar.get_width() for bar in bars] for bars in axes.containers], 100 * np.array(expected)
    )
    lefts = np.array([[bar.get_x() for bar in bars] for bars in axes.containers])
    np.testing.assert_allclose(lefts, 100 * np.cumsum([np.zeros(4), *expected[:-1]], axis=0), atol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no mixing", "IB + IB", "IB + CB", "CB + CB"]


def test_label_suppression_of_the_paper() -> None:
    # 77 % of ImageNet-LT's samples are of its many-shot classes: 94.7 % of the mixed ones carry their labels.
    bars = plots.label_suppression([77_000, 90, 10], torch.tensor([True, False, False])).axes[0].containers
    assert bars[2].datavalues[1] < 0.001
    alone, beside, none = plots.label_suppression([770, 200, 30], torch.tensor([True, False, False])).axes[0].containers
    assert alone.datavalues[1] + beside.datavalues[1] == pytest.approx(94.7, abs=0.05)
    assert none.datavalues[1] == pytest.approx(5.29)
    by_default = plots.label_suppression([770, 20, 19]).axes[0].containers[0].datavalues
    assert by_default[0] == pytest.approx(100 * 770 / 809)
    with pytest.raises(ValueError, match=r"`head` must be bool \[3\]"):
        plots.label_suppression([770, 200, 30], torch.tensor([True, False]))


def test_shapes_of_the_smoothing_are_those_of_the_formulas() -> None:
    counts = np.array([20.0, 500.0, 140.0, 20.0])
    u = np.array([480, 120, 0, 0]) / 480  # sorted
    expected = {
        "concave": 0.05 + 0.3 * np.sin(np.pi * u / 2),
        "linear": 0.05 + 0.3 * u,
        "convex": 0.35 + 0.3 * np.sin(1.5 * np.pi + np.pi * u / 2),
        "power 0.5": 0.05 + 0.3 * u**0.5,
        "power 3": 0.05 + 0.3 * u**3,
    }
    figure = plots.smoothing_shapes(counts.astype(int), 0.35, 0.05, ["concave", "linear", "convex", 0.5, 3])
    assert legend(figure) == list(expected)
    for line, values in zip(figure.axes[0].lines, expected.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), values, atol=1e-12)
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 5
    with pytest.raises(ValueError, match="`shape` must be one of"):
        plots.smoothing_shapes([5, 2], shapes=["round"])


# Probabilities by class


def test_mean_probabilities_stand_over_the_shares_of_both_sets() -> None:
    probs, labels = random_predictions(5)
    counts = [20, 500, 0, 100, 380]
    order = [1, 4, 3, 0, 2]
    axes = plots.mean_class_probability({"one": probs, "two": probs.flip(1)}, labels, counts).axes[0]
    one, two, tested = axes.lines
    np.testing.assert_allclose(one.get_ydata(), 100 * probs.double().mean(0)[order])
    np.testing.assert_allclose(two.get_ydata(), 100 * probs.double().mean(0).flip(0)[order])
    np.testing.assert_allclose(tested.get_ydata(), 100 * torch.bincount(labels)[order].double() / len(labels))
    (area,) = (collection for collection in axes.collections if collection.get_label() == "training data")
    for rank, share in enumerate([50, 38, 10, 2], start=1):
        assert max(y for x, y in area.get_paths()[0].vertices if x == rank) == pytest.approx(share)
    assert legend(axes.figure) == ["one", "two", "test data", "training data"]
    png(axes.figure)


def test_mean_probabilities_of_many_classes_are_smoothed() -> None:
    probs, labels = random_predictions(45, samples=3000)  # more samples than are summed at a time
    counts = exponential_counts(500, 45, 100)
    line, tested = plots.mean_class_probability({"run": probs}, labels, counts).axes[0].lines
    expected = 100 * probs.double().mean(0)
    assert line.get_ydata()[20] == pytest.approx(float(expected[19:22].mean()))
    share = torch.bincount(labels, minlength=45).double() / 30
    assert tested.get_ydata()[20] == pytest.approx(float(share[19:22].mean()))


def test_bad_arguments_of_mean_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="`probs` is empty"):
        plots.mean_class_probability({}, [0], [5])
    with pytest.raises(ValueError, match=r"`class_counts` .* 2 columns of `probs` of run, but hold 3"):
        plots.mean_class_probability({"run": torch.full((2, 2), 0.5)}, [0, 1], [5, 4, 3])


# Several labels a sample


def label_predictions(num_labels: int = 5, samples: int = 4000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities that are right for the frequent labels, and too low for the rare ones; where they are known."""
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(samples, num_labels, generator=generator, dtype=torch.float64)
    targets = (torch.rand(samples, num_labels, generator=generator) < right).long()
    probs = right.clone()
    probs[:, -1] = right[:, -1] ** 2
    return probs, targets, torch.rand(samples, num_labels, generator=generator) < 0.8


def test_reliability_of_labels_has_a_line_a_group() -> None:
    probs, targets, known = label_predictions()
    counts = [50, 500, 300, 40, 3]
    rows = targets.masked_fill(~known, -1)
    figure = plots.labelwise_reliability(probs, rows, counts, bins=10, ignore_index=-1)
    ax = figure.axes[0]
    groups = {"many": [1, 2], "medium": [0, 3], "few": [4]}
    errors = {
        name: metrics.labelwise_calibration_error(probs[:, mine], rows[:, mine], 10, ignore_index=-1)
        for name, mine in groups.items()
    }
    assert legend(figure) == [*(f"{name} {100 * error:.1f}" for name, error in errors.items()), "ideal"]
    assert errors["few"] > 3 * errors["many"]
    whole = metrics.labelwise_calibration_error(probs, rows, 10, ignore_index=-1)
    assert ax.texts[0].get_text() == f"label-wise ECE {100 * whole:.1f} %"
    few = ax.lines[2]
    assert few.get_color() == plots.GROUP_COLORS["few"]
    p, y = probs[known[:, 4], 4], targets[known[:, 4], 4].double()
    inside = (p > 0.5) & (p <= 0.6)
    assert few.get_xdata()[5] == pytest.approx(100 * p[inside].mean().item())
    assert few.get_ydata()[5] == pytest.approx(100 * y[inside].mean().item())
    sizes = figure.axes[1].patches[2].get_data().values
    assert sizes.sum() == pytest.approx(int(known[:, 4].sum()))
    png(figure)
    alone = plots.labelwise_reliability(probs[:5], targets[:5], counts)  # too few entries for any point
    assert [len(line.get_xdata()) for line in alone.axes[0].lines[:-1]] == [0, 0, 0]
    with pytest.raises(ValueError, match="`label_counts` must agree with the 5 columns of `probs`, but has 2"):
        plots.labelwise_reliability(probs, targets, [5, 4])


def test_precision_of_labels_is_drawn_as_accuracy_of_classes() -> None:
    figure = plots.per_label_precision([0.25, 0.75, None], [5, 500, 50], label_names=["ant", "bee", "cow"])
    assert heights(figure) == pytest.approx([75, 25])
    assert figure.axes[0].get_ylabel() == "average precision (%)"
    assert "no positive in the test set" in legend(figure)
    assert figure.axes[1].get_xlabel() == "label, most training samples first"
    png(figure)
    with pytest.raises(ValueError, match="`precision` must hold one number for each of the 2 labels in `label_counts`"):
        plots.per_label_precision([0.5], [5, 4])
    text = plots.class_counts([5, 4], several=True).axes[0].texts[0].get_text()
    assert text.startswith("2 labels\n5 to 4 a label")
    curves = plots.learning_curves([{"epoch": 0, "map": 0.25, "many": 0.5}])
    assert legend(curves) == ["all 25.0", "many 50.0"]
    assert curves.axes[0].get_ylabel() == "mean average\nprecision (%)"


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
        plots.compare_reliability_diagrams({"$one": probs, "_two": probs}, labels),
        plots.compare_log_confusion_matrices({"$one": confusion, "_two": confusion}, counts),
        plots.probability_violins({"$one": probs, "_two": probs}, labels, counts),
        plots.classifier_weight_norms({"$one": probs.T, "_two": probs.T}, counts),
        plots.logit_statistics(probs.log(), labels, counts),
        plots.mean_class_probability({"$one": probs, "_two": probs}, labels, counts),
        plots.label_suppression(counts),
        plots.smoothing_shapes(counts),
        plots.correction_factors(counts),
    ]


@pytest.mark.parametrize("num_classes", [2, pytest.param(10, marks=pytest.mark.slow), 2000])
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


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install \"ltaug\[plots\]\""):
        plots.class_counts([3, 2])


class TestSegmentation:
    def test_uncertainties_have_one_scale(self) -> None:
        """Half of the entropy of the uniform distribution is half way to white, wherever it is the most."""
        maps = {"uncertainty, a": np.full((4, 6), math.log(3) / 2), "uncertainty, b": np.full((4, 6), 0.1)}
        figure = plots.segmented_scene({**maps, "depth": np.full((4, 6), 9)}, ["a", "b", "c"])
        assert [ax.images[0].get_clim() for ax in figure.axes] == [(0, math.log(3)), (0, math.log(3)), (0, 9)]

    def test_a_modality_has_one_colour_on_a_page(self) -> None:
        lines = plots.accuracy_by_pixel_share({name: torch.ones(2) for name in ("rgb", "depth")}, [9, 1]).axes[0].lines
        bars = plots.trust_by_condition({"rgb": {"fog": 0.5}, "depth": {"fog": 1.0}}).axes[0].patches
        assert [to_hex(line.get_color()) for line in lines] == [to_hex(bar.get_facecolor()) for bar in bars]
