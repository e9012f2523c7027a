"""Devices that lack something: float64, as Apple's MPS, or all values, as the meta device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from ltaug import (
    BetweenClass,
    BiasCorrectedTemperatureScaling,
    CausalNormClassifier,
    CDTLoss,
    ClassPowerSampler,
    ClassWeightedLoss,
    CosineClassifier,
    CutMix,
    DeferredLoss,
    FocalLoss,
    GeneralizedClassifier,
    LabelAwareSmoothingLoss,
    LADELoss,
    LDAMLoss,
    LearnableWeightScaling,
    ManifoldMixUp,
    MixUp,
    NearestClassMeanClassifier,
    PairSampler,
    PriorCorrectedLoss,
    PriorShift,
    ReMix,
    RunningPrior,
    StructuredMatrixScaling,
    TemperatureScaling,
    UniMix,
    VectorScaling,
    analysis,
    class_counts,
    class_prior,
    effective_number,
    effective_number_weights,
    effective_prior,
    estimate_prior,
    metrics,
    shift_logits,
    shot_groups,
    tau_normalize,
)
from ltaug.correction import Correction, prior_estimators
from ltaug.fusion import entropy_statistics, mean_fusion, noisy_or, product_fusion, uncertainty_scale, uno_ic
from ltaug.labelshift import prior_interval
from ltaug.posthoc import log_prior_shift
from ltaug.priors import has_float64
from ltaug.testing import check_loss, check_mixer

# --- a device without float64 -----------------------------------------------------------------------------------------


class Narrow(Tensor):
    """A tensor that says it is on an Apple GPU."""


def is_narrow(value: Any) -> bool:
    return isinstance(value, (str, torch.device)) and str(value).startswith("mps")


class NarrowDevice(TorchFunctionMode):
    """Computes on the CPU what is asked of "mps", but refuses float64 and tensors of both devices in one operation."""

    mixing = ("to", "copy_", "__getitem__", "__setitem__", "__get__", "equal")

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, (given, _) = getattr(func, "__name__", ""), tree_flatten((args, kwargs or {}))
        here = [value for value in given if isinstance(value, Narrow)]
        if func is torch.device:
            return func(*args, **kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if name == "grad":  # by these very tensors
                return func(*args, **kwargs or {})
            if here and func == Tensor.device.__get__:  # a new object every time
                return torch.device("mps")
            wanted = [value for value in given[1:] if isinstance(value, (str, torch.device, Tensor))]
            back = name == "to" and not all(isinstance(value, Narrow) or is_narrow(value) for value in wanted)
            others = [x for x in given if isinstance(x, Tensor) and not isinstance(x, Narrow) and x.ndim]
            if name in ("numpy", "__array__") and here:
                raise TypeError("an array cannot be made of a tensor on mps")
            if here and others and name not in self.mixing:
                raise RuntimeError(f"{name}: tensors on two devices, mps and cpu")
            result = func(*tree_map(self.plain, args), **tree_map(self.plain, kwargs or {}))
            there = here or any(map(is_narrow, given))
            return (
                tree_map(functools.partial(self.narrow, name), result)
                if there and not back and name != "cpu"
                else result
            )

    @staticmethod
    def plain(value: Any) -> Any:
        if is_narrow(value):
            return torch.device("cpu")
        return value.as_subclass(Tensor) if isinstance(value, Narrow) else value

    @staticmethod
    def narrow(name: str, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float64:
            raise TypeError(f"{name}: mps has no float64")
        return value.as_subclass(Narrow) if isinstance(value, Tensor) else value


def on(device: str, tensor: Tensor) -> Tensor:
    return tensor.clone().as_subclass(Narrow) if device == "mps" else tensor.clone()


LOGITS, LABELS, COUNTS = (
    torch.randn(60, 3, generator=torch.Generator().manual_seed(0)),
    torch.arange(60) % 3,
    [50, 8, 2],
)

LOSSES = (PriorCorrectedLoss, LADELoss, LDAMLoss, CDTLoss, LabelAwareSmoothingLoss)
CALIBRATIONS = (
    TemperatureScaling,
    lambda: BiasCorrectedTemperatureScaling(3),
    lambda: VectorScaling(3),
    lambda: StructuredMatrixScaling(3),
)
OF_LABELS = ("average_precision", "labelwise_calibration_error")
OTHERS = ("segmentation_scores", "shot_accuracy", "classification_report", "multilabel_report", *OF_LABELS)
METRICS = [name for name in metrics.__all__ if name[0].islower() and name not in OTHERS]


def corrected(z: Tensor, y: Tensor, n: Tensor) -> Any:
    correction = Correction(n, prior_estimators(n)["center"], "grid", VectorScaling(3)).to(z.device)
    correction.tune(z, y)
    return correction(z), correction.evaluate(z, y, n)["final"]


def arithmetic() -> Iterator[tuple[str, Callable[[Tensor, Tensor, Tensor], Any]]]:
    """Everything that computes in float64 somewhere, of logits z, labels y and counts n on one device."""
    for loss in LOSSES:
        yield f"{loss.__name__}", lambda z, y, n, loss=loss: loss(n)(z, y)
        yield f"{loss.__name__}, soft", lambda z, y, n, loss=loss: loss(n.float())(z, z.softmax(1))
    yield "class weights", lambda z, y, n: ClassWeightedLoss(CDTLoss(n), effective_number_weights(n))(z, z.softmax(1))
    yield "focal", lambda z, y, n: FocalLoss(class_weights=n)(z, y)
    for function in (
        class_prior,
        effective_number,
        shot_groups,
        effective_number_weights,
        analysis.xi_aug_distribution,
    ):
        yield function.__name__, lambda z, y, n, function=function: function(n)
    yield "counting", lambda z, y, n: class_counts(y)
    yield "shift", lambda z, y, n: shift_logits(z, n, n.flip(0), strength=0.3)
    yield "log shift", lambda z, y, n: log_prior_shift(n, n.flip(0))
    yield "wrapper", lambda z, y, n: PriorShift(nn.Identity(), n).retarget(n.flip(0).float())(z)
    yield "a prior a row", lambda z, y, n: shift_logits(z, n, z.softmax(1))
    yield "wrapper, a prior a row", lambda z, y, n: PriorShift(nn.Identity(), n)(z, target_prior=z.softmax(1))
    yield "running prior", lambda z, y, n: RunningPrior(n).update(z[:40])
    yield "correction", lambda z, y, n: corrected(z, y, n)
    for make in CALIBRATIONS:
        yield (
            f"{make().__class__.__name__}",
            lambda z, y, n, make=make: make().fit(z[:9], y[:9], n[y[:9]].float(), 3.0, n)(z),
        )
    for method in ("em", "bbse", "rlls"):

        def validation(z: Tensor, y: Tensor, method: str = method) -> Any:
            return None if method == "em" else (z, y)

        yield method, lambda z, y, n, method=method, v=validation: estimate_prior(z, n, method, validation=v(z, y))
        yield (
            f"{method}, interval",
            lambda z, y, n, method=method, v=validation: prior_interval(z, n, method, validation=v(z, y), replicates=3),
        )
    yield "interval", lambda z, y, n: prior_interval(z, n, "bbse", validation=(z, y), replicates=3)
    yield "trend", lambda z, y, n: estimate_prior(z, n, trend=n.float().log())
    yield "centre", lambda z, y, n: estimate_prior(z, n, center=n.flip(0))
    yield "entropy", lambda z, y, n: entropy_statistics([z, z])
    yield "uncertainty", lambda z, y, n: uncertainty_scale(z, 0.4, 0.1)
    for fusion in (noisy_or, mean_fusion, product_fusion):
        yield fusion.__name__, lambda z, y, n, fusion=fusion: fusion([z.softmax(1), None, (-z).softmax(1)])
    yield "uno_ic", lambda z, y, n: uno_ic([z, -z], [(0.4, 0.1)] * 2, n, n.flip(0), present=[y > 0, None])
    for name in METRICS:
        yield name, lambda z, y, n, name=name: getattr(metrics, name)(z.softmax(1), y)
    for name in ("shot_accuracy", "classification_report"):
        yield name, lambda z, y, n, name=name: getattr(metrics, name)(z.softmax(1), y, n)
    for name in OF_LABELS:
        yield name, lambda z, y, n, name=name: getattr(metrics, name)(z.sigmoid(), F.one_hot(y, z.shape[1]))
    yield "labels", lambda z, y, n: metrics.multilabel_report(z.sigmoid(), F.one_hot(y, z.shape[1]), n)
    yield "segmentation", lambda z, y, n: metrics.segmentation_scores(metrics.confusion_matrix(y, y)).class_iou
    yield "effective prior", lambda z, y, n: effective_prior(n.float(), UniMix(n), first_tau=n, partner_tau=n.float())
    yield "logits prior", lambda z, y, n: analysis.logits_prior(n.float(), n)
    yield "xi", lambda z, y, n: analysis.xi_aug_probability(n.float(), n[:1])
    yield "density", lambda z, y, n: analysis.mixup_class_density(n / 25.0 + 1.0, 4, 10.0)
    yield "occurrence", lambda z, y, n: analysis.label_occurrence(n, ClassPowerSampler(y), y)
    yield "suppression", lambda z, y, n: analysis.label_suppression(n, n > 10)
    yield (
        "pairs",
        lambda z, y, n: PairSampler(ClassPowerSampler(y), ClassPowerSampler(y, tau=0), different_classes=y).indices(),
    )
    yield "class means", lambda z, y, n: NearestClassMeanClassifier(3, 3).fit(z.cpu(), y)(z.cpu())


def batch_report(z: Tensor, y: Tensor, n: Tensor) -> dict[str, float]:
    report = metrics.StreamingReport(n)
    report.update(z, y)
    return report.compute()


ARITHMETIC = {**dict(arithmetic()), "streaming": batch_report}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_what_computes_in_float64_does_so_on_the_cpu_where_the_device_cannot(name: str) -> None:
    answers = []
    for device in ("cpu", "mps"):
        with NarrowDevice() if device == "mps" else contextlib.nullcontext():
            given = (on(device, each) for each in (LOGITS, LABELS, torch.tensor(COUNTS)))
            answers.append(
                tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, Tensor) else x, ARITHMETIC[name](*given))
            )
    torch.testing.assert_close(answers[1], answers[0], equal_nan=True)


@pytest.mark.parametrize(
    "mixer",
    [
        MixUp(3),
        CutMix(3, dims=(-1,)),
        ReMix(COUNTS),
        UniMix(COUNTS, in_batch_tau=0.5),
        ManifoldMixUp(3, layers=["input"]),
    ],
    ids=str,
)
def test_mixers_run_where_torch_has_no_draw_from_beta(mixer: Any) -> None:
    with NarrowDevice():
        inputs, labels = on("mps", LOGITS), on("mps", LABELS)
        for targets in (labels, inputs.softmax(1)):
            for partners in ((), (inputs.flip(0), labels.flip(0))):
                mixed, dense = mixer(inputs, targets, *partners)
                assert str(mixed.device) == str(dense.device) == "mps"
                assert dense.cpu().sum(1).tolist() == pytest.approx([1.0] * 60)


def test_sounds_are_mixed_there_too() -> None:
    with NarrowDevice():
        _, dense = BetweenClass(3, 16000, different_classes=True)(on("mps", torch.randn(60, 2048)), on("mps", LABELS))
        assert dense.cpu().sum(1).tolist() == pytest.approx([1.0] * 60)


@pytest.mark.slow
def test_the_contracts_can_be_checked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    state = [0]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda given: state.append(given))
    with NarrowDevice():
        check_loss(PriorCorrectedLoss(COUNTS), 3, device="mps")
        check_mixer(MixUp(3), 3, device="mps", shapes=[()])
    assert state == [0, 0]


def test_the_pretended_device_refuses_what_the_true_one_does() -> None:
    with NarrowDevice():
        here = on("mps", LOGITS)
        for wrong in (
            lambda: here.double(),
            lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
            lambda: here.numpy(),
        ):
            with pytest.raises(TypeError, match="mps"):
                wrong()
        with pytest.raises(RuntimeError, match="two devices"):
            here + LOGITS
        assert here.cpu().double().dtype == torch.float64


def test_devices_are_asked_what_they_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_float64(torch.device("cpu"))
    assert has_float64(torch.device("cuda", 1))
    assert not has_float64(torch.device("mps"))
    assert not has_float64(torch.device("xpu"))  # there is none in this machine

    class Answers(TorchFunctionMode):
        def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            return func(*args, **{**(kwargs or {}), "device": "cpu"} if func is torch.ones else kwargs or {})

    with Answers():
        assert has_float64(torch.device("xpu", 3))


# --- the meta device --------------------------------------------------------------------------------------------------


def linear() -> nn.Linear:
    return nn.Linear(3, 3)


def tuned(correction: Correction) -> Correction:
    with torch.device("cpu"):
        correction.tune(LOGITS, LABELS)
    return correction


MODULES: dict[str, Callable[[], nn.Module]] = {
    **{loss.__name__: lambda loss=loss: loss(COUNTS) for loss in LOSSES},
    "FocalLoss": lambda: FocalLoss(class_weights=[1, 2, 3]),
    "equal counts": lambda: LabelAwareSmoothingLoss([5, 5, 5]),
    "target": lambda: PriorCorrectedLoss(COUNTS, target_prior={2: 1, 1: 2, 0: 3}),
    "ClassWeightedLoss": lambda: ClassWeightedLoss(LDAMLoss(COUNTS), effective_number_weights(COUNTS)),
    "DeferredLoss": lambda: DeferredLoss(CDTLoss(COUNTS), FocalLoss(class_weights=[1, 2, 3]), 0),
    "PriorShift": lambda: PriorShift(nn.Linear(3, 3), COUNTS),
    "PriorShift, target": lambda: PriorShift(nn.Identity(), COUNTS, [1, 2, 3], 0.5),
    "RunningPrior": lambda: RunningPrior(COUNTS, center=[1, 2, 3]),
    "Correction": lambda: tuned(Correction(COUNTS, [1, 2, 3], 0.5, VectorScaling(3))),
    "TemperatureScaling": TemperatureScaling,
    "BiasCorrectedTemperatureScaling": lambda: BiasCorrectedTemperatureScaling(3),
    "StructuredMatrixScaling": lambda: StructuredMatrixScaling(3),
    "VectorScaling": lambda: VectorScaling(3),
    "CosineClassifier": lambda: CosineClassifier(3, 3),
    "CausalNormClassifier": lambda: CausalNormClassifier(3, 3, heads=1),
    "GeneralizedClassifier": lambda: GeneralizedClassifier(linear()),
    "GeneralizedClassifier, code": lambda: GeneralizedClassifier(linear(), retain=0.0, mode="official_code"),
    "LearnableWeightScaling": lambda: LearnableWeightScaling(linear()),
    "NearestClassMeanClassifier": lambda: NearestClassMeanClassifier(3, 3),
    "tau_normalize": lambda: tau_normalize(linear(), 1.0),
}


def answer(module: nn.Module) -> Tensor:
    return module.eval()(LOGITS, LABELS) if type(module).__name__.endswith("Loss") else module.eval()(LOGITS)


def emptied(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.to_empty(device="cpu")
    module.load_state_dict(state)
    return module


def assigned(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state, assign=True)
    return module


@pytest.mark.parametrize("load", [emptied, assigned])
@pytest.mark.parametrize("built", ["torch", "accelerate", "accelerate, buffers", "moved"])
@pytest.mark.parametrize("name", MODULES)
def test_what_is_built_without_values_has_the_right_ones_once_it_is_loaded(
    name: str, built: str, load: Callable
) -> None:
    whole = MODULES[name]()
    if isinstance(whole, NearestClassMeanClassifier):
        whole.fit(LOGITS, LABELS)
    if "Scaling" in name:
        for numbers in whole.buffers():  # a fit, or weights
            numbers += torch.rand_like(numbers)
    if built == "moved":
        module = nn.ModuleDict({"part": MODULES[name]()}).to("meta")["part"]
    else:
        accelerate = None if built == "torch" else pytest.importorskip("accelerate")
        with torch.device("meta") if accelerate is None else accelerate.init_empty_weights("buffers" in built):
            module = MODULES[name]()
    torch.testing.assert_close(answer(load(module, whole.state_dict())), answer(whole))


def test_buffers_stay_where_a_loader_patches_their_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    register = nn.Module.register_buffer

    def moved(module: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        register(module, name, tensor, persistent)
        module._buffers[name] = None if tensor is None else tensor.to("meta")

    monkeypatch.setattr(nn.Module, "register_buffer", moved)
    assert answer(PriorCorrectedLoss(COUNTS)).isfinite()
    assert torch.equal(PriorShift(nn.Identity(), [1, 1, 1])(LOGITS), LOGITS)


def test_statistics_still_move_and_change_type() -> None:
    loss = PriorCorrectedLoss(COUNTS)
    assert loss.to(torch.float64).shift.dtype == torch.float64
    assert loss.half().shift.dtype == torch.float16
    assert loss.to("meta").shift.device.type == "cpu"
    shift = PriorShift(nn.Linear(3, 3), COUNTS).half()
    assert (shift.model.weight.dtype, shift.shift.dtype) == (torch.float16, torch.float32)


def test_counts_without_values_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="`class_counts` must have values, but is on the meta"):
        PriorCorrectedLoss(torch.tensor(COUNTS))
