"""Labels and counts in every form that people have them in: read right, or refused with a word on what to do."""

from __future__ import annotations

import array
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltaug import (
    BalancedSoftmaxLoss,
    BayiasLoss,
    ClassPowerSampler,
    ClassWeightedLoss,
    CutMix,
    FocalLoss,
    LADELoss,
    MixUp,
    NearestClassMeanClassifier,
    PriorShift,
    TemperatureScaling,
    UniMix,
    class_counts,
    class_prior,
    effective_prior,
    estimate_prior,
    shift_logits,
    shot_groups,
    subsample,
)
from ltaug.analysis import label_occurrence
from ltaug.metrics import accuracy, confusion_matrix, shot_accuracy
from ltaug.priors import as_integers, as_labels

LABELS = [2, 0, 2, 1, 2, 0, 2]
COUNTS = [2, 1, 4]
PLAIN = np.array(LABELS)


def read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def pandas(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("pandas"))


def polars(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("polars"))


def arrow(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("pyarrow"))


def column(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("datasets").Dataset)


def shuffled(dataset: Any) -> Any:
    rows = [{"image": 0, "nested": {"label": y}, "label": y} for y in reversed(LABELS)]
    return dataset.from_list([*rows, {"image": 1, "nested": {"label": 9}, "label": 9}]).select(range(6, -1, -1))


FORMS: dict[str, Callable[[], Any]] = {
    "list": lambda: LABELS,
    "tuple of numpy's numbers": lambda: tuple(PLAIN),
    "list of tensors": lambda: [torch.tensor(y) for y in LABELS],
    "array of the standard library": lambda: array.array("q", LABELS),
    "memory": lambda: memoryview(PLAIN),
    "other byte order": lambda: PLAIN.astype(">i4"),
    "16 unsigned bits": lambda: PLAIN.astype(np.uint16),
    "64 unsigned bits": lambda: PLAIN.astype(np.uint64),
    "reversed": lambda: PLAIN[::-1].copy()[::-1],
    "every second": lambda: np.repeat(PLAIN, 2)[::2],
    "read-only": lambda: read_only(PLAIN.copy()),
    "objects": lambda: PLAIN.astype(object),
    "masked, nothing missing": lambda: np.ma.array(PLAIN),
    "pandas, rows in another order": lambda: pandas(lambda pd: pd.Series(LABELS, index=[9, 3, 0, 1, 2, 7, 8])),
    "pandas, nullable": lambda: pandas(lambda pd: pd.Series(LABELS, dtype="Int64")),
    "pandas, categories": lambda: pandas(lambda pd: pd.Series(LABELS, dtype="category")),
    "pandas, arrow": lambda: pandas(lambda pd: arrow(lambda pa: pd.Series(LABELS, dtype="int64[pyarrow]"))),
    "pandas, index": lambda: pandas(lambda pd: pd.Index(LABELS)),
    "polars": lambda: polars(lambda pl: pl.Series(LABELS)),
    "polars, 8 bits": lambda: polars(lambda pl: pl.Series(LABELS, dtype=pl.UInt8)),
    "arrow": lambda: arrow(lambda pa: pa.array(LABELS)),
    "arrow, pieces": lambda: arrow(lambda pa: pa.chunked_array([LABELS[:3], LABELS[3:]])),
    "arrow, dictionary": lambda: arrow(lambda pa: pa.array(LABELS).dictionary_encode()),
    "datasets": lambda: column(lambda dataset: dataset.from_dict({"label": LABELS})["label"]),
    "datasets, of torch": lambda: column(lambda dataset: dataset.from_dict({"y": LABELS}).with_format("torch")["y"]),
    "datasets, chosen rows": lambda: column(lambda dataset: shuffled(dataset)["label"]),
    "datasets, nested": lambda: column(lambda dataset: shuffled(dataset)["nested"]["label"]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_labels_is_read_in_the_order_of_the_samples(form: str) -> None:
    labels = FORMS[form]()
    assert as_labels(labels).tolist() == LABELS
    assert class_counts(labels, 4).tolist() == [*COUNTS, 0]
    assert ClassPowerSampler(labels).indices().tolist() == ClassPowerSampler(LABELS).indices().tolist()
    assert accuracy(PLAIN, labels) == 1.0
    assert confusion_matrix(PLAIN, labels).diagonal().tolist() == COUNTS
    features = torch.arange(7.0)[:, None]
    assert NearestClassMeanClassifier(1, 3).fit(features, labels).counts.tolist() == COUNTS
    logits = torch.nn.functional.one_hot(torch.tensor(LABELS), 3).double() + torch.linspace(0.0, 1.0, 21).view(7, 3)
    assert TemperatureScaling().fit(logits, labels).temperature == TemperatureScaling().fit(logits, LABELS).temperature
    assert torch.equal(subsample(labels, [1, 1, 2]), subsample(LABELS, [1, 1, 2]))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (lambda: ["cat", "dog"], "it holds text such as 'cat'. Map every name to its class index first"),
        (lambda: np.array([0, "dog"], dtype=object), "it holds text such as"),
        (lambda: [0, None], r"the number at place 1 is missing \(None\)"),
        (lambda: np.ma.array([0, 1], mask=[False, True]), "some numbers are masked"),
        (lambda: pandas(lambda pd: pd.Series([0, 1, None])), r"since the label at place 2 is missing \(NaN\)"),
        (lambda: pandas(lambda pd: pd.Series([0, pd.NA], dtype="Int64")), "place 1 is missing"),
        (lambda: pandas(lambda pd: pd.Series([0, pd.NA], dtype=object)), r"place 1 is missing \(<NA>\)"),
        (lambda: pandas(lambda pd: pd.Series(["b", "a"], dtype="category")), "it holds text such as 'b'"),
        (lambda: pandas(lambda pd: pd.DataFrame({"label": LABELS})), r"shape \[N\], but has shape \[7, 1\]"),
        (lambda: polars(lambda pl: pl.Series([0, None])), "place 1 is missing"),
        (lambda: polars(lambda pl: pl.Series(["a"], dtype=pl.Categorical)), "it holds text such as 'a'"),
        (lambda: polars(lambda pl: pl.Series(LABELS).value_counts()), r"has shape \[3, 2\]"),
        (lambda: arrow(lambda pa: pa.array([0, None])), "place 1 is missing"),
        (lambda: {0: 3, 1: 2}, "it holds an object of type dict"),
        (lambda: {0, 1}, "it holds an object of type set"),
        (lambda: (y for y in LABELS), "it holds an object of type generator"),
        (lambda: [[0], [0, 1]], "cannot be read as such"),
        (lambda: [2**70], "numbers of more than 64 bits"),
        (lambda: np.array(["2026-11-28"], "M8[D]"), r"it holds datetime64\[D\]"),
        (lambda: [0.0, 1.0], r"but are torch\.float64. Convert with `\.long\(\)` or `\.astype\(int\)`"),
        (lambda: [True, False], r"but are torch\.bool. Convert"),
        (lambda: torch.zeros(3, dtype=torch.int64, device="meta"), "have values, but is on the meta device"),
    ],
)
def test_what_are_no_labels_is_said(labels: Callable[[], Any], found: str) -> None:
    for read in (class_counts, ClassPowerSampler, lambda given: accuracy([0, 1], given)):
        with pytest.raises(ValueError, match=f"`labels` must .*{found}"):
            read(labels())


