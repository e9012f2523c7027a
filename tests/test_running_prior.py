"""The prior of a stream: limits that agree with one estimate, drifts that it follows, what it keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltaug import RunningPrior, class_prior, estimate_prior, shift_logits
from ltaug.correction import Correction

TRAIN = class_prior([600, 300, 80, 20])
MEANS = 2.0 * torch.eye(4, dtype=torch.float64)
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)


def stream(mix: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits under TRAIN of Gaussians, one sample for each row of the class mix, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(mix, 1, generator=generator)[:, 0]
    points = MEANS[labels] + torch.randn(len(mix), 4, generator=generator, dtype=torch.float64)
    return points @ MEANS.T - 0.5 * MEANS.square().sum(1) + TRAIN.log(), labels


def drift(samples: int) -> Tensor:
    """From TRAIN to its reverse."""
    share = torch.linspace(0.0, 1.0, samples, dtype=torch.float64).unsqueeze(1)
    return (1 - share) * TRAIN + share * TRAIN.flip(0)


class TestLimits:
    def test_the_first_batch_of_what_forgets_nothing_is_one_estimate(self) -> None:
        logits, _ = stream(UNIFORM.repeat(500, 1))
        for options in ({}, {"pseudo_count": 5.0}, {"center": [4, 3, 2, 1], "pseudo_count": 20.0}):
            found = RunningPrior(TRAIN, forget=0.0, **options).update(logits)
            torch.testing.assert_close(found, estimate_prior(logits, TRAIN, **options), rtol=0, atol=1e-4)

    def test_it_solves_the_equation_that_it_states(self) -> None:
        """In float64: the sum of posteriors with weights by age, those of earlier batches under the prior of then."""
        logits, _ = stream(drift(300))
        running, forget, count = RunningPrior(TRAIN, forget=0.02, pseudo_count=0.5), 0.02, 0.5
        seen, q = np.zeros(4), np.full(4, 0.25)
        for batch in logits.split([1, 7, 92, 200]):
            found = running.update(batch).numpy()
            probs, weights = batch.softmax(1).numpy(), (1 - forget) ** np.arange(len(batch))[::-1]
            for _ in range(3000):
                posterior = probs * q / TRAIN.numpy()
                new = seen * (1 - forget) ** len(batch) + weights @ (posterior / posterior.sum(1, keepdims=True))
                q = (new + count) / (new.sum() + 4 * count)
            seen = new
            np.testing.assert_allclose(found, q, atol=2e-4)
            np.testing.assert_allclose(running.seen.numpy(), seen, atol=2e-4 * seen.sum() + 1e-6)

    def test_how_the_stream_is_cut_hardly_matters(self) -> None:
        logits, _ = stream(drift(1000))
        found = []
        for size in (1, 10, 50):
            running = RunningPrior(TRAIN, forget=0.005)
            for batch in logits.split(size):
                running.update(batch)
            assert float(running.seen.sum()) == pytest.approx((1 - 0.995**1000) / 0.005, rel=1e-3)
            found.append(running.prior)
        assert (found[0] - found[1]).abs().sum() < 0.03
        assert (found[1] - found[2]).abs().sum() < 0.06

    def test_the_prior_that_the_logits_are_under_does_not_matter(self) -> None:
        logits, _ = stream(UNIFORM.repeat(200, 1))
        uniform = shift_logits(logits, TRAIN, UNIFORM)
        first, second = RunningPrior(TRAIN), RunningPrior(UNIFORM)
        torch.testing.assert_close(first.update(logits), second.update(uniform), rtol=0, atol=1e-4)
        torch.testing.assert_close(first(logits).softmax(1), second(uniform).softmax(1), rtol=0, atol=1e-3)

    def test_it_comes_near_a_mix_that_stays(self) -> None:
        mix = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        running = RunningPrior(TRAIN, forget=1 / 2000)
        for batch in stream(mix.repeat(6000, 1))[0].split(100):
            found = running.update(batch)
        assert (found - mix).abs().sum() < 0.08


class TestDrift:
    def test_it_follows_and_gains(self) -> None:
        mix = torch.cat([drift(2000), drift(2000).flip(0)])
        gains = []
        for seed in range(3):
            logits, labels = stream(mix, seed)
            running, moved, errors = RunningPrior(TRAIN, forget=1 / 100), [], []
            for k, batch in enumerate(logits.split(50)):
                errors.append(float((running.update(batch) - mix[50 * k + 25]).abs().sum()))
                moved.append(running(batch))

            def accuracy(z: Tensor, labels: Tensor = labels) -> float:
                return float((z.argmax(1) == labels).double().mean())

            one = estimate_prior(logits, TRAIN)
            followed, true = accuracy(torch.cat(moved)), accuracy(shift_logits(logits, TRAIN, mix))
            plain, once = accuracy(logits), accuracy(shift_logits(logits, TRAIN, one))
            gains.append(followed - once)
            assert plain + 0.05 < followed < true + 0.005  # luck of the samples
            assert true - followed < 0.4 * (true - once)
            far = float(np.mean([(one - row).abs().sum() for row in mix]))
            assert np.mean(errors) < 0.5 * far
        assert min(gains) > 0.01

    def test_a_class_that_was_away_comes_back(self) -> None:
        running = RunningPrior(TRAIN, forget=1 / 50)
        away = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        for batch in stream(away.repeat(2000, 1))[0].split(50):
            running.update(batch)
        assert running.prior[3] < 0.04
        for batch in stream(1.0 - away.repeat(400, 1))[0].split(50):
            running.update(batch)
        assert running.prior[3] > 0.85

    def test_by_default_ten_samples_a_class_are_remembered(self) -> None:
        assert RunningPrior([1] * 30).forget == pytest.approx(1 / 300)


class TestModule:
    def used(self) -> RunningPrior:
        running = RunningPrior([6, 3, 0.8, 0.2], forget=0.03, center=[1, 2, 3, 4], pseudo_count=2.0)
        running.update(stream(drift(100))[0])
        return running

    def test_before_the_first_sample_it_is_the_center(self) -> None:
        logits = stream(drift(5))[0]
        torch.testing.assert_close(RunningPrior(TRAIN)(logits), shift_logits(logits, TRAIN, UNIFORM))
        other = RunningPrior(TRAIN, center=[1, 2, 3, 4])
        torch.testing.assert_close(other(logits), shift_logits(logits, TRAIN, [1, 2, 3, 4]))

    def test_a_call_takes_nothing_in(self) -> None:
        running, logits = self.used(), stream(drift(9))[0]
        before = {name: value.clone() for name, value in running.state_dict().items()}
        running(logits)
        assert all(torch.equal(value, before[name]) for name, value in running.state_dict().items())
        assert not list(running.parameters())

    def test_it_comes_back_and_goes_on(self, tmp_path: Path) -> None:
        running, more = self.used(), stream(drift(60), seed=1)[0]
        other = RunningPrior([1] * 4, forget=0.03, pseudo_count=2.0)
        other.load_state_dict(running.state_dict())
        path = running.save(tmp_path)
        loaded = [RunningPrior.load(place) for place in (tmp_path, path, tmp_path / "running_prior.json")]
        expected = running.update(more)
        for each in (other, *loaded):
            assert torch.equal(each.update(more), expected)
            assert torch.equal(each(more), running(more))

    def test_damaged_files(self, tmp_path: Path) -> None:
        path, words = self.used().save(tmp_path), tmp_path / "running_prior.json"
        text = words.read_text()
        words.write_text(json.dumps({"kind": "running_prior"}))
        with pytest.raises(ValueError, match="do not belong together: 'forget'"):
            RunningPrior.load(path)
        words.write_text(text)
        words.rename(tmp_path / "correction.json")
        with pytest.raises(ValueError, match="is no saved correction"):
            Correction.load(tmp_path)

    def test_arrays_give_arrays(self) -> None:
        logits = stream(drift(100))[0]
        for read in (lambda x: x.numpy(), lambda x: x.tolist()):
            running, plain = RunningPrior(read(TRAIN)), RunningPrior(TRAIN)
            found, moved = running.update(read(logits)), running(read(logits))
            assert (type(found), type(moved)) == (np.ndarray, np.ndarray)
            np.testing.assert_allclose(found, plain.update(logits).numpy(), atol=1e-5)
            np.testing.assert_allclose(moved, plain(logits).numpy(), atol=1e-4)
            found[:] = 0.0  # is nobody else's memory
            assert running.prior.sum() == pytest.approx(1.0)

    def test_maps_are_samples_too(self) -> None:
        logits = stream(drift(60))[0]
        maps = logits.view(3, 4, 5, 4).movedim(-1, 1)
        torch.testing.assert_close(RunningPrior(TRAIN).update(maps), RunningPrior(TRAIN).update(logits))

    def test_exports_and_moves(self, device: torch.device) -> None:
        running, logits = self.used(), stream(drift(9))[0].float()
        program = torch.export.export(running, (logits,)).module()
        torch.testing.assert_close(program(logits), running(logits))
        moved = self.used().to(device)
        assert moved.update(logits.to(device)).device.type == device.type
        assert moved.half().prior.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits_prior": [1, 0]}, "`logits_prior` must be positive, but class 1 has 0"),
        (
            {"center": [1, 1, 1]},
            "`center` must hold one number for each of the 2 classes of `logits_prior`, but holds 3",
        ),
        ({"center": [1, 0]}, "`center` must be positive"),
        ({"forget": -0.1}, r"`forget` must lie in \[0, 1\], but is -0.1"),
        ({"forget": 100}, r"`forget` must lie in \[0, 1\], but is 100.*1 / forget samples are remembered"),
        ({"forget": float("nan")}, "`forget`"),
        ({"pseudo_count": 0.0}, "`pseudo_count` must be positive"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunningPrior(**{"logits_prior": [1, 1], **options})


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.full((3, 2), float("nan")), "`logits` must be finite"),
        (torch.zeros(3, 3), r"`logits` must be floating point of shape \[N, 2, \.\.\.\]"),
        (torch.zeros(0, 2), "at least one sample"),
        (torch.full((3, 2), 0.5), "`logits` must be logits, but are probabilities"),
    ],
)
def test_bad_logits_change_nothing(logits: Tensor, message: str) -> None:
    running = RunningPrior([1, 1])
    with pytest.raises(ValueError, match=message):
        running.update(logits)
    assert running.prior.tolist() == [0.5, 0.5]
    assert not bool(running.seen.any())
