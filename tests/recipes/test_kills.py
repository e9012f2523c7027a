"""A hundred SIGKILLs at random moments, over all recipes: each run ends in the bits of one that nothing stopped.

    python -m pytest -m slow -n 0 -s tests/recipes/test_kills.py
    LTAUG_KILLS=500 LTAUG_KILLS_SEED=1 python -m pytest -m slow -n 0 -s tests/recipes/test_kills.py

A kill may meet the imports, the data, a step, a checkpoint inside an epoch or after it, a row of metrics.jsonl, or the
results. It counts only if the process was alive.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from recipe_support import ROOT, Launcher, assert_same, imported, rows, write_shards

KILLS = int(os.environ.get("LTAUG_KILLS", "100"))
SEED = int(os.environ.get("LTAUG_KILLS_SEED", "0"))

IMAGES = {"image_size": 32, "augmentation": "flip", "workers": 0, "batch_size": 16, "checkpoint_steps": 3, "ema": 0.9}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "pairs": ("cifar_lt", {"method": "unimix_bayias", "epochs": 4, "depth": 8}),
    "phases": ("cifar_lt", {"method": "ldam_drw", "epochs": 5, "depth": 8, "held_out_per_class": 1}),
    "second stage": ("cifar_lt", {"method": "mislas", "epochs": 4}),
    "sounds": ("esc50_lt", {"method": "bc", "epochs": 3, "crop_length": 8000, "mels": 16}),
    "moving average": ("imagenet_lt", {"method": "mixup_bayias", "epochs": 3, **IMAGES}),
    "parts of a batch": ("inaturalist", {"method": "cutmix_bayias", "epochs": 3, "accumulate": 2, **IMAGES}),
    "stream": ("imagenet_lt", {"method": "class_balanced", "epochs": 3, "stream": True, "stream_buffer": 5, **IMAGES}),
}
"""What is trained: by name, the recipe and its settings."""


@pytest.fixture(scope="module")
def words(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The command line of each of the runs, but for the folder."""
    folder, lines = tmp_path_factory.mktemp("first"), {}
    for name, (recipe, settings) in RUNS.items():
        with imported(ROOT / "recipes" / recipe) as module:
            script, more = str(module.script), dict(settings)
            if name == "second stage":
                first = module.words("mixup", folder / "mixup", epochs=1, depth=8)
                launcher.run(script, *first).good()
                more["from_run"] = folder / "mixup"
            if name == "stream":
                shards = write_shards(folder / "shards", (30, 16, 9, 5))
                more |= {"protocol": None, "dataset": "hub", "data_dir": shards, "model": "test_resnet"}
            lines[name] = [script, *module.words(more.pop("method"), **more)]
    return lines


@pytest.mark.slow
def test_kills(launcher: Launcher, words: dict[str, list[str]], tmp_path: Path) -> None:
    """Each run is killed again and again, and resumed, until it has come to its end."""
    draw, whole, seconds = random.Random(SEED), {}, {}
    for name, line in words.items():
        began = time.monotonic()
        whole[name] = tmp_path / name
        launcher.run(*line, "--out", whole[name]).good()
        seconds[name] = time.monotonic() - began
        print(f"{name}: {seconds[name]:.1f} s if nothing stops it", flush=True)
    kills, runs, inside, half_written = 0, 0, 0, 0
    for name in itertools.cycle(words):
        if kills >= KILLS and runs >= len(words):
            break
        run, mine, running = tmp_path / "killed", 0, True
        while running:
            process = launcher.start(*words[name], "--out", run, "--resume", "true")
            # The tenth attempt is let through: this is about the bits, not about progress.
            killed = mine < 9 and not _ends_within(process.pid, draw.uniform(0.0, seconds[name]))
            if killed:
                process.kill()
            done = process.wait()
            if done.code == -9:
                mine += 1
                half_written += any(run.rglob("*.tmp"))
            else:
                done.good()
                running = False
            inside += ", step " in done.out
        assert_same(run, whole[name])
        assert len(rows(run)) == RUNS[name][1]["epochs"]
        shutil.rmtree(run)
        kills, runs = kills + mine, runs + 1
        print(f"{name}: {mine} kills, the same bits ({kills} kills of {runs} runs)", flush=True)
    print(
        f"{kills} kills of {runs} runs, seed {SEED}: {inside} resumed inside an epoch, {half_written} while a "
        "file or checkpoint was half written; all runs end in the same bits"
    )


def _ends_within(pid: int, seconds: float) -> bool:
    """Whether a process, a child's child, has ended when this time has passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False
