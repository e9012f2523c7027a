"""Mistakes with the recipe esc50_lt end in one line that names the setting, what came and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from recipe_support import ROOT, SMALL_SOUND, Launcher, copy_recipe, imported, settings, summary, tiny_model

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RECIPE = ROOT / "recipes" / "esc50_lt"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("bad") / "recipe", tiny_model(recipe="esc50_lt"), recipe="esc50_lt")


@pytest.fixture(scope="module")
def parse() -> Iterator[Callable]:
    with imported(RECIPE, "config") as modules:
        yield modules.config.parse_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own recordings of three classes, 30 each, of 0.1 to 0.3 seconds at 8 kHz."""
    folder, rng = tmp_path_factory.mktemp("sounds") / "good", np.random.default_rng(0)
    for label, name in enumerate(("dog", "rain", "siren")):
        (folder / name).mkdir(parents=True)
        for k in range(30):
            t = np.arange(rng.integers(800, 2400)) / 8000
            tone = 0.3 * np.sin(2 * np.pi * (300 + 400 * label) * t) + 0.01 * rng.standard_normal(len(t))
            soundfile.write(folder / name / f"{k}.wav", tone, 8000)
    return folder


class TestSettings:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--dataset esc5", "`dataset` must be one of esc50, esc10, synthetic, folder, but is 'esc5', did you mean"),
            ("--dataset folder", "`dataset: folder` needs `data_dir`, the folder that holds one folder a class."),
            ("--sample_rate 16", "`sample_rate` is in samples a second and at least 4000, but is 16."),
            ("--imbalance_ratio 0.1", "must be at least 1, but is 0.1. Did you mean 10?"),
            ("--test_crops 1", "`test_crops` must be at least 2, spread evenly over a clip, but is 1."),
            ("--max_scale 0.8", "`max_scale` must be at least 1, but is 0.8."),
            ("--max_gain_db -6", "`max_gain_db` must not be negative, but is -6.0."),
            ("--epochs 0", "`epochs` must be at least 1, but is 0."),
            ("--crop_length 0", "`crop_length` must be at least 1, but is 0."),
            ("--mels 0", "`mels` must be at least 1, but is 0."),
            ("--threads 0", "`threads` must be at least 1, but is 0."),
            ("--warmup_epochs -1", "`warmup_epochs` must not be negative, but is -1."),
            ("--warmup_factor 0", "`warmup_factor` must be positive, but is 0.0."),
            ("--lr -0.1", "`lr` must be positive, but is -0.1."),
            ("--alpha 0", "`alpha` must be positive, but is 0.0."),
            ("--decay_at [0.5,300]", "`decay_at` is a share of the training and must lie in 0..1, but is 300.0."),
            ("--rebalance_at 160", "`rebalance_at` is a share of the training and must lie in 0..1, but is 160.0."),
            ("--mix_stop_at -1", "`mix_stop_at` is a share of the training and must lie in 0..1, but is -1.0."),
            ("--different_classes true", "`different_classes` is about pairs, but `mixer` is none. Leave it out."),
            ("--mixer betwen_class", "Got value: betwen_class, did you mean 'between_class'?"),
            ("--model envnetv2", "Got value: envnetv2, did you mean 'envnet_v2'?"),
            ("--rebalance_epoch 3", "unrecognized arguments: --rebalance_epoch 3"),
            ("--log_with nothing", "`log_with` is 'nothing', but the trackers installed here are: "),
            ("--config lob.yaml", "`--config` 'lob.yaml' is no file. Did you mean the method lob_bc?"),
        ],
    )
    def test_are_named(self, parse: Callable, capsys: pytest.CaptureFixture, words: str, message: str) -> None:
        with pytest.raises(SystemExit) as end:
            parse(words.split())
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1

    def test_where_runs_go(self, parse: Callable) -> None:
        assert parse([]).out == "runs/esc50_ir10_envnet_erm_seed0"
        words = "--dataset esc10 --profile natural --test_fold 2 --model mel_timm --method mine --seed 3"
        assert parse(words.split()).out == "runs/esc10_natural_mel_timm_mine_fold2_seed3"


