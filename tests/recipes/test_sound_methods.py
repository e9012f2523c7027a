"""The parts of the recipe esc50_lt: every method's labels, prior and first epoch, the schedule, networks, ten crops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recipe_support import ROOT, SMALL_SOUND, Launcher, copy_recipe, imported, settings, tiny_model
from torch import Tensor, nn

from ltaug import MixUp, ResidentWaveformLoader, UniMix, class_prior, effective_prior, pareto_counts
from ltaug.samplers.pair import sampler_indices

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RECIPE = ROOT / "recipes" / "esc50_lt"
CONFIGS = sorted(path.stem for path in (RECIPE / "configs").glob("*.yaml") if path.stem != "quickstart")
COUNTS = pareto_counts(32, 10, 10)
LABELS = torch.repeat_interleave(torch.arange(10), COUNTS)

# Trains every method for an epoch behind its deferral, in one process, and tells what came out of each.
EVERY = """
import json, pathlib, sys
from config import parse_config
from train import main
for method, arguments in json.loads(pathlib.Path(sys.argv[1]).read_text()).items():
    main(parse_config(arguments))
"""


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with imported(RECIPE, "config", "method", "model", "train") as modules:
        yield modules


@pytest.fixture
def config(modules: SimpleNamespace) -> Callable[..., SimpleNamespace]:
    """The settings of a config, with changes."""

    def make(name: str | None = None, **changes: object) -> SimpleNamespace:
        words = [] if name is None else ["--config", str(RECIPE / "configs" / f"{name}.yaml")]
        return modules.config.parse_config(
            words + [word for key in changes for word in (f"--{key}", str(changes[key]))]
        )

    return make


def test_every_config_trains(launcher: Launcher, tmp_path: Path) -> None:
    recipe = copy_recipe(tmp_path / "recipe", tiny_model(recipe="esc50_lt"), recipe="esc50_lt")
    changes = SMALL_SOUND | {"epochs": 1, "rebalance_at": 0}
    plan = {name: settings(recipe, name, tmp_path / name, **changes) for name in CONFIGS}
    (recipe / "every.py").write_text(EVERY)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    launcher.run(recipe / "every.py", tmp_path / "plan.json").good()
    assert len(plan) >= 12
    priors = {}
    for name in plan:
        (row,) = (json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        assert 0.5 < row["loss"] < 10
        assert 0 <= json.loads((tmp_path / name / "summary.json").read_text())["final"]["top5"] <= 1
        info = json.loads((tmp_path / name / "ltaug.json").read_text())
        assert info["class_counts"] == pareto_counts(16, 10, 10).tolist()
        assert (info["sample_rate"], info["crop_length"]) == (4000, 900)
        priors[name] = info["logits_prior"]
    uniform = pytest.approx([0.1] * 10)
    assert {name for name in priors if priors[name] == uniform} == {
        name for name in CONFIGS if name.startswith(("bayias", "bc_bayias", "class_balanced", "lob", "mel_timm"))
    }


class TestLabels:
    """What a method's sampler and mixer really draw is the distribution that its logits' prior is reckoned from."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_are_those_it_says(self, modules: SimpleNamespace, config: Callable, name: str) -> None:
        cfg = config(name)
        drawn, total = self.draw(modules.method, cfg, cfg.epochs - 1)
        prior = modules.method.logits_prior(cfg, COUNTS, modules.method.make_mixer(cfg, COUNTS))
        assert prior.sum().item() == pytest.approx(1.0)
        if cfg.loss == "bayias":  # and the loss has taken the training prior off
            prior = prior * class_prior(COUNTS)
            prior = prior / prior.sum()
        # The label mass of a sample lies in 0..1, so its variance is at most a coin's.
        assert ((drawn - prior).abs() < 4.5 * (prior * (1 - prior) / total).sqrt() + 1e-9).all()

    @pytest.mark.parametrize(
        ("changes", "epoch"),
        [
            ({"different_classes": "true"}, 599),
            ({"rebalance_at": 0.5}, 299),  # the last epoch before the switch ...
            ({"rebalance_at": 0.5}, 300),  # ... and the first after it
            ({"mix_stop_at": 0.5, "first_tau": 0.5}, 600),
        ],
    )
    def test_of_phases(self, modules: SimpleNamespace, config: Callable, changes: dict, epoch: int) -> None:
        values = {"mixer": "mixup", "first_tau": 0.0, "partner_tau": 0.0, "epochs": 600} | changes
        drawn, total = self.draw(modules.method, config(**values), epoch)
        pi = class_prior(COUNTS)
        expected = torch.full_like(pi, 0.1)
        if epoch == 299:
            expected = pi
        elif epoch == 600:
            expected = COUNTS.double().sqrt() / COUNTS.double().sqrt().sum()
        assert ((drawn - expected).abs() < 4.5 * (expected * (1 - expected) / total).sqrt() + 1e-9).all()

    def test_pairs_of_different_classes(self, modules: SimpleNamespace, config: Callable) -> None:
        sampler = modules.method.make_sampler(config("bc"), LABELS, 3)
        pairs = LABELS[sampler_indices(sampler)]
        assert len(pairs) == len(LABELS)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        pairs = LABELS[sampler_indices(modules.method.make_sampler(config("lob_bc"), LABELS, 3))]
        assert (pairs[:, 0] == pairs[:, 1]).any()

    @staticmethod
    def draw(method, cfg, epoch: int) -> tuple[Tensor, int]:
        """The mean label over epochs of many seeds, and how many samples that is of."""
        mixer = method.make_mixer(cfg, COUNTS) if method.mixes(cfg, epoch) else None
        indices = []
        for seed in range(40):
            cfg.seed = seed
            sampler = method.make_sampler(cfg, LABELS, epoch)
            sampler.set_epoch(epoch)
            indices.append(sampler_indices(sampler))
        labels = LABELS[torch.cat(indices)]
        if mixer is None:
            return labels.bincount(minlength=10).double() / len(labels), len(labels)
        sounds = torch.ones(len(labels), 1)
        return mixer(sounds, labels[:, 0], sounds, labels[:, 1])[1].double().mean(0), len(labels)


