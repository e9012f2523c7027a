"""The methods of the literature, and what their papers set for one data set only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ltaug.methods.method import Method

__all__ = ["METHODS", "PUBLISHED", "published_settings"]

_ZHANG = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018"
_XU = "Xu et al., Towards Calibrated Model for Long-Tailed Visual Recognition from Prior Perspective, NeurIPS 2021"
_KANG = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"
_CAO = "Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019"
_CUI = "Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019"
_LOB = "Zhang et al., Label-Occurrence-Balanced Mixup for Long-Tailed Recognition, ICASSP 2022"
_CHOU = "Chou et al., Remix: Rebalanced Mixup, ECCV workshops 2020"
_BC = "Tokozume et al., Learning from Between-class Examples for Deep Sound Recognition, ICLR 2018"
_ZHONG = "Zhong et al., Improving Calibration for Long-Tailed Recognition, CVPR 2021"
_ZHOU = "Zhou et al., BBN: Bilateral-Branch Network with Cumulative Learning, CVPR 2020"
_TIAN = "Tian et al., Posterior Re-calibration for Imbalanced Datasets, NeurIPS 2020"

_mixup = Method(mixer="mixup", paper=_ZHANG)
# Algorithm 1 stops mixing "in the last several epochs" without a number; here with the last decay of CIFAR's schedule.
_unimix = Method(mixer="unimix", alpha=0.8, partner_tau=0.0, mix_until=0.9, paper=f"{_XU}, Table 4")
_lob = Method(mixer="mixup", tau=0.0, partner_tau=0.0, paper=_LOB)
_bc = Method(mixer="between_class", paper=_BC)
_ldam = Method(loss="ldam", classifier="cosine", paper=_CAO)
_cb: Mapping[str, Any] = {"class_weights": "effective_number"}
_drw: Mapping[str, Any] = {**_cb, "reweight_from": 0.8}
_second = Method(sampler="class_aware", classifier="crt", batch_norm="fixed", first_stage="erm", paper=_KANG)
_mixed = replace(_second, first_stage="mixup", paper=_ZHONG)
_bayias: Mapping[str, Any] = {"loss": "prior_corrected"}

METHODS: dict[str, Method] = {
    "erm": Method(paper="plain cross-entropy, the baseline of every table"),
    "label_smoothing": Method(loss="label_smoothing", paper="Szegedy et al., CVPR 2016"),
    # mixing
    "mixup": _mixup,
    "manifold_mixup": Method(mixer="manifold_mixup", partner="batch", paper="Verma et al., ICML 2019"),
    "cutmix": Method(mixer="cutmix", paper="Yun et al., ICCV 2019"),
    "remix": Method(mixer="remix", paper=_CHOU),
    "unimix": _unimix,
    "lob_mixup": _lob,
    "lob_mixup_deferred": replace(_lob, rebalance_from=0.8),  # LOB*: plain mixup until the learning rate falls
    "lob_instance_class": replace(_mixup, partner_tau=0.0, paper=f"{_LOB}, section 4.4: IB + CB"),
    "lob_lambda": Method(
        mixer="occurrence_mixup", paper=f"{_LOB}, section 4.4: lambda adjusted instead of P; as we read it"
    ),
    "bbn": Method(mixer="bilateral", partner_tau=-1.0, classifier="bilateral", paper=_ZHOU),
    # mixing of sound
    "bc": replace(_bc, different_classes=True),
    "lob_bc": replace(_bc, tau=0.0, partner_tau=0.0, paper=_LOB),
    "lob_bc_deferred": replace(_bc, tau=0.0, partner_tau=0.0, rebalance_from=0.5, paper=f"{_LOB}; the place is ours"),
    # sampling
    "class_balanced": Method(tau=0.0, paper=_KANG),
    "square_root": Method(tau=0.5, paper=_KANG),
    "progressively_balanced": Method(sampler="progressive", paper=_KANG),
    "repeat_factor": Method(sampler="repeat_factor", paper="Gupta et al., LVIS, CVPR 2019"),
    "drs": Method(tau=0.0, rebalance_from=0.8, paper=_CAO),
    # losses
    "bayias": Method(**_bayias, paper=_XU),
    "balanced_softmax": Method(**_bayias, paper="Ren et al., NeurIPS 2020; the same as bayias"),
    "logit_adjustment": Method(**_bayias, paper="Menon et al., ICLR 2021, tau 1; the same as bayias"),
    "lade": Method(loss="lade", paper="Hong et al., CVPR 2021"),
    "focal": Method(loss="focal", paper="Lin et al., ICCV 2017, gamma 1 as in the released long-tail codes"),
    "cb_focal": Method(loss="focal", **_cb, paper=_CUI),
    "cb_ce": Method(**_cb, paper=_CUI),
    "reweight": Method(
        class_weights="inverse", paper="re-weighting by the inverse frequency, a baseline of many tables"
    ),
    "median_frequency": Method(class_weights="median_frequency", paper="Eigen and Fergus, ICCV 2015, for segmentation"),
    "max_frequency": Method(class_weights="max_frequency", paper=f"{_TIAN}, a baseline of Table 4"),
    "cdt": Method(loss="cdt", paper="Ye et al., 2020; gamma is this library's default"),
    "causal_norm": Method(classifier="causal_norm", paper="Tang et al., NeurIPS 2020"),
    "ldam": _ldam,
    "ldam_drw": replace(_ldam, **_drw),
    "ce_drw": Method(**_drw, paper=_CAO),
    "focal_drw": Method(loss="focal", **_drw, paper=_TIAN),
    # samples with several labels
    "distribution_balanced": Method(
        sampler="class_aware",
        samples_per_class=1,
        loss="distribution_balanced",
        paper="Wu et al., Distribution-Balanced Loss, ECCV 2020, without its focal term",
    ),
    # mixing and a loss
    "mixup_bayias": replace(_mixup, **_bayias, paper=f"{_XU}, Table 4"),
    "cutmix_bayias": Method(mixer="cutmix", **_bayias, paper="CutMix with Balanced Softmax, a strong composition"),
    "remix_bayias": Method(mixer="remix", **_bayias, paper=f"{_XU}, Table 4"),
    "remix_bayias_effective": Method(mixer="remix", **_bayias, prior="effective", paper="ours"),
    "unimix_bayias": replace(_unimix, **_bayias, paper=_XU),
    "unimix_bayias_effective": replace(_unimix, **_bayias, prior="effective", paper="ours"),
    # Partners from the batch, mixing to the end; its tau of -0.1 acts on samples: 0.9 is the same in the paper's unit.
    "unimix_bayias_official": replace(
        _unimix, **_bayias, partner="batch", partner_tau=0.9, mix_until=1.0, paper=f"{_XU}, released code"
    ),
    "mixup_ldam": replace(_ldam, mixer="mixup", paper=f"{_XU}, Table 4"),
    "unimix_ldam": replace(_unimix, loss="ldam", classifier="cosine"),
    "remix_ldam": replace(_ldam, mixer="remix", paper="ReMix with LDAM, beside mixup_ldam and unimix_ldam"),
    "mixup_drw": replace(_mixup, **_drw),
    "remix_drw": Method(mixer="remix", **_drw, paper=_CHOU),
    "bc_bayias": replace(_bc, **_bayias, paper="ours: between-class learning with a corrected loss"),
    "unimix_bc_bayias": replace(
        _unimix, mixer="unimix_between_class", mix_until=1.0, **_bayias, paper="ours: UniMix' factor for sounds"
    ),
    # second stages
    "crt": _second,
    "lws": replace(_second, classifier="lws"),
    "tau_norm": replace(_second, classifier="tau_norm", tune_tau=True),
    "ncm": replace(_second, classifier="ncm"),
    "crt_mixup": _mixed,
    "lws_mixup": replace(_mixed, classifier="lws"),
    # Mixing in both stages, of MiSLAS' Table 1: partners from the class-balanced batch.
    "crt_mixup_twice": replace(_mixed, mixer="mixup", partner="batch"),
    "lws_mixup_twice": replace(_mixed, classifier="lws", mixer="mixup", partner="batch"),
    "lws_mixup_shift": replace(_mixed, classifier="lws", batch_norm="shift", paper=f"{_ZHONG}, Table 3: MU + SL"),
    "mislas_cb_ce": replace(
        _mixed, classifier="mislas", batch_norm="shift", **_cb, paper=f"{_ZHONG}, Table 2: CB-CE instead of LAS"
    ),
    "mislas": replace(_mixed, classifier="mislas", loss="label_aware_smoothing", batch_norm="shift"),
}
"""Methods by name; the values are a paper's for CIFAR-100-LT at ratio 100, unless it has others."""

