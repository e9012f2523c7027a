"""Audio transformers, frozen backbones and adapters: random weights of tiny configs, written to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sound_support import encoded, noise
from torch import Tensor, nn

from ltaug import training
from ltaug.audio import AddNoise, TransformerNetwork, pretrained
from ltaug.methods import METHODS

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchaudio")

RATE, LENGTH = 4000, 1600
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 8), "num_conv_pos_embeddings": 4}
CONVOLUTIONS |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_length": 2}
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 8}
WHISPER |= {"max_source_positions": 25, "classifier_proj_size": 8}
FAMILIES = {
    "AST": ({**SMALL, "max_length": 48, "num_mel_bins": 16, "patch_size": 8, "time_stride": 8}, "AST"),
    "Wav2Vec2": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "Whisper": (WHISPER, "Whisper"),
    "Hubert": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "WavLM": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "SEW": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "UniSpeech": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "Data2VecAudio": ({**SMALL, **CONVOLUTIONS}, "Wav2Vec2"),
    "Wav2Vec2Bert": ({**SMALL, "feature_projection_input_dim": 32, "mask_time_length": 2}, "SeamlessM4T"),
}
"""Settings of a tiny network of each family, and whose feature extractor it has."""
EXTRACTORS: dict[str, dict[str, Any]] = {
    "AST": {"num_mel_bins": 16, "max_length": 48},
    "Wav2Vec2": {"return_attention_mask": True},
    "Whisper": {"feature_size": 8, "chunk_length": 2},
    "SeamlessM4T": {"feature_size": 16, "num_mel_bins": 16},
}
FAST = ("AST", "Wav2Vec2", "Whisper")
EVERY = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in FAMILIES]
Train = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A network's folder, with or without its weights."""

    def write(family: str, weights_of: int | None = None, **settings: Any) -> Path:
        values, extractor = FAMILIES[family]
        place = tmp_path / f"tiny_{family}"
        torch.manual_seed(3)
        config = getattr(transformers, f"{family}Config")(**{**values, **settings}, num_labels=weights_of or 2)
        config.save_pretrained(place)
        kind = getattr(transformers, f"{extractor}FeatureExtractor")
        kind(sampling_rate=RATE, **EXTRACTORS[extractor]).save_pretrained(place)
        if weights_of:
            transformers.AutoModelForAudioClassification.from_config(config).save_pretrained(place)
        return place

    return write


def waveforms(size: int = 2, length: int = LENGTH) -> Tensor:
    return 0.3 * torch.randn(size, length, generator=torch.Generator().manual_seed(1))


class TestInputs:
    """What a network is called with is what its own extractor computes."""

    def compare(self, extractor: Any, clips: Tensor, sounds: list[np.ndarray] | None = None, **settings: Any) -> None:
        mine = pretrained._inputs_of(extractor, SimpleNamespace(conv_stride=(5, 2)))
        assert type(mine) is not pretrained._Inputs  # which calls it
        sounds = list(clips.numpy()) if sounds is None else sounds
        wanted = extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="pt", **settings)
        found = mine(clips)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name].to(value), value, rtol=1e-4, atol=1e-4)

    def test_filter_banks_of_ast(self) -> None:
        for length in (20_000, 401, 199 * 160 + 400):  # up to the whole spectrogram
            self.compare(transformers.ASTFeatureExtractor(max_length=200), waveforms(3, length))
        self.compare(transformers.ASTFeatureExtractor(num_mel_bins=64, mean=1.0, std=2.0), waveforms(2, 5000))
        self.compare(transformers.ASTFeatureExtractor(do_normalize=False), waveforms(2, 5000))

    def test_log_mels_of_whisper(self) -> None:
        loud = torch.tensor([[1.0], [0.01], [0.0]])  # one is silent
        self.compare(transformers.WhisperFeatureExtractor(chunk_length=2), loud * waveforms(3, 20_000))

    @pytest.mark.parametrize("normalised", [True, False])
    def test_waveforms(self, normalised: bool) -> None:
        clips = 3 * waveforms(2) + 1
        kind = transformers.Wav2Vec2FeatureExtractor
        self.compare(kind(do_normalize=normalised), clips)
        # The sound within the zeros that a loader puts around it comes first, and the others are masked.
        parts = [clips[0, :700], clips[1, :1200]]
        padded = torch.stack(
            [
                nn.functional.pad(part, (start, LENGTH - start - len(part)))
                for start, part in zip((90, 0), parts, strict=True)
            ]
        )
        sounds = [part.numpy() for part in parts]
        extractor = kind(do_normalize=normalised, return_attention_mask=True)
        self.compare(extractor, padded, sounds, padding="max_length", max_length=LENGTH)

    def test_a_silent_or_short_clip_keeps_some_frames(self) -> None:
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        clips = torch.zeros(2, 900)
        clips[1, 500:503] = 1.0
        found = pretrained._inputs_of(extractor, SimpleNamespace(conv_stride=(5, 8)))(clips)
        assert found["attention_mask"].sum(1).tolist() == [900, 160]
        assert all(value.isfinite().all() for value in found.values())

    def test_whisper_with_dither_is_called_itself(self) -> None:
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2, dither=1e-4)
        found = pretrained._inputs_of(extractor, SimpleNamespace())(waveforms(2, 5000))
        assert {name: value.shape for name, value in found.items()} == {"input_features": (2, 80, 200)}

    def test_noise_leaves_attention_masks_as_they_are(self, folder: Callable[..., Path]) -> None:
        network = TransformerNetwork(5, str(folder("Wav2Vec2")), RATE, LENGTH, pretrained=False)
        network.augmentation = AddNoise(RATE, p=1.0)
        clips = nn.functional.pad(waveforms(2, 700), (200, LENGTH - 900))
        clips[1] = 0  # silence, all of which counts
        seen = []
        network.inputs.register_forward_hook(lambda _, inputs, found: seen.append((inputs[0], found)))
        network.train()(clips)
        assert not torch.equal(seen[0][0], clips)
        assert seen[0][1]["attention_mask"].sum(1).tolist() == [700, LENGTH]


