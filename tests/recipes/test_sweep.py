"""The sweep of cifar_lt: what it runs and what not, several at once, failures, and the table it makes."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from recipe_support import ROOT, Launcher, contents, copy_recipe, summary, wait_until
from test_stage2 import MODEL

SMALL = ("--precision", "fp32", "--eval_every", "1", "--threads", "1")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("sweep") / "recipe", MODEL)


def digits(out: Path, methods: str, *more: str, seeds: str = "0", epochs: str = "2") -> list[str]:
    """Arguments of a sweep over the digits."""
    words = [
        "--methods",
        *methods.split(),
        "--datasets",
        "digits",
        "--imbalance_ratios",
        "50",
        "--seeds",
        *seeds.split(),
    ]
    return [*words, "--out", str(out), "--epochs", epochs, *SMALL, *more]


def inside(recipe: Path, text: str, env: Mapping[str, str]) -> Any:
    """What an expression gives inside the recipe, as JSON."""
    code = f"import sys; sys.path[0] = {str(recipe)!r}\nimport json, sweep\nfrom pathlib import Path\n{text}"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def swept(launcher: Launcher, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished sweep, and what it said."""
    out = tmp_path_factory.mktemp("swept") / "out"
    done = launcher.run(recipe / "sweep.py", *digits(out, "tau_norm", seeds="0 1")).good()
    return out, done.out


