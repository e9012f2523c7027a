"""EnvNets, log-mel networks, and what all networks of sound do: averaging over crops, random gain."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sound_support import TinyNetwork
from torch import Tensor, nn

from ltaug import ManifoldMixUp
from ltaug.audio import EnvNet, EnvNetV2, LogMel, MelNetwork, ResidentWaveformLoader, SoundNetwork
from ltaug.methods import METHODS


class TestEnvNets:
    @pytest.mark.parametrize(
        ("network", "filtered", "seen", "parameters"),
        [(EnvNet, (40, 1, 150), (50, 11, 14), 48.6), (EnvNetV2, (64, 1, 260), (256, 10, 8), 101.3)],
    )
    def test_published_shapes(
        self, network: type[EnvNet | EnvNetV2], filtered: tuple, seen: tuple, parameters: float
    ) -> None:
        with torch.device("meta"):  # shapes without numbers
            made, shapes = network(50), {}
            for part in ("filters", "image", "hidden"):
                made.get_submodule(part).register_forward_hook(
                    lambda module, inputs, output, part=part: shapes.update({part: tuple(output.shape)})
                )
            assert made(torch.zeros(3, made.crop_length)).shape == (3, 50)
        assert shapes == {"filters": (3, *filtered), "image": (3, *seen), "hidden": (3, 4096)}
        assert round(sum(each.numel() for each in made.parameters()) / 1e6, 1) == parameters
        names = {name.partition(".")[0] for name in made.state_dict()}
        assert names == {"filters", "image", "hidden", "fc"}  # of saved weights

    def test_a_step(self) -> None:
        network = EnvNet(10)
        assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]
        loss = nn.functional.cross_entropy(network(0.1 * torch.randn(2, 24_014)), torch.tensor([0, 1]))
        assert 1.0 < loss.item() < 8.0  # log 10 is 2.3: nothing vanishes, and nothing explodes
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def normalised(power: torch.Tensor) -> torch.Tensor:
    """Normalised logarithm of a power, in double precision."""
    x = (power.double() + 1e-6).log()
    return ((x - x.mean((1, 2), keepdim=True)) / (x.std((1, 2), keepdim=True) + 1e-3)).float()


class TestLogMel:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("timm")
        pytest.importorskip("torchaudio")

    def test_what_the_backbone_sees(self) -> None:
        network = MelNetwork(7, 16_000, "test_resnet", mels=32).eval()
        waveforms = 0.1 * torch.randn(2, 16_000)
        seen = []
        network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        logits = network(waveforms)
        assert logits.shape == (2, 7)
        # 64 ms of 16 kHz are 1024 samples, and a column comes every 256.
        assert seen[0].shape == (2, 1, 32, 1 + 16_000 // 256)
        assert seen[0].mean((1, 2, 3)).abs().max() < 1e-4
        assert seen[0].std((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0], abs=2e-3)
        torch.testing.assert_close(network(100 * waveforms), logits, rtol=0, atol=1e-3)  # loudness says nothing
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(waveforms)
        assert seen[2].dtype == torch.float32
        torch.testing.assert_close(seen[2], seen[0])
        assert network.mel(torch.zeros(1, 16_000)).abs().max() == 0
        torch.testing.assert_close(seen[0], normalised(network.mel.power(waveforms))[:, None], rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"sample_rate": 16_000, "mels": 0}, "`mels` must be at least 1, but is 0"),
            ({"sample_rate": 50}, "`sample_rate` is in Hz and must be at least 100, but is 50"),
            ({"sample_rate": 8000, "f_min": 4000.0}, r"`f_min` must lie in 0\.\.4000 Hz, .* but is 4000"),
        ],
    )
    def test_front_ends_that_cannot_be(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LogMel(**arguments)

    def test_crops_shorter_than_half_a_window(self) -> None:
        with pytest.raises(ValueError, match=r"`waveforms` must have more than 512 samples, .* have 300"):
            LogMel(16_000)(torch.zeros(2, 300))

    def test_weights_can_be_saved_and_loaded(self) -> None:
        network = MelNetwork(3, 4000, "test_resnet", mels=8)
        # The names of the weights of runs that there are.
        assert {"mel.spectrogram.window", "mel.mel_scale.fb"} < set(network.state_dict())
        network.load_state_dict(load(save(network.state_dict())))
        torch.save(network.state_dict(), io.BytesIO())

    def test_parts_that_methods_need(self) -> None:
        network = MelNetwork(3, 4000, "test_resnet", mels=8)
        assert isinstance(network.get_classifier(), nn.Linear)
        assert network.mixing_layers[0] == "input"
        assert len(network.mixing_layers) == 3
        ManifoldMixUp(3, layers=network.mixing_layers).attach(network)

    def test_an_unknown_backbone(self) -> None:
        with pytest.raises(ValueError, match="`backbone` 'resnet' is no model of timm"):
            MelNetwork(3, 4000, "resnet")

    def test_networks_of_one_image_size(self) -> None:
        """A vision transformer is made for the spectrogram; others are not touched by the trial."""
        network = MelNetwork(3, 4000, "test_vit3", mels=32, crop_length=4096)
        assert network(torch.randn(2, 4096)).shape == (2, 3)
        states = []
        for length in (None, 4000):
            torch.manual_seed(0)
            states.append(MelNetwork(3, 4000, "test_resnet", mels=8, crop_length=length).state_dict())
        assert all(torch.equal(first, second) for first, second in zip(*map(dict.values, states), strict=True))

    @pytest.mark.parametrize(
        ("backbone", "length", "message"),
        [
            ("test_resnet", 64, "`crop_length` is 64, but must be more than 128 samples, half of a window"),
            ("test_vit", 4100, r"`backbone` 'test_vit' takes no spectrograms of 8 bands \(`mels`\) and 65 frames"),
        ],
    )
    def test_crops_that_a_network_cannot_take(self, backbone: str, length: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MelNetwork(3, 4000, backbone, mels=8, crop_length=length)


class Loud(SoundNetwork):
    """A network whose logits follow from sums over a crop, so that NumPy can say them too."""

    weight = np.array([3.0, -2.0, 0.5])

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3, bias=False)
        self.fc.weight.data = torch.tensor(self.weight, dtype=torch.float32)[:, None]

    def logits(self, waveforms: Tensor) -> Tensor:
        assert waveforms.ndim == 2
        return self.fc(waveforms.abs().mean(1, keepdim=True))


class TestAverageOverCrops:
    LENGTHS = (300, 41, 157, 90, 12, 200, 77, 99, 161, 64, 31, 250, 8, 123, 180, 55, 142)

    def loader(self, batch_size: int = 8, **share: int) -> ResidentWaveformLoader:
        """Seventeen clips of lengths shorter and longer than a crop."""
        rng = np.random.default_rng(3)
        clips = [(8000 * rng.standard_normal(length)).clip(-32768, 32767).astype(np.int16) for length in self.LENGTHS]
        labels = torch.arange(len(clips)) % 3
        return ResidentWaveformLoader(clips, labels, batch_size=batch_size, crops=10, crop_length=100, **share)

    def test_of_probabilities(self) -> None:
        network = Loud().eval()
        logits = torch.cat([network(inputs) for inputs, _ in self.loader()])
        rng = np.random.default_rng(3)
        for k, length in enumerate(self.LENGTHS):
            clip = (8000 * rng.standard_normal(length)).clip(-32768, 32767).astype(np.int16) / 32768
            padded = np.pad(clip, 50)
            padded = np.pad(padded, (0, max(0, 100 - len(padded))))
            probs = np.zeros(3)
            for crop in range(10):
                start = crop * ((len(padded) - 100) // 9)
                scores = np.abs(padded[start : start + 100]).mean() * Loud.weight
                probs += np.exp(scores) / np.exp(scores).sum() / 10
            np.testing.assert_allclose(logits[k].exp().detach().numpy(), probs, atol=1e-6)

    @pytest.mark.parametrize(("processes", "batch_size"), [(2, 8), (2, 10), (3, 6), (4, 8)])
    def test_processes_together_see_what_one_sees(self, processes: int, batch_size: int) -> None:
        # Of a last batch of one clip all processes but one have none.
        network = Loud().eval()
        loaders = [self.loader(batch_size, num_processes=processes, process_index=rank) for rank in range(processes)]
        parts = [[network(inputs) for inputs, _ in loader] for loader in loaders]
        assert all(part.shape[1:] == (3,) for mine in parts for part in mine)
        together = torch.cat([part for batch in zip(*parts, strict=True) for part in batch])
        alone = torch.cat([network(inputs) for inputs, _ in self.loader()])
        torch.testing.assert_close(together, alone)

    def test_an_empty_batch(self) -> None:
        for network in (Loud(), TinyNetwork(3)):
            assert network.eval()(torch.zeros(0, 10, 900)).shape == (0, 3)

    def test_a_sure_network_stays_finite(self) -> None:
        network = Loud().eval()
        network.fc.weight.data *= 1e6
        logits = network(torch.ones(2, 4, 50))
        assert logits.isfinite().all()
        assert (logits.softmax(1)[:, 0] == 1).all()

    def test_a_single_crop_gives_plain_logits(self) -> None:
        network, waveforms = Loud().eval(), torch.randn(3, 80)
        torch.testing.assert_close(network(waveforms), network.logits(waveforms))

    def test_in_float32_under_autocast(self) -> None:
        network = TinyNetwork(3).eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert network(torch.randn(2, 4, 900)).dtype == torch.float32

    def test_features_are_averaged_where_the_classifier_is_taken_off(self) -> None:
        network = TinyNetwork(3).eval()
        crops = torch.randn(2, 4, 900)
        network.fc = nn.Identity()
        torch.testing.assert_close(network(crops), torch.stack([network.logits(clip).mean(0) for clip in crops]))

    @pytest.mark.parametrize("method", ["causal_norm", "ldam", "lws", "mislas", "crt"])
    def test_with_the_classifiers_of_methods(self, method: str) -> None:
        plan = METHODS[method].plan(torch.tensor([0, 0, 1, 2]), epochs=2, batch_size=2)
        network = plan.attach(TinyNetwork(3)).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(torch.randn(2, 4, 900)).exp().sum(1), torch.ones(2))


class TestGain:
    def test_is_drawn_in_training_within_its_limits(self) -> None:
        network = Loud()
        network.max_gain_db = 6.0
        waveforms = torch.ones(4000, 10)
        level = 20 * (network.train()(waveforms)[:, 0] / 3).log10()
        assert -6 <= level.min() < -5.9
        assert 5.9 < level.max() <= 6
        assert level.mean().abs() < 0.3  # uniform in dB
        torch.manual_seed(5)
        amplified = network(waveforms)
        torch.manual_seed(5)
        decibels = 6.0 * (2 * torch.rand(4000, 1) - 1)
        torch.testing.assert_close(amplified, network.logits(waveforms * 10 ** (decibels / 20)))
        torch.testing.assert_close(network.eval()(waveforms), network.logits(waveforms))
        assert waveforms.eq(1).all()

    def test_costs_no_draw_when_it_is_off(self) -> None:
        network, state = Loud().train(), torch.get_rng_state()
        network(torch.ones(2, 10))
        assert torch.get_rng_state().equal(state)

    def test_negative(self) -> None:
        with pytest.raises(ValueError, match=r"`max_gain_db` must not be negative, but is -6\."):
            TinyNetwork(3, -6.0)
