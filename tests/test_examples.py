"""The examples run, and show what their page says."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ltaug.errors import UserError
from ltaug.run import RunFolder

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from matplotlib.figure import Figure


def load(root: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", root / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def discs(root: Path) -> ModuleType:
    return load(root, "unimix_two_discs")


@pytest.fixture(scope="module")
def boundaries(discs: ModuleType) -> dict[str, list[Any]]:
    worlds = [discs.run(discs.World(), alpha=0.2, seed=seed) for seed in range(8)]
    return {panel: [world[panel] for world in worlds] for panel in discs.PANELS}


class TestUniMixTwoDiscs:
    def test_the_points_are_even_in_their_discs(self, discs: ModuleType) -> None:
        world = discs.World(centre=2.0, radius=1.0)
        points, labels = world.draw(3000, 1000, torch.Generator().manual_seed(0))
        assert torch.bincount(labels).tolist() == [3000, 1000]
        for label, centre in ((discs.POSITIVE, 2.0), (discs.NEGATIVE, -2.0)):
            distance = (points[labels == label] - centre).norm(dim=1)
            assert distance.max() <= 1.0 + 1e-6
            assert (distance < 0.5).float().mean().item() == pytest.approx(0.25, abs=0.04)  # a quarter of the area

    def test_offset_and_angle_of_a_known_line(self, discs: ModuleType) -> None:
        ideal = discs.Boundary(np.array([2.0, 2.0]), 0.0, 1.0)
        assert (ideal.angle, ideal.offset) == (pytest.approx(0.0, abs=1e-5), 0.0)
        # x = 1 crosses y = x at (1, 1), and is 45 degrees off.
        line = discs.Boundary(np.array([1.0, 0.0]), -1.0, 1.0)
        assert (line.angle, line.offset) == (pytest.approx(45.0), pytest.approx(2**0.5))

    def test_a_mixed_point_belongs_to_the_larger_share(self, discs: ModuleType) -> None:
        world = discs.World(centre=5.0, radius=0.1, positives=900, negatives=100)
        points, labels = world.draw(900, 100, torch.Generator().manual_seed(0))
        for panel in discs.PANELS:
            x, y = discs.samples(panel, points, labels, 0.2, seed=0)
            assert len(x) == len(y) == 1000
            side = x.mean(1)
            clear = side.abs() > 0.2  # discs of radius 0.1
            assert torch.equal(side[clear] > 0, y[clear] == discs.POSITIVE)
        # Only the partners of the whole method are drawn the other way round: the rare class then owns most points.
        rare = [int((discs.samples(p, points, labels, 0.2, 0)[1] == discs.NEGATIVE).sum()) for p in discs.PANELS]
        assert rare[0] == 100
        assert rare[1] < 150 < rare[3]
        assert rare[1] < rare[2] < rare[3]

    def test_the_boundary_of_the_points_lies_in_the_rare_disc(self, boundaries: dict[str, list[Any]]) -> None:
        assert all(each.offset < -0.2 for each in boundaries["original"])

    def test_mixup_leaves_it_there_and_unimix_brings_it_back(self, boundaries: dict[str, list[Any]]) -> None:
        offset = {panel: np.array([each.offset for each in found]) for panel, found in boundaries.items()}
        assert abs(offset["mixup"].mean() - offset["original"].mean()) < 0.1
        assert offset["UniMix factor"].mean() > offset["mixup"].mean() + 0.05
        assert (np.abs(offset["UniMix"]) < np.abs(offset["original"])).all()
        assert abs(offset["UniMix"].mean()) < 0.2

    def test_and_is_more_accurate_for_it(self, boundaries: dict[str, list[Any]]) -> None:
        accuracy = {panel: np.array([each.accuracy for each in found]) for panel, found in boundaries.items()}
        assert (accuracy["UniMix"] > accuracy["original"] + 0.02).all()

    def test_the_command(self, discs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        discs.main(["--out", str(tmp_path / "discs.png"), "--worlds", "1", "--positives", "100", "--negatives", "5"])
        out = capsys.readouterr().out
        for panel in discs.PANELS:
            assert re.search(rf"^{panel} +\d+\.\d° +-?\d\.\d\d +\d+\.\d %$", out, re.MULTILINE)
        assert (tmp_path / "discs.png").read_bytes().startswith(b"\x89PNG")

    def test_the_four_panels_are_lettered_and_each_has_its_boundary(self, discs: ModuleType) -> None:
        axes = Figure().subplots(1, 4)
        boundaries = discs.run(discs.World(positives=200, negatives=10), alpha=0.2, seed=0, axes=axes)
        assert [ax.get_title() for ax in axes] == ["(a) original", "(b) mixup", "(c) UniMix factor", "(d) UniMix"]
        for ax, boundary in zip(axes, boundaries.values(), strict=True):
            ideal, found = (line.get_xydata() for line in ax.lines)
            np.testing.assert_allclose(found @ boundary.w + boundary.b, 0.0, atol=1e-9)
            np.testing.assert_allclose(ideal.sum(1), 0.0)
            assert sum(len(points.get_offsets()) for points in ax.collections) == 210


def test_label_distributions_prints_what_its_page_says(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["label_distributions.py", "--out", str(tmp_path)])
    load(root, "label_distributions").main()
    page = (root / "examples" / "README.md").read_text()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 10
    for row in rows:
        assert row in page
    assert {path.stem for path in tmp_path.iterdir()} == {
        "xi_aug",
        "label_suppression",
        "label_occurrence",
        "smoothing_shapes",
        "smoothing_powers",
        "correction_factors",
    }


class TestSweepFigures:
    @pytest.fixture
    def sweep(self, tmp_path: Path) -> Path:
        """Runs as `ltaug sweep` leaves them: MiSLAS with its first stage, and UniMix over tau."""
        rows = [("mixup", {}, 0, 0.3)]
        rows += [("mislas", {"smoothing_head": h, "smoothing_tail": 0.1}, 0, 0.4 + h) for h in (0.2, 0.4)]
        rows += [
            ("unimix_bayias", {"partner_tau": tau}, seed, 0.5 + 0.02 * seed - 0.1 * tau)
            for tau in (-1, 0)
            for seed in (0, 1)
        ]
        for k, (method, changes, seed, top1) in enumerate(rows):
            settings = {"method": method, "set": changes or None, "seed": seed, "dataset": "digits"}
            summary = {"name": method, "method": method, "dataset": "digits", "class_counts": [50, 5], "epochs": 1}
            final = {"top1": top1, "ece": 1 - top1, "few": None}
            RunFolder(tmp_path / f"{k}", settings).write_json(
                "summary.json", {**summary, "settings": settings, "final": final}
            )
        return tmp_path

    def test_seeds_are_gathered_by_method_and_value(self, root: Path, sweep: Path) -> None:
        found = load(root, "sweep_figures").read(sweep, ["partner_tau"])
        assert found == {"unimix_bayias, digits, imbalance ratio 10": {-1: [0.6, 0.62], 0: [0.5, 0.52]}}
        pairs = load(root, "sweep_figures").read(sweep, ["smoothing_head", "smoothing_tail"], "ece")
        (line,) = pairs.values()
        assert line == {(0.2, 0.1): [pytest.approx(0.4)], (0.4, 0.1): [pytest.approx(0.2)]}

    @pytest.mark.parametrize("settings", [["partner_tau"], ["smoothing_head", "smoothing_tail"]])
    def test_the_command(
        self, root: Path, sweep: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        load(root, "sweep_figures").main([str(sweep), *settings, "--out", str(sweep / "figure.png")])
        assert (sweep / "figure.png").read_bytes().startswith(b"\x89PNG")
        out = capsys.readouterr().out
        expected = {1: "-1: 61.0 (2 runs)", 2: "(0.4, 0.1): 80.0 (1 runs)"}
        assert f"imbalance ratio 10: {expected[len(settings)]}" in out

    def test_a_sweep_without_the_setting_or_the_metric_is_refused(self, root: Path, sweep: Path) -> None:
        for names, metric in ((["alpha"], "top1"), (["partner_tau"], "few")):
            with pytest.raises(UserError, match=f"no finished run with {names[0]} and {metric}"):
                load(root, "sweep_figures").read(sweep, names, metric)


@pytest.fixture(scope="module")
def moons(root: Path) -> ModuleType:
    return load(root, "two_moons")


class TestTwoMoons:
    @pytest.mark.parametrize("world", [pytest.param("moons", marks=pytest.mark.slow), "circles"])
    def test_the_correction_gains_balanced_accuracy(self, moons: ModuleType, world: str) -> None:
        for seed in range(2):
            outcome = moons.run(world, frequent=1800, ratio=9, seed=seed, steps=150)
            assert outcome.bayes > outcome.plain + 0.03
            assert outcome.found > outcome.plain + 0.03
            assert outcome.found > max(outcome.curve) - 0.02  # the held-out points find what the test points would
            assert outcome.strength > 0.0
            peak = outcome.curve.index(max(outcome.curve))
            assert 5 <= peak <= 20  # around Bayes' rule, and too strong a correction loses again
            assert outcome.curve[-1] < max(outcome.curve)

    def test_the_points_have_the_sizes_asked_for(self, moons: ModuleType) -> None:
        for world in moons.WORLDS:
            x, y = moons.points(world, 90, 10, seed=0)
            assert (x.shape, torch.bincount(y).tolist()) == ((100, 2), [90, 10])

    def test_the_command(self, moons: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        moons.main(["--out", str(tmp_path / "moons.png"), "--draws", "1", "--frequent", "180", "--steps", "20"])
        out = capsys.readouterr().out
        for world in moons.WORLDS:
            assert re.search(rf"^\| {world} \|( \d+\.\d % \|){{2}} \d\.\d \| \d+\.\d % \|$", out, re.MULTILINE)
        assert (tmp_path / "moons.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def priors(root: Path) -> ModuleType:
    return load(root, "prior_estimation")


class TestPriorEstimation:
    @pytest.mark.slow
    def test_what_its_page_says_of_calibration_trend_and_center(self, priors: ModuleType) -> None:
        counts, held_out, tests = priors.world(seed=0, num_classes=100, samples=5000, steps=300)
        found = {name: priors.accuracies(counts, held_out, *tests[name]) for name in ("reverse", "permuted")}
        for row in found.values():
            assert row["true prior"] > row["nothing"] + 0.1
            assert row["calibrated, EM"] > row["EM"] + 0.02
            assert row["calibrated, EM"] > max(row["calibrated, RLLS"], row["calibrated, soft BBSE"]) + 0.01
            assert row["calibrated, EM"] > row["calibrated with weights, EM"]
            gain = row["calibrated, true prior"] - row["nothing"]
            assert row["calibrated, EM about the trend"] - row["nothing"] > 0.75 * gain
        trend, about, free = "calibrated, trend", "calibrated, EM about the trend", "calibrated, EM"
        assert found["reverse"][trend] > found["reverse"][about] > found["reverse"][free]
        assert found["permuted"][free] > found["permuted"][trend] + 0.03
        assert found["permuted"][about] > found["permuted"][trend] + 0.03

    def test_the_held_out_samples_are_ten_a_class(self, priors: ModuleType) -> None:
        counts, (logits, labels), tests = priors.world(seed=1, num_classes=7, samples=300, steps=2)
        assert torch.bincount(labels).tolist() == [10] * 7
        assert logits.shape == (70, 7)
        assert (int(counts[0]), int(counts[-1])) == (500, 5)
        for (z, y), truth in tests.values():
            assert (z.shape, len(y)) == ((300, 7), 300)
            assert (torch.bincount(y, minlength=7) / 300 - truth).abs().max() < 0.12
        assert sorted(tests["permuted"][1].tolist()) == sorted(tests["as training"][1].tolist())

    def test_the_command(self, priors: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        priors.main(["--draws", "1", "--classes", "8", "--samples", "500", "--steps", "60"])
        rows = re.findall(r"^\| ([a-zA-Z, ]+?) \|(?: \d+\.\d \|){4}$", capsys.readouterr().out, re.MULTILINE)
        page = (root / "examples" / "README.md").read_text()
        assert len(rows) == 10
        for name in rows:
            assert f"\n| {name} | " in page


@pytest.fixture(scope="module")
def running(root: Path) -> ModuleType:
    return load(root, "running_prior")


class TestRunningPrior:
    def test_following_a_drift_beats_one_estimate_and_none(self, running: ModuleType) -> None:
        for seed in range(3):
            row = running.accuracies(running.known(0), samples=3000, wave=2000, seed=seed, memories=[])
            assert row["no correction"] + 0.05 < row["one EM"] < row["running prior"] - 0.005
            assert row["running prior"] < row["true prior"] + 0.005

    def test_a_stream_has_the_mix_that_it_says(self, running: ModuleType) -> None:
        _, labels, prior = running.known(0)
        chosen, mix = running.stream(labels, prior, 20_000, 20_000, seed=1)
        for part in (slice(0, 4000), slice(12_000, 16_000)):
            seen = torch.bincount(labels[chosen[part]], minlength=10) / 4000
            assert (seen - mix[part].mean(0)).abs().max() < 0.03
        ratios = mix.amax(1) / mix.amin(1)
        assert float(ratios.max()) == pytest.approx(running.RATIO, rel=1e-3)
        assert {int(mix[k].argmax()) for k in range(0, 20_000, 500)} == {0, 9}  # forward and backward

    def test_the_command(self, running: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        running.main(["--samples", "500", "--streams", "2", "--waves", "300", "200"])
        rows = re.findall(r"^\| ([a-zA-Z ]+?) \|(?: \d+\.\d ± \d+\.\d \|){2}$", capsys.readouterr().out, re.MULTILINE)
        page = (root / "examples" / "README.md").read_text()
        assert len(rows) == 4
        for name in rows:
            assert f"\n| {name} | " in page

    def test_with_the_logits_of_runs(
        self, running: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logits, labels, prior = running.known(0, samples=2000)
        run = RunFolder(tmp_path / "erm", {"method": "erm"})
        run.save_logits(logits, labels)
        order = torch.randperm(2000)[:1000]
        run.save_logits(2 * logits[order], labels[order], name="held_out.safetensors")
        run.write_json("ltaug.json", {"method": "erm", "logits_prior": prior})
        words = ["--samples", "400", "--streams", "2", "--waves", "300", "--held_out", "--memory", "20", "50"]
        running.main([str(run.path), *words])
        out = capsys.readouterr().out
        assert "| erm, accuracy in % by wave | 300 |" in out
        for name in ("running prior, 20 samples", "running prior, 50 samples"):
            assert f"| {name} | " in out


@pytest.fixture(scope="module")
def which(root: Path) -> ModuleType:
    return load(root, "which_method")


class TestWhichMethod:
    def test_the_test_set_is_balanced_and_apart(self, which: ModuleType) -> None:
        dataset, test = which.digits(seed=0)
        assert torch.bincount(dataset.tensors[1]).tolist()[::9] == [100, 2]
        assert torch.bincount(test.tensors[1]).tolist() == [70] * 10
        both = torch.cat([part.tensors[0].flatten(1) for part in (dataset, test)])
        assert len(both.unique(dim=0)) == len(both)

    def test_mixing_with_a_corrected_loss_gains_on_the_tail(self, which: ModuleType) -> None:
        plain, mixed = (which.run(name, epochs=25, seed=0) for name in ("erm", "mixup_bayias"))
        assert plain["`erm`, shifted"]["few"] > plain["`erm`"]["few"] + 0.05
        assert mixed["`mixup_bayias`"]["few"] > plain["`erm`"]["few"] + 0.15
        assert list(mixed) == ["`mixup_bayias`"]  # its logits are under the uniform prior

    def test_the_command(self, which: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        which.main(["--seeds", "1", "--epochs", "1"])
        rows = re.findall(r"^\| (`\w+`(?:, shifted)?) \|(?: \d+\.\d \|){5}$", capsys.readouterr().out, re.MULTILINE)
        page = (root / "examples" / "README.md").read_text()
        assert len(rows) == 7
        for name in rows:
            assert f"\n| {name} | " in page


class TestLogitsPrior:
    COUNTS = torch.tensor([5000, 1000, 200, 50])

    def run(self, folder: Path, t: float, sharpness: float) -> Path:
        """A run folder whose logits, over a temperature, are right under counts^t."""
        prior, means = (self.COUNTS.double() ** t), 2.0 * torch.eye(4, dtype=torch.float64)

        def samples(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
            generator = torch.Generator().manual_seed(seed)
            labels = torch.arange(4).repeat(number)
            points = means[labels] + torch.randn(len(labels), 4, generator=generator, dtype=torch.float64)
            return sharpness * (points @ means.T + prior.log()), labels

        run = RunFolder(folder, {"method": "ce_drw"})
        run.save_logits(*samples(2000, 0))
        run.save_logits(*samples(2000, 1), name="held_out.safetensors")
        info = {"class_names": list("abcd"), "class_counts": self.COUNTS, "logits_prior": [0.25] * 4}
        run.write_json("ltaug.json", info)
        run.write_json("summary.json", {"name": "ce_drw", **info})
        return folder

    def test_it_finds_the_prior(self, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        example = load(root, "logits_prior")
        row = example.measure(RunFolder.open(self.run(tmp_path / "half", 0.5, 1.0)))
        prior, em, nll = row[example.PRIOR], row[example.EM], row[example.NLL]
        assert prior["recorded"] == pytest.approx(0.0, abs=1e-9)
        assert prior["bias"] == pytest.approx(0.5, abs=0.05)
        assert prior["bias and T"] == pytest.approx(0.5, abs=0.05)
        assert prior["T"] == pytest.approx(1.0, abs=0.05)
        assert 0.3 <= prior["IC's strength"] <= 0.7  # which makes up for a prior that is taken too steep
        # Told a prior that is too flat, EM finds a mix that leans as the logits do; told one too steep, the reverse.
        assert em["recorded"] > 0.2 > 0.03 > abs(em["bias"])
        assert em["train"] < -0.2
        assert nll["recorded"] == pytest.approx(nll["as trained"])
        assert min(nll["recorded"], nll["train"]) > nll["bias"] + 0.05
        assert nll["bias and T"] == pytest.approx(nll["bias"], abs=0.01)
        sharp = example.measure(RunFolder.open(self.run(tmp_path / "sharp", 0.5, 2.0)))[example.PRIOR]
        assert sharp["T"] == pytest.approx(2.0, abs=0.1)
        assert sharp["bias and T"] == pytest.approx(0.5, abs=0.05)
        example.main([str(tmp_path / "half"), str(tmp_path / "sharp")])
        text = capsys.readouterr().out
        assert "of 2 runs a method" in text
        assert f"| {example.PRIOR} | recorded | bias | bias and T | T | IC's strength |" in text
        assert text.count("| `ce_drw` | ") == 4


@pytest.fixture(scope="module")
def multilabel(root: Path) -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as its main does
    yield load(root, "multilabel")
    torch.set_num_threads(threads)


class TestMultilabel:
    def test_labels_are_long_tailed_and_exact(self, multilabel: ModuleType) -> None:
        train, test = multilabel.world(0)
        counts = train.tensors[1].sum(0)
        assert (int(counts[0]), int(counts[-1])) == (900, 9)
        torch.testing.assert_close(
            test.tensors[1].double().mean(0), counts / 3000.0, rtol=0.1, atol=0, check_dtype=False
        )
        both = (train.tensors[1][:, 10:].any(1) & train.tensors[1][:, 0]).sum() / train.tensors[1][:, 10:].any(1).sum()
        assert both > 1.5 * 0.3  # labels tend to come together

    def test_what_its_page_says_of_prior_correction(self, multilabel: ModuleType) -> None:
        plain, start, corrected = (
            multilabel.run(multilabel.CHOICES[name], 10, 0, from_log_odds="log odds" in name)
            for name in ("plain", "plain, from the log odds on", "prior-corrected")
        )
        assert corrected[""]["few"] > plain[""]["few"] + 0.1
        assert corrected[""]["few"] == pytest.approx(start[""]["few"], abs=0.03)
        assert corrected[", shifted"]["map"] == pytest.approx(corrected[""]["map"], abs=1e-6)
        assert corrected[", shifted"]["labelwise_ece"] < 0.01 < corrected[""]["labelwise_ece"]

    def test_all_of_its_rows_are_on_the_page(self, multilabel: ModuleType, root: Path) -> None:
        page = (root / "docs" / "multilabel.md").read_text()
        assert all(f"| {name} |" in page for name in multilabel.CHOICES)

    def test_the_table(
        self, multilabel: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(multilabel, "CHOICES", {"plain": multilabel.CHOICES["plain"]})
        multilabel.main(["--epochs", "1", "--seeds", "1"])
        head, _, row = capsys.readouterr().out.splitlines()
        assert head.count("|") == row.count("|") == 8
