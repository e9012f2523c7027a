"""Runs of the recipe esc50_lt that are killed, and runs on two processes, end as one does that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipe_support import SMALL_SOUND, Launcher, copy_recipe, rows, settings, summary, tiny_model
from safetensors.torch import load_file
from test_processes import largest_difference, wait_for_both
from test_resume import KILLED_AT_A_STEP, assert_same

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

# Four epochs of four batches, three phases: instance-balanced pairs, class-balanced pairs, single clips.
PHASES = SMALL_SOUND | {"epochs": 4, "rebalance_at": 0.5, "mix_stop_at": 0.75, "max_scale": 1.25, "max_gain_db": 6}
# No batch norm, whose statistics are each process's own, and no mixing. The last batch has nine of 57 clips.
CHANGES = SMALL_SOUND | {"epochs": 3, "optimizer": "sgd", "lr": 0.05, "max_scale": 1.25}


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("resume")
    recipe = copy_recipe(folder / "recipe", tiny_model(recipe="esc50_lt"), recipe="esc50_lt")
    launcher.run(recipe / "train.py", *settings(recipe, "lob_bc_deferred", folder / "whole", **PHASES)).good()
    return folder / "whole"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model("GroupNorm(2, 8)", recipe="esc50_lt")
    return copy_recipe(tmp_path_factory.mktemp("processes") / "recipe", model, recipe="esc50_lt")


@pytest.fixture(scope="module")
def one(launcher: Launcher, recipe: Path) -> Path:
    """A run on one process."""
    out = recipe.parent / "one"
    launcher.run(recipe / "train.py", *settings(recipe, "class_balanced", out, **CHANGES)).good()
    return out


class TestKilled:
    # In the second epoch; in the third, the first of rebalanced pairs; in the fourth, which mixes nothing.
    @pytest.mark.parametrize("step", [7, 9, 15])
    def test_ends_in_the_same_bits(self, launcher: Launcher, whole: Path, tmp_path: Path, step: int) -> None:
        model = tiny_model(extra=KILLED_AT_A_STEP, recipe="esc50_lt")
        mortal, run = copy_recipe(tmp_path / "recipe", model, recipe="esc50_lt"), tmp_path / "run"
        (mortal / "first_life").write_text(str(step))
        arguments = [mortal / "train.py", *settings(mortal, "lob_bc_deferred", run, **PHASES)]
        assert launcher.run(*arguments).code == -9
        done_before = (step - 1) // 4
        assert len(rows(run)) == done_before
        second = launcher.run(*arguments, "--resume", "true").good()
        assert f"Resumed after epoch {done_before} of 4" in second.out
        assert_same(run, whole)

    def test_a_last_batch_of_fewer_than_eight_is_left_out(self, launcher: Launcher, tmp_path: Path) -> None:
        # 57 clips are five batches of ten and a rest of seven: the sixth step is the second epoch's first.
        model = tiny_model(extra=KILLED_AT_A_STEP, recipe="esc50_lt")
        mortal, run = copy_recipe(tmp_path / "recipe", model, recipe="esc50_lt"), tmp_path / "run"
        (mortal / "first_life").write_text("6")
        arguments = settings(mortal, "erm", run, **(SMALL_SOUND | {"batch_size": 10}))
        assert launcher.run(mortal / "train.py", *arguments).code == -9
        assert [row["epoch"] for row in rows(run)] == [0]


class TestTwoProcesses:
    def test_equal_one(self, launcher: Launcher, recipe: Path, one: Path, tmp_path: Path) -> None:
        # Their shares of the last batch are four clips and five, and each clip counts alike.
        run = tmp_path / "two"
        for epochs in (1, 3):  # and so they do after resuming
            values = CHANGES | {"epochs": epochs, "resume": "true"}
            done = wait_for_both(
                launcher.ranks(recipe / "train.py", *settings(recipe, "class_balanced", run, **values))
            )
        assert "2 process(es)" in done.out
        assert "Resumed after epoch 1 of 3" in done.out
        assert [summary(each)["num_processes"] for each in (one, run)] == [1, 2]
        assert largest_difference(one, run) < 1e-5
        for single, double in zip(rows(one), rows(run), strict=True):
            assert double == pytest.approx(single, abs=1e-4, nan_ok=True)
        kept, other = load_file(one / "logits.safetensors"), load_file(run / "logits.safetensors")
        torch.testing.assert_close(other["labels"], kept["labels"], rtol=0, atol=0)  # the order of the set
        torch.testing.assert_close(other["logits"], kept["logits"], rtol=0, atol=1e-4)

    def test_clips_that_do_not_count_alike_would_be_seen(
        self, launcher: Launcher, recipe: Path, one: Path, tmp_path: Path
    ) -> None:
        # The twin of the test above: every process's mean counts alike, as it does where nobody takes care.
        careless = copy_recipe(tmp_path / "recipe", (recipe / "model.py").read_text(), recipe="esc50_lt")
        text, weight = (careless / "train.py").read_text(), " * (len(inputs) * accelerator.num_processes / size)"
        assert weight in text
        (careless / "train.py").write_text(text.replace(weight, ""))
        arguments = settings(careless, "class_balanced", tmp_path / "run", **CHANGES)
        wait_for_both(launcher.ranks(careless / "train.py", *arguments))
        assert largest_difference(one, tmp_path / "run") > 1e-4
