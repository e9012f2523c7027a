"""Every row of the five papers' tables, as they print its numbers: schedule, second stage, hyper-parameters.

The tables here are typed from the papers (and from their released codes where a paper is silent), not from the
protocols: a setting that moves in either shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from recipe_support import ROOT, Recipe, imported

from ltaug.methods import METHODS
from ltaug.training import learning_rate, settings_of


@dataclass(frozen=True)
class Schedule:
    """Of a first stage; `falls` says what the rate is multiplied by from an epoch on, None is a cosine down to 0."""

    epochs: int
    batch: int
    lr: float
    decay: float
    falls: dict[int, float] | None = None
    warmup: int = 0
    warm: float | None = None  # share of the rate during the warm-up; None: it rises linearly
    second: dict[str, tuple[int, float]] = field(default_factory=dict)  # epochs and rate, by method; "" the others
    own: dict[str, Any] = field(default_factory=dict)  # further settings

    def rate(self, epoch: int) -> float:
        """Of an epoch counted from 0."""
        if epoch < self.warmup:
            return self.lr * (self.warm if self.warm is not None else (epoch + 1) / self.warmup)
        if self.falls is None:
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.lr * min([1.0, *(factor for start, factor in self.falls.items() if epoch >= start)])


LDAM = Schedule(200, 128, 0.1, 2e-4, {160: 0.01, 180: 0.0001}, warmup=5)
TEN = {"": (10, 0.1)}
R152 = {"model": "resnet152", "pretrained": True, "dataset": "places_lt"}
ENVNET = {"optimizer": "nesterov", "momentum": 0.9, "model": "envnet", "sample_rate": 16_000, "crop_length": 24_014}
V2 = {"optimizer": "nesterov", "momentum": 0.9, "model": "envnet_v2", "sample_rate": 44_100, "crop_length": 66_650}
V2_FALLS = {"lr": 0.1, "warmup": 10, "warm": 0.1}
SYNTHIA = Schedule(12, 2, 1e-5, 0.0, {}, own={"optimizer": "adam", "model": "resnet101", "dataset": "synthia"})
SCHEDULES = {
    # IC's released code: Adam at a constant rate (METHODS.md, IC's lambda).
    ("synthia_rgbd", None): SYNTHIA,
    ("synthia_rgbd", "ic"): SYNTHIA,
    # UniMix' released code (METHODS.md, 1.8), LDAM-DRW, MiSLAS' Table 6, LADE's section 6.2, BBN's section 5.2.
    ("cifar_lt", "unimix"): replace(LDAM, batch=64),
    ("cifar_lt", "ldam"): LDAM,
    ("cifar_lt", "ic"): LDAM,
    ("cifar_lt", "lob"): LDAM,
    ("cifar_lt", None): LDAM,
    ("cifar_lt", "mislas"): replace(LDAM, falls={160: 0.1, 180: 0.01}, second=TEN),
    ("cifar_lt", "lade"): Schedule(200, 256, 0.2, 5e-4, {120: 0.01, 160: 0.0001}, warmup=5),
    ("cifar_lt", "bbn"): replace(LDAM, falls={120: 0.01, 160: 0.0001}),
    ("imagenet_lt", "mislas"): Schedule(180, 256, 0.1, 5e-4, second=TEN, own={"model": "resnet50"}),
    ("imagenet_lt", "mislas_places"): Schedule(90, 256, 0.1, 5e-4, second=TEN, own=R152),
    ("imagenet_lt", "lade"): Schedule(180, 256, 0.05, 5e-4, own={"model": "resnext50_32x4d", "augmentation": "crop"}),
    # 0.05 for the classifier, 0.001 for the rest.
    ("imagenet_lt", "lade_places"): Schedule(
        30, 128, 0.001, 5e-4, {10: 0.1, 20: 0.01}, own=R152 | {"head_lr_factor": 0.05 / 0.001, "augmentation": "crop"}
    ),
    ("imagenet_lt", "ic_places"): Schedule(20, 128, 0.005, 5e-4, {10: 0.1, 16: 0.01}, own=R152),
    ("imagenet_lt", "lob"): Schedule(90, 512, 0.2, 5e-4, own={"model": "resnet10"}),
    ("imagenet_lt", "decouple"): Schedule(
        90, 512, 0.2, 5e-4, second={"": (10, 0.2), "lws": (5, 0.2)}, own={"model": "resnext50_32x4d"}
    ),
    ("inaturalist", "mislas"): Schedule(200, 256, 0.1, 1e-4, second={"": (30, 0.1)}, own={"model": "resnet50"}),
    ("inaturalist", "lade"): Schedule(200, 256, 0.1, 5e-4, own={"model": "resnet50", "augmentation": "crop"}),
    ("inaturalist", "decouple"): Schedule(200, 512, 0.2, 1e-4, second={"": (30, 0.2), "lws": (5, 0.2)}),
    ("inaturalist", "bbn"): Schedule(180, 128, 0.05, 1e-4, {120: 0.1, 160: 0.01}, own={"model": "resnet50"}),
    # UniMix and IC on large sets: settings not released, the recipe's own; Inception-v3 at 299 pixels is the paper's.
    ("imagenet_lt", None): Schedule(90, 256, 0.1, 5e-4),
    ("inaturalist", None): Schedule(200, 256, 0.1, 1e-4, own={"model": "resnet50"}),
    ("inaturalist", "inception"): Schedule(200, 256, 0.1, 1e-4, own={"model": "inception_v3", "image_size": 299}),
    # BC learning's opts.py: epochs double where sounds are mixed.
    ("esc50_lt", None): Schedule(600, 64, 0.01, 5e-4, {300: 0.1, 450: 0.01}, own=ENVNET),
    ("esc50_lt", "bc"): Schedule(1200, 64, 0.01, 5e-4, {600: 0.1, 900: 0.01}, own=ENVNET),
    ("esc50_lt", "envnet_v2"): Schedule(
        1000, 64, decay=5e-4, falls={300: 0.1, 600: 0.01, 900: 0.001}, own=V2, **V2_FALLS
    ),
    ("esc50_lt", "envnet_v2_bc"): Schedule(
        2000, 64, decay=5e-4, falls={600: 0.1, 1200: 0.01, 1800: 0.001}, own=V2, **V2_FALLS
    ),
    ("esc50_lt", "envnet_v2_esc10"): Schedule(600, 64, 0.01, 5e-4, {300: 0.1, 450: 0.01}, own=V2),
    ("esc50_lt", "envnet_v2_esc10_bc"): Schedule(1200, 64, 0.01, 5e-4, {600: 0.1, 900: 0.01}, own=V2),
}

BOTH, FOUR, THREE, TWO = ("cifar10", "cifar100"), (10, 50, 100, 200), (10, 50, 100), (10, 100)
PLAIN = {"erm": {}, "class_balanced": {"tau": 0.0}, "manifold_mixup": {"mixer": "manifold_mixup", "alpha": 1.0}}
MIXUP = {"mixer": "mixup", "alpha": 1.0}
SMALL_MIXUP = MIXUP | {"alpha": 0.2}
REMIX = {"mixer": "remix", "alpha": 1.0, "remix_kappa": 3.0, "remix_tau": 0.5}
COSINE = {"loss": "ldam", "classifier": "cosine", "ldam_margin": 0.5, "scale": 30.0}
WEIGHTS = {"class_weights": "effective_number", "beta": 0.9999}
DRW = WEIGHTS | {"reweight_from": 160 / 200}
FOCAL = {"loss": "focal", "focal_gamma": 1.0}
BAYIAS = {"loss": "prior_corrected", "loss_tau": 1.0, "target_prior": (), "prior": "train"}
BBN = {"mixer": "bilateral", "tau": 1.0, "partner_tau": -1.0, "classifier": "bilateral"}
UNIMIX = {"mixer": "unimix", "alpha": 0.8, "tau": 1.0, "partner": "dataset"}
SECOND = {"sampler": "class_aware", "samples_per_class": 4}
CRT, LWS = SECOND | {"classifier": "crt"}, SECOND | {"classifier": "lws"}
TAU_NORM = {"classifier": "tau_norm", "tune_tau": True}
ON_MIXUP, TWICE = {"first_stage": "mixup"}, SMALL_MIXUP | {"partner": "batch", "first_stage": "mixup"}
LADE = {"loss": "lade", "classifier": "linear", "mode": "paper"}
LOB = MIXUP | {"tau": 0.0, "partner_tau": 0.0, "partner": "dataset"}
Methods = dict[str, dict[str, Any]]


def causal(alpha: float) -> dict[str, Any]:
    return {"classifier": "causal_norm", "causal_alpha": alpha}


def lade(alpha: float, weight: float) -> dict[str, Any]:
    return LADE | {"lade_alpha": alpha, "lade_lambda": weight}


def mislas(head: float, tail: float, ratio: float) -> Methods:
    """Of its Tables 2 to 5."""
    classifier = SECOND | ON_MIXUP | {"classifier": "mislas", "batch_norm": "shift", "delta_lr_ratio": ratio}
    smoothing = {"loss": "label_aware_smoothing", "smoothing_shape": "concave"}
    smoothing |= {"smoothing_head": head, "smoothing_tail": tail}
    return {"mislas": classifier | smoothing, "mislas_cb_ce": classifier | WEIGHTS | {"loss": "ce"}}


def rows() -> Iterator[tuple[str, str | None, str, float | None, Methods]]:
    """Recipe, protocol, data set, ratio (None: as the set is), and what each method of the table has there."""
    for dataset in BOTH:
        for ratio in FOUR:  # UniMix, Tables 1, 2 and 4
            tau, official = (-1.0, 0.5) if dataset == "cifar10" else (0.0, 0.9)
            unimix = UNIMIX | {"partner_tau": tau}
            table: Methods = PLAIN | {"mixup": MIXUP, "remix": REMIX, "focal": FOCAL, "cb_focal": FOCAL | WEIGHTS}
            table |= {"tau_norm": TAU_NORM, "ldam": COSINE, "ldam_drw": COSINE | DRW, "cdt": {"loss": "cdt"}}
            table |= {"logit_adjustment": BAYIAS, "bbn": BBN, "bayias": BAYIAS, "mixup_bayias": MIXUP | BAYIAS}
            table |= {"remix_bayias": REMIX | BAYIAS, "unimix": unimix, "unimix_bayias": unimix | BAYIAS}
            table |= {"mixup_ldam": MIXUP | COSINE, "unimix_ldam": unimix | COSINE, "remix_ldam": REMIX | COSINE}
            inside = {"partner": "batch", "partner_tau": official, "mix_until": 1.0}
            table |= {"unimix_bayias_official": UNIMIX | inside | BAYIAS}
            yield "cifar_lt", "unimix", dataset, ratio, table
            table = {"ldam": COSINE, "ldam_drw": COSINE | DRW, "remix_drw": REMIX | DRW, "mixup_drw": MIXUP | DRW}
            yield "cifar_lt", "ldam", dataset, ratio, table
            yield "cifar_lt", "bbn", dataset, ratio, {"bbn": BBN}
        for ratio in TWO:  # IC, Table 2, exponential and step; LOB, Tables 1 to 3
            table = {"erm": {}, "focal": FOCAL, "ldam": COSINE, "cb_ce": WEIGHTS, "cb_focal": FOCAL | WEIGHTS}
            table |= {"ce_drw": DRW, "focal_drw": FOCAL | DRW, "ldam_drw": COSINE | DRW}
            yield "cifar_lt", "ic", dataset, ratio, table
            table = PLAIN | {"mixup": MIXUP, "remix": REMIX, "lob_mixup": LOB, "drs": {"tau": 0.0}}
            table |= {"lob_mixup_deferred": LOB | {"rebalance_from": 160 / 200}, "logit_adjustment": BAYIAS}
            table |= {"lob_instance_class": MIXUP | {"tau": 1.0, "partner_tau": 0.0}, "ldam_drw": COSINE | DRW}
            table |= {"lob_lambda": {"mixer": "occurrence_mixup", "tau": 1.0, "partner_tau": 1.0}}
            yield "cifar_lt", "lob", dataset, ratio, table
    stages: Methods = {"erm": {}, "mixup": MIXUP, "remix_drw": REMIX | DRW, "ldam_drw": COSINE | DRW}
    stages |= {"crt_mixup": CRT | ON_MIXUP, "lws_mixup": LWS | ON_MIXUP | {"batch_norm": "fixed"}}
    stages |= {"lws": LWS, "lws_mixup_shift": LWS | ON_MIXUP | {"batch_norm": "shift"}}
    six = ((0.1, 0.0, 0.2), (0.2, 0.0, 0.2), (0.3, 0.0, 0.5), (0.2, 0.0, 0.1), (0.3, 0.0, 0.1), (0.4, 0.1, 0.2))
    for k, own in enumerate(six):  # MiSLAS, Table 6
        yield "cifar_lt", "mislas", BOTH[k // 3], THREE[k % 3], stages | mislas(*own)
    for ratio, alpha in ((10, 0.01), (50, 0.01), (100, 0.1)):  # LADE, Table 7
        table = {"erm": {}, "balanced_softmax": BAYIAS, "causal_norm": causal(1.5), "lade": lade(alpha, 0.01)}
        table |= {"bayias": BAYIAS, "focal": FOCAL, "ldam": COSINE}
        yield "cifar_lt", "lade", "cifar100", ratio, table
    for recipe, protocol, dataset, own in (
        ("imagenet_lt", "mislas", "imagenet_lt", (0.3, 0.0, 0.05)),
        ("imagenet_lt", "mislas_places", "places_lt", (0.4, 0.1, 0.05)),
        ("inaturalist", "mislas", "inaturalist2018", (0.4, 0.0, 0.05)),
    ):
        both = {"crt_mixup_twice": CRT | TWICE, "lws_mixup_twice": LWS | TWICE}
        table = stages | {"mixup": SMALL_MIXUP, "crt": CRT, "tau_norm": TAU_NORM} | both | mislas(*own)
        table |= {"ce_drw": DRW, "focal_drw": FOCAL | DRW, "cb_focal": FOCAL | WEIGHTS}
        yield recipe, protocol, dataset, None, table
    for recipe, protocol, dataset, alpha, weight in (
        ("imagenet_lt", "lade", "imagenet_lt", 0.05, 0.5),
        ("imagenet_lt", "lade_places", "places_lt", 0.005, 0.1),
        ("inaturalist", "lade", "inaturalist2018", 0.05, 0.5),
    ):
        table = {"erm": {}, "balanced_softmax": BAYIAS, "causal_norm": causal(3.0), "lade": lade(alpha, weight)}
        table |= {"bayias": BAYIAS, "focal": FOCAL, "cb_focal": FOCAL | WEIGHTS, "lws": LWS, "tau_norm": TAU_NORM}
        yield recipe, protocol, dataset, None, table | {"ldam": COSINE, "ldam_drw": COSINE | DRW}
    lob = LOB | {"alpha": 0.2}
    table = {"erm": {}, "mixup": SMALL_MIXUP, "remix": REMIX | {"alpha": 0.2}, "lob_mixup": lob}
    table |= {"manifold_mixup": PLAIN["manifold_mixup"] | {"alpha": 0.2}, "lob_mixup_deferred": lob}
    table |= {"class_balanced": {"tau": 0.0}, "drs": {"tau": 0.0}, "ldam_drw": COSINE | DRW}
    yield "imagenet_lt", "lob", "imagenet_lt", None, table
    table = {"erm": {}, "cb_ce": WEIGHTS, "ldam": COSINE, "ldam_drw": COSINE | DRW}  # UniMix, Table 3
    yield "imagenet_lt", None, "imagenet_lt", None, table | {"unimix_bayias": UNIMIX | BAYIAS}
    table |= {"ce_drw": DRW, "focal": FOCAL, "focal_drw": FOCAL | DRW}  # IC, Table 3
    yield "inaturalist", None, "inaturalist2018", None, table | {"unimix_bayias": UNIMIX | BAYIAS}
    yield "inaturalist", "inception", "inaturalist2018", None, table
    yield "imagenet_lt", "ic_places", "places_lt", None, {"erm": {}, "ce_drw": WEIGHTS, "focal": FOCAL}
    on_erm = {"first_stage": "erm"}
    table = {"erm": {}, "crt": CRT | on_erm, "lws": LWS | on_erm, "tau_norm": TAU_NORM, "ncm": {"classifier": "ncm"}}
    table |= {"class_balanced": {"tau": 0.0}, "square_root": {"tau": 0.5}, "progressively_balanced": {}}
    yield "imagenet_lt", "decouple", "imagenet_lt", None, table
    yield "inaturalist", "decouple", "inaturalist2018", None, table
    yield "inaturalist", "bbn", "inaturalist2018", None, {"bbn": BBN}
    bc = {"mixer": "between_class", "different_classes": True, "tau": 1.0, "partner_tau": 1.0}
    lob_bc = {"mixer": "between_class", "tau": 0.0, "partner_tau": 0.0}
    for protocol in (None, "envnet_v2", "envnet_v2_esc10"):  # LOB, ESC-50-LT; BC learning on ESC-10
        mixed = "bc" if protocol is None else f"{protocol}_bc"
        for dataset in ("esc10", *(() if protocol == "envnet_v2_esc10" else ("esc50",))):
            yield "esc50_lt", protocol, dataset, 10, {"erm": {}, "class_balanced": {"tau": 0.0}}
            yield "esc50_lt", mixed, dataset, 10, {"bc": bc, "lob_bc": lob_bc}
    table = {"erm": {}, "focal": FOCAL, "ldam": {"loss": "ldam", "classifier": "cosine"}}
    table |= {name: {"class_weights": name} for name in ("median_frequency", "max_frequency")}
    yield "synthia_rgbd", None, "synthia", None, table  # IC, Table 4


def test_every_command_of_the_page_is_in_the_tables() -> None:
    """docs/papers.md trains nothing that these tables do not have: no row of it is left unchecked."""
    known = {(recipe, protocol, dataset, method) for recipe, protocol, dataset, _, table in rows() for method in table}
    page = (ROOT / "docs/papers.md").read_text()
    sweeps = re.findall(r"`ltaug sweep recipes/(\w+)/train\.py ([^`]* --out [^`]*)`", page)
    unchecked = set()
    for recipe, words in sweeps:
        protocol = re.search(r"--protocol (\w+)", words)
        datasets, methods = (re.search(rf"\b{name}=(\S+)", words) for name in ("dataset", "method"))
        of_protocol = {d for r, p, d, _ in known if (r, p) == (recipe, protocol and protocol[1])}
        for dataset in datasets[1].split(",") if datasets else of_protocol or {"?"}:
            rows_of_it = {(recipe, protocol and protocol[1], dataset, name) for name in methods[1].split(",")}
            unchecked |= rows_of_it - known
    assert len(sweeps) > 200
    assert not unchecked


@pytest.fixture(scope="module", params=["cifar_lt", "esc50_lt", "imagenet_lt", "inaturalist", "synthia_rgbd"])
def recipe(request: pytest.FixtureRequest) -> Iterator[Recipe]:
    with imported(ROOT / "recipes" / request.param) as recipe:
        yield recipe


@pytest.fixture(scope="module")
def read(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The settings of words, each parsed once; a second stage starts from a run that only seems finished."""
    first = tmp_path_factory.mktemp("first")
    for name in ("ltaug.json", "model.safetensors"):
        (first / name).write_text("{}")

    @cache
    def settings(*words: str) -> Any:
        return settings_of(recipe.module.Config, str(recipe.script), list(words))

    (first / "config.yaml").write_text(yaml.safe_dump(vars(settings())))

    def reader(protocol: str | None, *words: str, second: bool = False) -> Any:
        words = (*words, *(("--protocol", protocol) if protocol else ()))
        return settings(*words, *(("--from_run", str(first)) if second else ()))

    return reader


