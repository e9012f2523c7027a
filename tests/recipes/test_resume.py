"""A run that is killed and resumed ends in the same bits as one that was never stopped, and nothing saved is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recipe_support import Done, Launcher, contents, copy_recipe, rows, settings, summary, tiny_model, wait_until

# Two phases, so that both are interrupted: pairs of the whole set that UniMix mixes, then plain batches.
PHASES = {"epochs": 4, "mix_stop_epoch": 3, "decay_epochs": "[3]", "warmup_epochs": 2}

# Ends the process, once, at the n-th training step; the file that stops it from doing so again is the recipe's own.
KILLED_AT_A_STEP = """

import os
import pathlib
import signal

import torch

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")


def kill_at_last_step(module, inputs):
    if module.training and FIRST_LIFE.exists():
        steps = int(FIRST_LIFE.read_text()) - 1
        FIRST_LIFE.write_text(str(steps))
        if steps == 0:
            FIRST_LIFE.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


build = build_model


def build_model(*arguments, **named):
    model = build(*arguments, **named)
    model.register_forward_pre_hook(kill_at_last_step)
    return model
"""

# Ends the process, once, when the second checkpoint is half written.
KILLED_WHILE_SAVING = """

import os
import pathlib
import signal

import accelerate

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")
save_state = accelerate.Accelerator.save_state


def save_half(self, folder, *rest, **more):
    save_state(self, folder, *rest, **more)
    if "epoch_00002" in folder and FIRST_LIFE.exists():
        FIRST_LIFE.unlink()
        pathlib.Path(folder, "optimizer.bin").write_bytes(pathlib.Path(folder, "optimizer.bin").read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)


accelerate.Accelerator.save_state = save_half
"""

SLOW = """

import time

build = build_model


