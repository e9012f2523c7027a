"""Settings from files and words, and mistakes told in one line."""

from __future__ import annotations

import errno
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from ltaug import commandline
from ltaug.commandline import check_settings, check_tracker, leave, near_miss, one_process, parse_settings, plain_errors


@dataclass
class Settings:
    """A run."""

    epochs: int = 3
    """Passes."""
    loss: Literal["ce", "bayias"] = "ce"
    """What is minimised."""
    decays: list[int] = field(default_factory=lambda: [1, 2])
    """Epochs."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, but is {self.epochs}.")


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "unimix.yaml").write_text("epochs: 5\nloss: bayias\n")
    (folder / "short.yaml").write_text("epochs: 2\n")
    return folder


def said(capsys: pytest.CaptureFixture[str], arguments: list[str], configs: Path | None = None) -> str:
    """The one line with which it leaves."""
    with pytest.raises(SystemExit) as end:
        parse_settings(Settings, arguments, configs)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_later_files_and_words_win(configs: Path) -> None:
    files = [word for name in ("unimix", "short") for word in ("--config", str(configs / f"{name}.yaml"))]
    assert parse_settings(Settings, []) == Settings()
    assert parse_settings(Settings, files) == Settings(2, "bayias")
    assert parse_settings(Settings, [*files, "--epochs", "9", "--decays", "[4]"]) == Settings(9, "bayias", [4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3, did you mean 'epochs'?"),
        (["--loss", "bayas"], "did you mean 'bayias'?"),
        (["--epochs", "three"], "epochs"),
        (["--epochs", "0"], "`epochs` must be at least 1, but is 0."),
        (["--xyz", "0"], "--help lists the settings"),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, arguments)
    assert message in line
    assert "typing" not in line
    assert "<class" not in line


def test_a_wrong_file_is_told(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, ["--config", str(configs / "unimx.yaml")], configs)
    assert "Did you mean the method unimix? There are: short, unimix." in line
    (configs / "list.yaml").write_text("- 1\n")
    assert "must hold `setting: value` lines, but holds a list" in said(capsys, ["--config", f"{configs}/list.yaml"])
    (configs / "bad.yaml").write_text("epochs: [1\n")
    assert "is not readable as YAML" in said(capsys, ["--config", f"{configs}/bad.yaml"])
    (configs / "later.yaml").write_text("stage1: erm\nepochs: 1\n")
    assert "later.yaml' is a second stage (it has `stage1`)" in said(capsys, ["--config", f"{configs}/later.yaml"])
    (configs / "unknown.yaml").write_text("epochz: 1\n")
    assert "did you mean 'epochs'?" in said(capsys, ["--config", f"{configs}/unknown.yaml"])


def test_near_miss() -> None:
    assert near_miss("unimx", ["unimix", "mixup"]) == ", did you mean 'unimix'?"
    assert near_miss("zzz", ["unimix", "mixup"]) == ""


@dataclass
class Checked:
    dataset: str = "digits"
    epochs: int = 1
    threads: int | None = None
    seed: int = 0
    lr: float = 1e-9
    ratio: float = 1.0
    stops: list[float] = field(default_factory=lambda: [0.0, 1.0])
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_settings(
            self,
            one_of={"dataset": ("digits", "cifar10")},
            at_least_one=("epochs", "threads"),
            not_negative=("seed",),
            positive=("lr",),
            ratios=("ratio",),
            shares=("stops",),
            in_0_to_1=("decay",),
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": None}, "`epochs` needs a value, but is null."),
        ({"dataset": "cifar1"}, "`dataset` must be one of digits, cifar10, but is 'cifar1', did you mean 'cifar10'?"),
        ({"dataset": "x"}, "`dataset` must be one of digits, cifar10, but is 'x'."),
        ({"epochs": 0}, "`epochs` must be at least 1, but is 0."),
        ({"threads": 0}, "`threads` must be at least 1, but is 0."),
        ({"seed": -1}, "`seed` must not be negative, but is -1."),
        ({"lr": 0.0}, "`lr` must be positive, but is 0.0."),
        ({"lr": float("nan")}, "`lr` must be positive, but is nan."),
        ({"ratio": -3.0}, "`ratio` must be positive, but is -3.0."),
        (
            {"ratio": 0.01},
            "`ratio` is largest over smallest class and must be at least 1, but is 0.01. Did you mean 100?",
        ),
        ({"stops": [0.5, 60.0]}, "`stops` is a share of the training and must lie in 0..1, but is 60.0."),
        ({"decay": 1.01}, "`decay` must lie in 0..1, but is 1.01."),
    ],
)
def test_settings_out_of_range_are_named(setting: dict[str, object], message: str) -> None:
    Checked()  # all defaults but `threads` lie on the edge
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Checked(**setting)  # type: ignore[arg-type]


def test_a_tracker_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("accelerate.tracking")
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["abacus"])
    for word in (None, "all", "abacus"):
        check_tracker(word)
    with pytest.raises(ValueError, match=r"`log_with` is 'wandb', but the trackers installed here are: abacus\. Ins"):
        check_tracker("wandb")
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(ValueError, match="the trackers installed here are: none"):
        check_tracker("wandb")


@pytest.mark.parametrize(("program", "resumes"), [("train.py", True), ("train_stage2.py", True), ("sweep.py", False)])
def test_only_a_training_is_told_to_resume(
    program: str, resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/recipes/{program}"])
    with pytest.raises(SystemExit) as end, plain_errors(tmp_path):
        raise KeyboardInterrupt
    assert end.value.code == 130
    line = capsys.readouterr().err
    assert line.startswith(f"{program}: error: stopped. ")
    assert ("--resume true" in line) == resumes


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), FileNotFoundError("no such file"), KeyboardInterrupt()]
)
def test_what_is_no_fault_of_the_program_is_told_plainly(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), plain_errors(tmp_path):
        raise error
    line = capsys.readouterr().err
    assert "Traceback" not in line
    assert ("make room" in line) == (getattr(error, "errno", None) == errno.ENOSPC)


def test_whose_value_error_it_is_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).parent
    with pytest.raises(SystemExit), plain_errors(here):
        raise ValueError("`lr` is wrong.")
    assert "error: `lr` is wrong." in capsys.readouterr().err
    with pytest.raises(SystemExit), plain_errors(tmp_path):
        commandline._check_config_file("nowhere.yaml", None, ())  # ltaug's own
    # A fault of the program, whose traceback is needed.
    with pytest.raises(ValueError, match="not this folder's"), plain_errors(tmp_path):
        raise ValueError("not this folder's")
    with pytest.raises(ZeroDivisionError), plain_errors(here):
        1 / 0  # noqa: B018


def test_leave(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waited: list[float] = []
    monkeypatch.setattr(commandline.time, "sleep", waited.append)
    with pytest.raises(SystemExit):
        leave("two\n lines")
    assert capsys.readouterr().err.endswith("error: two lines\n")
    assert waited == []
    monkeypatch.setenv("LOCAL_RANK", "1")  # the main one speaks first
    with pytest.raises(SystemExit):
        leave("x")
    assert len(waited) == 1


def test_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    one_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        one_process()