class TestData:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dataset": "folder", "data_dir": "nowhere"}, "`data_dir` 'nowhere' is no folder."),
            ({"dataset": "esc50"}, "The data set 'ashraq/esc50' could not be loaded from the hub"),
            ({"test_per_class": 24}, "`test_per_class`=24 and a training clip need 25 clips of every class"),
            ({"imbalance_ratio": 1000}, "`imbalance_ratio`=1000 leaves class 3 without training clips"),
        ],
    )
    def test_faults(
        self, launcher: Launcher, recipe: Path, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        arguments = settings(recipe, "erm", tmp_path / "run", **(SMALL_SOUND | changes))
        done = launcher.run(recipe / "train.py", *arguments, cwd=tmp_path)
        assert message in done.error()
        assert not list(tmp_path.iterdir())  # no run folder that a second start would stumble over

    def test_fewer_than_eight_clips(self, launcher: Launcher, recipe: Path, folder: Path, tmp_path: Path) -> None:
        for name in ("dog", "rain"):
            (tmp_path / "data" / name).mkdir(parents=True)
            for k in range(4):
                shutil.copy(folder / name / f"{20 + k}.wav", tmp_path / "data" / name)
        changes = SMALL_SOUND | {"dataset": "folder", "data_dir": tmp_path / "data", "profile": "natural"}
        changes |= {"test_per_class": 1, "cache_dir": "none", "epochs": 1}
        arguments = settings(recipe, "erm", tmp_path / "run", **changes)
        error = launcher.run(recipe / "train.py", *arguments).error()
        assert error.startswith("`batch_size`=16 exceeds the 6 samples of an epoch, and ")
        assert error.endswith("Lower `batch_size`.")
        launcher.run(recipe / "train.py", *arguments, "--batch_size", "6").good()  # which helps

    def test_a_network_of_other_crops(self, launcher: Launcher, tmp_path: Path) -> None:
        recipe = copy_recipe(tmp_path / "recipe", (RECIPE / "model.py").read_text(), recipe="esc50_lt")
        arguments = settings(recipe, "erm", tmp_path / "run", **(SMALL_SOUND | {"model": "envnet"}))
        error = launcher.run(recipe / "train.py", *arguments).error()
        assert "`model: envnet` takes 24014 samples, but `crop_length` is 900." in error
        assert not (tmp_path / "run").exists()

    def test_a_folder_of_sounds_and_what_is_wrong_in_it(
        self, launcher: Launcher, recipe: Path, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "dog" / "0.wav").write_bytes(b"RIFF, but no more")
        (folder / "dog" / "1.wav").write_bytes(b"")
        changes = SMALL_SOUND | {"dataset": "folder", "data_dir": folder, "epochs": 1, "profile": "natural"}
        changes |= {"cache_dir": tmp_path / "cache", "crop_length": 3000}  # longer than every clip
        run = tmp_path / "run"
        arguments = [recipe / "train.py", *settings(recipe, "lob_bc", run, **changes)]
        error = launcher.run(*arguments, "--on_error", "raise").error()
        assert "Mend it, or leave it out: `--on_error skip`." in error
        assert not run.exists()
        done = launcher.run(*arguments).good()
        assert "Warning: 2 of 90 clips are left out, since they cannot be read: " in done.err
        values = summary(run)
        assert values["unreadable_clips"] == 2
        assert values["class_names"] == ["dog", "rain", "siren"]
        assert values["training_clips"] == sum(values["class_counts"])
        assert values["training_clips"] + len((run / "per_class.csv").read_text().splitlines()) - 1 < 90
        assert values["final"]["top1"] > 0.3

    def test_none_of_them_can_be_read(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        for name in ("dog", "rain"):
            (tmp_path / "data" / name).mkdir(parents=True)
            for k in range(10):
                (tmp_path / "data" / name / f"{k}.ogg").write_text(f"no sound {k}")
        changes = SMALL_SOUND | {"dataset": "folder", "data_dir": tmp_path / "data", "profile": "natural"}
        arguments = settings(recipe, "erm", tmp_path / "run", **(changes | {"cache_dir": "none"}))
        error = launcher.run(recipe / "train.py", *arguments).error()
        assert error.startswith("None of the 20 clips can be read: dog/")
        assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_says_so(launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
    changes = SMALL_SOUND | {"lr": 1e30, "optimizer": "sgd", "warmup_epochs": 0, "eval_every": 2}
    arguments = settings(recipe, "erm", tmp_path / "run", **changes)
    error = launcher.run(recipe / "train.py", *arguments).error()
    assert error.startswith("The loss is nan in epoch 1: the training has diverged.")
    assert "Lower `lr`" in error
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_scripts_for_one_process_say_so(launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
    for script in (["quickstart.py"], ["evaluate.py", "run"], ["sweep.py", "--methods", "erm"]):
        main, other = launcher.ranks(recipe / script[0], *script[1:], cwd=tmp_path)
        assert "this script runs on one process; train.py runs on several" in main.wait().error()
        other.kill()
        other.wait()
    assert not list(tmp_path.iterdir())
