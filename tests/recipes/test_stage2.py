"""Second stages through the same train.py: every classifier, what it may change and what not, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipe_support import Recipe, contents, info, rows, summary
from safetensors.torch import load_file

from ltaug import ResidentLoader
from ltaug.errors import UserError
from ltaug.methods import METHODS

TRAINED = ("crt", "lws", "mislas")
COMPUTED = ("tau_norm", "ncm")


@pytest.fixture(scope="module")
def first(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished first stage."""
    folder = tmp_path_factory.mktemp("first") / "digits_ir50_tiny_erm_seed3"
    return tiny.train("erm", folder, seed=3, crop_padding=1)


def second(recipe: Recipe, method: str, first: Path, out: Path, **changes: Any) -> Path:
    """A short second stage with what it takes from its first one."""
    free = {"precision": None, "threads": 1, "eval_every": None, "epochs": 2 if method in TRAINED else None}
    return recipe.train(method, out, from_run=first, **(free | changes))


@pytest.mark.parametrize("method", [*TRAINED, *COMPUTED])
def test_every_classifier(tiny: Recipe, first: Path, tmp_path: Path, method: str) -> None:
    out = second(tiny, method, first, tmp_path / method)
    assert {*contents(out)} > {"config.yaml", "summary.json", "logits.safetensors", "model.safetensors", "ltaug.json"}
    values, old = summary(out), summary(first)
    assert (values["name"], values["method"], values["first_stage"]) == (method, method, METHODS[method].first_stage)
    assert values["training_indices"] == old["training_indices"]
    assert values["parameters"] == old["parameters"]
    settings = yaml.safe_load((out / "config.yaml").read_text())
    taken = ("dataset", "imbalance_ratio", "crop_padding", "seed", "batch_size", "precision")
    assert {name: settings[name] for name in taken} == {name: old["settings"][name] for name in taken}
    assert (settings["crop_padding"], settings["seed"], settings["protocol"]) == (1, 3, None)
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    # The network is the first stage's; the classifier is another one; batch norm follows only where it is told to.
    for name, value in after.items():
        statistics = "running" in name or "num_batches" in name
        same = torch.equal(value, before[name])
        assert same != (name.startswith("fc.weight") or (statistics and method == "mislas")) or name == "fc.bias", name
    if method == "tau_norm":
        tau = values["classifier_tau"]
        assert tau in [k / 10 for k in range(21)]
        assert f"computed with tau {tau:g}, chosen on held-out samples" in info(out)["logits_prior_reason"]
        length = before["fc.weight"].norm(dim=1, keepdim=True) ** tau
        assert torch.allclose(after["fc.weight"], before["fc.weight"] / length, atol=1e-5)
    prior = info(out)["logits_prior"]
    assert prior == (pytest.approx([0.1] * 10) if method in TRAINED else None)
    assert len(rows(out)) == (2 if method in TRAINED else 1)
    assert (values["epochs"], rows(out)[0]["loss"] is None) == ((2, False) if method in TRAINED else (0, True))


def test_it_stands_beside_its_first_stage(tiny: Recipe, first: Path) -> None:
    assert tiny.settings("crt", from_run=first).out == str(first.parent / "digits_ir50_tiny_crt_seed3")


def test_mislas_may_start_from_another_method_than_its_own(tiny: Recipe, first: Path, tmp_path: Path) -> None:
    """`first_stage` says what the paper does; any run with a linear classifier will do."""
    second(tiny, "mislas", first, tmp_path / "run")
    assert summary(tmp_path / "run")["settings"]["from_run"] == str(first)


def test_nearest_class_mean_is_that_of_the_training_set(tiny: Recipe, first: Path, tmp_path: Path) -> None:
    layer = load_file(second(tiny, "ncm", first, tmp_path / "ncm") / "model.safetensors")
    cfg = tiny.settings("erm", seed=3, crop_padding=1)
    data = tiny.module.load_data(cfg)
    net = tiny.module.build_model(10, cfg, data).eval()
    net.load_state_dict(load_file(first / "model.safetensors"))
    mean, std = data.preprocessing["mean"], data.preprocessing["std"]
    images = ResidentLoader(data.inputs["train"], data.train_labels, batch_size=64, mean=mean, std=std)
    with torch.no_grad():
        features, labels = map(torch.cat, zip(*((net.body(x).double(), y) for x, y in images), strict=True))
    means = torch.stack([features[labels == k].mean(0) for k in range(10)])
    logits = features @ layer["fc.weight"].double().T + layer["fc.bias"].double()
    assert torch.allclose(logits.softmax(1), (-torch.cdist(features, means).square()).softmax(1), atol=1e-4)


