"""Between-class learning against NumPy pair by pair, and what it promises about loudness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ltaug import BetweenClass, CutMix, ManifoldMixUp, MixUp, ReMix, UniMix
from ltaug.mixers import functional
from ltaug.mixers._fourier import fast_length
from ltaug.mixers.functional import between_class_mix, between_class_weight, sound_level
from ltaug.testing import ContractError, check_mixer

fft, signal, stats = (pytest.importorskip(f"scipy.{name}") for name in ("fft", "signal", "stats"))

C = 4
RATES = [(8000, 2048), (16000, 2048), (22050, 2048), (44100, 4096), (48000, 4096)]
SURE = 1e-4
"""A p-value below it refutes; the generator is seeded before every test, so that a test passes always or never."""


def a_weight(frequency: float) -> float:
    """dB of the A curve as the standard (IEC 61672) has it, a product of poles; its 2.00 dB at 1 kHz make it 0."""
    f = max(frequency, 1.0) ** 2
    response = 12194**2 * f**2 / ((f + 20.6**2) * math.sqrt((f + 107.7**2) * (f + 737.9**2)) * (f + 12194**2))
    return max(2.0 + 20 * math.log10(response), -80.0)


def naive_level(clip: np.ndarray, rate: float, size: int, mode: str = "a_weighted") -> float:
    """Frame by frame in float64; ``clip`` is [channels, T]."""
    clip = np.pad(clip.astype(np.float64), ((0, 0), (0, max(0, size - clip.shape[1]))))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    weight = np.array([10 ** (a_weight(k * rate / size) / 10) for k in range(size // 2 + 1)])
    energies = []
    for start in range(0, clip.shape[1] - size + 1, size // 2):
        frame = clip[:, start : start + size]
        if mode == "rms":
            energies.append(np.mean(frame**2))
        else:
            energies.append(np.mean([(np.abs(np.fft.rfft(window * each)) ** 2 * weight).sum() for each in frame]))
    return 10 * math.log10(max(*energies, 1e-8))


def naive_loudness(clip: np.ndarray, rate: int) -> float:
    """ITU-R BS.1770-4 by recursive filters in float64, block by block; ``clip`` is [channels, T]."""
    size = round(0.4 * rate)
    clip = np.pad(clip.astype(np.float64), ((0, 0), (0, max(0, size - clip.shape[1]))))
    for kind, f, q in (("shelf", 1500.0, math.sqrt(0.5)), ("high", 38.0, 0.5)):
        w, g = 2 * math.pi * f / rate, 10 ** (4 / 40)
        c, alpha = math.cos(w), math.sin(w) / 2 / q
        if kind == "high":
            b, a = [(1 + c) / 2, -1 - c, (1 + c) / 2], [1 + alpha, -2 * c, 1 - alpha]
        else:
            r = 2 * math.sqrt(g) * alpha
            b = [g * (g + 1 + (g - 1) * c + r), -2 * g * (g - 1 + (g + 1) * c), g * (g + 1 + (g - 1) * c - r)]
            a = [g + 1 - (g - 1) * c + r, 2 * (g - 1 - (g + 1) * c), g + 1 - (g - 1) * c - r]
        clip = signal.lfilter(b, a, clip)
    weight = np.array([1, 1, 1, 1.41, 1.41])[: len(clip)]
    starts = range(0, clip.shape[1] - size + 1, round(size / 4))
    blocks = np.array([weight @ np.mean(clip[:, k : k + size] ** 2, 1) for k in starts])
    blocks = blocks[-0.691 + 10 * np.log10(blocks + 1e-99) > -70]
    if not len(blocks):
        return -70.0
    return -0.691 + 10 * math.log10(blocks[blocks > blocks.mean() / 10].mean())


def naive_mix(x: np.ndarray, y: np.ndarray, r: float, rate: float, size: int, mode: str = "a_weighted") -> np.ndarray:
    difference = naive_level(x, rate, size, mode) - naive_level(y, rate, size, mode)
    p = 1 / (1 + 10 ** (difference / 20) * (1 - r) / r)
    return (p * x.astype(np.float64) + (1 - p) * y.astype(np.float64)) / math.sqrt(p**2 + (1 - p) ** 2)


def sounds(size: int, length: int, *channels: int) -> Tensor:
    """Noise of very different loudness, a hum below it, and one clip that is loud only for a moment."""
    loudness = 10.0 ** torch.linspace(-3, 0, size).view(-1, *[1] * (len(channels) + 1))
    clips = loudness * torch.randn(size, *channels, length) * 0.2 + 0.05 * torch.sin(torch.arange(length) * 0.03)
    clips[0, ..., length // 2 : length // 2 + 50] += 1.0
    return clips


def loudness_ratio(share: Tensor, x_level: Tensor, y_level: Tensor) -> Tensor:
    """How many times as loud (in amplitude) the first clip is in the mixture."""
    return share / (1 - share) * 10 ** ((x_level - y_level) / 20)


class TestSoundLevel:
    @pytest.mark.parametrize(("rate", "size"), RATES)
    @pytest.mark.parametrize("mode", ["a_weighted", "rms"])
    def test_is_the_formula(self, rate: int, size: int, mode: str, device: torch.device) -> None:
        clips = sounds(5, 11_000)
        expected = [naive_level(clip[None], rate, size, mode) for clip in clips.numpy()]
        level = sound_level(clips.to(device), rate, mode)
        assert level.dtype == torch.float32
        assert level.tolist() == pytest.approx(expected, abs=1e-4)
        exact = sound_level(clips.double().to(device), rate, mode)
        assert exact.dtype == torch.float64
        assert exact.tolist() == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(("rate", "size"), [(31_999.0, 2048), (32_000, 4096)])
    def test_frames_by_rate(self, rate: float, size: int) -> None:
        # An impulse has a flat spectrum, windowed by its place in the frame: in the middle of one frame, at the end of
        # its neighbour, where the window is zero.
        clips = torch.zeros(1, 3 * size)
        clips[0, size] = 1.0
        weight = sum(10 ** (a_weight(k * rate / size) / 10) for k in range(size // 2 + 1))
        assert sound_level(clips, rate).item() == pytest.approx(10 * math.log10(weight), abs=1e-4)

    @pytest.mark.parametrize("length", [0, 1, 100, 2047, 2048, 2049, 3071, 3072])
    def test_short_clips_and_ends(self, length: int) -> None:
        clips = torch.randn(3, length)
        expected = [naive_level(clip[None], 16000, 2048) for clip in clips.numpy()]
        assert sound_level(clips, 16000).tolist() == pytest.approx(expected, abs=1e-4)
        # What is left over behind the last frame does not count.
        kept = length if length < 2048 else length - (length - 2048) % 1024
        assert torch.equal(sound_level(clips[:, :kept], 16000), sound_level(clips, 16000))

    def test_the_energy_is_the_mean_over_channels(self) -> None:
        clips = sounds(3, 9000, 2)
        expected = [naive_level(clip, 44100, 4096) for clip in clips.numpy()]
        assert sound_level(clips, 44100).tolist() == pytest.approx(expected, abs=1e-4)
        assert sound_level(clips.unsqueeze(1), 44100).tolist() == pytest.approx(expected, abs=1e-4)
        mono = sounds(3, 9000)
        twice = sound_level(mono.unsqueeze(1).expand(-1, 2, -1), 44100)
        torch.testing.assert_close(twice, sound_level(mono, 44100))

    @given(scale=st.floats(1e-2, 1e3))
    def test_a_factor_is_its_decibels(self, scale: float) -> None:
        clips = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)).double()
        moved = sound_level(clips * scale, 16000) - sound_level(clips, 16000)
        assert moved.tolist() == pytest.approx([20 * math.log10(scale)] * 2, abs=1e-9)

    def test_the_loudest_moment_counts(self) -> None:
        quiet = torch.randn(1, 20_480) * 1e-3
        burst = quiet.clone()
        burst[:, 10_240:12_288] = torch.randn(2048)
        assert sound_level(burst, 16000) > sound_level(quiet, 16000) + 40
        everywhere = quiet + torch.cat([burst[:, 10_240:12_288]] * 10, dim=1)
        assert abs(sound_level(burst, 16000) - sound_level(everywhere, 16000)).item() < 6

    def test_deep_tones_are_less_loud(self) -> None:
        time = torch.arange(16_384) / 16000
        tones = torch.stack([torch.sin(2 * math.pi * 500 / 64 * k * time) for k in (8, 16, 128, 512)])
        levels = sound_level(tones, 16000) - sound_level(tones, 16000)[2]
        hertz = [62.5, 125.0, 1000.0, 4000.0]
        assert levels.tolist() == pytest.approx([a_weight(f) - a_weight(1000.0) for f in hertz], abs=0.2)
        assert sound_level(tones, 16000, "rms").tolist() == pytest.approx([10 * math.log10(0.5)] * 4, abs=0.05)

    def test_silence_has_the_floor(self) -> None:
        for mode in ("a_weighted", "rms"):
            assert sound_level(torch.zeros(2, 5000), 16000, mode).tolist() == pytest.approx([-80.0, -80.0])

    def test_how_many_clips_there_are_does_not_matter(self) -> None:
        # Clips are worked on some at a time: more than one such group.
        clips = sounds(40, 50_000)
        alone = torch.cat([sound_level(clip[None], 16000) for clip in clips])
        torch.testing.assert_close(sound_level(clips, 16000), alone)

    def test_autocast_and_half_precision(self, device: torch.device) -> None:
        clips = sounds(4, 9000).to(device)
        expected = sound_level(clips, 16000)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert torch.equal(sound_level(clips, 16000), expected)
        for dtype in (torch.bfloat16, torch.float16):
            rounded = sound_level(clips.to(dtype), 16000)
            assert rounded.dtype == torch.float32
            torch.testing.assert_close(rounded, sound_level(clips.to(dtype).float(), 16000))

    def test_clips_are_left_alone(self) -> None:
        clips = sounds(3, 5000).requires_grad_()
        before = clips.detach().clone()
        assert not sound_level(clips, 16000).requires_grad
        sound_level(clips, 16000, "rms")
        assert torch.equal(clips.detach(), before)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.zeros(5000), 16000), r"`waveforms` must be floating point \[N, T\].*shape \[5000\]\."),
            ((torch.zeros(2, 50, dtype=torch.int16), 16000), r"`waveforms`.*torch\.int16 of shape \[2, 50\]\."),
            ((torch.zeros(2, 50), 0), "`sample_rate` is in Hz and must be positive, but is 0"),
            ((torch.zeros(2, 50), math.nan), "`sample_rate`.*nan"),
            (
                (torch.zeros(2, 50), 16000, "loud"),
                "`mode` must be one of 'a_weighted', 'rms', 'loudness', but is 'loud'",
            ),
        ],
    )
    def test_errors(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sound_level(*arguments)


class TestLoudness:
    """ITU-R BS.1770; against torchaudio in tests/audio."""

    @pytest.mark.parametrize("rate", [8000, 44_100])
    @pytest.mark.parametrize("channels", [(), (2,), (5,)])
    def test_is_the_standard(self, rate: int, channels: tuple[int, ...], device: torch.device) -> None:
        clips = sounds(5, 2 * rate, *channels)
        clips[1, ..., rate // 2 :] *= 1e-2  # below the relative gate
        clips[2] *= 0.05
        clips[2, ..., rate:] *= 1e-2  # below the absolute gate
        clips[3] *= 30  # beyond full scale, where nothing is clipped
        expected = [naive_loudness(clip.reshape(-1, 2 * rate), rate) for clip in clips.numpy()]
        assert min(expected) > -70
        assert sound_level(clips.to(device), rate, "loudness").tolist() == pytest.approx(expected, abs=1e-3)
        exact = sound_level(clips.double(), rate, "loudness")
        assert exact.dtype == torch.float64
        assert exact.tolist() == pytest.approx(expected, abs=1e-9)

    def test_short_clips_and_silence(self) -> None:
        for length in (0, 1, 1000, 3199, 3200, 3999, 4000, 4001):
            clips = 0.3 * torch.randn(2, length).double()
            expected = [naive_loudness(clip[None], 8000) for clip in clips.numpy()]
            assert sound_level(clips, 8000, "loudness").tolist() == pytest.approx(expected, abs=1e-9)
        for faint in (0.0, 1e-9, 1e-4):
            assert sound_level(faint * torch.ones(2, 9000), 8000, "loudness").tolist() == [-70.0, -70.0]
        assert sound_level(torch.zeros(0, 9000), 8000, "loudness").shape == (0,)

    def test_clips_do_not_know_each_other_and_mix_by_it(self) -> None:
        x = sounds(40, 50_000)
        level = sound_level(x, 16_000, "loudness")
        alone = torch.cat([sound_level(clip[None], 16_000, "loudness") for clip in x])
        torch.testing.assert_close(level, alone, rtol=0, atol=1e-4)
        ratio = torch.rand(40)
        p = between_class_weight(ratio, level, level.flip(0))[:, None]
        expected = (p * x + (1 - p) * x.flip(0)) / torch.hypot(p, 1 - p)
        torch.testing.assert_close(between_class_mix(x, x.flip(0), ratio, 16_000, "loudness"), expected)
        mixed, targets = BetweenClass(40, 16_000, level="loudness")(x, torch.arange(40))
        assert mixed.isfinite().all()
        assert targets.sum(1).tolist() == pytest.approx([1.0] * 40)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"`waveforms` must have at most 5 channels .* but have 6"):
            sound_level(torch.zeros(2, 6, 9000), 8000, "loudness")
        with pytest.raises(ValueError, match=r"`sample_rate` must be at least 4000 Hz .* but is 1000"):
            sound_level(torch.zeros(2, 9000), 1000, "loudness")


class TestWeight:
    def test_equal_levels_keep_the_ratio(self) -> None:
        ratio = torch.linspace(0, 1, 11)
        assert torch.allclose(between_class_weight(ratio, torch.full((11,), -20.0), torch.full((11,), -20.0)), ratio)

    def test_ends_are_exact(self) -> None:
        levels = torch.tensor([-80.0, 0.0, 140.0])
        for ratio in (0.0, 1.0):
            for other in (-80.0, 0.0, 140.0):
                weight = between_class_weight(torch.full((3,), ratio), levels, torch.full((3,), other))
                assert weight.tolist() == [ratio] * 3

    @given(ratio=st.floats(0.01, 0.99), x=st.floats(-80, 60), y=st.floats(-80, 60))
    def test_clips_are_heard_in_the_ratio(self, ratio: float, x: float, y: float) -> None:
        r, x_level, y_level = (torch.tensor([value], dtype=torch.float64) for value in (ratio, x, y))
        share = between_class_weight(r, x_level, y_level)
        assert share.item() == pytest.approx(1 / (1 + 10 ** ((x - y) / 20) * (1 - ratio) / ratio), rel=1e-12)
        assert loudness_ratio(share, x_level, y_level).item() == pytest.approx(ratio / (1 - ratio), rel=1e-6)
        swapped = between_class_weight(1 - r, y_level, x_level)
        assert swapped.item() == pytest.approx(1 - share.item(), abs=1e-12)


class TestMix:
    @pytest.mark.parametrize(("rate", "size"), RATES)
    @pytest.mark.parametrize("mode", ["a_weighted", "rms"])
    def test_is_the_formula(self, rate: int, size: int, mode: str, device: torch.device) -> None:
        x, y = sounds(6, 9000), sounds(6, 9000).flip(0)
        ratio = torch.rand(6)
        pairs = zip(x.numpy()[:, None], y.numpy()[:, None], ratio.tolist(), strict=True)
        expected = torch.tensor(np.stack([naive_mix(*pair, rate, size, mode)[0] for pair in pairs]))
        scale = expected.abs().amax(1, keepdim=True)
        mixed = between_class_mix(x.to(device), y.to(device), ratio.to(device), rate, mode).cpu()
        assert mixed.dtype == torch.float32
        assert float(((mixed - expected).abs() / scale).max()) < 1e-6
        exact = between_class_mix(x.double(), y.double(), ratio.double(), rate, mode)
        assert float(((exact - expected).abs() / scale).max()) < 1e-12

    def test_equal_levels_and_halves_gain_the_root_of_two(self) -> None:
        x = sounds(3, 5000)
        half = torch.full((3,), 0.5)
        torch.testing.assert_close(between_class_mix(x, x, half, 16000), math.sqrt(2) * x)
        y = x.flip(-1)  # as loud: an equal mean square, which is what counts here
        mixed = between_class_mix(x[:, :2048], y[:, -2048:], half, 16000, "rms")
        torch.testing.assert_close(mixed, math.sqrt(2) * (x[:, :2048] + y[:, -2048:]) / 2)

    @given(first=st.floats(0.01, 100), second=st.floats(0.01, 100))
    def test_the_proportion_does_not_depend_on_how_loud_the_clips_came(self, first: float, second: float) -> None:
        generator = torch.Generator().manual_seed(0)
        # One clip in the first half of the time, the other in the second, so that the mixture can be taken apart.
        x, y = torch.zeros(2, 1, 16_384, dtype=torch.float64)
        x[:, :8192], y[:, 8192:] = torch.randn(2, 1, 8192, generator=generator, dtype=torch.float64)
        ratio = torch.tensor([0.3], dtype=torch.float64)
        mixed = between_class_mix(first * x, second * y, ratio, 16000)
        parts = torch.zeros(2, 1, 16_384, dtype=torch.float64)
        parts[0, :, :8192], parts[1, :, 8192:] = mixed[:, :8192], mixed[:, 8192:]
        difference = sound_level(parts[0], 16000) - sound_level(parts[1], 16000)
        assert 10 ** (difference.item() / 20) == pytest.approx(0.3 / 0.7, rel=1e-9)

    def test_clips_of_one_energy_keep_it(self) -> None:
        x, y = (torch.nn.functional.normalize(torch.randn(20, 60_000), dim=1) for _ in range(2))
        mixed = between_class_mix(x, y, torch.rand(20), 16000)
        torch.testing.assert_close(mixed.square().sum(1), torch.ones(20), rtol=0.03, atol=0)

    def test_ends_and_silence(self) -> None:
        x, y = sounds(4, 5000), torch.zeros(4, 5000)
        for other in (y, x.flip(0), 1e4 * x):
            assert torch.equal(between_class_mix(x, other, torch.ones(4), 16000), x)
            assert torch.equal(between_class_mix(x, other, torch.zeros(4), 16000), other)
        half = torch.full((4,), 0.5)
        assert between_class_mix(y, y, half, 16000).tolist() == y.tolist()
        # Against silence next to nothing of a clip is heard as half of it, and the rest is not made up for.
        assert between_class_mix(x, y, half, 16000).isfinite().all()
        assert between_class_mix(x, y, half, 16000).abs().max() < 1e-2

    def test_channels_are_mixed_alike(self) -> None:
        x, y = sounds(3, 5000, 2), sounds(3, 5000, 2).flip(0)
        ratio = torch.rand(3)
        mixed = between_class_mix(x, y, ratio, 16000)
        for k in range(3):
            expected = naive_mix(x[k].numpy(), y[k].numpy(), ratio[k].item(), 16000, 2048)
            np.testing.assert_allclose(mixed[k], expected, atol=1e-6)
        as_images = between_class_mix(x.unsqueeze(2), y.unsqueeze(2), ratio, 16000)
        assert torch.equal(as_images.squeeze(2), mixed)

    def test_gradient_takes_the_levels_as_they_are(self) -> None:
        x, y = (torch.randn(2, 3000, dtype=torch.float64, requires_grad=True) for _ in range(2))
        ratio = torch.tensor([0.25, 0.75], dtype=torch.float64)
        p = between_class_weight(ratio, sound_level(x, 16000), sound_level(y, 16000))
        for gradient, weight in zip(
            torch.autograd.grad(between_class_mix(x, y, ratio, 16000).sum(), (x, y)), (p, 1 - p), strict=True
        ):
            expected = weight / torch.hypot(p, 1 - p)
            torch.testing.assert_close(gradient, expected[:, None].expand(-1, 3000))

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"`x` and `y` must have the same shape, but have \[2, 9\] and \[2, 8\]"):
            between_class_mix(torch.zeros(2, 9), torch.zeros(2, 8), torch.zeros(2), 16000)
        with pytest.raises(ValueError, match=r"`ratio` must be one number .* the pairs \[2\], but has shape \[2, 1\]"):
            between_class_mix(torch.zeros(2, 9), torch.zeros(2, 9), torch.zeros(2, 1), 16000)


class TestMixer:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"different_classes": True},
            {"level": "rms", "sample_rate": 44100},
            {"ratio": MixUp(C, alpha=0.3)},
            {"ratio": UniMix([40, 9, 3, 1], alpha=0.2)},
            {"ratio": UniMix([40, 9, 3, 1], alpha=0.2, in_batch_tau=0.5)},
        ],
        ids=str,
    )
    def test_contract(self, arguments: dict, device: torch.device) -> None:
        mixer = BetweenClass(C, **{"sample_rate": 16000, **arguments})
        options = {"shapes": [(5,), (2, 5), (1, 1, 70)], "device": device}
        check_mixer(mixer, C, mixing="free", shared_weight=False, **options)
        with pytest.raises(ContractError, match=r"'inputs of the pair'|'same weight'|'linear'"):
            check_mixer(mixer, C, **options)

    def test_given_partners(self, device: torch.device) -> None:
        x, y = sounds(6, 5000).to(device), sounds(6, 5000).flip(0).to(device)
        labels = torch.arange(6, device=device) % C
        mixed, targets = BetweenClass(C, 16000)(x, labels, y, (labels + 1) % C)
        ratio = targets.gather(1, labels[:, None])[:, 0]
        torch.testing.assert_close(mixed, between_class_mix(x, y, ratio, 16000))
        torch.testing.assert_close(targets.gather(1, (labels + 1)[:, None] % C)[:, 0], 1 - ratio)
        assert len(set(ratio.tolist())) == 6  # one a pair

    @pytest.mark.parametrize("level", ["a_weighted", "rms", "loudness"])
    def test_partners_from_the_batch_have_the_levels_of_their_rows(self, level: str) -> None:
        x, labels = sounds(7, 5000, 2), torch.arange(7)
        mixer = BetweenClass(7, 16000, level=level)
        mixed, targets = mixer(x, labels)
        own = targets.diagonal()
        partner = (targets - torch.diag(own)).argmax(1)  # of one that is its own partner, any: it is mixed with itself
        partner = torch.where(own > 1 - 1e-6, labels, partner)
        ratio = torch.where(partner == labels, 0.5, own)
        expected = between_class_mix(x, x[partner], ratio, 16000, level)
        apart = partner != labels
        assert apart.sum() >= 4
        torch.testing.assert_close(mixed[apart], expected[apart])

    def test_a_clip_that_is_its_own_partner_gets_louder_as_two_would(self) -> None:
        x = sounds(1, 5000)
        mixed, targets = BetweenClass(C, 16000)(x, torch.tensor([2]))
        assert targets.tolist() == [[0, 0, 1, 0]]
        assert 1 - 1e-6 <= (mixed / x).nanmedian().item() <= math.sqrt(2) + 1e-6

    def test_levels_are_found_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        level = functional.sound_level
        for module in (functional, __import__("ltaug.mixers.between_class", fromlist=["x"])):
            monkeypatch.setattr(module, "sound_level", lambda w, *rest: (seen.append(len(w)), level(w, *rest))[1])
        x, labels = sounds(6, 3000), torch.arange(6) % C
        BetweenClass(C, 16000)(x, labels)
        assert sum(seen) == 6
        BetweenClass(C, 16000)(x, labels, x.flip(0), labels)
        assert sum(seen) == 18

    def test_ratio_is_uniform(self) -> None:
        mixer, labels = BetweenClass(C, 16000), torch.zeros(20_000, dtype=torch.long)
        drawn = mixer.weights(labels, labels)
        assert stats.kstest(drawn.numpy(), "uniform").pvalue > SURE
        assert torch.equal(mixer.expected_weights(), torch.full((C, C), 0.5, dtype=torch.float64))

    def test_ratio_of_another_mixer(self) -> None:
        counts = [90, 10, 3, 1]
        ratio = UniMix(counts, alpha=0.2, in_batch_tau=-1.0)
        mixer = BetweenClass(C, 16000, ratio=ratio)
        labels, partners = torch.arange(C).repeat(50), torch.arange(C).repeat_interleave(50)
        torch.manual_seed(0)
        expected = ratio.weights(labels, partners), ratio.partners(labels)
        torch.manual_seed(0)
        assert torch.equal(mixer.weights(labels, partners), expected[0])
        assert torch.equal(mixer.partners(labels), expected[1])
        assert torch.equal(mixer.expected_weights(), ratio.expected_weights())
        # Through the call: the rare class's label, and how loud it is heard, lean to it.
        x = torch.randn(200, 2048)
        mixed, targets = mixer(x, torch.zeros(200, dtype=torch.long), x.flip(0), torch.full((200,), 3))
        assert targets[:, 3].mean() > 0.7
        torch.testing.assert_close(mixed, between_class_mix(x, x.flip(0), targets[:, 0], 16000))

    def test_half_precision_keeps_its_type(self) -> None:
        x, y = sounds(4, 5000), sounds(4, 5000).flip(0)
        labels = torch.arange(4) % C
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
            results = []
            for each in (dtype, torch.float32):
                torch.manual_seed(3)
                mixed, targets = BetweenClass(C, 16000)(x.to(each), labels, y.to(each), labels + 1 - C * (labels == 3))
                assert mixed.dtype == each
                assert targets.dtype == torch.float32
                results.append(mixed.double())
            torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)

    def test_autocast_changes_nothing(self, device: torch.device) -> None:
        x, labels = sounds(6, 5000).to(device), torch.arange(6, device=device) % C
        results = []
        for enabled in (False, True):
            torch.manual_seed(5)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
                results.append(BetweenClass(C, 16000)(x, labels))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])

    def test_errors(self) -> None:
        for ratio in (CutMix(C), ReMix([1] * C), ManifoldMixUp(C, layers=["input"]), BetweenClass(C, 16000), "mixup"):
            with pytest.raises(ValueError, match=f"`ratio` must be a mixer .* but is a {type(ratio).__name__}"):
                BetweenClass(C, 16000, ratio=ratio)
        with pytest.raises(ValueError, match="`ratio` has 3 classes, but `num_classes` is 4"):
            BetweenClass(C, 16000, ratio=MixUp(3))
        with pytest.raises(ValueError, match="`different_classes` and the `in_batch_tau` of `ratio` both choose"):
            BetweenClass(C, 16000, ratio=UniMix([1] * C, in_batch_tau=0.5), different_classes=True)
        with pytest.raises(ValueError, match="`sample_rate` is in Hz and must be positive, but is -1"):
            BetweenClass(C, -1)
        with pytest.raises(ValueError, match="`level` must be one of 'a_weighted', 'rms', 'loudness', but is 'dB'"):
            BetweenClass(C, 16000, level="dB")
        mixer, labels = BetweenClass(C, 16000), torch.zeros(3, dtype=torch.long)
        for inputs in (torch.zeros(3), torch.zeros(3, 100, dtype=torch.int16)):
            with pytest.raises(ValueError, match=r"`inputs` must be waveforms, floating point \[N, ..., T\]"):
                mixer(inputs, labels)
        with pytest.raises(ValueError, match=r"one row a sample, but have shapes \[2, 100\] and \[3\]"):
            mixer(torch.zeros(2, 100), labels)
        with pytest.raises(ValueError, match="belong together"):
            mixer(torch.zeros(3, 100), labels, torch.zeros(3, 100))

    def test_repr_says_what_it_is(self) -> None:
        assert repr(BetweenClass(3, 44100, UniMix([3, 2, 1], alpha=0.5), level="rms")) == (
            "BetweenClass(num_classes=3, sample_rate=44100, ratio=UniMix(num_classes=3, alpha=0.5, in_batch_tau=None), "
            "different_classes=False, level='rms')"
        )


class TestDifferentClasses:
    @given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=20))
    def test_partners_are_of_another_class_where_there_is_one(self, labels: list[int]) -> None:
        mixer, table = BetweenClass(C, 16000, different_classes=True), torch.tensor(labels)
        chosen = mixer.partners(table)
        assert chosen.dtype == torch.int64
        if len(set(labels)) > 1:
            assert (table[chosen] != table).all()
        else:  # a permutation
            assert sorted(chosen.tolist()) == list(range(len(labels)))
        dense = torch.nn.functional.one_hot(table, C) * 0.7 + 0.075
        assert len(set(labels)) == 1 or (table[mixer.partners(dense)] != table).all()

    def test_each_of_them_is_as_likely(self) -> None:
        labels = torch.tensor([2, 0, 0, 3, 0, 2, 3, 0])
        mixer = BetweenClass(C, 16000, different_classes=True)
        drawn = torch.stack([mixer.partners(labels) for _ in range(4000)])
        for row in range(8):
            seen = torch.bincount(drawn[:, row], minlength=8)[labels != labels[row]]
            assert seen.sum() == 4000
            assert stats.chisquare(seen.numpy()).pvalue > SURE

    def test_other_targets_are_refused(self) -> None:
        mixer = BetweenClass(C, 16000, different_classes=True)
        for targets in (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, C, 5)):
            with pytest.raises(ValueError, match=r"`targets` must be one class a sample, \[N\] or \[N, 4\]"):
                mixer(torch.zeros(2, 100), targets)


def test_an_empty_batch_stays_empty() -> None:
    """As a process may have of a last batch."""
    empty = torch.zeros(0, 4000)
    assert sound_level(empty, 16000).shape == (0,)
    mixed, targets = BetweenClass(3, 16000)(
        empty, torch.zeros(0, dtype=torch.int64), empty, torch.zeros(0, dtype=torch.int64)
    )
    assert mixed.shape == (0, 4000)
    assert targets.shape == (0, 3)


def test_lengths_of_transforms_are_the_next_good_ones() -> None:
    for length in (*range(1, 300), 44101, 2**31 - 1, 2**31 + 1):
        assert fast_length(length) == fft.next_fast_len(length, real=True)