def test_a_plain_array_is_not_copied() -> None:
    for values in (PLAIN, PLAIN.astype(np.uint8), PLAIN.astype(np.int16)):
        assert as_integers(values).data_ptr() == values.ctypes.data
        assert as_integers(values).dtype == torch.from_numpy(values).dtype


def test_fifty_thousand_labels_of_a_datasets_column_take_no_time() -> None:
    """One by one, as a list would be read, they take 15 s."""
    dataset = pytest.importorskip("datasets").Dataset
    labels = np.random.default_rng(0).integers(100, size=50_000)
    held = dataset.from_dict({"label": labels})["label"]
    start = time.process_time()
    assert np.array_equal(as_labels(held).numpy(), labels)
    assert time.process_time() - start < 2.0


# Numbers of classes.

BY_CLASS: dict[str, Callable[[], Any]] = {
    "counter": lambda: Counter(LABELS),
    "dictionary": lambda: {2: 4, 0: 2, 1: 1},
    "dictionary of numpy's numbers": lambda: {np.int64(k): n for k, n in zip((1, 2, 0), (1, 4, 2), strict=True)},
    "pandas, by frequency": lambda: pandas(lambda pd: pd.Series(LABELS).value_counts()),
    "pandas, by frequency of floats": lambda: pandas(lambda pd: pd.Series(LABELS).astype(float).value_counts()),
    "pandas, by frequency of categories": lambda: pandas(lambda pd: pd.Series(LABELS, dtype="category").value_counts()),
    "pandas, in order": lambda: pandas(lambda pd: pd.Series(COUNTS)),
    "pandas, groups": lambda: pandas(lambda pd: pd.DataFrame({"y": LABELS}).groupby("y").size()[::-1]),
    "polars": lambda: polars(lambda pl: pl.Series(COUNTS)),
    "reversed, other byte order": lambda: np.array(COUNTS[::-1], ">f8")[::-1],
    "long doubles": lambda: np.array(COUNTS, np.longdouble),
    "objects": lambda: np.array(COUNTS, dtype=object),
    "arrow": lambda: arrow(lambda pa: pa.array(COUNTS)),
    "whole floats": lambda: [float(n) for n in COUNTS],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", BY_CLASS)
def test_numbers_of_classes_are_put_in_the_order_of_the_classes(form: str) -> None:
    counts = BY_CLASS[form]()
    logits = torch.randn(20, 3)

    def same(function: Callable[[Any], Tensor]) -> None:
        torch.testing.assert_close(function(counts), function(COUNTS), rtol=0, atol=0)

    same(class_prior)
    same(lambda given: shot_groups(given, many=3, few=2)["many"])
    same(lambda given: BalancedSoftmaxLoss(given).shift)
    same(lambda given: ClassWeightedLoss(nn.CrossEntropyLoss(), given).class_weights)
    same(lambda given: shift_logits(logits, given, given, strength=0.5))
    same(lambda given: PriorShift(nn.Identity(), [1, 1, 1], given)(logits))
    same(lambda given: estimate_prior(logits, given, trend=given, center=given))
    same(lambda given: effective_prior(given, UniMix(given), first_tau=given, partner_tau=given))
    same(lambda given: label_occurrence(given, given))
    assert shot_accuracy([0, 1], [0, 0], counts, many=3, few=2) == pytest.approx(
        {"many": float("nan"), "medium": 0.5, "few": float("nan")}, nan_ok=True
    )


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        (lambda: Counter([0, 0, 2]), r"comes with the classes 0, 2, but must hold a number for each of 0\.\.1"),
        (lambda: {1: 5, 2: 3}, "comes with the classes 1, 2"),
        (lambda: {"cat": 5, "dog": 3}, "comes with the classes 'cat', 'dog'.* For names pass a list"),
        (lambda: pandas(lambda pd: pd.Series([0, 0, 2]).value_counts()), r"classes 0, 2, .*`counts\.reindex\("),
        (lambda: pandas(lambda pd: pd.Series(["b", "b", "a"]).value_counts()), "comes with the classes 'b', 'a'"),
        (lambda: pandas(lambda pd: pd.Series([5, 3], index=[0, 0])), "comes with the classes 0, 0"),
        (lambda: pandas(lambda pd: pd.DataFrame({"n": COUNTS})), r"one number a class, shape \[C\], but has shape"),
        (lambda: [5, None], r"one number a class, but cannot be read as such: the number at place 1 is missing"),
        (lambda: "train", "it holds text such as 'train'"),
        (lambda: {}, r"shape \[C\], but has shape \[0\]"),
        (lambda: torch.ones(3, device="meta"), "must have values, but is on the meta device"),
    ],
)
def test_counts_of_other_classes_are_refused(counts: Callable[[], Any], found: str) -> None:
    for read in (class_prior, BalancedSoftmaxLoss, UniMix, lambda given: shot_accuracy([0], [0], given)):
        with pytest.raises(ValueError, match=f"`class_counts` .*{found}"):
            read(counts())


@pytest.mark.parametrize("loss", [BayiasLoss([9, 5, 2]), FocalLoss(), LADELoss([9, 5, 2])])
def test_what_is_no_tensor_is_refused_by_losses(loss: nn.Module) -> None:
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    for name, kind, given in (
        ("targets", "ndarray", (logits, targets.numpy())),
        ("targets", "list", (logits, targets.tolist())),
        ("logits", "tuple", ((logits, logits), targets)),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must be a tensor, but is a {kind}"):
            loss(*given)


@pytest.mark.parametrize("mixer", [MixUp(3), CutMix(3), UniMix([9, 5, 2])])
def test_what_is_no_tensor_is_refused_by_mixers(mixer: Any) -> None:
    inputs, targets = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    for name, kind, given in (
        ("inputs", "ndarray", (inputs.numpy(), targets)),
        ("targets", "list", (inputs, targets.tolist())),
        ("partner_targets", "list", (inputs, targets, inputs, targets.tolist())),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must be a tensor, but is a {kind}"):
            mixer(*given)
