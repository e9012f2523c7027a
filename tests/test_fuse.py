"""`ltaug fuse`: Algorithm 1 derived again in float64, from run folders that no network has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltaug import metrics
from ltaug.__main__ import main
from ltaug.commands.fuse import RunFusion
from ltaug.errors import UserError
from ltaug.run import RunFolder

CLASSES, COUNTS = ["road", "sky", "sign"], [9000, 900, 90]
CONDITIONS = ("test", "held_out", "fog")
STATISTICS = {"rgb": (0.2, 0.05), "depth": (0.3, 0.02)}


def write_run(folder: Path, modality: str, seed: int, labels_seed: int = 0, **info: Any) -> Path:
    """A run folder as a training leaves it: logits that know the truth, less so in fog for pictures."""
    run = RunFolder(folder, {"method": "erm"})
    tensors = {}
    for place, name in enumerate(CONDITIONS):
        labels = torch.from_numpy(
            np.random.default_rng((labels_seed, place)).choice([0, 1, 2, 255], (5, 4, 6), p=[0.6, 0.2, 0.1, 0.1])
        ).to(torch.uint8)
        generator = torch.Generator().manual_seed(100 * seed + place)
        known = 0.5 if (modality, name) == ("rgb", "fog") else 3.0
        shown = torch.nn.functional.one_hot((labels % 255).long() % 3, 3).movedim(-1, 1)
        logits = known * shown + torch.tensor(COUNTS).log().view(1, 3, 1, 1) / 2
        tensors[f"{name}.labels"] = labels
        tensors[f"{name}.logits"] = (logits + torch.randn(logits.shape, generator=generator)).half()
        tensors |= {
            f"{name}.rgb": torch.zeros(8, 12, 3, dtype=torch.uint8),
            f"{name}.depth": torch.zeros(8, 12, dtype=torch.uint8),
            f"{name}.truth": torch.zeros(8, 12, dtype=torch.uint8),
            f"{name}.example": torch.randn(3, 8, 12, generator=generator).half(),
        }
    mean, std = STATISTICS[modality]
    entropy = {"mean": mean, "std": std}
    run.save_dense(
        tensors,
        {
            "modality": modality,
            "conditions": list(CONDITIONS),
            "entropy": entropy,
            "keep_every": 2,
            "ignore_index": 255,
        },
    )
    made = {"class_names": CLASSES, "class_counts": COUNTS, "logits_prior": (torch.tensor(COUNTS) / 9990.0).tolist()}
    run.save_model({}, made | info)
    run.write_json("summary.json", {"method": "erm", "settings": {}, "final": {}})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "rgb", "rgb", 1), write_run(folder / "depth", "depth", 2)]


@pytest.fixture(scope="module")
def fusion(runs: list[Path]) -> RunFusion:
    return RunFusion(runs)


def logits_of(run: Path, condition: str) -> np.ndarray:
    return RunFolder.open(run).load_dense()[0][f"{condition}.logits"].double().numpy()


def derived(runs: list[Path], condition: str, strength: float, missing: str = "", scaled: bool = True) -> np.ndarray:
    """Algorithm 1 of Tian et al., pixel after pixel, in float64."""
    prior = np.array(COUNTS) / sum(COUNTS)
    absent = 1.0
    for run in runs:
        if run.name == missing:
            continue
        z = logits_of(run, condition)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        entropy = -(p * np.log(p)).sum(1).mean((1, 2))
        mean, std = STATISTICS[run.name]
        delta = mean / (np.maximum(0, entropy - mean - std) + mean) if scaled else np.ones(len(z))
        flat = np.exp(delta[:, None, None, None] * z)
        discriminative = flat / flat.sum(1, keepdims=True)
        rebalanced = discriminative * ((1 / 3) / prior)[None, :, None, None]
        rebalanced /= rebalanced.sum(1, keepdims=True)
        final = discriminative ** (1 - strength) * rebalanced**strength
        absent = absent * (1 - final / final.sum(1, keepdims=True))
    either = 1 - absent
    return either / either.sum(1, keepdims=True)


def scored(probs: np.ndarray, run: Path, condition: str) -> dict[str, float]:
    labels = RunFolder.open(run).load_dense()[0][f"{condition}.labels"]
    scores = metrics.StreamingSegmentation(3, ignore_index=255, logits=False)
    scores.update(torch.from_numpy(probs), labels)
    return scores.compute()


@pytest.mark.parametrize("condition", ["test", "fog"])
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("UNO-IC", {}),
        ("UNO", {"strength": 0.0}),
        ("IC", {"scaled": False}),
        ("noisy-or", {"strength": 0.0, "scaled": False}),
        ("UNO-IC, no rgb", {"missing": "rgb"}),
        ("UNO-IC, no depth", {"missing": "depth"}),
    ],
)
def test_algorithm_1(fusion: RunFusion, runs: list[Path], method: str, words: dict[str, Any], condition: str) -> None:
    probs = derived(runs, condition, **{"strength": fusion.strengths["fusion"], **words})
    rule = fusion.rules()[method]
    found = rule([torch.from_numpy(logits_of(run, condition)).float() for run in runs])
    np.testing.assert_allclose(found.numpy(), probs, rtol=2e-5, atol=1e-7)
    assert fusion.results[method][condition] == pytest.approx(scored(probs, runs[0], condition), rel=1e-4)


def test_a_modality_alone_and_the_mean(fusion: RunFusion, runs: list[Path]) -> None:
    probs = []
    for run in runs:
        z = logits_of(run, "test")
        probs.append(np.exp(z) / np.exp(z).sum(1, keepdims=True))
        assert fusion.results[run.name]["test"] == pytest.approx(scored(probs[-1], run, "test"), rel=1e-4)
        shifted = probs[-1] * (1 / np.array(COUNTS))[None, :, None, None] ** fusion.strengths[run.name]
        wanted = scored(shifted / shifted.sum(1, keepdims=True), run, "test")
        assert fusion.results[f"{run.name}, IC"]["test"] == pytest.approx(wanted, rel=1e-4)
    assert fusion.results["SoftAve"]["test"] == pytest.approx(scored(sum(probs) / 2, runs[0], "test"), rel=1e-4)


def test_each_modality_has_its_own_prior(runs: list[Path], tmp_path: Path) -> None:
    """Bayias has corrected its logits: nothing is left to correct."""
    bayias = write_run(tmp_path / "depth", "depth", 2, logits_prior=[1 / 3] * 3)
    fused = RunFusion([runs[0], bayias], strength=1.0)
    z = torch.from_numpy(logits_of(bayias, "test")).float()
    torch.testing.assert_close(fused.rules()["depth, IC"]([z, z]), z.softmax(1))
    assert not torch.allclose(fused.rules()["rgb, IC"]([z, z]), z.softmax(1), atol=1e-2)
    again = RunFusion([runs[0], bayias], strength=1.0, from_prior="train")
    assert not torch.allclose(again.rules()["depth, IC"]([z, z]), z.softmax(1), atol=1e-2)


def test_lambda_is_searched_on_held_out_scenes_alone(fusion: RunFusion, runs: list[Path], tmp_path: Path) -> None:
    other = []
    for run in runs:
        tensors, info = RunFolder.open(run).load_dense()
        tensors["test.labels"] = torch.zeros_like(tensors["test.labels"])  # to which lambda 0 would be the best
        made = RunFolder.open(run)
        copy = RunFolder(tmp_path / run.name, {})
        copy.save_dense(tensors, info)
        copy.save_model({}, made.info())
        other.append(copy.path)
    assert RunFusion(other).strengths == fusion.strengths
    assert fusion.strengths["fusion"] > 0
    score = lambda words: scored(derived(runs, "held_out", words), runs[0], "held_out")  # noqa: E731
    best = score(fusion.strengths["fusion"])
    plain = score(0.0)
    assert best["miou"] > plain["miou"]
    for name in ("macc", "mean"):
        assert RunFusion(runs, score=name).strengths["fusion"] >= fusion.strengths["fusion"]


def test_trust_falls_where_a_sensor_is_unsure(fusion: RunFusion) -> None:
    assert fusion.trust["rgb"]["fog"] < fusion.trust["rgb"]["test"]
    assert abs(fusion.trust["depth"]["fog"] - fusion.trust["depth"]["test"]) < 0.1


def test_a_run_alone(runs: list[Path], fusion: RunFusion) -> None:
    alone = RunFusion(runs[:1])
    assert list(alone.results) == ["rgb", "rgb, IC"]
    assert alone.results["rgb"] == fusion.results["rgb"]


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fuse", *map(str, runs), "--strength", "0.4", "--out", str(tmp_path / "page.html")])
    said = capsys.readouterr().out
    assert "| UNO-IC " in said
    assert "lambda: rgb 0.4, depth 0.4, fusion 0.4." in said
    found = json.loads((tmp_path / "page.json").read_text())
    assert found["results"]["UNO-IC"]["fog"]["miou"] > 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img src=") == 4  # two figures, a scene of two conditions
    assert "Not drawn" not in page


def test_the_numbers_are_written_beside_the_page(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltaug.report.write_fusion", lambda fusion, page, published: page)
    main(["fuse", str(runs[0]), "--strength", "0.4", "--out", str(tmp_path / "v1.2")])
    assert [path.name for path in tmp_path.iterdir()] == ["v1.2.json"]
    for words, message in (
        (["--out", str(tmp_path / "same.json")], "must name a page, such as fusion.html"),
        (["--strength", "x"], "argument --strength: must be a number from 0, but is x"),
    ):
        with pytest.raises(SystemExit):
            main(["fuse", str(runs[0]), *words])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_seed": 1}, "has other scenes of test than"),
        ({"class_names": ["road", "sky", "tree"]}, "has other classes than"),
        ({"logits_prior": None}, "--from_prior train"),
    ],
)
def test_what_does_not_fit(runs: list[Path], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunFusion([runs[0], write_run(tmp_path / "other", "depth", 2, **change)])


def rewritten(run: Path, folder: Path, conditions: list[str] | None = None, **tensors: torch.Tensor) -> Path:
    """A copy of a run with other conditions or tensors."""
    before, info = RunFolder.open(run).load_dense()
    copy = RunFolder(folder, {"method": "erm"})
    changed = {name.replace("_labels", ".labels"): value for name, value in tensors.items()}
    copy.save_dense(before | changed, info | ({"conditions": conditions} if conditions else {}))
    copy.save_model({}, RunFolder.open(run).info())
    return folder


def test_conditions_that_are_left_out_are_said(
    runs: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], fusion: RunFusion
) -> None:
    fewer = rewritten(runs[1], tmp_path / "fewer", ["test", "held_out"])
    for pair in ([runs[0], fewer], [fewer, runs[0]]):
        assert list(RunFusion(pair, strength=1.0).results["UNO"]) == ["test"]
        assert capfd.readouterr().err == "Warning: fog is left out: not all runs have scenes of it.\n"
    void = torch.full((5, 4, 6), 255, dtype=torch.uint8)
    unlabelled = [rewritten(run, tmp_path / run.name, fog_labels=void) for run in runs]
    found = RunFusion(unlabelled, strength=1.0)
    assert found.results["UNO"] == {"test": fusion.results["UNO"]["test"]}
    assert "fog is left out: no pixel of it" in capfd.readouterr().err


def test_a_class_absent_from_training_is_not_shifted(
    runs: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the others the prior is corrected to the uniform one of those that there are."""
    changed = {"class_counts": [9000, 0, 1000], "logits_prior": [0.9, 0.0, 0.1]}
    pair = [write_run(tmp_path / name, name, k, **changed) for k, name in enumerate(("rgb", "depth"), 1)]
    found = RunFusion(pair, strength=0.7)
    assert capfd.readouterr().err.count("IC leaves the logits of sky as they are") == 1
    z = torch.from_numpy(logits_of(pair[0], "test")).float()
    shift = 0.7 * torch.tensor([0.5 / 0.9, 1.0, 0.5 / 0.1]).log().view(1, 3, 1, 1)
    torch.testing.assert_close(found.rules()["rgb, IC"]([z, z]), (z + shift).softmax(1))
    for rule in ("SoftAve", "noisy-or", "UNO"):
        assert found.results[rule] == RunFusion(runs, strength=0.7).results[rule]


def test_a_run_named_twice(runs: list[Path]) -> None:
    with pytest.raises(UserError, match="one is named twice"):
        RunFusion([runs[0], runs[0].parent / "depth" / ".." / "rgb"])


def test_no_segmentation(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"method": "erm"})
    with pytest.raises(UserError, match=r"is no finished run of a segmentation: it has no dense\.safetensors"):
        RunFusion([tmp_path / "run"])
