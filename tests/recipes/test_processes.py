"""Two processes and one see the same batches and, without batch norm, end in the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_support import (
    HERE,
    ROOT,
    Done,
    Launcher,
    Recipe,
    copy_recipe,
    imported,
    info,
    rows,
    summary,
    tiny_model,
    wait_for_all,
)
from safetensors.torch import load_file

Seen = tuple[dict[str, list], list[dict[str, list]]]
# No mixing, whose weights each process draws for its own rows; crops and flips are on.
CHANGES: dict[str, Any] = {"epochs": 3, "lr": 0.05, "flip": True, "warmup_epochs": 2, "decay_at": "[0.6]"}


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """cifar_lt with group norm: the statistics of batch norm are each process's own."""
    with imported(
        copy_recipe(tmp_path_factory.mktemp("grouped") / "cifar_lt", tiny_model("GroupNorm(2, 8)"))
    ) as recipe:
        yield recipe


@pytest.fixture(scope="module")
def one(grouped: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process, this one."""
    return grouped.train("bayias", tmp_path_factory.mktemp("one") / "run", **CHANGES)


@pytest.fixture(scope="module")
def two(launcher: Launcher, grouped: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The same run on two."""
    run = tmp_path_factory.mktemp("two") / "run"
    return run, wait_for_all(launcher.ranks(grouped.script, *grouped.words("bayias", run, **CHANGES)))


@pytest.fixture(scope="module")
def seen(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What streams.py writes down: by one process, and by each of two."""
    folder = tmp_path_factory.mktemp("streams")
    launcher.run(HERE / "streams.py", folder / "one.json").good()
    wait_for_all(launcher.ranks(HERE / "streams.py", folder / "two.json"))
    (one,), two = (json.loads((folder / name).read_text()) for name in ("one.json", "two.json"))
    assert one.pop("num_processes") == 1
    assert [rank.pop("num_processes") for rank in two] == [2, 2]
    return one, two


def largest_difference(run: Path, other: Path) -> float:
    """Over all weights of two runs."""
    a, b = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


class TestSameWeights:
    def test_final_weights(self, one: Path, two: tuple[Path, Done]) -> None:
        assert summary(one)["num_processes"] == 1
        assert summary(two[0])["num_processes"] == 2
        assert summary(one)["precision"] == summary(two[0])["precision"] == "no"
        assert largest_difference(one, two[0]) < 1e-5

    def test_the_weights_have_moved(self, grouped: Recipe, one: Path, tmp_path: Path) -> None:
        # Or else the test above would pass for nothing: without the flips the training ends elsewhere.
        assert largest_difference(one, grouped.train("bayias", tmp_path / "run", **CHANGES | {"flip": False})) > 1e-3

    def test_metrics_and_learning_rates(self, one: Path, two: tuple[Path, Done]) -> None:
        single, double = rows(one), rows(two[0])
        assert [row["lr"] for row in double] == [row["lr"] for row in single] == pytest.approx([0.025, 0.05, 0.005])
        for a, b in zip(single, double, strict=True):
            assert b == pytest.approx(a, abs=1e-4, nan_ok=True)
        for name in ("logits.safetensors", "held_out.safetensors"):
            kept, other = load_file(one / name), load_file(two[0] / name)
            assert torch.equal(other["labels"], kept["labels"])  # the order of the set
            torch.testing.assert_close(other["logits"], kept["logits"], rtol=0, atol=1e-4)

    def test_the_main_process_speaks_for_both(self, two: tuple[Path, Done]) -> None:
        said = two[1].out + two[1].err
        assert "2 processes" in two[1].out
        assert [said.count(f"epoch {k}/3") for k in (1, 2, 3)] == [1, 1, 1]
        assert said.count("ECE15 %") == 1

    @pytest.mark.parametrize("before", [1, 2])
    def test_after_resuming(
        self, launcher: Launcher, grouped: Recipe, one: Path, two: tuple[Path, Done], tmp_path: Path, before: int
    ) -> None:
        """Two processes go on where two, or a single one, were stopped after the second epoch."""
        run = tmp_path / "run"
        shutil.copytree(one if before == 1 else two[0], run)
        for name in ("summary.json", "model.safetensors", "ltaug.json", "logits.safetensors", "held_out.safetensors"):
            (run / name).unlink()
        shutil.rmtree(run / "checkpoints" / "epoch_00003")
        assert (run / "checkpoints" / "epoch_00002" / "random_states_1.pkl").is_file() == (before == 2)
        words = grouped.words("bayias", run, **CHANGES, resume=True)
        done = wait_for_all(launcher.ranks(grouped.script, *words))
        assert "Resumed after epoch 2 of 3" in done.out
        assert [row["epoch"] for row in rows(run)] == [0, 1, 2]
        assert largest_difference(one, run) < 1e-5

    @pytest.mark.parametrize(
        ("method", "changes"), [("lws", {"epochs": 1, "held_out_per_class": 7, "batch_size": 30}), ("ncm", {})]
    )
    def test_of_other_methods(
        self, launcher: Launcher, grouped: Recipe, one: Path, tmp_path: Path, method: str, changes: dict[str, Any]
    ) -> None:
        """A second stage, one that is computed, and samples that are held out."""
        changes = changes | {"from_run": one}
        alone = grouped.train(method, tmp_path / "alone", **changes)
        both = tmp_path / "both"
        wait_for_all(launcher.ranks(grouped.script, *grouped.words(method, both, **changes)))
        assert summary(both)["num_processes"] == 2
        assert largest_difference(alone, both) < 1e-5
        assert info(both) == info(alone)
        kept, other = (load_file(run / "held_out.safetensors") for run in (alone, both))
        assert torch.equal(other["labels"], kept["labels"])
        torch.testing.assert_close(other["logits"], kept["logits"], rtol=0, atol=1e-4)


class TestSameStream:
    def test_the_union_is_the_single_process_stream(self, seen: Seen) -> None:
        one, (first, second) = seen
        assert one.keys() == first.keys() == second.keys()
        names = [name for name in one if name != "evaluated"]
        assert len(names) == 15 + 12 + 9
        for name in names:
            assert len(one[name]) == len(first[name]) == len(second[name]) > 0
            for (whole, pixels), (a, a_pixels), (b, b_pixels) in zip(one[name], first[name], second[name], strict=True):
                assert a + b == whole, name
                assert len(a) == len(b) == 10
                assert a_pixels + b_pixels == pixels, name  # crops and flips too

    def test_epochs_differ_and_come_back_on_resuming(self, seen: Seen) -> None:
        for stream in (seen[0], *seen[1]):
            kinds = ("resident, alone", "resident, pairs", "torch", "split", "plan, mislas", "plan, unimix_bayias")
            for kind in kinds:
                assert stream[f"{kind}, 0"] != stream[f"{kind}, 1"] != stream[f"{kind}, 2"]
            assert stream["resident, pairs, resumed at 2"] == stream["resident, pairs, 2"]
            for kind in ("torch", "split"):
                assert stream[f"{kind}, resumed at 2 after 4 batches"] == stream[f"{kind}, 2"][4:]

    def test_without_an_epoch_each_iteration_moves_on(self, seen: Seen) -> None:
        for stream in (seen[0], *seen[1]):
            for kind in ("resident, pairs", "torch", "split"):
                for epoch in range(3):
                    assert stream[f"{kind}, {epoch} by itself"] == stream[f"{kind}, {epoch}"]

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

    def test_a_plan_switches_for_all_processes_at_once(self, seen: Seen) -> None:
        for stream in (seen[0], *seen[1]):
            for epoch, mixes in ((0, True), (1, True), (2, True)):
                assert isinstance(stream[f"plan, unimix_bayias, {epoch}"][0][0][0], list) == mixes
                assert not isinstance(stream[f"plan, mislas, {epoch}"][0][0][0], list)


class TestEvaluation:
    def test_every_process_has_all_predictions_in_order(self, seen: Seen) -> None:
        one, both = seen[0]["evaluated"], [rank["evaluated"] for rank in seen[1]]
        for size, (logits, labels, means, counts) in one.items():
            assert len(labels) == int(size)
            for rank in both:
                assert rank[size][1] == labels
                assert rank[size][3] == counts
                assert torch.allclose(torch.tensor(rank[size][0]), torch.tensor(logits), atol=1e-5)
                assert torch.allclose(torch.tensor(rank[size][2]), torch.tensor(means), atol=1e-5)


class TestBatchNorm:
    """With batch norm and mixing the processes have statistics and mixing weights of their own."""

    def test_trains_on_two_processes(self, launcher: Launcher, tiny: Recipe, tmp_path: Path) -> None:
        run = tmp_path / "run"
        wait_for_all(launcher.ranks(tiny.script, *tiny.words("unimix_bayias", run)))
        assert summary(run)["num_processes"] == 2
        assert [row["epoch"] for row in rows(run)] == [0, 1]
        assert all(0.0 < row["loss"] < 10.0 for row in rows(run))
        assert 0.05 <= summary(run)["final"]["top1"] <= 1.0

    @pytest.mark.slow
    def test_accuracy_agrees_with_one_process_within_noise(self, launcher: Launcher, tmp_path: Path) -> None:
        changes = {"epochs": 40, "eval_every": 40, "warmup_epochs": None, "depth": 14}
        with imported(ROOT / "recipes" / "cifar_lt") as recipe:
            words = recipe.words("unimix_bayias", tmp_path / "two", **changes)
            wait_for_all(launcher.ranks(recipe.script, *words))
            singles = [recipe.train("unimix_bayias", tmp_path / f"one{k}", **changes, seed=k) for k in (0, 1)]
        two = summary(tmp_path / "two")
        assert two["num_processes"] == 2
        assert two["final"]["top1"] > 0.5
        for single in singles:
            assert two["final"]["top1"] == pytest.approx(summary(single)["final"]["top1"], abs=0.12)