def test_schedules(recipe: Recipe, read: Any) -> None:
    """Of every protocol of a paper: the rate in every epoch, and what else the paper states."""
    ours = {path.stem for path in recipe.script.parent.glob("protocols/*.yaml")}
    papers = {protocol for name, protocol in SCHEDULES if name == recipe.name and protocol}
    others = {"digits", "synthetic", "mel", "transformers", "lift", "linear_probe", "strong", "vit", "inception"}
    assert ours - papers <= others | {"folder", "rendered"}
    for protocol in [protocol for name, protocol in SCHEDULES if name == recipe.name]:
        wanted, cfg = SCHEDULES[recipe.name, protocol], read(protocol)
        assert (cfg.epochs, cfg.batch_size, cfg.lr, cfg.weight_decay) == (
            wanted.epochs,
            wanted.batch,
            wanted.lr,
            wanted.decay,
        ), protocol
        assert cfg.schedule == ("cosine" if wanted.falls is None else "steps"), protocol
        within = 0.0 if wanted.falls is None else None  # in large sets the rate moves with every step
        rates = [learning_rate(cfg, epoch, within) for epoch in range(cfg.epochs)]
        assert rates == pytest.approx([wanted.rate(epoch) for epoch in range(wanted.epochs)]), protocol
        assert cfg.momentum == 0.9
        assert cfg.optimizer == wanted.own.get("optimizer", "sgd")
        assert {name: getattr(cfg, name) for name in wanted.own} == wanted.own, protocol
        for method, (epochs, lr) in wanted.second.items():
            cfg = read(protocol, "--method", method or "crt", second=True)
            assert (cfg.epochs, cfg.lr, cfg.schedule, cfg.warmup_epochs) == (epochs, lr, "cosine", 0.0), protocol
            assert (cfg.batch_size, cfg.weight_decay) == (wanted.batch, wanted.decay), protocol


