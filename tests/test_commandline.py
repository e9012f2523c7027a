"""Settings from files and words, ranges, precedence, and mistakes told in one line."""

from __future__ import annotations

import errno
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml

from ltaug import errors
from ltaug.commandline import (
    AtLeastOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Ratio,
    Share,
    UserError,
    as_user_errors,
    check_tracker,
    did_you_mean,
    exit_with_error,
    one_line_errors,
    one_process,
    parse_settings,
    peek,
    read_settings,
)


@dataclass
class Settings:
    """A run."""

    epochs: PositiveInt = 3
    """Passes."""
    loss: Literal["ce", "bayias"] = "ce"
    """What is minimised."""
    decay_at: list[Share] = field(default_factory=lambda: [0.5, 0.75])
    """Shares of the training."""
    seed: NonNegativeInt = 0
    lr: PositiveFloat = 0.1
    momentum: NonNegativeFloat = 0.0
    threads: PositiveInt | None = None
    imbalance_ratio: Ratio | None = 100.0
    factor: AtLeastOne = 1.0
    set: dict[str, Any] | None = None
    optimizer: Literal["sgd", "adamw"] | None = None

    def __post_init__(self) -> None:
        if self.loss == "bayias" and self.epochs == 13:
            raise ValueError("`epochs` must not be 13 with bayias.")


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "unimix.yaml").write_text("epochs: 5\nloss: bayias\n")
    (folder / "short.yaml").write_text("epochs: 2\nset: {alpha: 1}\n")
    return folder


def parse(*words: str, **more: Any) -> Settings:
    return parse_settings(Settings, words, **more)


class TestPrecedence:
    def test_each_wins_over_those_before_it(self, configs: Path) -> None:
        unimix, short = configs / "unimix.yaml", configs / "short.yaml"
        assert parse() == Settings()
        assert parse(defaults={"epochs": 9, "lr": 0.5}) == Settings(epochs=9, lr=0.5)
        assert parse(defaults={"epochs": 9, "lr": 0.5}, configs=[unimix]) == Settings(5, "bayias", lr=0.5)
        assert parse(configs=[unimix, {"epochs": 7}]).epochs == 7
        assert parse("--config", str(short), configs=[unimix]) == Settings(2, "bayias", set={"alpha": 1})
        assert parse(f"--config={unimix}", "--config", str(short)) == Settings(2, "bayias", set={"alpha": 1})
        assert parse("--epochs", "9", "--config", str(short), "--decay_at", "[1]").epochs == 9

    def test_values_of_a_mapping_are_added_to_those_below(self, configs: Path) -> None:
        short = str(configs / "short.yaml")
        assert parse("--set.alpha", "0.5", "--set.layers", "[a, b]").set == {"alpha": 0.5, "layers": ["a", "b"]}
        assert parse("--set.tau=0", "--config", short).set == {"alpha": 1, "tau": 0}
        assert parse("--set", "{tau: 2}", "--config", short).set == {"tau": 2}

    def test_the_programs_own_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "8"])
        assert parse_settings(Settings).epochs == 8
        assert peek(None, "epochs") == "8"

    def test_help_shows_the_defaults_in_force(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            parse("--help", defaults={"epochs": 17})
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Passes. (type: PositiveInt, default: 17)" in text

    def test_numbers_are_plain(self) -> None:
        found = parse("--epochs", "5", "--decay_at", "[0.25]", "--imbalance_ratio", "50", "--threads", "2")
        values = [found.epochs, found.decay_at[0], found.imbalance_ratio, found.threads]
        assert [type(value) for value in values] == [int, float, float, int]
        assert yaml.safe_load(yaml.safe_dump(vars(found))) == vars(found)


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--epoch", "3"], r"there is no setting `--epoch`, did you mean 'epochs'\?$"),
            (["--epoch=3"], r"there is no setting `--epoch`, did you mean 'epochs'\?$"),
            (["--sets.alpha", "3"], r"there is no setting `--sets`, did you mean 'set'\?$"),
            (["--xyz", "0"], "there is no setting `--xyz`; --help lists the settings.$"),
            (["--loss", "bayas"], r"`loss` must be one of ce, bayias, but is 'bayas', did you mean 'bayias'\?$"),
            (["--optimizer=x"], "`optimizer` must be one of sgd, adamw, but is 'x'.$"),
            (["--epochs", "three"], "^`epochs` must be an integer from 1, but is three.$"),
            (["--lr", "three"], "^`lr` must be a number above 0, but is three.$"),
            (["--threads", "0"], "^`threads` must be an integer from 1, but is 0.$"),
            (["--decay_at", "0.5"], r"^`decay_at` must be a list, \[A, B, ...\], each a number in 0..1, but is 0.5.$"),
            (["--set", "3"], "^`set` must be a mapping, {NAME: VALUE}, but is 3.$"),
            (["--lr", "null"], "lr"),
            (["--config"], "`--config` needs a file.$"),
            (["--loss", "bayias", "--epochs", "13"], "^`epochs` must not be 13 with bayias.$"),
        ],
    )
    def test_words(self, words: list[str], message: str) -> None:
        with pytest.raises(UserError, match=message):
            parse(*words)

    @pytest.mark.parametrize(
        ("name", "value", "fine"),
        [
            ("epochs", 0, 1),
            ("threads", 0, 1),
            ("seed", -1, 0),
            ("lr", 0.0, 1e-9),
            ("lr", math.nan, 1.0),
            ("momentum", -0.1, 0.0),
            ("decay_at", [0.5, 60.0], [0.0, 1.0]),
            ("factor", 0.99, 1.0),
            ("imbalance_ratio", -3.0, 1.0),
            ("imbalance_ratio", math.nan, None),
        ],
    )
    def test_ranges(self, name: str, value: object, fine: object, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({name: value}))
        for way in ({"defaults": {name: value}}, {"configs": [tmp_path / "bad.yaml"]}):
            with pytest.raises(UserError, match=name):
                parse(**way)
        with pytest.raises(UserError, match=name):
            parse(f"--{name}={value}")
        assert getattr(parse(defaults={name: fine}), name) == fine
        assert getattr(parse(f"--{name}={'null' if fine is None else fine}"), name) == fine

    def test_a_ratio_the_other_way_round(self) -> None:
        with pytest.raises(
            UserError, match=r"`imbalance_ratio` must be at least 1, .*, but is 0.01, did you mean 100\?"
        ):
            parse("--imbalance_ratio", "0.01")

    def test_files(self, configs: Path) -> None:
        def refused(name: str, text: str | None = None) -> str:
            if text is not None:
                (configs / f"{name}.yaml").write_text(text)
            with pytest.raises(UserError) as error:
                parse("--config", str(configs / f"{name}.yaml"))
            assert f"{name}.yaml`" in str(error.value)
            return str(error.value)

        assert "is no file, did you mean 'unimix'? There are: short, unimix." in refused("unimx")
        assert "must hold `setting: value` lines, but holds a list" in refused("list", "- 1\n")
        assert "but holds nothing" in refused("empty", "")
        assert "is not readable as YAML" in refused("bad", "epochs: [1\n")
        assert "there is no setting `epochz`, did you mean 'epochs'?" in refused("unknown", "epochz: 1\n")
        assert "`epochs` needs a value, but is null." in refused("null", "epochs: null\n")
        assert "did you mean 'bayias'?" in refused("choice", "loss: bayas\n")
        assert "epochs" in refused("kind", "epochs: [3]\n")
        assert read_settings(configs / "unimix.yaml") == {"epochs": 5, "loss": "bayias"}

    def test_did_you_mean(self) -> None:
        assert did_you_mean("unimx", ["unimix", "mixup"]) == ", did you mean 'unimix'?"
        assert did_you_mean("zzz", ["unimix", "mixup"]) == ""

    def test_a_tracker_must_be_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tracking = pytest.importorskip("accelerate.tracking")
        monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["abacus"])
        for word in (None, "all", "abacus"):
            check_tracker(word)
        with pytest.raises(UserError, match=r"`log_with` is 'wandb', but the trackers installed here are: abacus"):
            check_tracker("wandb")
        monkeypatch.setattr(tracking, "get_available_trackers", list)
        with pytest.raises(UserError, match="the trackers installed here are: none"):
            check_tracker("wandb")