@pytest.mark.parametrize("mode", ["fixed", "shift"])
def test_batch_norm_does_what_is_asked(tiny: Recipe, first: Path, tmp_path: Path, mode: str) -> None:
    out = second(tiny, "crt", first, tmp_path / mode, **{"set.batch_norm": mode})
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    assert torch.equal(before["body.1.running_mean"], after["body.1.running_mean"]) == (mode == "fixed")
    assert torch.equal(before["body.1.weight"], after["body.1.weight"])
    assert summary(out)["name"] == f"crt_batch_norm{mode}"


def test_a_run_of_version_0_1_is_a_first_stage_too(tiny: Recipe, first: Path, tmp_path: Path) -> None:
    """Its config knew all settings of the method one by one, and not that there are networks."""
    old = shutil.copytree(first, tmp_path / "old")
    values = yaml.safe_load((old / "config.yaml").read_text())
    kept = (
        "dataset",
        "imbalance_ratio",
        "profile",
        "data_seed",
        "crop_padding",
        "flip",
        "seed",
        "batch_size",
        "precision",
    )
    values = {name: values[name] for name in kept} | {"method": "erm", "mixer": "none", "decay_epochs": [60, 72]}
    (old / "config.yaml").write_text(yaml.safe_dump(values))
    a = second(tiny, "lws", first, tmp_path / "a")
    b = second(tiny, "lws", old, tmp_path / "b")
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


class TestBadInput:
    @pytest.mark.parametrize(
        ("method", "changes", "message"),
        [
            ("crt", {"epochs": 0}, "`epochs` must be at least 1, but is 0"),
            ("crt", {"set.batch_norm": "fixd"}, r"did you mean 'fixed'\?"),
            ("crt", {"lr": -1}, "lr"),
            ("mislas", {"epoch": 3}, r"did you mean 'epochs'\?"),
            ("mislas", {"set.mixer": "manifold_mixup"}, "which a second stage keeps frozen"),
        ],
    )
    def test_settings(
        self, tiny: Recipe, first: Path, tmp_path: Path, method: str, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            second(tiny, method, first, tmp_path / "out", **changes)
        assert not (tmp_path / "out").exists()

    def test_no_first_stage(self, tiny: Recipe, first: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with pytest.raises(UserError, match="must name the run folder of its first stage, trained with `--method erm`"):
            tiny.train("crt", out)
        with pytest.raises(UserError, match=r"it has no config\.yaml\. Train it first"):
            second(tiny, "crt", tmp_path / "nothing", out)
        done = second(tiny, "tau_norm", first, tmp_path / "second")
        with pytest.raises(UserError, match="is itself a second stage"):
            second(tiny, "crt", done, out)
        cosine = tiny.train("ldam", tmp_path / "cosine", epochs=1)
        with pytest.raises(UserError, match="has the classifier cosine, but a second stage needs a linear one"):
            second(tiny, "crt", cosine, out)
        damaged = shutil.copytree(first, tmp_path / "damaged")
        (damaged / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(UserError, match=r"model\.safetensors` is damaged"):
            second(tiny, "crt", damaged, out)
        assert not out.exists()

    def test_tau_needs_samples_to_choose_it_on(self, tiny: Recipe, tmp_path: Path) -> None:
        first = tiny.train("erm", tmp_path / "first", profile="natural", epochs=1)
        with pytest.raises(UserError, match="chooses tau on held-out samples, but there are none"):
            second(tiny, "tau_norm", first, tmp_path / "out")
        out = second(tiny, "tau_norm", first, tmp_path / "plain", **{"set.tune_tau": False})
        assert "classifier_tau" not in summary(out)

    def test_another_data_set(self, tiny: Recipe, first: Path, tmp_path: Path) -> None:
        other = shutil.copytree(first, tmp_path / "other")
        values = json.loads((other / "ltaug.json").read_text())
        values["class_names"][3] = "drei"
        (other / "ltaug.json").write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"knows 10 classes .* but the data have 10"):
            second(tiny, "crt", other, tmp_path / "out")
        assert not (tmp_path / "out").exists()