def test_other_lengths(recipe: Recipe, read: Any) -> None:
    """Tables of 90 and 300 epochs: every place of the schedule moves along."""
    for name, protocol, words, wanted in (
        ("imagenet_lt", "lade", ("--epochs", "90"), replace(SCHEDULES["imagenet_lt", "lade"], epochs=90)),
        ("inaturalist", "bbn", ("--epochs", "90"), Schedule(90, 128, 0.05, 1e-4, {60: 0.1, 80: 0.01})),
        ("cifar_lt", "ldam", ("--epochs", "300"), Schedule(300, 128, 0.1, 2e-4, {240: 0.01, 270: 0.0001}, warmup=5)),
    ):
        if name == recipe.name:
            cfg = read(protocol, *words)
            within = 0.0 if wanted.falls is None else None
            rates = [learning_rate(cfg, epoch, within) for epoch in range(cfg.epochs)]
            assert rates == pytest.approx([wanted.rate(epoch) for epoch in range(wanted.epochs)]), protocol


def test_a_second_stage_has_no_factor_of_the_first(recipe: Recipe, read: Any) -> None:
    """LADE's Places-LT trains the classifier at 50 times the rate of the network; decoupled, at the stage's own."""
    if recipe.name == "imagenet_lt":
        cfg = read("lade_places", "--method", "lws", second=True)
        assert (cfg.lr, cfg.epochs) == (0.1, 10)
        assert cfg.head_lr_factor == 50  # and is over nothing: see test_a_classifier_alone_has_the_rate_of_its_stage


