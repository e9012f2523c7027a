"""A run that is stopped and resumed ends in the same bits as one that was never stopped, and nothing saved is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from recipe_support import Launcher, Recipe, assert_same, checkpoints, contents, copy_recipe, rows, summary, tiny_model

from ltaug.errors import UserError
from ltaug.methods import METHODS

EPOCHS = 5
# Both phases are interrupted: pairs of the whole set that UniMix mixes, and from the fifth epoch on plain batches.
METHOD = "unimix_bayias"
RESULTS = ("summary.json", "model.safetensors", "ltaug.json", "logits.safetensors", "held_out.safetensors")

# Ends the process, once, at the n-th training step, and once more when the second checkpoint is half written; the files
# that say so are the recipe's own.
KILLED = """

import os
import pathlib
import signal

import accelerate

HERE = pathlib.Path(__file__).parent


def kill_at_last_step(module, inputs):
    if module.training and (HERE / "steps").exists():
        steps = int((HERE / "steps").read_text()) - 1
        (HERE / "steps").write_text(str(steps))
        if steps == 0:
            (HERE / "steps").unlink()
            os.kill(os.getpid(), signal.SIGKILL)


build, save_state = build_model, accelerate.Accelerator.save_state


def build_model(*arguments):
    model = build(*arguments)
    model.register_forward_pre_hook(kill_at_last_step)
    return model


def save_half(self, folder, *rest, **more):
    save_state(self, folder, *rest, **more)
    if "epoch_00004" in folder and (HERE / "saving").exists():
        (HERE / "saving").unlink()
        pathlib.Path(folder, "optimizer.bin").write_bytes(pathlib.Path(folder, "optimizer.bin").read_bytes()[:100])
        os.kill(os.getpid(), signal.SIGKILL)


accelerate.Accelerator.save_state = save_half
"""


class Stopped(Exception):
    """Raised in the middle of an epoch."""


@pytest.fixture(scope="module")
def whole(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    return tiny.train(METHOD, tmp_path_factory.mktemp("whole") / "run", epochs=EPOCHS)


@pytest.fixture
def half(whole: Path, tmp_path: Path) -> Path:
    """The run as it was after its last epoch, without what comes at the end; checkpoints of the last two epochs."""
    run = tmp_path / "half"
    shutil.copytree(whole, run)
    for name in RESULTS:
        (run / name).unlink()
    assert checkpoints(run) == ["epoch_00004", "epoch_00005"]
    return run


def resume(recipe: Recipe, run: Path, method: str = METHOD, **changes: Any) -> Path:
    """Start the run of the fixtures again."""
    return recipe.train(method, run, **({"epochs": EPOCHS, "resume": True} | changes))


def stopping(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, after: list[int]) -> None:
    """Stop the training at a step; the list has how many steps each attempt may take."""
    step = recipe.module.train_one_epoch
    left = iter(after)
    state = {"steps": None}

    def begin(*arguments: Any) -> Any:
        state["steps"] = next(left, None)
        return main(*arguments)

    def few(cfg: Any, accelerator: Any, model: Any, batches: Any, plan: Any, optimizer: Any) -> Any:
        def some() -> Any:
            for batch in batches:
                if state["steps"] is not None:
                    if state["steps"] == 0:
                        raise Stopped
                    state["steps"] -= 1
                yield batch

        return step(cfg, accelerator, model, some(), plan, optimizer)

    main = recipe.module.main
    monkeypatch.setattr(recipe.module, "train_one_epoch", few)
    monkeypatch.setattr(recipe.module, "main", begin)


def damage(file: Path) -> None:
    """Flip a byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


def test_killed_in_mid_epoch_and_while_saving(launcher: Launcher, tiny: Recipe, whole: Path, tmp_path: Path) -> None:
    """By SIGKILL, in processes of their own; the run that nothing interrupted was one of this process."""
    mortal, run = copy_recipe(tmp_path / "cifar_lt", tiny_model(extra=KILLED)), tmp_path / "run"
    command = [mortal / "train.py", *tiny.words(METHOD, run, epochs=EPOCHS, resume=True)]
    (mortal / "steps").write_text("23")  # in the third epoch of nine steps
    (mortal / "saving").touch()
    assert launcher.run(*command).code == -9
    assert [row["epoch"] for row in rows(run)] == [0, 1]
    second = launcher.run(*command)
    assert second.code == -9
    assert "Resumed after epoch 2 of 5" in second.out
    assert not (run / "summary.json").exists()
    assert checkpoints(run) == [".ltaug-epoch_00004.tmp", "epoch_00002", "epoch_00003"]
    third = launcher.run(*command).good()
    assert "Resumed after epoch 3 of 5" in third.out
    assert_same(run, whole)
    assert checkpoints(run) == ["epoch_00004", "epoch_00005"]


