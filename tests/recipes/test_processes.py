"""Two processes and one see the same batches and, without batch norm, end in the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipe_support import HERE, Done, Launcher, Process, copy_recipe, rows, settings, summary, tiny_model
from safetensors.torch import load_file

Seen = tuple[dict[str, list], list[dict[str, list]]]
TORCHRUN = ("torch.distributed.run", "--nproc-per-node", 2)


def wait_for_both(processes: list[Process]) -> Done:
    """Both must end well; what the main one has said."""
    main, other = [process.wait() for process in processes]
    other.good()
    return main.good()


# Group norm instead of batch norm, whose statistics are each process's own; no mixing; crops and flips are on.
CHANGES = {"epochs": 3, "batch_size": 32, "lr": 0.05, "flip": "true", "warmup_epochs": 2, "decay_epochs": "[2]"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("weights") / "recipe", tiny_model("GroupNorm(2, 8)"))


@pytest.fixture(scope="module")
def one(launcher: Launcher, recipe: Path) -> Path:
    """A run on one process."""
    out = recipe.parent / "one"
    launcher.run(recipe / "train.py", *settings(recipe, "bayias", out, **CHANGES)).good()
    return out


@pytest.fixture(scope="module")
def two(module: Callable[..., Done], recipe: Path) -> tuple[Path, Done]:
    """The same run on two."""
    out = recipe.parent / "two"
    return out, module(*TORCHRUN, recipe / "train.py", *settings(recipe, "bayias", out, **CHANGES)).good()


@pytest.fixture(scope="module")
def seen(launcher: Launcher, module: Callable[..., Done], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What streams.py writes down: by one process, and by each of two."""
    folder = tmp_path_factory.mktemp("streams")
    launcher.run(HERE / "streams.py", folder / "one.json").good()
    module(*TORCHRUN, HERE / "streams.py", folder / "two.json").good()
    (one,), two = (json.loads((folder / name).read_text()) for name in ("one.json", "two.json"))
    assert one.pop("num_processes") == 1
    assert [rank.pop("num_processes") for rank in two] == [2, 2]
    return one, two