def test_rows(recipe: Recipe, read: Any) -> None:
    """Every method of every table on its data: what it is made of, where it switches, and that a plan comes of it."""
    checked = 0
    for name, protocol, dataset, ratio, table in rows():
        if name != recipe.name:
            continue
        assert (name, protocol) in SCHEDULES
        first = read(protocol)
        assert dataset in (first.dataset, *BOTH, "esc10", "esc50"), (protocol, dataset)
        for method, wanted in table.items():
            second = METHODS[method].second_stage
            cfg = read(protocol, "--method", method, second=True) if second else replace(first, method=method)
            cfg = replace(cfg, dataset=dataset, **({} if ratio is None else {"imbalance_ratio": float(ratio)}))
            made = cfg.chosen_method()
            assert {key: getattr(made, key) for key in wanted} == wanted, (protocol, dataset, ratio, method)
            if wanted.get("classifier") is None:  # what the row does not name is plain
                assert made.classifier == "linear", (protocol, method)
            if wanted.get("loss") is None:
                assert made.loss == "ce", (protocol, method)
            plan = made.plan(
                torch.arange(4).repeat(8), epochs=cfg.epochs, batch_size=cfg.batch_size, sample_rate=16_000
            )
            if wanted.get("reweight_from") and cfg.epochs == 200:
                assert [plan._reached(epoch, made.reweight_from) for epoch in (159, 160)] == [False, True]
            checked += 1
    assert checked > {"cifar_lt": 200, "synthia_rgbd": 4}.get(recipe.name, 10)
