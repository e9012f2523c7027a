"""The benchmarks: both contestants compute the same thing, and a missed bar is noticed."""

import random
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is part of the tree, not of the package

from benchmarks import __main__ as command
from benchmarks import calibration, images, kernels, loop, memory, plain, sound, timing
from benchmarks.timing import Bar, Benchmark, Options, Result, Times
from ltaug import ResidentLoader, UniMix, exponential_counts
from ltaug.losses import LADELoss, PriorCorrectedLoss
from ltaug.metrics import classification_report
from ltaug.mixers import unimix


class PlannedDraws:
    """A stand-in for a NumPy generator that gives known Beta draws."""

    def __init__(self, draws):
        self.draws = iter(draws.tolist())

    def beta(self, a, b):
        return next(self.draws)


def test_augmentation_equals_the_pil_path(monkeypatch):
    images = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = plain.cifar_transform()
    expected, draws = [], []
    for k in range(16):
        torch.manual_seed(k)
        expected.append(transform(Image.fromarray(images[k].numpy())))
        torch.manual_seed(k)  # torchvision draws the row, the column, and then whether to flip
        row, column = (torch.randint(0, 9, (1,)).item() for _ in range(2))
        draws.append((row, column, torch.rand(1).item() < 0.5))
    rows, columns, mirrored = (torch.tensor(values) for values in zip(*draws, strict=True))
    assert 0 < mirrored.sum() < 16
    loader = ResidentLoader(images, range(16), batch_size=16, mean=plain.MEAN, std=plain.STD, crop_padding=4, flip=True)
    monkeypatch.setattr(loader, "_crops_and_flips", lambda batch, stream: (rows, columns, mirrored))
    inputs, _labels = next(iter(loader))
    torch.testing.assert_close(inputs, torch.stack(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("partners", [True, False])
def test_unimix_equals_the_loop(monkeypatch, partners):
    counts = exponential_counts(500, 10, 100)
    images, labels = torch.randn(16, 3, 8, 8), torch.randint(10, (16,))
    given = (torch.randn(16, 3, 8, 8), torch.randint(10, (16,))) if partners else ()
    draws = torch.rand(16)
    monkeypatch.setattr(unimix, "beta_draws", lambda alpha, size, device: draws)
    torch.manual_seed(0)
    ours = UniMix(counts)(
        kernels.channels_last(images), labels, *(given and (kernels.channels_last(given[0]), given[1]))
    )
    torch.manual_seed(0)
    theirs = plain.unimix_image_by_image(images, labels, counts.numpy(), 0.8, PlannedDraws(draws), *given)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


def test_mixing_in_the_batch_keeps_the_layout_and_the_input():
    images = kernels.channels_last(torch.randn(6, 3, 4, 5))
    before = images.clone()
    mixed, _ = UniMix([3, 2, 1])(images, torch.tensor([0, 1, 2, 0, 1, 0]))
    assert mixed.stride() == images.stride()
    assert torch.equal(images, before)


def test_the_loops_minimise_the_same_loss():
    counts = exponential_counts(500, 100, 100)
    logits, targets = torch.randn(8, 100), torch.rand(8, 100).softmax(1)
    log_prior = (counts / counts.sum()).log()
    theirs = torch.nn.functional.cross_entropy(logits + log_prior, targets)
    torch.testing.assert_close(PriorCorrectedLoss(counts)(logits, targets), theirs, rtol=1e-5, atol=1e-5)


def test_lade_equals_the_form_with_masks():
    counts = exponential_counts(500, 100, 100)
    logits, labels = torch.randn(32, 100, requires_grad=True), torch.randint(100, (32,))
    prior = (counts / counts.sum()).float()
    theirs = plain.lade_with_masks(logits, labels, prior, 0.05, 0.5)
    ours = LADELoss(counts, alpha=0.05, remine_lambda=0.5)(logits, labels)
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_between_class_mixing_equals_the_loop(monkeypatch):
    monkeypatch.setattr(sound, "PAIRS", 5)
    mixer, batch, partner, ratios = sound.contestants()
    partner[0] *= torch.logspace(-2, 1, 5).unsqueeze(1)  # loud and quiet ones
    monkeypatch.setattr(mixer.ratio, "weights", lambda *_: torch.from_numpy(ratios).float())
    monkeypatch.setattr(mixer, "partners", lambda _: torch.arange(5).flip(0))
    for ours, theirs in (
        (mixer(*batch, *partner), sound.numpy_loop(batch, partner, ratios)),
        (mixer(*batch), sound.numpy_loop(batch, [tensor.flip(0) for tensor in batch], ratios)),
    ):
        torch.testing.assert_close(ours, theirs)


def test_plain_partners_are_class_balanced():
    labels = [0] * 90 + [1] * 10
    images = plain.PlainImages(np.zeros((100, 32, 32, 3), np.uint8), labels, lambda image: torch.zeros(1))
    pairs = plain.PlainPairs(images)
    random.seed(0)
    drawn = [pairs[k % 100] for k in range(1000)]
    assert [label for _, label, _, _ in drawn[:100]] == labels
    assert 0.4 < statistics.mean(label for _, _, _, label in drawn) < 0.6


def test_the_image_loaders_make_the_same_kind_of_batches(tmp_path, monkeypatch):
    for name in ("timm", "torchvision"):
        pytest.importorskip(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    assert 50_000 < images.write_photos(tmp_path, 36) < 100_000
    makers = (images.our_epochs, images.timm_epochs)
    try:
        ours, timms = (torch.cat([inputs for inputs, _ in make(tmp_path, 8, 0)()]) for make in makers)
    finally:
        for name in {"config", "data", "loader"} & (set(sys.modules) - before):
            del sys.modules[name]  # the recipe's, whose names others have, too
    assert ours.shape == timms.shape == (32, 3, 224, 224)
    assert ours.dtype == timms.dtype
    # Both are normalised and jittered: the photos are grey on average, 0.5, and as rough as each other.
    torch.testing.assert_close(ours.mean((0, 2, 3)), timms.mean((0, 2, 3)), rtol=0, atol=0.35)
    torch.testing.assert_close(ours.std((2, 3)).mean(), timms.std((2, 3)).mean(), rtol=0.15, atol=0)


def test_unimix_batches_draw_all_of_imagenet_lt():
    labels = images.imagenet_lt_labels()
    counts = torch.bincount(labels)
    assert (len(labels), len(counts), counts.min()) == (115_846, 1000, 5)
    batches = images.unimix_batches(labels, 16)
    seen = torch.tensor([item[2] for batch in batches for item in batch])
    assert len(seen) == 115_840
    assert len(seen.unique()) == len(seen)


def test_the_epoch_of_indices_has_the_size_of_inaturalist():
    labels = kernels.inaturalist_labels()
    counts = torch.bincount(labels)
    assert (len(labels), len(counts)) == (437_513, 8_142)
    assert counts.min() == 2


def test_cifar100_lt_has_the_published_size():
    images, labels, counts = kernels.cifar100_lt()
    assert (len(images), counts.max(), counts.min()) == (10_847, 500, 5)
    assert torch.equal(torch.bincount(labels), counts)


def test_the_pass_from_logits_is_the_report_of_the_probabilities():
    logits, labels = calibration.random_logits(400, 500)
    expected = classification_report(logits.softmax(1), labels, [1] * 500)
    expected.pop("adaptive_ece")  # whose bins are known at the end only
    assert calibration.one_pass(logits, labels) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert 0.3 < expected["top1"] < 0.95  # neither everything right nor everything wrong


def test_the_model_is_the_recipes():
    assert sum(parameter.numel() for parameter in loop.build_model().parameters()) == 470_004


def test_a_loader_holds_the_set_and_two_batches(monkeypatch):
    images, labels = torch.zeros(2048, 32, 32, 3, dtype=torch.uint8), torch.arange(2048) % 10
    held, expected = memory.held_by_loader(images, labels)
    assert expected == 2048 * 3072 + 2 * 128 * 3072 * 4
    assert expected < held < 1.01 * expected
    # Negative twin: a loader that keeps a copy of the set.
    pair_loader = memory.pair_loader

    def hoarder(images, labels):
        loader = pair_loader(images, labels)
        loader.copy = images.clone()
        return loader

    monkeypatch.setattr(memory, "pair_loader", hoarder)
    assert memory.held_by_loader(images, labels)[0] > expected + images.numel()


def test_a_bar_is_met_on_its_side_only():
    assert Bar(2.2).met(2.2)
    assert not Bar(2.2).met(2.19)
    assert Bar(1.35, at_least=False).met(1.35)
    assert not Bar(1.35, at_least=False).met(1.36)
    assert not Bar(2.2).met(float("nan"))
    assert not Bar(1.35, at_least=False).met(float("nan"))


def test_times_are_medians():
    times = Times(ours=[1.0, 2.0, 90.0], reference=[6.0, 8.0, 6.0])
    assert times.speedup == 3.0
    assert times.slowdown == pytest.approx(1 / 3)
    assert times.spread() == pytest.approx(((4 + 6 / 90) / 2, 5.0))
    assert times.spread(slowdown=True)[1] > 1.0


def test_contestants_take_turns():
    calls = []
    clock = iter(range(10_000))
    times = timing.side_by_side(
        lambda: calls.append("A"), lambda: calls.append("B"), repeats=3, seconds=1.0, clock=lambda: float(next(clock))
    )
    assert "".join(calls) == "AABB" + "AB" * 3  # two calls of each to warm up and to calibrate
    assert times.ours == times.reference == [1.0] * 3


def planned(value, **kwargs):
    return Benchmark(
        kwargs.pop("name", "planned"), "1", Bar(2.0), lambda _: Result(value, "1 s", "3 s", note="so"), **kwargs
    )


@pytest.mark.parametrize(("value", "status"), [(3.0, 0), (1.9, 1), (float("nan"), 1), (None, 0)])
def test_check_fails_on_a_missed_bar(capsys, value, status):
    assert command.main(["--check"], [planned(3.0, name="other"), planned(value)]) == status
    out = capsys.readouterr().out
    assert ("missed: planned" in out) == (status == 1)
    assert ("not measured: planned" in out) == (value is None)
    assert command.main([], [planned(value)]) == 0  # without --check the table is only printed


def test_only_selects_and_refuses_what_there_is_not(capsys):
    both = [planned(3.0, name="one"), planned(1.0, name="two")]
    assert command.main(["--check", "--only", "one"], both) == 0
    assert command.main(["--check", "--only", "two"], both) == 1
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "three"], both)
    assert "one" in capsys.readouterr().err


def test_without_a_gpu_its_benchmarks_say_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--check"], [planned(1.0, gpu=True)]) == 0
    assert "no GPU at hand" in capsys.readouterr().out


def test_without_data_the_run_is_not_measured():
    for benchmark in (memory.run_peak, memory.run_seconds):
        result = benchmark(Options(data=None))
        assert result.value is None
        assert "no data" in result.note


def test_cores_are_given_back():
    if not hasattr(timing.os, "sched_getaffinity"):
        pytest.skip("this system does not let one choose cores")
    before = timing.os.sched_getaffinity(0)
    with timing.cores(1):
        assert len(timing.os.sched_getaffinity(0)) == 1
    assert timing.os.sched_getaffinity(0) == before


def test_every_promise_has_a_line(capsys):
    assert command.main(["--list"]) == 0
    bars = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert bars == {
        "augmentation": ">= 15x",
        "unimix_partners": ">= 12x",
        "unimix_in_batch": ">= 12x",
        "class_balanced_epoch": ">= 6x",
        "class_power_epoch": ">= 4x",
        "prior_corrected_loss": "<= 1.35x",
        "prior_corrected_loss_dense": "<= 1.35x",
        "lade_loss": ">= 3x",
        "label_aware_smoothing_loss": "<= 1.3x",
        "between_class_mix": ">= 12x",
        "between_class_in_batch": ">= 12x",
        "calibration": "<= 1.2 s",
        "calibration_memory": "<= 1.1x",
        "training_loop": ">= 2.2x",
        "training_loop_as_launched": ">= 2.2x",
        "training_loop_gpu": ">= 8x",
        "envnet_training": ">= 2.5x",
        "envnet_training_as_launched": ">= 2.5x",
        "sound_share": "<= 3%",
        "sound_share_strong": "<= 3%",
        "sound_share_augmented": "<= 5%",
        "sound_share_loudness": "<= 5%",
        "sound_augmentation": "<= 3%",
        "mel_share_augmented": "<= 15%",
        "mel_augmentation": "<= 3%",
        "sound_decoding": ">= 250 clip/s",
        "segmentation_scores": "<= 3 %",
        "segmentation_memory": "<= 1x",
        "rendered_scenes": ">= 200/s",
        "image_loader": ">= 1x",
        "image_sampler_mixer_share": "<= 2%",
        "resnet50_training": ">= 1x",
        "sampler_memory": "<= 1 GB",
        "sampler_epoch_start": "<= 3 s",
        "resident_loader": "<= 1.01x",
        "run_peak_memory": "<= 1.6 GB",
        "run_200_epochs_gpu": "<= 90 s",
    }


@pytest.mark.slow
def test_the_command_exits_with_the_status():
    root = Path(command.__file__).parent.parent
    code = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--check", "--only", "class_power_epoch"], cwd=root
    ).returncode
    assert code == 0
