"""docs/papers.md: what its script writes, and what the script refuses to write."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ltaug.errors import UserError

SWEEP = "ltaug sweep recipes/cifar_lt/train.py"


@pytest.fixture(scope="module")
def papers(root: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(root / "docs"))
    try:
        import papers

        yield papers
    finally:
        sys.path.remove(str(root / "docs"))
        del sys.modules["papers"]


@pytest.fixture(scope="module")
def page(papers: ModuleType) -> str:
    written: str = papers.page()
    return written


class TestPage:
    def test_it_is_what_the_script_writes(self, page: str, papers: ModuleType) -> None:
        assert papers.PAGE.read_text(encoding="utf-8") == page, "write it again: python docs/papers.py"

    def test_every_row_has_a_command_but_quoted_ones(self, page: str) -> None:
        tables = page.partition("## Measured here")[0].splitlines()
        rows = [line for line in tables if line.startswith("| ") and not line.startswith(("| row", "| what"))]
        made = [line for line in rows if re.search(r"\| `(ltaug|python) [^|]*\|$", line)]
        quoted = [line for line in rows if line.endswith("| quoted | quoted: its code is not in ltaug |")]
        assert len(made) > 250
        assert f"{len(made)} of {len(rows) - len(quoted)}.**" in page
        assert f"{len(quoted)} more rows are quoted" in page
        assert [line for line in rows if line not in made and line not in quoted] == []
        assert "## Rows without a command" not in page

    def test_fusions_train_both_modalities(self, page: str) -> None:
        (line,) = (each for each in page.splitlines() if each.startswith("| `erm`, UNO-IC"))
        assert "| 78.55 / 90.45 |" in line
        assert "method=erm modality=rgb,depth seed=0,1,2" in line
        assert line.endswith("`ltaug fuse RUN RUN` |")

    def test_what_is_not_at_hand_is_said(self, page: str) -> None:
        assert "The ECE of this table is not at hand." in page
        assert "the heights are not at hand" in page

    def test_ours_say_how_they_differ(self, page: str) -> None:
        (line,) = (each for each in page.splitlines() if each.startswith("| `mixup_bayias`") and "unimix" in each)
        assert "CIFAR-100 ratio 100: 47.8 (seed 0; batch_size 128, not 64)" in line
        assert "| 81.75 | 76.69 | 44.56 | 41.19 |" in line

    def test_errors_stand_as_printed(self, page: str) -> None:
        assert "| 44.9 / 21.4 |" in page  # LOB + BC, EnvNet
        assert "| `erm`, IC [2] | 11.37 | 20.14 | 11.34 | 25.61 |" in page

    def test_it_is_found(self, root: Path) -> None:
        assert "\npapers\n" in (root / "docs" / "index.md").read_text()


def test_the_method_index_is_what_its_script_writes(root: Path) -> None:
    written = runpy.run_path(str(root / "docs" / "method_index.py"))
    assert written["PAGE"].read_text(encoding="utf-8") == written["page"](), (
        "write it again: python docs/method_index.py"
    )
    assert "| `mislas` |" in written["page"]()
    assert "40.1 (1 seed)" in written["page"]()  # plain training, measured


class TestGuards:
    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("ltaug correct RUN --preset icc", "invalid choice"),
            ("ltaug correct RUN --strenght 1", "unrecognized arguments"),
            ("ltaug shift RUN", "invalid choice: 'shift'"),
            ("python examples/label_distributions.py --output figures", "unrecognized arguments"),
        ],
    )
    def test_of_parsers(
        self, command: str, message: str, papers: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            papers.check(command)
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("command", "line", "message"),
        [
            ("ltaug correct RUN --strength much", {}, "--strength must be"),
            ("ltaug methods mixupp", {}, "no method 'mixupp'"),
            ("rm RUN", {}, "no command of ltaug"),
            (f"{SWEEP} method=mixupp", {}, "'mixupp' is not known"),
            (f"{SWEEP} method=erm -- --protocol unimixx", {}, "'unimixx' is not known"),
            (f"{SWEEP} method=erm -- --learning_rate 1", {}, "no setting `--learning_rate`"),
            (f"{SWEEP} method=mislas -- --second_stage.epoch 1", {}, "no setting `--epoch`"),
            (f"{SWEEP} method=mixup set.alfa=1", {}, "alfa"),
            (f"{SWEEP} method=erm", {"dataset": "cifar10"}, "`dataset` cifar100, but its row is cifar10"),
            (f"{SWEEP} method=erm", {"method": "mixup"}, "no run with `method` mixup"),
            (f"{SWEEP} method=erm", {"epochs": "300"}, "trains 200 epochs, but its row is of 300"),
        ],
    )
    def test_of_commands(self, command: str, line: dict[str, str], message: str, papers: ModuleType) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            papers.check(command, line)

    def test_of_run_folders(self, papers: ModuleType) -> None:
        same = [f"{SWEEP} method=erm --out a -- --lr {lr}" for lr in (0.1, 0.2)]
        papers.check_folders(same[:1] * 2)
        with pytest.raises(UserError, match=r"has another run a/erm: --method erm --lr 0\.1"):
            papers.check_folders(same)

    def test_of_lines_without_a_table(self, papers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(papers, "PAPERS", {})
        with pytest.raises(UserError, match="are of no table"):
            papers.page()


class TestRunsOfASweep:
    def plant(self, papers: ModuleType, out: Path, seed: int, top1: float, command: str) -> None:
        last, first = papers.settings_of_sweep(command, {})
        stages = {f"first{seed}": first, f"run{seed}": {**last, "from_run": first and str(out / f"first{seed}")}}
        for name, settings in stages.items():
            if settings:
                (out / name).mkdir(parents=True)
                (out / name / "config.yaml").write_text(yaml.safe_dump({**settings, "seed": seed}))
                (out / name / "command.txt").write_text("python recipes/cifar_lt/train.py --method erm\n")
                summary = {"final": {"top1": top1, "ece": 0.1}, "settings": settings}
                (out / name / "summary.json").write_text(json.dumps(summary))

    @pytest.fixture(autouse=True)
    def _measured(self, papers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A copy that runs are added to."""
        measured = tmp_path / "measured.csv"
        shutil.copy(papers.MEASURED, measured)
        monkeypatch.setattr(papers, "MEASURED", measured)

    def lines(self, papers: ModuleType) -> list[dict[str, Any]]:
        with papers.MEASURED.open() as file:
            return list(csv.DictReader(file))

    @pytest.mark.parametrize(
        ("method", "words"),
        [
            ("mixup", "--protocol lade --dataset cifar10 --epochs 30 --set.alpha 0.4"),
            ("mislas", "--protocol mislas --lr 0.2 --second_stage.epochs 5"),
        ],
    )
    def test_are_added_by_a_command_that_trains_them_again(
        self, method: str, words: str, papers: ModuleType, tmp_path: Path
    ) -> None:
        sweep, command = tmp_path / "sweep", f"{SWEEP} method={method} -- {words}"
        for seed, top1 in enumerate((0.5, 0.52)):
            self.plant(papers, sweep, seed, top1, command)
        for _ in range(2):  # the same once more changes nothing
            papers.add_runs([sweep])
            found = [line for line in self.lines(papers) if line["where"] == str(sweep)]
        (mine,) = (line for line in found if line["method"] == method)
        assert (mine["seeds"], mine["top1"], mine["top1_std"], mine["ece"]) == ("0 1", "51.0", "1.4", "10.0")
        again, asked = (papers.settings_of_sweep(each, {}) for each in (mine["command"], command))
        assert papers.differences(again[0], asked[0]) == []
        assert papers.differences(again[1] or {}, asked[1] or {}) == []

    def test_corrections_of_runs_are_lines_of_their_own(self, papers: ModuleType, tmp_path: Path) -> None:
        sweep, command = tmp_path / "sweep", f"{SWEEP} method=erm -- --protocol lade"
        for seed, top1 in enumerate((0.5, 0.52)):
            self.plant(papers, sweep, seed, top1, command)
        runs = [each.parent for each in sorted(sweep.glob("*/summary.json"))]
        prior = {"from_prior_reason": "given, the training set's class counts", "calibration": "none"}
        prior |= {"target_prior": [0.5, 0.5], "strength": 1.0, "strength_by": None}
        shifted = {"none": {"forward 50": 0.6}, "given": {"forward 50": 0.7}, "from_prior_reason": "recorded"}
        for k, run in enumerate(runs):
            content = {**prior, "uncorrected": {"top1": 0.0, "ece20": 0.2}, "final": {"top1": 0.6 + 0.02 * k}}
            (run / "corrected.json").write_text(json.dumps({**content, "shifted": shifted}))
        papers.add_runs([sweep])
        searched = {**prior, "strength": 1.3, "strength_by": "search", "final": {"top1": 0.7}}
        for run in runs:
            (run / "corrected.json").write_text(json.dumps(searched))
        papers.add_runs([sweep])  # adds the search, and keeps what the runs have no longer
        found = {
            (line["correction"], line["test_set"]): (line["top1"], line.get("ece20") or "")
            for line in self.lines(papers)
            if line["where"] == str(sweep)
        }
        assert found == {
            ("", ""): ("51.0", ""),
            ("pc_softmax", ""): ("61.0", ""),
            ("ic", ""): ("70.0", ""),
            ("", "forward 50"): ("60.0", ""),
            ("given", "forward 50"): ("70.0", ""),
        }