_LARGE = ("imagenet_lt", "places_lt", "inaturalist2018")
_MISLAS = ("mislas", "mislas_cb_ce")
_UNIMIX = ("unimix", "unimix_bayias", "unimix_bayias_effective", "unimix_ldam")


def _mislas(head: float, tail: float, ratio: float) -> dict[str, Any]:
    return {"smoothing_head": head, "smoothing_tail": tail, "delta_lr_ratio": ratio}


PUBLISHED: list[tuple[tuple[str, ...], tuple[str, ...], float | None, dict[str, Any]]] = [
    # UniMix (its released code for the last line)
    (_UNIMIX, ("cifar10",), None, {"partner_tau": -1.0}),
    (("unimix_bayias_official",), ("cifar10",), None, {"partner_tau": 0.5}),
    # LADE, Table 7
    (("lade",), ("cifar100",), 10, {"lade_alpha": 0.01}),
    (("lade",), ("cifar100",), 50, {"lade_alpha": 0.01}),
    (("lade",), ("imagenet_lt", "inaturalist2018"), None, {"lade_alpha": 0.05, "lade_lambda": 0.5}),
    (("lade",), ("places_lt",), None, {"lade_alpha": 0.005, "lade_lambda": 0.1}),
    # Causal norm, as LADE's code runs it
    (("causal_norm",), _LARGE, None, {"causal_alpha": 3.0}),
    # MiSLAS, Table 6
    (_MISLAS, ("cifar10",), 10, _mislas(0.1, 0.0, 0.2)),
    (_MISLAS, ("cifar10",), 50, _mislas(0.2, 0.0, 0.2)),
    (_MISLAS, ("cifar10",), 100, _mislas(0.3, 0.0, 0.5)),
    (_MISLAS, ("cifar100",), 10, _mislas(0.2, 0.0, 0.1)),
    (_MISLAS, ("cifar100",), 50, _mislas(0.3, 0.0, 0.1)),
    (_MISLAS, ("cifar100",), 100, _mislas(0.4, 0.1, 0.2)),
    (_MISLAS, ("imagenet_lt",), None, _mislas(0.3, 0.0, 0.05)),
    (_MISLAS, ("places_lt",), None, _mislas(0.4, 0.1, 0.05)),
    (_MISLAS, ("inaturalist2018",), None, _mislas(0.4, 0.0, 0.05)),
    (("crt_mixup_twice", "lws_mixup_twice"), _LARGE, None, {"alpha": 0.2}),
    # mixup on large sets: alpha as in MiSLAS and LOB; partners from the batch, as there, halve the decoding
    (("mixup", "mixup_bayias", "mixup_drw", "mixup_ldam"), _LARGE, None, {"alpha": 0.2, "partner": "batch"}),
    (("lob_mixup", "lob_mixup_deferred"), _LARGE, None, {"alpha": 0.2}),
    (("manifold_mixup", "remix"), ("imagenet_lt",), None, {"alpha": 0.2}),  # as LOB has its baselines
    (("cutmix_bayias", "cutmix"), _LARGE, None, {"partner": "batch"}),
]
"""What a paper sets for one data set, or one imbalance ratio of it: methods, data sets, ratio or None, settings."""


def published_settings(name: str, dataset: str, imbalance_ratio: float | None = None) -> dict[str, Any]:
    """Settings of a method that its paper has for this data set, and ratio, only; they go over those of ``METHODS``.

    Args:
        name: key of ``METHODS``.
        dataset: as the recipes call it, such as cifar10 or imagenet_lt.
        imbalance_ratio: largest over smallest class.

    >>> published_settings("mislas", "cifar10", 50)
    {'smoothing_head': 0.2, 'smoothing_tail': 0.0, 'delta_lr_ratio': 0.2}
    """
    found: dict[str, Any] = {}
    for names, datasets, ratio, settings in PUBLISHED:
        if name in names and dataset in datasets and (ratio is None or ratio == imbalance_ratio):
            found |= settings
    return found
