"""Run folders that somebody else made, or that are damaged: nothing in them is executed, and the file is named."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_support import Done, Recipe, contents, copy_recipe, imported, rows
from safetensors.torch import load_file
from test_image_processes import TINY

from ltaug.__main__ import main as ltaug_command

SETTINGS = {
    **{"protocol": None, "dataset": "digits", "profile": "exponential", "imbalance_ratio": 50, "test_per_class": 5},
    **{"image_size": 32, "augmentation": "flip", "batch_size": 32, "workers": 0, "seed": 3},
    **{"ema": 0.9, "checkpoint_steps": 4},
}
STEPS = 14
"""Of an epoch."""
INSIDE = "epoch_00001_step_0000004"


REFUSED = {
    "correct": {"logits.safetensors", "ltaug.json", "summary.json"},
    "resume": {"config.yaml", "data.json", "metrics.jsonl"},
    "report": {"summary.json"},
    "compare": {"summary.json"},
}
"""Files that a command cannot do without. Other ones are not read, or made anew."""


class Planted:
    """A pickle of it makes a file when it is read carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Killed(Exception):
    """Raised in the middle of an epoch."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """imagenet_lt, which has a moving average and checkpoints inside epochs, on the digits."""
    with imported(copy_recipe(tmp_path_factory.mktemp("images") / "imagenet_lt", TINY, "imagenet_lt")) as recipe:
        yield recipe


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    return recipe.train("erm", tmp_path_factory.mktemp("whole") / "run", **SETTINGS)


@pytest.fixture(scope="module")
def half(recipe: Recipe, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended inside its second epoch, seven steps into it. Copy it before use."""
    out, seen = tmp_path_factory.mktemp("half") / "run", 0
    step, steps = recipe.module.train_step, STEPS + 7

    def few(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise Killed
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.module, "train_step", few)
        with pytest.raises(Killed):
            recipe.train("erm", out, **SETTINGS)
    return out


@pytest.fixture
def folder(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "run"))


@pytest.fixture
def ask(recipe: Recipe, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], Done]:
    """Plant a pickle in a file of a run, and do something with the run; the pickle must not be executed."""

    def done(kind: str, name: str) -> Done:
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        plant(run / name, tmp_path / "executed", zipped=False)
        if kind == "resume":
            done = recipe.launch(capsys, *recipe.words("erm", run, resume=True, **SETTINGS))
        else:
            others = [whole, "--out", tmp_path / "compared"] if kind == "compare" else []
            done = command(capsys, kind, run, *others)
        assert not (tmp_path / "executed").exists()
        shutil.rmtree(run)
        return done

    return done


def seal(checkpoint: Path) -> None:
    """Hashes that fit, as somebody with bad intentions would write them."""
    files = contents(checkpoint, but=["manifest.json"])
    (checkpoint / "manifest.json").write_text(
        json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    )


def assert_as_whole(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    for name in ("model.safetensors", "logits.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_a_row_counts_the_steps_before_the_checkpoint_too(recipe: Recipe, whole: Path, folder: Path) -> None:
    before = json.loads((folder / "checkpoints" / INSIDE / "progress.json").read_text())
    assert before["seconds"] > 0
    recipe.train("erm", folder, resume=True, **SETTINGS)
    assert_as_whole(folder, whole)
    row, wanted = (json.loads((run / "metrics.jsonl").read_text().splitlines()[1]) for run in (folder, whole))
    assert row["seconds"] > before["seconds"]
    samples = [each["seconds"] * each["samples_per_second"] for each in (row, wanted)]
    assert samples[0] == pytest.approx(samples[1]) == STEPS * 32


def test_a_checkpoint_of_an_earlier_version_is_resumed(recipe: Recipe, whole: Path, folder: Path) -> None:
    """The moving average was a pickle of accelerate's, and nothing was known of the steps before."""
    checkpoint = folder / "checkpoints" / INSIDE
    average = load_file(checkpoint / "moving_average.safetensors")
    torch.save(average, checkpoint / "custom_checkpoint_0.pkl")
    for name in ("moving_average.safetensors", "progress.json"):
        (checkpoint / name).unlink()
    seal(checkpoint)
    recipe.train("erm", folder, resume=True, **SETTINGS)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    first, second = rows(folder)
    assert first == rows(whole)[0]
    assert {**second, "loss": None} == {**rows(whole)[1], "loss": None}
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    assert line["seconds"] * line["samples_per_second"] == pytest.approx((STEPS - 4) * 32)
    assert not list(folder.glob("checkpoints/*/custom_checkpoint_0.pkl"))


class TestAPlantedPickle:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        "name",
        [
            "model.safetensors",
            "optimizer.bin",
            "random_states_0.pkl",
            "moving_average.safetensors",
            "custom_checkpoint_0.pkl",
            "scaler.pt",
            "progress.json",
            "manifest.json",
        ],
    )
    def test_in_a_checkpoint(
        self, recipe: Recipe, folder: Path, capsys: pytest.CaptureFixture[str], name: str, zipped: bool
    ) -> None:
        mark, checkpoint = folder.parent / "executed", folder / "checkpoints" / INSIDE
        for older in folder.glob("checkpoints/*"):
            if older != checkpoint:
                shutil.rmtree(older)
        if name == "custom_checkpoint_0.pkl":
            (checkpoint / "moving_average.safetensors").unlink()
        plant(checkpoint / name, mark, zipped)
        if name != "manifest.json":
            seal(checkpoint)
        error = recipe.launch(capsys, *recipe.words("erm", folder, resume=True, **SETTINGS)).error()
        assert name in error
        assert str(checkpoint) in error or f"{INSIDE}: " in error
        assert not mark.exists()

    @pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "resume"])
    def test_in_a_file_that_a_command_reads(self, ask: Callable[[str, str], Done], kind: str) -> None:
        for name in REFUSED[kind]:
            assert name in ask(kind, name).error()

    @pytest.mark.parametrize(
        "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "resume")) for kind in REFUSED]
    )
    def test_in_any_other_file(self, ask: Callable[[str, str], Done], whole: Path, kind: str) -> None:
        for name in contents(whole, but=["report.html", *REFUSED[kind]]):
            if not name.startswith("checkpoints/"):
                ask(kind, name).good()
        if kind == "resume":
            for name in REFUSED[kind]:
                assert name in ask(kind, name).error()

    def test_is_executed_by_a_careless_reader(self, tmp_path: Path) -> None:
        """Or else the tests above would pass for nothing."""
        plant(tmp_path / "zipped", tmp_path / "executed", zipped=True)
        torch.load(tmp_path / "zipped", weights_only=False)
        (tmp_path / "executed").rmdir()
        plant(tmp_path / "plain", tmp_path / "executed", zipped=False)
        pickle.loads((tmp_path / "plain").read_bytes())
        assert (tmp_path / "executed").exists()


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Done:
    """What `ltaug` does with these words."""
    capsys.readouterr()
    code = 0
    try:
        ltaug_command([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    return Done(code, *capsys.readouterr())


def plant(file: Path, mark: Path, zipped: bool) -> None:
    if zipped:
        torch.save(Planted(mark), file)
    else:
        file.write_bytes(pickle.dumps(Planted(mark), protocol=2))