def build_model(num_classes, in_channels=3):
    model = build(num_classes, in_channels)
    model.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    return model
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with a small network with batch norm."""
    return copy_recipe(tmp_path_factory.mktemp("resume") / "recipe", tiny_model())


@pytest.fixture(scope="module")
def whole(launcher: Launcher, recipe: Path) -> Path:
    """A run that nothing interrupts."""
    out = recipe.parent / "whole"
    launcher.run(recipe / "train.py", *settings(recipe, "unimix_bayias", out, **PHASES)).good()
    return out


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """The run as it was after its fourth epoch, without what comes at the end; checkpoints of the last two epochs."""
    run = tmp_path / "half"
    shutil.copytree(whole, run)
    for name in ("summary.json", "model.safetensors", "ltaug.json", "logits.safetensors", "per_class.csv"):
        (run / name).unlink()
    assert checkpoints(run) == ["epoch_00003", "epoch_00004"]
    return run


def checkpoints(run: Path) -> list[str]:
    """Whatever lies in the folder of checkpoints."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_same(run: Path, whole: Path) -> None:
    """Bit-identical weights, identical metrics in every epoch, identical logits."""
    assert rows(run) == rows(whole)
    for name in ("model.safetensors", "logits.safetensors", "per_class.csv", "ltaug.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert summary(run)["final"] == summary(whole)["final"]


def resume(launcher: Launcher, recipe: Path, run: Path, **changes: object) -> Done:
    """Start the run of the fixtures again."""
    arguments = settings(recipe, "unimix_bayias", run, **(PHASES | {"resume": "true"} | changes))
    return launcher.run(recipe / "train.py", *arguments)


def damage(file: Path) -> None:
    """Flip a byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


class TestKilled:
    @pytest.mark.parametrize(
        ("step", "method", "changes"),
        [
            (23, "unimix_bayias", PHASES),  # in the third of four epochs of nine steps: pairs
            (31, "unimix_bayias", PHASES),  # in the fourth: no pairs any more
            (4, "unimix_bayias", PHASES),  # in the first: there is no checkpoint yet
            (14, "unimix_bayias_official", {"batch_size": 32}),  # partners from the batch
            (14, "lob_mixup_deferred", {"rebalance_epoch": 1}),
        ],
    )
    def test_in_mid_epoch(
        self, launcher: Launcher, recipe: Path, whole: Path, tmp_path: Path, step: int, method: str, changes: dict
    ) -> None:
        mortal = copy_recipe(tmp_path / "recipe", tiny_model(extra=KILLED_AT_A_STEP))
        (mortal / "first_life").write_text(str(step))
        run = tmp_path / "run"
        arguments = [mortal / "train.py", *settings(mortal, method, run, **changes)]
        first = launcher.run(*arguments)
        assert first.code == -9
        assert not (mortal / "first_life").exists()
        done_before = len(rows(run)) if (run / "metrics.jsonl").exists() else 0
        assert done_before == (step - 1) // 9
        second = launcher.run(*arguments, "--resume", "true").good()
        assert ("Resumed" in second.out) == (done_before > 0)
        if method != "unimix_bayias":
            whole = tmp_path / "whole"
            launcher.run(recipe / "train.py", *settings(recipe, method, whole, **changes)).good()
        assert_same(run, whole)

    def test_from_outside_at_any_time(self, launcher: Launcher, recipe: Path, whole: Path, tmp_path: Path) -> None:
        slow, run = copy_recipe(tmp_path / "recipe", tiny_model(extra=SLOW)), tmp_path / "run"
        arguments = [slow / "train.py", *settings(slow, "unimix_bayias", run, **PHASES)]
        for count in (1, 3):
            process = launcher.start(*arguments, "--resume", "true")
            wait_until(lambda count=count: (run / "metrics.jsonl").exists() and len(rows(run)) >= count)
            process.kill()
            assert process.wait().code == -9
        resume(launcher, recipe, run).good()
        assert_same(run, whole)

    def test_while_saving(self, launcher: Launcher, recipe: Path, whole: Path, tmp_path: Path) -> None:
        mortal, run = copy_recipe(tmp_path / "recipe", tiny_model(extra=KILLED_WHILE_SAVING)), tmp_path / "run"
        (mortal / "first_life").touch()
        arguments = [mortal / "train.py", *settings(mortal, "unimix_bayias", run, **PHASES)]
        assert launcher.run(*arguments).code == -9
        assert checkpoints(run) == [".epoch_00002.tmp", "epoch_00001"]
        second = launcher.run(*arguments, "--resume", "true").good()
        assert "Resumed after epoch 1 of 4" in second.out
        assert_same(run, whole)
        assert checkpoints(run) == ["epoch_00003", "epoch_00004"]


class TestDamage:
    def test_half_written_checkpoints_are_never_picked_up(
        self, launcher: Launcher, recipe: Path, whole: Path, half: Path
    ) -> None:
        newest = half / "checkpoints" / "epoch_00004"
        shutil.copytree(newest, half / "checkpoints" / ".epoch_00005.tmp")
        (newest / "manifest.json").unlink()  # what lies there under the final name, yet was never finished
        done = resume(launcher, recipe, half).good()
        assert "Resumed after epoch 3 of 4" in done.out
        assert_same(half, whole)
        assert checkpoints(half) == ["epoch_00003", "epoch_00004"]

    @pytest.mark.parametrize("name", ["optimizer.bin", "model.safetensors", "random_states_0.pkl"])
    def test_the_previous_checkpoint_is_used(
        self, launcher: Launcher, recipe: Path, whole: Path, half: Path, name: str
    ) -> None:
        damage(half / "checkpoints" / "epoch_00004" / name)
        done = resume(launcher, recipe, half).good()
        assert f"Skipping a damaged checkpoint in `{half}`: epoch_00004: {name} has changed" in done.err
        assert "Resumed after epoch 3 of 4" in done.out
        assert_same(half, whole)

    def test_no_checkpoint_is_good(self, launcher: Launcher, recipe: Path, half: Path) -> None:
        damage(half / "checkpoints" / "epoch_00003" / "model.safetensors")
        (half / "checkpoints" / "epoch_00004" / "optimizer.bin").unlink()
        before = contents(half, but=["command.txt", "config.yaml", "environment.json"])
        message = resume(launcher, recipe, half).error()
        assert "epoch_00003: model.safetensors has changed" in message
        assert "epoch_00004: optimizer.bin is missing" in message
        assert "Start anew in another folder" in message
        assert contents(half, but=["command.txt", "config.yaml", "environment.json"]) == before


class TestAnotherConfig:
    def test_is_named(self, launcher: Launcher, recipe: Path, half: Path) -> None:
        before = contents(half)
        message = resume(launcher, recipe, half, lr=0.05, seed=3).error()
        assert "`lr` was 0.1 and is now 0.05" in message
        assert "`seed` was 0 and is now 3" in message
        assert "`epochs`" not in message
        assert contents(half) == before

    def test_more_epochs_are_welcome(self, launcher: Launcher, recipe: Path, whole: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        resume(launcher, recipe, run, epochs=2).good()
        assert summary(run)["epochs"] == 2
        resume(launcher, recipe, run, checkpoint_every=4).good()
        assert_same(run, whole)
        assert [row["lr"] for row in rows(run)] == pytest.approx([0.05, 0.1, 0.1, 0.01])

    def test_fewer_than_done_are_refused(self, launcher: Launcher, recipe: Path, half: Path) -> None:
        before = contents(half)
        message = resume(launcher, recipe, half, epochs=2).error()
        assert message.startswith("`epochs` is 2, but")
        assert "has completed 4. Raise it." in message
        assert contents(half) == before

    def test_only_checkpoints_that_can_be_used_count_as_done(
        self, launcher: Launcher, recipe: Path, half: Path
    ) -> None:
        damage(half / "checkpoints" / "epoch_00004" / "model.safetensors")
        done = resume(launcher, recipe, half, epochs=3).good()
        assert "Resumed after epoch 3 of 3" in done.out

    def test_a_setting_that_the_run_did_not_know_yet_has_its_default(
        self, launcher: Launcher, recipe: Path, half: Path
    ) -> None:
        config = (half / "config.yaml").read_text()
        assert "held_out_per_class: 0\n" in config
        (half / "config.yaml").write_text(config.replace("held_out_per_class: 0\n", ""))
        before = contents(half)
        message = resume(launcher, recipe, half, held_out_per_class=1).error()
        assert "`held_out_per_class` was 0 and is now 1" in message
        assert contents(half) == before
        resume(launcher, recipe, half).good()
        assert "held_out_per_class: 0\n" in (half / "config.yaml").read_text()


class TestOtherData:
    def test_are_refused(self, launcher: Launcher, recipe: Path, half: Path) -> None:
        facts = json.loads((half / "data.json").read_text())
        (half / "data.json").write_text(json.dumps(facts | {"test_labels": "of another set"}))
        before = contents(half)
        assert "`test_labels` differs from its data.json" in resume(launcher, recipe, half).error()
        assert "`test_labels` differs from its data.json" in launcher.run(recipe / "evaluate.py", half).error()
        assert contents(half) == before


class TestAnExistingFolder:
    def test_is_not_written_over(self, launcher: Launcher, recipe: Path, whole: Path) -> None:
        before = contents(whole)
        message = resume(launcher, recipe, whole, resume="false").error()
        assert f"`{whole}` already holds a run" in message
        assert "--resume true" in message
        assert contents(whole) == before

    def test_a_finished_run_just_writes_its_results_again(
        self, launcher: Launcher, recipe: Path, whole: Path, half: Path
    ) -> None:
        done = resume(launcher, recipe, half).good()
        assert "Resumed after epoch 4 of 4" in done.out
        assert "epoch 4/4" not in done.out
        assert_same(half, whole)
        assert set(contents(half)) == set(contents(whole))
        old, new = summary(whole), summary(half)
        assert {key: new[key] for key in new if key != "peak_memory_bytes"} == {
            key: old[key] for key in old if key != "peak_memory_bytes"
        }

    def test_a_failed_start_leaves_none_behind(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        # It could not be started again otherwise, with the mistake mended: the folder would hold a run.
        run = tmp_path / "run"
        for mistake in ({"batch_size": 100_000}, {"imbalance_ratio": 100_000}):
            launcher.run(recipe / "train.py", *settings(recipe, "erm", run, **mistake)).error()
            assert not run.exists()


def test_the_rows_of_lost_epochs_are_replaced(launcher: Launcher, recipe: Path, whole: Path, tmp_path: Path) -> None:
    # A checkpoint every second epoch, killed in the fourth: the third runs twice, and has one row.
    mortal, run = copy_recipe(tmp_path / "recipe", tiny_model(extra=KILLED_AT_A_STEP)), tmp_path / "run"
    changes = PHASES | {"checkpoint_every": 2}
    arguments = [mortal / "train.py", *settings(mortal, "unimix_bayias", run, **changes)]
    (mortal / "first_life").write_text("32")
    assert launcher.run(*arguments).code == -9
    assert [row["epoch"] for row in rows(run)] == [0, 1, 2]
    assert checkpoints(run) == ["epoch_00002"]
    launcher.run(*arguments, "--resume", "true").good()
    assert rows(run) == rows(whole)
