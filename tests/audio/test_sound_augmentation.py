"""Augmentation of sounds inside the network: what is asked for is what is measured, and evaluation has none of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal, stats
from sound_support import RATE, TinyNetwork, encoded, write_folder
from torch import Tensor, nn

from ltaug.audio import AddNoise, LogMel, Reverb, SpecAugment
from ltaug.audio.augmentation import AugmentationSettings, load_augment, make_augmentation, spec_augment
from ltaug.errors import UserError

pytest.importorskip("torchaudio")

SURE = 1e-4
"""A p-value below it refutes; the generator is seeded before every test, so that a test passes always or never."""


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Two recordings: a short one of the loudest moments, which comes late, and a long one; and one of silence."""
    (tmp_path / "room").mkdir()
    late = np.zeros(400)
    late[100], late[150] = 0.8, -0.4
    for name, samples in (("a.wav", late), ("room/b.flac", np.r_[0.5, np.zeros(99), 0.25]), ("c.wav", np.zeros(50))):
        (tmp_path / name).write_bytes(encoded(samples, kind=name[-4:].strip(".").upper()))
    (tmp_path / "notes.txt").write_text("no sound")
    return tmp_path


def decibels(ratio: Tensor) -> Tensor:
    return 10 * ratio.log10()


class TestNoise:
    @pytest.mark.parametrize("kind", ["white", "pink", "folder"])
    def test_the_ratio_is_the_one_asked_for(self, kind: str, tmp_path: Path) -> None:
        if kind == "folder":
            for k in range(3):
                samples = np.random.default_rng(k).uniform(-0.5, 0.5, 3000 * (k + 1))
                (tmp_path / f"{k}.wav").write_bytes(encoded(samples))
        noise = AddNoise(RATE, 0.75, str(tmp_path) if kind == "folder" else kind, -5.0, 20.0, "none")
        clean = torch.randn(800, 1000) * torch.logspace(-3, 0, 800)[:, None]
        noisy = noise(clean)
        changed = (noisy != clean).any(1)
        assert stats.binomtest(int(changed.sum()), 800, 0.75).pvalue > SURE
        ratio = decibels(clean.square().sum(1) / (noisy - clean).square().sum(1))[changed]
        assert stats.kstest((ratio.double() + 5) / 25, "uniform").pvalue > SURE

    def test_pink_noise_falls_by_three_decibels_an_octave(self) -> None:
        noise = AddNoise(RATE, 1.0, "pink").draw(torch.zeros(200, 4096)).double()
        frequency, power = signal.welch(noise.numpy(), RATE, nperseg=1024)
        inside = (frequency > 50) & (frequency < 3500)
        slope = np.polyfit(np.log2(frequency[inside]), 10 * np.log10(power.mean(0)[inside]), 1)[0]
        assert slope == pytest.approx(-3.01, abs=0.15)

    def test_noise_of_a_folder_is_that_of_one_file_in_its_order(self, sounds: Path) -> None:
        noise = AddNoise(RATE, 1.0, str(sounds), cache_dir="none")
        drawn = noise.draw(torch.zeros(64, 1000)) * 32768
        files = [np.rint(32768 * np.array(each)) for each in ([0.8, *[0] * 49, -0.4], [0.5, *[0] * 99, 0.25])]
        found = [0, 0]
        for row in drawn.numpy():
            k = int(16384 in row)  # of the second file alone
            tiled = np.tile(files[k], 1000 // len(files[k]) + 2)
            assert any(np.allclose(row, tiled[s : s + 1000], atol=1) for s in range(len(files[k])))
            found[k] += 1
        assert min(found) > 15
        assert not noise.state_dict()

    def test_silence_stays_silent_and_silent_noise_adds_nothing(self) -> None:
        noise = AddNoise(RATE, 1.0)
        assert torch.equal(noise(torch.zeros(3, 100)), torch.zeros(3, 100))
        noise.draw = torch.zeros_like
        clean = torch.randn(3, 100)
        assert torch.equal(noise(clean), clean)


class TestReverb:
    @pytest.mark.parametrize("recorded", [False, True])
    @pytest.mark.parametrize("length", [4000, 90])
    def test_is_a_convolution_that_keeps_length_and_energy(
        self, recorded: bool, length: int, sounds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reverb = Reverb(RATE, 1.0, str(sounds) if recorded else "synthetic", 0.3, "none")
        clean = 0.1 * torch.randn(6, length, dtype=torch.float64)
        responses = reverb.draw(clean)
        monkeypatch.setattr(reverb, "draw", lambda waveforms: responses)
        wet = reverb(clean)
        assert wet.shape == clean.shape
        for row, response, dry in zip(wet, responses, clean, strict=True):
            expected = np.convolve(dry, response)[:length]
            np.testing.assert_allclose(row, expected * np.sqrt((dry @ dry).item() / (expected @ expected)), atol=1e-12)
        torch.testing.assert_close(wet.square().sum(1), clean.square().sum(1))

    def test_synthetic_tails_decay_as_they_should(self) -> None:
        reverb = Reverb(RATE, 1.0, max_rt60=0.4)
        responses = reverb.draw(torch.zeros(600, 9, dtype=torch.float64))
        assert responses.shape == (600, 3200)
        assert (responses[:, 0] == 1).all()
        direct = -decibels(responses[:, 1:].square().sum(1))  # over the tail
        assert stats.kstest(direct / 15, "uniform").pvalue > SURE
        # The envelope, fitted: of noise the mean logarithm of the power is off by a constant alone.
        time = torch.arange(1, 3200, dtype=torch.float64) / RATE
        level = decibels(responses[:, 1:1601].square().clamp_min(1e-300))
        rt60 = torch.from_numpy(-60 / np.polyfit(time[:1600], level.T, 1)[0])
        assert stats.kstest(rt60[(rt60 > 0.1) & (rt60 < 0.3)], stats.uniform(0.1, 0.2).cdf).pvalue > SURE

    def test_a_recorded_response_begins_at_its_peak(self, sounds: Path) -> None:
        reverb = Reverb(RATE, 1.0, str(sounds), cache_dir="none")
        assert reverb.recorded.shape == (2, 101)
        assert reverb.recorded[:, 0].tolist() == pytest.approx([0.8, 0.5], abs=1e-4)
        assert not reverb.state_dict()

    def test_silence_stays_silent(self) -> None:
        assert torch.equal(Reverb(RATE, 1.0)(torch.zeros(3, 500)), torch.zeros(3, 500))


@pytest.mark.slow
@pytest.mark.parametrize("module", [Reverb(RATE, 1.0), AddNoise(RATE, 1.0, "pink"), AddNoise(RATE, 1.0)], ids=str)
def test_is_one_graph_for_several_lengths(module: nn.Module) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for size, length in ((6, 2400), (9, 2400), (4, 7777)):
        assert compiled(torch.rand(size, length)).shape == (size, length)


class TestMasks:
    def test_whole_runs_of_bands_and_frames_are_the_mean_and_the_rest_is_left_alone(self) -> None:
        masks, seen = SpecAugment(1, 20, 1, 10), torch.randn(3000, 32, 60)
        covered = masks(seen) == 0
        assert torch.equal(masks(seen) * 0, seen * 0)
        frames, bands = covered.all(1), covered.all(2)
        assert torch.equal(covered, frames[:, None, :] | bands[:, :, None])
        for mask, limit in ((frames, 20), (bands, 10)):
            width = mask.sum(1)
            runs = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
            assert (runs == (width > 0)).all()
            assert stats.chisquare(np.bincount(width, minlength=limit)).pvalue > SURE  # 0..limit - 1
            assert len(np.bincount(width)) == limit
        assert len({tuple(row) for row in frames[:100].int().tolist()}) > 80  # other ones for each clip

    def test_in_a_front_end_masks_are_the_mean_of_the_clip(self) -> None:
        front_end, waveforms = LogMel(RATE, 32, masks=SpecAugment(2, 10, 2, 8)), torch.randn(4, RATE)
        masked, plain = front_end.train()(waveforms), front_end.eval()(waveforms)
        assert ((masked == plain) | (masked == 0)).all()
        assert 0 < (masked == 0).float().mean() < 0.9
        assert torch.equal(plain, LogMel(RATE, 32)(waveforms))

    def test_too_wide(self) -> None:
        with pytest.raises(ValueError, match="`time_mask_param` is 40, but a spectrogram has 30 frames"):
            SpecAugment(1, 40, 0, 12)(torch.zeros(2, 64, 30))
        with pytest.raises(ValueError, match="`freq_mask_param` is 80, but a spectrogram has 64 bands"):
            SpecAugment(0, 40, 1, 80)(torch.zeros(2, 64, 30))
        with pytest.raises(ValueError, match="`n_time_masks` must not be negative, but is -1"):
            SpecAugment(-1, 40, 1, 80)


class TestSettings:
    ALL = AugmentationSettings(reverb_p=1.0, noise_p=1.0, noise="pink", n_time_masks=1, n_freq_masks=1)

    def test_all_is_off_by_default_and_draws_nothing(self) -> None:
        settings = AugmentationSettings()
        assert isinstance(make_augmentation(settings, RATE), nn.Identity)
        assert isinstance(spec_augment(settings), nn.Identity)
        network, state = TinyNetwork(3), torch.get_rng_state()
        network.train()(torch.zeros(2, 900))
        assert torch.equal(torch.get_rng_state(), state)

    def test_evaluation_has_none_of_it(self) -> None:
        """Bit by bit, and without a draw."""
        plain = TinyNetwork(3)
        network = TinyNetwork(3)
        network.load_state_dict(plain.state_dict())
        network.augmentation = make_augmentation(self.ALL, RATE)
        waveforms, crops = torch.randn(2, 900), torch.randn(2, 4, 900)
        assert not torch.equal(network.train()(waveforms), plain.train()(waveforms))
        network.load_state_dict(plain.state_dict())  # without statistics of that batch, and with no key of its own
        state = torch.get_rng_state()
        for inputs in (waveforms, crops):
            assert torch.equal(network.eval()(inputs), plain.eval()(inputs))
        assert torch.equal(torch.get_rng_state(), state)
        spectrograms = torch.randn(2, 64, 80)
        assert torch.equal(spec_augment(self.ALL).eval()(spectrograms), spectrograms)

    def test_under_autocast_and_of_no_clip(self) -> None:
        augmentation = make_augmentation(self.ALL, RATE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert augmentation(torch.randn(2, 900)).dtype == torch.float32
        assert augmentation(torch.zeros(0, 900)).shape == (0, 900)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("module", [Reverb(RATE, 1.0), AddNoise(RATE, 1.0, "pink")], ids=str)
    def test_half_precision_is_computed_in_single(self, module: nn.Module, kind: torch.dtype) -> None:
        waveforms = 0.1 * torch.randn(3, 700).to(kind)
        torch.manual_seed(1)
        found = module(waveforms)
        torch.manual_seed(1)
        assert torch.equal(found, module(waveforms.float()).to(kind))
        assert found.dtype == kind
        for given in (torch.zeros(2, 1, 700), torch.zeros(2, 700, dtype=torch.int16)):
            with pytest.raises(ValueError, match=r"`waveforms` must be floating point \[N, T\], but are torch"):
                module(given)
        with pytest.raises(ValueError, match="`sample_rate` is in Hz and must be positive, but is 0"):
            type(module)(0)

    @pytest.mark.parametrize(
        ("make", "changes", "message"),
        [
            (make_augmentation, {"noise": "pink"}, "`noise` is pink, but without effect, since `noise_p` is 0"),
            (make_augmentation, {"max_rt60": 1.0}, "`max_rt60` is 1.0, but without effect, since `reverb_p` is 0"),
            (spec_augment, {"freq_mask_param": 30}, "`freq_mask_param` is 30, .* since `n_freq_masks` is 0"),
            (
                make_augmentation,
                {"noise_p": 0.5, "noise": "/nowhere"},
                "`noise` must be white, pink or a folder of sounds, but `/nowhere` is no folder",
            ),
            (make_augmentation, {"noise_p": 0.5, "min_snr_db": 40.0}, "`min_snr_db` must be at most .*30, but is 40"),
            (make_augmentation, {"noise_p": 1.5}, "`p` is a probability, in 0..1, but is 1.5"),
            (make_augmentation, {"reverb_p": 0.5, "max_rt60": 99.0}, "`max_rt60` is in seconds .* but is 99"),
        ],
    )
    def test_errors(self, make: Callable[..., nn.Module], changes: dict, message: str) -> None:
        settings = replace(AugmentationSettings(), **changes)
        with pytest.raises(ValueError, match=message):
            make(settings) if make is spec_augment else make(settings, RATE)

    def test_a_folder_without_sounds(self, tmp_path: Path) -> None:
        (tmp_path / "silence.wav").write_bytes(encoded(np.zeros(50)))
        for name in ("noise", "reverb"):
            settings = replace(AugmentationSettings(), **{name: str(tmp_path), f"{name}_p": 0.5})
            with pytest.raises(ValueError, match=f"`{name}`: the folder .* has no sound that can be read and heard"):
                make_augmentation(settings, RATE)


MODULE = """
import numpy as np

class Compose:
    def __init__(self, gain=0.5):
        self.gain = gain
    def __call__(self, samples, sample_rate):
        return samples * np.float32(self.gain)

class NeedsMore(Compose):
    def __init__(self, gain):
        pass

quieter = Compose(0.25)
def halve(samples, sample_rate=None): return samples * np.float32(0.5)
def make(gain=0.5): return Compose(gain)
def make_two(gain=0.5, other=None): return Compose(gain)
def optional(samples=None, sample_rate=None): return samples * np.float32(0.5 + 0 * np.random.random())
def by_name(samples, *, sample_rate): return samples
def no_rate(samples): return samples
def nothing(): return None
class parts: method = staticmethod(halve)
number = 3
"""


class TestHook:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my_hooks.py").write_text(MODULE)
        (tmp_path / "my_broken.py").write_text("import no_such_package")
        yield
        sys.modules.pop("my_hooks", None)

    @pytest.mark.parametrize(
        ("name", "gain"),
        [
            ("halve", 0.5),
            ("quieter", 0.25),
            ("Compose", 0.5),
            ("make", 0.5),
            ("parts.method", 0.5),
            ("make_two", 0.5),
            ("optional", 0.5),
        ],
    )
    def test_functions_objects_classes_and_factories(self, name: str, gain: float) -> None:
        before = list(sys.path)
        hook = load_augment(f"my_hooks:{name}")
        assert hook(np.ones(3, np.float32), RATE).tolist() == [gain] * 3
        assert sys.path == before

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("my_hooks", "must be MODULE:CALLABLE, such as .* but is 'my_hooks'"),
            ("my_hook:halve", "importing my_hook fails: ModuleNotFoundError"),
            ("my_broken:halve", "importing my_broken fails: .*no_such_package"),
            ("my_hooks:halv", "my_hooks has no halv, did you mean 'halve'"),
            ("my_hooks:NeedsMore", "cannot be made: TypeError: .*'gain'"),
            ("my_hooks:number", "must be a callable that takes samples and their rate, .* but is of type int"),
            ("my_hooks:no_rate", "must be a callable .* but is a callable of other arguments, function"),
            ("my_hooks:by_name", "takes `sample_rate` by its name alone"),
            ("my_hooks:nothing", "must be a callable .* but is of type NoneType"),
        ],
    )
    def test_what_is_no_hook(self, name: str, message: str) -> None:
        with pytest.raises(UserError, match=f"`augment` .*{message}"):
            load_augment(name)

    def test_in_the_recipe(self, load: Callable[..., Any], tmp_path: Path) -> None:
        """The hook, versions of shifted pitch, and names of files in messages."""
        folder = write_folder(tmp_path / "sounds", {"dog": 6, "sea": 6})
        data = load(data_dir=folder, imbalance_ratio=1.0, pitch_semitones=2.0)
        assert [len(version) for version in data.versions] == [len(data.train_labels)] * 4
        cfg = {"seed": 0, "batch_size": 8, "max_scale": 1.0, "crop_length": 300, "augment": None, "test_crops": 2}
        accelerator = SimpleNamespace(num_processes=1, process_index=0, device="cpu")
        inputs = {}
        for hook in (None, "my_hooks:halve"):
            loader = data.train_loader(SimpleNamespace(**cfg | {"augment": hook}), None, accelerator)
            inputs[hook] = next(iter(loader))[0]
        torch.testing.assert_close(inputs["my_hooks:halve"], inputs[None] / 2)
        assert loader.names[0].endswith(".wav")