class TestRuns:
    def test_every_run_and_its_first_stage_is_there(self, swept: tuple[Path, str]) -> None:
        names = {path.parent.name for path in swept[0].glob("*/summary.json")}
        assert names == {f"digits_ir50_{method}_seed{seed}" for method in ("erm", "tau_norm") for seed in (0, 1)}
        for name in names:
            values = summary(swept[0] / name)
            assert values["seed"] == int(name[-1])
            assert values["epochs"] == (0 if "tau" in name else 2)

    def test_a_second_call_repeats_nothing(self, launcher: Launcher, recipe: Path, swept: tuple[Path, str]) -> None:
        out, said = swept
        before = contents(out, but=["table.png"])
        done = launcher.run(recipe / "sweep.py", *digits(out, "tau_norm", seeds="0 1")).good()
        assert contents(out, but=["table.png"]) == before
        assert done.out.splitlines()[-7:] == said.splitlines()[-7:]

    def test_other_settings_are_refused(self, launcher: Launcher, recipe: Path, swept: tuple[Path, str]) -> None:
        done = launcher.run(recipe / "sweep.py", *digits(swept[0], "erm", "--lr", "0.5"))
        assert "`lr` 0.1, asked 0.5" in done.error()
        assert "Choose another `--out`" in done.error()

    def test_a_broken_off_run_continues(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        launcher.run(recipe / "sweep.py", *digits(out, "erm")).good()
        run = out / "digits_ir50_erm_seed0"
        rows = (run / "metrics.jsonl").read_text()
        (run / "summary.json").unlink()
        launcher.run(recipe / "sweep.py", *digits(out, "erm")).good()
        assert "Resumed after epoch" in (out / "logs" / "digits_ir50_erm_seed0.log").read_text()
        assert (run / "metrics.jsonl").read_text() == rows

    @pytest.mark.slow
    def test_two_at_once_share_the_work(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        arguments = [recipe / "sweep.py", *digits(tmp_path / "out", "erm bayias tau_norm")]
        for process in [launcher.start(*arguments), launcher.start(*arguments)]:
            process.wait().good()
        logs = sorted((tmp_path / "out" / "logs").glob("*.log"))
        assert len(logs) == 3
        for log in logs:  # a line with the command for each time it was started
            assert log.read_text().count("--resume true") == 1, log
        assert not list((tmp_path / "out" / "locks").iterdir())

    def test_a_stopped_sweep_stops_its_run(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        process = launcher.start(recipe / "sweep.py", *digits(out, "erm", epochs="2000"))
        wait_until(lambda: (out / "digits_ir50_erm_seed0" / "metrics.jsonl").exists())
        run = json.loads((out / "locks" / "digits_ir50_erm_seed0").read_text())["pids"][1]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait().code == 143
        wait_until(lambda: not Path(f"/proc/{run}").exists(), 20)
        assert not list((out / "locks").iterdir())

    def test_a_failed_run_stops_no_other(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        planted = recipe / "configs" / "planted.yaml"
        planted.write_text("method: planted\nloss: bayias\nprior: [0.5, 0.5]\n")
        try:
            done = launcher.run(recipe / "sweep.py", *digits(tmp_path / "out", "planted bayias", epochs="1"))
        finally:
            planted.unlink()
        assert done.code == 1
        assert "FAILED digits_ir50_planted_seed0" in done.err
        assert "`prior` must have one number a class, 10, but has 2" in done.err
        assert "| `bayias` |" in done.out
        assert "planted" not in (tmp_path / "out" / "table.md").read_text()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--methods", "mislass"], "did you mean 'mislas'?"),
            (["--methods", "quickstart"], "there is no 'quickstart'"),
            (["--methods", "erm", "--epochs", "3", "--epoch", "4"], "unrecognized arguments: --epoch 4"),
            (["--methods", "erm", "--seed", "7"], "`--seed` is for a single run"),
            (["--methods", "erm", "--imbalance_ratio=50"], "`--imbalance_ratio=50` is for a single run"),
            (["--epochs", "3"], "`--methods` must name files"),
        ],
    )
    def test_bad_input(self, launcher: Launcher, recipe: Path, tmp_path: Path, words: list[str], message: str) -> None:
        done = launcher.run(recipe / "sweep.py", *words, "--out", tmp_path, "--datasets", "digits", "--seeds", "0")
        assert message in done.err
        assert done.code != 0


class TestPlan:
    def test_the_schedule_moves_with_the_epochs(self, recipe: Path, env: Mapping[str, str]) -> None:
        text = (
            "cfg = sweep.parse_config(['--config', str(sweep.HERE / 'configs' / 'unimix_bayias.yaml')])\n"
            "print(json.dumps(cfg.stretched(30)))"
        )
        words = inside(recipe, text, env)
        values = dict(zip(words[::2], words[1::2], strict=True))
        assert values == {
            "--epochs": "30",
            "--warmup_epochs": "1",
            "--decay_epochs": "[24, 27]",
            "--mix_stop_epoch": "27",
        }

    def test_deferred_methods_switch_on_digits_too(self, recipe: Path, env: Mapping[str, str], tmp_path: Path) -> None:
        text = (
            "import argparse\n"
            f"ask = argparse.Namespace(out={str(tmp_path)!r}, epochs=None)\n"
            "run = sweep.make_run('ldam_drw', 'digits', 50, 0, ask, [])\n"
            "cfg = sweep.parse_config(list(run.arguments))\n"
            "print(json.dumps([cfg.epochs, cfg.reweight_epoch, cfg.decay_epochs, cfg.mix_stop_epoch, cfg.dataset]))"
        )
        assert inside(recipe, text, env) == [80, 64, [64, 72], None, "digits"]

    @pytest.mark.parametrize(
        ("method", "dataset", "ratios", "names"),
        [
            (
                "mislas",
                "cifar10",
                (10, 50, 100, 200),
                ["mislas_cifar10_ir10", "mislas_cifar10_ir50", "mislas_cifar10", "mislas_cifar10"],
            ),
            ("unimix_bayias", "cifar10", (100,), ["unimix_bayias_cifar10"]),
            ("unimix_bayias", "cifar100", (100,), ["unimix_bayias"]),
        ],
    )
    def test_a_data_set_and_a_ratio_have_their_own_config(
        self, recipe: Path, env: Mapping[str, str], method: str, dataset: str, ratios: tuple[int, ...], names: list[str]
    ) -> None:
        text = (
            "import argparse\nask = argparse.Namespace(out='out', epochs=None)\n"
            f"runs = [sweep.make_run({method!r}, {dataset!r}, each, 0, ask, []) for each in {ratios!r}]\n"
            "print(json.dumps([[Path(run.arguments[1]).stem, run.name] for run in runs]))"
        )
        folders = [f"{dataset}_ir{ratio}_{method}_seed0" for ratio in ratios]
        assert inside(recipe, text, env) == [list(pair) for pair in zip(names, folders, strict=True)]


class TestTable:
    def test_means_and_deviations_over_seeds(self, swept: tuple[Path, str]) -> None:
        out, said = swept
        with (out / "table.csv").open() as file:
            table = {row["method"]: row for row in csv.DictReader(file)}
        assert set(table) == {"erm", "tau_norm"}
        for method, row in table.items():
            values = [summary(out / f"digits_ir50_{method}_seed{seed}")["final"]["top1"] for seed in (0, 1)]
            assert float(row["top1"]) == pytest.approx(statistics.fmean(values))
            assert float(row["top1_std"]) == pytest.approx(statistics.stdev(values))
            assert row["seeds"] == "2"
            shown = f"| `{method}` | {100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f} |"
            assert shown in said
            assert shown in (out / "table.md").read_text()
        assert (out / "table.png").read_bytes().startswith(b"\x89PNG")

    def test_published_numbers_stand_beside(self, recipe: Path, env: Mapping[str, str], tmp_path: Path) -> None:
        final = {"top1": 0.5, "many": 0.6, "medium": 0.5, "few": None, "ece": 0.1}
        for method, profile in (("mislas", "exponential"), ("ncm", "exponential"), ("erm", "step")):
            run = tmp_path / f"cifar10_ir100_{method}_seed0"
            run.mkdir()
            values = {"dataset": "cifar10", "imbalance_ratio": 100.0, "profile": profile, "epochs": 10, "final": final}
            values |= {"wall_time_s": 60.0, "parameters": 1}
            (run / "summary.json").write_text(json.dumps(values))
        text = f"from ltaug.sweeps import collect\nprint(json.dumps(collect(Path({str(tmp_path)!r}), sweep.TABLE)))"
        rows = inside(recipe, text, env)
        assert {row["method"]: row["published"] for row in rows} == {"mislas": {"MiSLAS": 82.1}, "ncm": {}, "erm": {}}

    def test_published_numbers_are_of_configs(self) -> None:
        folder = ROOT / "recipes" / "cifar_lt"
        with (folder / "published.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) > 200
        keys = [(line["method"], line["paper"], line["dataset"], line["imbalance_ratio"]) for line in lines]
        assert len(set(keys)) == len(keys)
        for line in lines:
            assert (folder / "configs" / f"{line['method']}.yaml").is_file(), line
            assert 20 < float(line["top1"]) < 95
            assert math.isclose(float(line["top1"]), round(float(line["top1"]), 2))