class TestPrior:
    def test_in_closed_form(self, modules: SimpleNamespace, config: Callable) -> None:
        pi = class_prior(COUNTS)
        uniform = torch.full_like(pi, 0.1)
        unimix = effective_prior(COUNTS, UniMix(COUNTS, 0.8), 1.0, 0.0) / pi
        expected = {
            "erm": pi,
            "bayias": uniform,
            "class_balanced": uniform,
            "lob_bc": uniform,
            "lob_bc_deferred": uniform,
            "mel_timm": uniform,
            "bc_bayias": uniform,
            "bc": pi * (1 - pi) / (pi * (1 - pi)).sum(),
            "unimix_bayias": unimix / unimix.sum(),
        }
        for name in CONFIGS:
            cfg = config(name)
            prior = modules.method.logits_prior(cfg, COUNTS, modules.method.make_mixer(cfg, COUNTS))
            torch.testing.assert_close(prior, expected[name.removesuffix("_envnet_v2")], msg=name)

    def test_strength_and_phases(self, modules: SimpleNamespace, config: Callable) -> None:
        def prior(**changes: object) -> Tensor:
            cfg = config(**({"epochs": 10} | changes))
            return modules.method.logits_prior(cfg, COUNTS, modules.method.make_mixer(cfg, COUNTS))

        pi = class_prior(COUNTS)
        root = COUNTS.double().sqrt() / COUNTS.double().sqrt().sum()
        torch.testing.assert_close(prior(loss="bayias", loss_tau=0.5), root)
        mixed = {"mixer": "mixup", "first_tau": 1.0, "partner_tau": 0.0}
        torch.testing.assert_close(prior(**mixed), (pi + 0.1) / 2)
        torch.testing.assert_close(prior(**mixed, mix_stop_at=0.8), (pi + 0.1) / 2)  # that of the epochs that mix
        never = {"mix_stop_at": 0, "first_tau": 0.0, "rebalance_at": 0.5}
        torch.testing.assert_close(prior(**(mixed | never)), torch.full_like(pi, 0.1))  # or of the last one
        torch.testing.assert_close(prior(**mixed, rebalance_at=1.0), pi)
        torch.testing.assert_close(prior(**mixed, rebalance_at=0.95), pi)  # round(9.5) is 10: no epoch is left for it
        torch.testing.assert_close(prior(**mixed, rebalance_at=0.9), (pi + 0.1) / 2)

    def test_what_mixes(self, modules: SimpleNamespace, config: Callable) -> None:
        kinds = {name: modules.method.make_mixer(config(mixer=name), COUNTS) for name in ("mixup", "unimix")}
        assert {name: type(mixer) for name, mixer in kinds.items()} == {"mixup": MixUp, "unimix": UniMix}
        for name, ratio in (("between_class", MixUp), ("unimix_between_class", UniMix)):
            mixer = modules.method.make_mixer(config(mixer=name, alpha=0.3, sample_rate=44_100), COUNTS)
            assert (type(mixer.ratio), mixer.ratio.alpha, mixer.sample_rate) == (ratio, 0.3, 44_100)
        assert modules.method.make_mixer(config(), COUNTS) is None