class TestSameWeights:
    def test_final_weights(self, one: Path, two: tuple[Path, Done]) -> None:
        assert summary(one)["num_processes"] == 1
        assert summary(two[0])["num_processes"] == 2
        assert summary(one)["precision"] == summary(two[0])["precision"] == "no"
        assert largest_difference(one, two[0]) < 1e-5

    def test_the_weights_have_moved(self, launcher: Launcher, recipe: Path, one: Path, tmp_path: Path) -> None:
        # Or else the test above would pass for nothing: another order of the samples ends elsewhere.
        arguments = settings(recipe, "bayias", tmp_path / "other", **(CHANGES | {"flip": "false"}))
        launcher.run(recipe / "train.py", *arguments).good()
        assert largest_difference(one, tmp_path / "other") > 1e-3

    def test_metrics_and_learning_rates(self, one: Path, two: tuple[Path, Done]) -> None:
        single, double = rows(one), rows(two[0])
        assert [row["lr"] for row in double] == [row["lr"] for row in single] == pytest.approx([0.025, 0.05, 0.005])
        for a, b in zip(single, double, strict=True):
            assert b == pytest.approx(a, abs=1e-4, nan_ok=True)
        kept, other = load_file(one / "logits.safetensors"), load_file(two[0] / "logits.safetensors")
        torch.testing.assert_close(other["labels"], kept["labels"], rtol=0, atol=0)  # the order of the set
        torch.testing.assert_close(other["logits"], kept["logits"], rtol=0, atol=1e-4)

    def test_the_main_process_speaks_for_both(self, two: tuple[Path, Done]) -> None:
        out = two[1].out
        assert "2 process(es)" in out
        assert [out.count(f"epoch {k}/3") for k in (1, 2, 3)] == [1, 1, 1]
        assert out.count("| ECE15 |") == 1

    def test_after_resuming(self, launcher: Launcher, recipe: Path, one: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        for epochs in (1, 3):
            arguments = settings(recipe, "bayias", run, **(CHANGES | {"epochs": epochs, "resume": "true"}))
            done = wait_for_both(launcher.ranks(recipe / "train.py", *arguments))
        assert "Resumed after epoch 1 of 3" in done.out
        assert summary(run)["num_processes"] == 2
        assert (run / "checkpoints" / "epoch_00003" / "random_states_1.pkl").is_file()
        assert largest_difference(one, run) < 1e-5


def largest_difference(run: Path, other: Path) -> float:
    """Over all weights of two runs."""
    a, b = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


class TestSameStream:
    def test_the_union_is_the_single_process_stream(self, seen: Seen) -> None:
        one, (first, second) = seen
        assert one.keys() == first.keys() == second.keys()
        assert len(one) == 15
        for name, batches in one.items():
            assert len(batches) == len(first[name]) == len(second[name]) > 0
            for (whole, pixels), (a, a_pixels), (b, b_pixels) in zip(batches, first[name], second[name], strict=True):
                assert a + b == whole, name
                assert len(a) == len(b) == 10
                assert a_pixels + b_pixels == pixels, name  # crops and flips too

    def test_epochs_differ_and_come_back_on_resuming(self, seen: Seen) -> None:
        for stream in (seen[0], *seen[1]):
            for kind in ("resident, alone", "resident, pairs", "torch", "split"):
                assert stream[f"{kind}, 0"] != stream[f"{kind}, 1"] != stream[f"{kind}, 2"]
            assert stream["resident, pairs, resumed at 2"] == stream["resident, pairs, 2"]
            for kind in ("torch", "split"):
                assert stream[f"{kind}, resumed at 2 after 4 batches"] == stream[f"{kind}, 2"][4:]

    def test_all_loaders_see_the_same_pairs(self, seen: Seen) -> None:
        for stream in (seen[0], *seen[1]):
            for epoch in range(3):
                ours, *torchs = (stream[f"{kind}, {epoch}"] for kind in ("resident, pairs", "torch", "split"))
                for other in torchs:
                    assert [batch for batch, _ in ours] == [batch for batch, _ in other]

    def test_an_epoch_has_every_sample_once_and_partners_from_the_tail(self, seen: Seen) -> None:
        samples = [pair for batch, _ in seen[0]["resident, pairs, 0"] for pair in batch]
        assert len({first for first, _ in samples}) == 200  # of 203: the last batch is not full
        assert sum(partner >= 180 for _, partner in samples) > 150


class TestResNet:
    """With batch norm and mixing the processes have statistics and mixing weights of their own."""

    def test_trains_on_two_processes_and_goes_on_after_resuming(self, launcher: Launcher, tmp_path: Path) -> None:
        recipe, run = copy_recipe(tmp_path / "recipe"), tmp_path / "run"
        for epochs in (1, 2):
            arguments = settings(recipe, "unimix_bayias", run, epochs=epochs, resume="true")
            done = wait_for_both(launcher.ranks(recipe / "train.py", *arguments))
        assert "Resumed after epoch 1 of 2" in done.out
        assert summary(run)["num_processes"] == 2
        assert [row["epoch"] for row in rows(run)] == [0, 1]
        assert all(0.0 < row["loss"] < 10.0 for row in rows(run))
        assert 0.05 <= summary(run)["final"]["top1"] <= 1.0

    @pytest.mark.slow
    def test_accuracy_agrees_with_one_process_within_noise(self, launcher: Launcher, tmp_path: Path) -> None:
        recipe = copy_recipe(tmp_path / "recipe")
        changes = {"epochs": 40, "decay_epochs": "[30, 36]", "mix_stop_epoch": 36, "eval_every": 40}
        arguments = [recipe / "train.py", *settings(recipe, "unimix_bayias", tmp_path / "two", **changes)]
        wait_for_both(launcher.ranks(*arguments))
        one = [summary_of_seed(launcher, recipe, tmp_path, seed, changes) for seed in (0, 1)]
        two = summary(tmp_path / "two")
        assert two["num_processes"] == 2
        assert two["final"]["top1"] > 0.6
        for single in one:
            assert two["final"]["top1"] == pytest.approx(single["final"]["top1"], abs=0.12)


def summary_of_seed(launcher: Launcher, recipe: Path, folder: Path, seed: int, changes: dict) -> dict:
    """Of a run on one process."""
    arguments = settings(recipe, "unimix_bayias", folder / f"one{seed}", **(changes | {"seed": seed}))
    launcher.run(recipe / "train.py", *arguments).good()
    return summary(folder / f"one{seed}")