def test_peek(configs: Path) -> None:
    words = ["--loss", "ce", "--config", str(configs / "unimix.yaml"), "--epochs=4"]
    assert peek(words, "loss") == "ce"
    assert peek(words, "epochs") == "4"
    assert peek(words[:4], "epochs") == "5"
    assert peek(words, "lr") is None
    assert peek(words, "lr", "0.1") == "0.1"
    assert peek(["--loss", "--epochs", "3"], "loss") is None


class TestOneLine:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (UserError("`lr` is\n  wrong."), 2),
            (OSError(errno.ENOSPC, "No space left"), 2),
            (FileNotFoundError("no such file"), 2),
            (KeyboardInterrupt(), 130),
        ],
    )
    def test_what_is_no_fault_of_the_program(
        self, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end, one_line_errors("Start it again."):
            raise error
        assert end.value.code == code
        (line,) = capsys.readouterr().err.splitlines()
        assert "error: " in line
        assert ("make room" in line) == (getattr(error, "errno", None) == errno.ENOSPC)
        assert ("stopped. Start it again." in line) == (code == 130)

    def test_a_fault_of_the_program_keeps_its_traceback(self) -> None:
        for error in (ValueError("x"), RuntimeError("x"), ZeroDivisionError("x")):
            with pytest.raises(type(error)), one_line_errors():
                raise error

    def test_value_errors_of_settings_become_the_users(self) -> None:
        with pytest.raises(UserError, match="alpha"), as_user_errors():
            raise ValueError("alpha")
        same = UserError("mine")
        with pytest.raises(UserError) as found, as_user_errors():
            raise same
        assert found.value is same
        with pytest.raises(ZeroDivisionError), as_user_errors():
            1 / 0  # noqa: B018

    def test_developers_see_the_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(errors, "sys", SimpleNamespace(flags=SimpleNamespace(dev_mode=True)))
        for error in (UserError("wrong"), FileNotFoundError("no such file")):
            with pytest.raises(type(error)), one_line_errors():
                raise error

    def test_only_the_main_process_prints_at_once(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        waited: list[float] = []
        monkeypatch.setattr(errors.time, "sleep", waited.append)
        monkeypatch.setattr(sys, "argv", ["/recipes/train.py"])
        with pytest.raises(SystemExit):
            exit_with_error("two\n lines")
        assert capsys.readouterr().err == "train.py: error: two lines\n"
        assert waited == []
        monkeypatch.setenv("LOCAL_RANK", "1")
        with pytest.raises(SystemExit):
            exit_with_error("x")
        assert len(waited) == 1

    def test_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one_process()
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(SystemExit):
            one_process()