class TestNetworks:
    @pytest.mark.parametrize("family", EVERY)
    def test_have_what_methods_need(self, family: str, folder: Callable[..., Path]) -> None:
        network = TransformerNetwork(5, str(folder(family)), RATE, LENGTH, pretrained=False)
        assert network(waveforms()).shape == (2, 5)
        probs = network.eval()(waveforms(6).view(2, 3, LENGTH)).exp()
        torch.testing.assert_close(probs.sum(1), torch.ones(2))
        assert network.get_classifier().out_features == 5
        assert len(network.mixing_layers) == (1 if family == "WavLM" else 3)
        labels = torch.tensor([0, 0, 1, 2, 3, 4])
        for method, changes in {"manifold_mixup": {}, "bayias": {"classifier": "cosine"}}.items():
            plan = METHODS[method].replace(**changes).plan(labels, 5, epochs=1, batch_size=2)
            learner = plan.attach(TransformerNetwork(5, str(folder(family)), RATE, LENGTH, pretrained=False))
            plan.train(learner)
            for _ in range(3):  # manifold mixup draws a layer each time
                inputs, targets = plan.mix((waveforms(), labels[1:3]))
                plan.criterion(learner(inputs), targets).backward()
            missing = [name for name, p in learner.named_parameters() if p.requires_grad and p.grad is None]
            assert missing == []  # which several processes would wait for

    def test_weights_of_a_folder(self, folder: Callable[..., Path]) -> None:
        place = folder("Wav2Vec2", weights_of=7)
        own = load_file(place / "model.safetensors")
        network = TransformerNetwork(5, str(place), RATE, LENGTH)
        state = network.network.state_dict()
        assert state["classifier.weight"].shape[0] == 5
        assert all(torch.equal(state[name], value) for name, value in own.items() if not name.startswith("classifier"))
        random = TransformerNetwork(5, str(place), RATE, LENGTH, pretrained=False).network.state_dict()
        assert not torch.equal(random["projector.weight"], own["projector.weight"])

    def test_mistakes(self, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        place = str(folder("AST"))
        bert = tmp_path / "bert"
        transformers.BertConfig().save_pretrained(bert)
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare" / "config.json").write_bytes(Path(place, "config.json").read_bytes())
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged" / "config.json").write_text("{")
        longest = 47 * 40 + 100
        for backbone, rate, length, message in (
            (place, 8000, LENGTH, "takes 4000 samples a second, but `sample_rate` is 8000. Set `sample_rate: 4000`"),
            (place, RATE, longest + 1, f"takes at most {longest} samples, but `crop_length` is {longest + 1}"),
            (place, RATE, 99, "takes no crops of `crop_length`=99: a window has 100 samples"),
            (str(bert), RATE, LENGTH, "network of type bert, which transformers has no audio classifier of. It has"),
            ("resnet18", RATE, LENGTH, "`backbone` 'resnet18' is neither a folder with config.json"),
            (f"{tmp_path}/nowhere", RATE, LENGTH, "is neither a folder with config.json"),
            (f"{tmp_path}/bare", RATE, LENGTH, "cannot be read: "),
            (f"{tmp_path}/damaged", RATE, LENGTH, "cannot be read: "),
        ):
            with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
                TransformerNetwork(5, backbone, rate, length, pretrained=False)
            assert "\n" not in str(caught.value)
        TransformerNetwork(5, place, RATE, longest, pretrained=False)  # as long as can be
        with pytest.raises(ValueError, match=r"cannot be read: .*model\.safetensors"):
            TransformerNetwork(5, place, RATE, LENGTH)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConnectionError, match="`backbone` 'nobody/nothing' could not be loaded") as caught:
            TransformerNetwork(5, "nobody/nothing", RATE, LENGTH)
        assert "\n" not in str(caught.value)
        monkeypatch.setitem(__import__("sys").modules, "transformers", None)
        with pytest.raises(ValueError, match=r"needs transformers. Install it with `pip install \"ltaug\[transf"):
            TransformerNetwork(5, place, RATE, LENGTH)


def rebuilt(recipe: SimpleNamespace, run: Path, classes: int) -> nn.Module:
    """The network of a run's config.yaml with its weights, as a second stage has it."""
    cfg = SimpleNamespace(**training.read_config(run / "config.yaml") | {"from_run": str(run)})
    network = recipe.model.build_model(classes, cfg, SimpleNamespace(sample_rate=cfg.sample_rate))
    network.load_state_dict(load_file(run / "model.safetensors"))
    return network.eval()


class TestTrainings:
    @pytest.fixture
    def train(self, train: Train, recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Train:
        """A short training of the recipe's own networks."""
        monkeypatch.setattr(recipe.train, "build_model", recipe.model.build_model)
        return train

    def test_ast_and_its_second_stage(self, train: Train, recipe: SimpleNamespace, folder: Callable[..., Path]) -> None:
        place = folder("AST", weights_of=3)
        words = {"model": "transformers", "backbone": place, "epochs": 1}
        first = train("--method", "unimix_bc_bayias", **words)
        second = train("--method", "crt", out="second", from_run=first, protocol="synthetic", **words)
        weights, retrained = (load_file(run / "model.safetensors") for run in (first, second))
        changed = {name for name in weights if not torch.equal(weights[name], retrained[name])}
        assert changed == {"network.classifier.dense.weight", "network.classifier.dense.bias"}
        cfg = SimpleNamespace(**training.read_config(first / "config.yaml"))
        data = recipe.data.load_data(cfg)
        alone = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
        network = rebuilt(recipe, first, 10)
        with torch.no_grad():
            logits = torch.cat([network(inputs) for inputs, _ in data.eval_loader(cfg, "test", alone)])
        saved = load_file(first / "logits.safetensors")["logits"]
        torch.testing.assert_close(logits, saved, rtol=1e-4, atol=1e-4)
        own = load_file(place / "model.safetensors")["audio_spectrogram_transformer.layernorm.weight"]
        assert (own - weights["network.audio_spectrogram_transformer.layernorm.weight"]).abs().max() < 0.1

    @pytest.mark.parametrize("model", ["transformers", "mel"])
    def test_adapters_and_a_second_stage(
        self, train: Train, recipe: SimpleNamespace, folder: Callable[..., Path], model: str
    ) -> None:
        """The backbone learns through adapters alone, which the run folder has merged."""
        pytest.importorskip("peft")
        words: dict[str, Any] = {"model": model, "epochs": 1, "backbone": "test_resnet", "mels": 16}
        if model == "transformers":
            words["backbone"] = folder("Wav2Vec2", weights_of=3, hidden_dropout=0.5)
        first = train("--method", "erm", freeze=True, lora_rank=2, lr=0.05, **words)
        weights, plain = load_file(first / "model.safetensors"), rebuilt(recipe, first, 10)
        assert set(weights) == set(plain.state_dict())  # and so nothing of adapters
        statistics = [name for name in weights if name.endswith("running_mean")]
        assert all((weights[name] == 0).all() for name in statistics)
        assert (model == "mel") == bool(statistics)
        second = train("--method", "crt", out="second", protocol="synthetic", from_run=first, **words)
        retrained = load_file(second / "model.safetensors")
        moved = {name for name in weights if not torch.equal(weights[name], retrained[name])}
        norms = {name for name in weights if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
        assert moved - norms == {name for name in weights if name.startswith(("network.classifier.", "backbone.fc."))}

    def test_several_labels_a_clip(self, train: Train, folder: Callable[..., Path], tmp_path: Path) -> None:
        data = tmp_path / "sounds"
        data.mkdir()
        rows = [(f"{k}.wav", ["dog", "rain", "dog;rain", "sea", "sea;dog"][k % 5], k >= 15) for k in range(25)]
        for k, (name, _, _) in enumerate(rows):
            (data / name).write_bytes(encoded(noise(k, 1200), RATE))
        lines = [f"{name},{labels},{'test' if tested else 'train'}" for name, labels, tested in rows]
        (data / "metadata.csv").write_text("\n".join(["file_name,labels,split", *lines]) + "\n")
        words = {"dataset": "folder", "data_dir": data, "profile": "natural", "imbalance_ratio": 1}
        run = train(
            "--method", "erm", model="transformers", backbone=folder("Whisper"), pretrained=False, epochs=1, **words
        )
        assert load_file(run / "logits.safetensors")["logits"].shape == (10, 3)


@pytest.mark.parametrize("family", ["mel", "AST", "Whisper"])
def test_a_frozen_network_sees_augmented_sounds(
    recipe: SimpleNamespace, folder: Callable[..., Path], family: str
) -> None:
    values = vars(recipe.model.ModelSettings(model="mel", backbone="test_resnet", pretrained=False, freeze=True))
    values |= {"mels": 16, "n_time_masks": 2, "time_mask_param": 8, "from_run": None, "crop_length": LENGTH}
    if family != "mel":
        values |= {"model": "transformers", "backbone": str(folder(family))}
    cfg = SimpleNamespace(**values)
    network, data = recipe.model.build_model(5, cfg, SimpleNamespace(sample_rate=RATE)), waveforms(1)
    seen: list[Tensor] = []
    part = network.backbone if family == "mel" else network.network
    part.register_forward_pre_hook(
        lambda _, words, named: seen.append([*words, *named.values()][0].detach()), with_kwargs=True
    )
    network.train()(data), network.train()(data), network.eval()(data), network.eval()(data)
    first, second, third, fourth = (each.flatten() for each in seen)
    assert torch.equal(third, fourth)
    for masked in (first, second):
        changed = masked != third
        assert changed.any()
        assert (masked[changed] == 0).all()
    assert not torch.equal(first, second)


def test_frozen_parts_rest_and_the_settings_are_refused(recipe: SimpleNamespace, folder: Callable[..., Path]) -> None:
    values = vars(recipe.model.ModelSettings())
    values |= {"model": "transformers", "backbone": str(folder("Wav2Vec2", hidden_dropout=0.9)), "crop_length": LENGTH}
    values |= {"pretrained": False, "from_run": None, "freeze": True, "lora_rank": 2}
    data = SimpleNamespace(sample_rate=RATE)
    network = recipe.model.build_model(5, SimpleNamespace(**values), data).train()
    torch.testing.assert_close(network(waveforms()), network(waveforms()))  # neither dropout nor masked frames
    assert network.training
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name for name in learning if ".lora_" not in name} == {
        f"network.classifier.{part}" for part in ("weight", "bias")
    }
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learning if ".lora_" in name} == {
        *("q_proj", "k_proj", "v_proj", "out_proj")
    }
    free = recipe.model.build_model(5, SimpleNamespace(**values | {"freeze": False, "lora_rank": 0}), data).train()
    assert not torch.allclose(free(waveforms()), free(waveforms()))
    for changes in ({}, {"model": "envnet", "crop_length": 24_014}):
        with pytest.raises(ValueError, match="sees no spectrogram"):
            recipe.model.build_model(5, SimpleNamespace(**values | {"n_time_masks": 1} | changes), data)
    with pytest.raises(ValueError, match=r"`lora_rank`=2 is for a frozen backbone\. Set `freeze: true`"):
        recipe.model.build_model(5, SimpleNamespace(**values | {"freeze": False}), data)