class TestSchedule:
    def test_steps(self, config: Callable) -> None:
        cfg = config(epochs=600)
        rates = [cfg.lr_at(epoch) for epoch in range(600)]
        expected = [0.01] * 300 + [0.001] * 150 + [0.0001] * 150  # published for EnvNet
        assert rates == pytest.approx(expected, rel=1e-12)

    def test_warm_up(self, config: Callable) -> None:
        cfg = config("lob_bc_envnet_v2", epochs=1000)
        expected = [0.01] * 10 + [0.1] * 290 + [0.01] * 300 + [0.001] * 300 + [0.0001] * 100  # for EnvNet-v2
        assert [cfg.lr_at(epoch) for epoch in range(1000)] == pytest.approx(expected, rel=1e-12)

    def test_cosine(self, config: Callable) -> None:
        cfg = config(schedule="cosine", epochs=20, lr=0.5, warmup_epochs=2, warmup_factor=0.2)
        expected = [0.1, 0.1] + [0.25 * (1 + math.cos(math.pi * epoch / 20)) for epoch in range(2, 20)]
        assert [cfg.lr_at(epoch) for epoch in range(20)] == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("share", "first"), [(0, 0), (0.3, 3), (0.34, 3), (0.36, 4), (1, 10)])
    def test_shares_move_with_the_epochs(self, config: Callable, share: float, first: int) -> None:
        cfg = config(epochs=10)
        assert [cfg.reached(epoch, share) for epoch in range(10)] == [epoch >= first for epoch in range(10)]


class TestNetworks:
    @pytest.mark.parametrize(
        ("name", "filtered", "seen", "parameters"),
        [("EnvNet", (40, 1, 150), (50, 11, 14), 48.6), ("EnvNetV2", (64, 1, 260), (256, 10, 8), 101.3)],
    )
    def test_published_shapes(
        self, modules: SimpleNamespace, name: str, filtered: tuple, seen: tuple, parameters: float
    ) -> None:
        with torch.device("meta"):  # shapes without numbers
            network = getattr(modules.model, name)(50)
            shapes = {}
            for part in ("filters", "image", "hidden"):
                network.get_submodule(part).register_forward_hook(
                    lambda module, inputs, output, part=part: shapes.update({part: tuple(output.shape)})
                )
            assert network(torch.zeros(3, network.crop_length)).shape == (3, 50)
        assert shapes == {"filters": (3, *filtered), "image": (3, *seen), "hidden": (3, 4096)}
        assert round(modules.model.count_parameters(network) / 1e6, 1) == parameters

    def test_a_step(self, modules: SimpleNamespace, config: Callable) -> None:
        network = modules.model.build_model(10, config())
        rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
        assert rates == [0.5, 0.5]
        loss = nn.functional.cross_entropy(network(0.1 * torch.randn(2, 24_014)), torch.tensor([0, 1]))
        assert 1.0 < loss.item() < 8.0  # log 10 is 2.3: nothing vanishes, and nothing explodes
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())

    def test_log_mel(self, modules: SimpleNamespace, config: Callable) -> None:
        pytest.importorskip("timm")
        pytest.importorskip("torchaudio")
        cfg = config("mel_timm", backbone="test_resnet", mels=32)
        network = modules.model.build_model(7, cfg).eval()
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

    def test_another_crop_than_the_networks(self, modules: SimpleNamespace, config: Callable) -> None:
        with pytest.raises(ValueError, match=r"`model: envnet_v2` takes 66650 samples, but `crop_length` is 24014\."):
            modules.model.build_model(50, config(model="envnet_v2", sample_rate=44_100))
        # The published shapes are EnvNet's at 16 kHz, but they fit at any rate.
        with torch.device("meta"):
            modules.model.build_model(50, config(sample_rate=44_100))