class TestStopped:
    @pytest.mark.parametrize(
        ("method", "changes"),
        [
            (METHOD, {}),
            ("unimix_bayias_official", {}),  # partners from the batch
            ("lob_mixup_deferred", {}),
            ("manifold_mixup", {}),  # hooks, and a layer drawn for every batch
            ("ldam_drw", {}),  # another classifier, another loss
            ("causal_norm", {}),  # a moving average of the features
            ("erm", {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "held_out_per_class": 5}),
        ],
    )
    def test_in_every_epoch(
        self, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, changes: dict[str, Any]
    ) -> None:
        settings = {"epochs": EPOCHS, "eval_every": 2} | changes
        whole = tiny.train(method, tmp_path / "whole", **settings)
        # The second life begins anew, since the first one ended before there was a checkpoint.
        stopping(tiny, monkeypatch, [3, 9 + 2, 9 + 1, 8 + 1, 9, 9 + 9])
        run = tmp_path / "run"
        done = []
        for _ in range(6):
            try:
                tiny.train(method, run, resume=True, **settings)
            except Stopped:
                done.append(len(rows(run)) if (run / "metrics.jsonl").exists() else 0)
            else:
                break
        assert done == [0, 1, 2, 3, 4]
        assert_same(run, whole)

    def test_a_second_stage(self, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = tiny.train("mixup", tmp_path / "mixup", epochs=1)
        settings = {"from_run": first, "epochs": 3}
        whole = tiny.train("mislas", tmp_path / "whole", **settings)
        stopping(tiny, monkeypatch, [9 + 4, 9 + 2])
        run = tmp_path / "run"
        for _ in range(2):
            with pytest.raises(Stopped):
                tiny.train("mislas", run, resume=True, **settings)
        tiny.train("mislas", run, resume=True, **settings)
        assert_same(run, whole)

    def test_the_rows_of_lost_epochs_are_replaced(
        self, tiny: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint every second epoch, stopped in the fourth: the third runs twice, and has one row."""
        run = tmp_path / "run"
        stopping(tiny, monkeypatch, [9 * 3 + 5])
        with pytest.raises(Stopped):
            resume(tiny, run, checkpoint_every=2)
        assert [row["epoch"] for row in rows(run)] == [0, 1, 2]
        assert checkpoints(run) == ["epoch_00002"]
        resume(tiny, run, checkpoint_every=2)
        assert_same(run, whole)


class TestDamage:
    def test_half_written_checkpoints_are_never_picked_up(
        self, tiny: Recipe, whole: Path, half: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        newest = half / "checkpoints" / "epoch_00005"
        shutil.copytree(newest, half / "checkpoints" / ".ltaug-epoch_00006.tmp")
        (newest / "manifest.json").unlink()  # what lies there under the final name, yet was never finished
        with pytest.warns(UserWarning, match="Skipping a damaged checkpoint .* epoch_00005: manifest.json is missing"):
            resume(tiny, half)
        assert "Resumed after epoch 4 of 5" in capsys.readouterr().out
        assert_same(half, whole)
        assert checkpoints(half) == ["epoch_00004", "epoch_00005"]

    @pytest.mark.parametrize("name", ["optimizer.bin", "model.safetensors", "random_states_0.pkl"])
    def test_the_previous_checkpoint_is_used(
        self, tiny: Recipe, whole: Path, half: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage(half / "checkpoints" / "epoch_00005" / name)
        with pytest.warns(UserWarning, match=f"epoch_00005: {name} has changed"):
            resume(tiny, half)
        assert "Resumed after epoch 4 of 5" in capsys.readouterr().out
        assert_same(half, whole)

    def test_no_checkpoint_is_good(self, tiny: Recipe, half: Path) -> None:
        damage(half / "checkpoints" / "epoch_00004" / "model.safetensors")
        (half / "checkpoints" / "epoch_00005" / "optimizer.bin").unlink()
        but = ["command.txt", "config.yaml", "environment.json"]
        before = contents(half, but=but)
        with pytest.warns(UserWarning, match="Skipping"), pytest.raises(UserError) as caught:
            resume(tiny, half)
        assert "epoch_00004: model.safetensors has changed" in str(caught.value)
        assert "epoch_00005: optimizer.bin is missing" in str(caught.value)
        assert "Start anew in another folder" in str(caught.value)
        assert contents(half, but=but) == before


class TestAnotherConfig:
    def test_is_named(self, tiny: Recipe, half: Path) -> None:
        before = contents(half)
        with pytest.raises(UserError) as caught:
            resume(tiny, half, lr=0.05, seed=3)
        message = str(caught.value)
        assert "`lr` was 0.1 and is now 0.05" in message
        assert "`seed` was 0 and is now 3" in message
        assert "`epochs`" not in message
        assert contents(half) == before

    def test_another_method_or_change_of_it_is_named(self, tiny: Recipe, half: Path) -> None:
        before = contents(half)
        with pytest.raises(UserError, match="`method` was 'unimix_bayias' and is now 'unimix'"):
            resume(tiny, half, "unimix")
        with pytest.raises(UserError, match=r"`set` was None and is now \{'alpha': 0\.5\}"):
            resume(tiny, half, **{"set.alpha": 0.5})
        assert contents(half) == before

    def test_more_epochs_are_welcome(
        self, tiny: Recipe, whole: Path, half: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Places in the schedule are shares of the training, so the rest follows the longer one's."""
        resume(tiny, half, epochs=EPOCHS + 1, checkpoint_every=4)
        assert "Resumed after epoch 5 of 6" in capsys.readouterr().out
        assert summary(half)["epochs"] == EPOCHS + 1
        assert rows(half)[:EPOCHS] == rows(whole)
        assert [row["epoch"] for row in rows(half)] == list(range(EPOCHS + 1))

    def test_fewer_than_done_are_refused(self, tiny: Recipe, half: Path) -> None:
        before = contents(half)
        with pytest.raises(UserError, match=r"^`epochs` is 2, but .* has completed 5\. Raise it\."):
            resume(tiny, half, epochs=2)
        assert contents(half) == before

    def test_only_checkpoints_that_can_be_used_count_as_done(
        self, tiny: Recipe, half: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage(half / "checkpoints" / "epoch_00005" / "model.safetensors")
        with pytest.warns(UserWarning, match="Skipping"):
            resume(tiny, half, epochs=4)
        assert "Resumed after epoch 4 of 4" in capsys.readouterr().out

    def test_a_setting_that_the_run_did_not_know_yet_has_its_default(self, tiny: Recipe, half: Path) -> None:
        config = (half / "config.yaml").read_text()
        assert "held_out_per_class: 0\n" in config
        (half / "config.yaml").write_text(config.replace("held_out_per_class: 0\n", ""))
        before = contents(half)
        with pytest.raises(UserError, match="`held_out_per_class` was 0 and is now 1"):
            resume(tiny, half, held_out_per_class=1)
        assert contents(half) == before
        resume(tiny, half)
        assert "held_out_per_class: 0\n" in (half / "config.yaml").read_text()


class TestOtherData:
    def test_are_refused(self, tiny: Recipe, half: Path) -> None:
        known = json.loads((half / "data.json").read_text())
        (half / "data.json").write_text(json.dumps(known | {"test_labels": "of another set"}))
        before = contents(half)
        with pytest.raises(UserError, match=r"`test_labels` differs from its data\.json"):
            resume(tiny, half)
        assert contents(half) == before


class TestAnExistingFolder:
    def test_is_not_written_over(self, tiny: Recipe, whole: Path) -> None:
        before = contents(whole)
        with pytest.raises(FileExistsError, match=r"already holds a run\. Resume it"):
            resume(tiny, whole, resume=False)
        assert contents(whole) == before

    def test_a_finished_run_just_writes_its_results_again(
        self, tiny: Recipe, whole: Path, half: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        resume(tiny, half)
        said = capsys.readouterr().out
        assert "Resumed after epoch 5 of 5" in said
        assert "epoch 5/5" not in said
        assert_same(half, whole)
        assert set(contents(half)) == set(contents(whole))
        old, new = summary(whole), summary(half)
        for values in (old, new):
            del values["peak_memory_bytes"]
            for free in ("out", "resume"):
                del values["settings"][free]
        assert new == old

    def test_a_failed_start_leaves_none_behind(self, tiny: Recipe, tmp_path: Path) -> None:
        # It could not be started again otherwise, with the mistake mended: the folder would hold a run.
        run = tmp_path / "run"
        for mistake in ({"batch_size": 100_000}, {"imbalance_ratio": 100_000}):
            with pytest.raises(ValueError, match=next(iter(mistake))):
                tiny.train("erm", run, **mistake)
            assert not run.exists()


def test_every_method_can_be_resumed_after_its_end(tiny: Recipe, tmp_path: Path) -> None:
    """What the plan says of the logits' prior does not depend on a batch having been mixed in this process."""
    for name in ("cutmix_bayias", "unimix_bayias"):
        assert METHODS[name].trained
        run = tiny.train(name, tmp_path / name, epochs=1)
        before = (run / "ltaug.json").read_bytes()
        tiny.train(name, run, epochs=1, resume=True)
        assert (run / "ltaug.json").read_bytes() == before