class Loud(nn.Module):
    """A network whose logits follow from sums over a crop, so that NumPy can say them too."""

    weight = np.array([3.0, -2.0, 0.5])

    def forward(self, waveforms: Tensor) -> Tensor:
        assert waveforms.ndim == 2
        assert not self.training
        return waveforms.abs().mean(1, keepdim=True) * torch.tensor(self.weight, dtype=torch.float32)


class TestTenCrops:
    LENGTHS = (300, 41, 157, 90, 12, 200, 77, 99, 161, 64, 31, 250, 8, 123, 180, 55, 142)

    def loader(self, batch_size: int = 8, **share: int) -> ResidentWaveformLoader:
        """Seventeen clips of lengths shorter and longer than a crop."""
        rng = np.random.default_rng(3)
        clips = [(8000 * rng.standard_normal(length)).clip(-32768, 32767).astype(np.int16) for length in self.LENGTHS]
        labels = torch.arange(len(clips)) % 3
        return ResidentWaveformLoader(clips, labels, batch_size=batch_size, crops=10, crop_length=100, **share)

    def test_probabilities_are_averaged(self, modules: SimpleNamespace) -> None:
        logits, labels = modules.train.evaluate(Loud(), self.loader())
        assert labels.tolist() == [k % 3 for k in range(17)]
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
            np.testing.assert_allclose(logits[k].exp().numpy(), probs, atol=1e-6)
            np.testing.assert_allclose(logits[k].softmax(0).numpy(), probs, atol=1e-6)  # they are log-probabilities

    @pytest.mark.parametrize(("processes", "batch_size"), [(2, 8), (2, 10), (3, 6), (4, 8)])
    def test_processes_come_in_the_order_of_the_set(
        self, modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, processes: int, batch_size: int
    ) -> None:
        # Of a last batch of one clip all processes but one have none.
        shares = [
            self.parts(modules, monkeypatch, batch_size, num_processes=processes, process_index=rank)
            for rank in range(processes)
        ]
        monkeypatch.setattr(modules.train, "gather_object", lambda mine: [part for share in shares for part in share])
        logits, labels = modules.train.evaluate(Loud(), self.loader(batch_size=batch_size))
        assert labels.tolist() == [k % 3 for k in range(17)]
        monkeypatch.undo()
        torch.testing.assert_close(logits, modules.train.evaluate(Loud(), self.loader())[0])

    def parts(
        self, modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, batch_size: int, **share: int
    ) -> list[tuple[Tensor, Tensor]]:
        """What one of several processes hands in to be gathered."""
        handed_in: list = []
        monkeypatch.setattr(modules.train, "gather_object", lambda mine: handed_in.extend(mine) or mine)
        modules.train.evaluate(Loud(), self.loader(batch_size=batch_size, **share))
        return handed_in

    def test_a_sure_network_stays_finite(self, modules: SimpleNamespace) -> None:
        class Sure(nn.Module):
            def forward(self, waveforms: Tensor) -> Tensor:
                return torch.tensor([[1e4, 0.0, -1e4]]).expand(len(waveforms), 3)

        logits, _ = modules.train.evaluate(Sure(), self.loader())
        assert logits.isfinite().all()
        assert (logits.softmax(1)[:, 0] == 1).all()
