"""Networks of timm: sizes, what a frozen one keeps, adapters, groups of parameters."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ltaug.methods import METHODS
from ltaug.training import TrainSettings, arrange, make_optimizer
from ltaug.vision.adapters import add_adapters, layers_to_adapt, plain_state
from ltaug.vision.networks import (
    NetworkSettings,
    build_timm_model,
    classifier_parts,
    make_network,
    pixel_statistics,
    timm_files,
)
from ltaug.vision.optimization import scale_learning_rates
from ltaug.vision.transforms import IMAGENET_MEAN, IMAGENET_STD

CLASSES, SIDE = 7, 64


def make(model: str = "test_vit", image_size: int = SIDE, from_run: str | None = None, **changes: Any) -> nn.Module:
    """A network, always with the same weights but for the adapters'."""
    torch.manual_seed(0)
    settings = vars(NetworkSettings(model=model, **changes))
    return make_network(CLASSES, SimpleNamespace(**settings, image_size=image_size, from_run=from_run))


def images(side: int = SIDE) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))


def adapted(model: str = "test_vit", **changes: Any) -> nn.Module:
    """A network whose adapters have learnt something."""
    network = make(model, freeze=True, lora_rank=2, **changes)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "side", "millions"),
    [
        ("resnet10", 224, 5.42),
        ("resnet50", 224, 25.56),
        pytest.param("resnet101", 224, 44.55, marks=pytest.mark.slow),
        pytest.param("resnet152", 224, 60.19, marks=pytest.mark.slow),
        ("resnext50_32x4d", 224, 25.03),
        ("inception_v3", 299, 23.83),
        ("vit_base_patch16_clip_224.openai", 336, 86.76),
        pytest.param("swin_tiny_patch4_window7_224", 448, 28.29, marks=pytest.mark.slow),
        ("beitv2_base_patch16_224", 384, None),
        pytest.param("convnext_tiny", 288, 28.59, marks=pytest.mark.slow),
        pytest.param("tiny_vit_5m_224", 256, None, marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", 224, None, marks=pytest.mark.slow),
    ],
)
def test_networks_take_images_of_their_size(name: str, side: int, millions: float | None) -> None:
    with torch.device("meta"):
        model = build_timm_model(name, 1000, image_size=side)
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 1000)  # in training mode: no auxiliary output
    if millions is not None:
        assert trained(model) / 1e6 == pytest.approx(millions, abs=0.006)


class TestFrozen:
    @pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "resnet10", "levit_conv_128s"])
    def test_only_the_classifier_learns(self, name: str) -> None:
        side = 224 if name.startswith("levit") else SIDE
        model = make(name, freeze=True, image_size=side)
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 1.0)
        model.train()
        model(images(side)).square().sum().backward()
        optimizer.step()
        heads = {id(parameter) for parameter in classifier_parts(model).parameters()}
        learning = {name for name, parameter in model.named_parameters() if id(parameter) in heads}
        assert learning
        assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learning
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        head_buffers = {name for name in changed if name.rpartition(".")[2] in ("running_mean", "running_var")}
        head_buffers |= {name for name in changed if name.endswith("num_batches_tracked")}
        assert changed - head_buffers <= learning
        assert all(name.startswith("head") for name in head_buffers)  # LeViT's classifier begins with batch norm
        assert any(name.endswith("weight") for name in changed & learning)

    def test_statistics_and_dropout_rest(self) -> None:
        for model in (make("test_resnet", freeze=True), copy.deepcopy(make("test_resnet", freeze=True))):
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.running_mean.uniform_(-1, 1)
            before, inputs = copy.deepcopy(model.state_dict()), images()
            expected = model.eval()(inputs)
            assert not model.training
            model.train()
            assert model.training
            assert model.get_classifier().training
            torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name]), name
        # Without `freeze` they move: else this test could not fail.
        free = make("test_resnet").train()
        before = copy.deepcopy(free.state_dict())
        free(images())
        assert any(not torch.equal(value, before[name]) for name, value in free.state_dict().items())

    def test_a_copy_has_modes_of_its_own(self) -> None:
        """As the moving average is one, which is made to evaluate while the network trains."""
        model = make(freeze=True)
        average = copy.deepcopy(model).eval()
        model.train()
        assert model.get_classifier().training
        assert not average.get_classifier().training
        average.train()
        model.eval()
        assert average.get_classifier().training
        assert not model.get_classifier().training

    def test_a_methods_classifier_takes_the_place(self) -> None:
        """LIFT and linear probing: frozen, with adapters, and cosines put in afterwards."""
        model = adapted()
        plan = METHODS["bayias"].replace(classifier="cosine").plan([0, 1, 2, 3, 4, 5, 6, 6], epochs=1)
        model = plan.attach(model)
        plan.train(model)
        model(images()).square().sum().backward()
        learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert "head.weight" in learning
        assert all(name == "head.weight" or ".lora_" in name for name in learning)
        assert not model.blocks[0].norm1.training

    def test_a_second_stage_gets_the_plain_network(self) -> None:
        plain = make(freeze=True, lora_rank=2, from_run="runs/first")
        assert set(plain.state_dict()) == set(make().state_dict())
        assert all(parameter.requires_grad for parameter in plain.parameters())


class TestAdapters:
    @pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_byobnet", "test_maxvit"])
    def test_start_at_the_backbone_and_merge_into_it(self, name: str) -> None:
        plain, fresh = make(name, freeze=True), make(name, freeze=True, lora_rank=2)
        torch.testing.assert_close(fresh.eval()(images()), plain.eval()(images()), rtol=0, atol=0)
        model = adapted(name)
        own = copy.deepcopy(model.state_dict())
        outputs = model.eval()(images())
        state = plain_state(model)
        assert {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in plain.state_dict().items()
        }
        assert not any(value.requires_grad for value in state.values())
        merged = make(name)
        merged.load_state_dict(state)
        far = (outputs - plain(images())).abs().max()
        assert (merged.eval()(images()) - outputs).abs().max() < 1e-3 * far
        for key, value in model.state_dict().items():  # the network itself still has them
            assert torch.equal(value, own[key])

    def test_merged_weights_are_the_sum(self) -> None:
        model = adapted()
        state, own = plain_state(model), model.state_dict()
        for name in ("blocks.0.attn.qkv", "blocks.5.attn.proj"):
            a, b = (own[f"{name}.lora_{letter}.default.weight"].double() for letter in "AB")
            expected = own[f"{name}.base_layer.weight"].double() + b @ a  # without any factor
            torch.testing.assert_close(state[f"{name}.weight"].double(), expected, rtol=1e-5, atol=1e-7)
        for name in ("blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.weight"):
            assert torch.equal(state[name], own[name.replace("qkv.", "qkv.base_layer.")])

    def test_state_without_adapters_is_the_networks_own(self) -> None:
        for model in (make(), nn.Linear(2, 3)):
            state = plain_state(model)
            assert list(state) == list(model.state_dict())
            assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize(
        ("name", "adapted_layers"),
        [
            ("test_vit", {f"blocks.{k}.attn.{layer}" for k in range(6) for layer in ("qkv", "proj")}),
            ("test_resnet", {"conv1.0", "layer1.0.conv1", "layer4.0.downsample.1"}),
            ("beit_base_patch16_224", {f"blocks.{k}.attn.proj" for k in range(2)}),  # calls no `qkv`
        ],
    )
    def test_they_and_the_classifier_learn(
        self, monkeypatch: pytest.MonkeyPatch, name: str, adapted_layers: set[str]
    ) -> None:
        if name.startswith("beit"):
            create = timm.create_model
            small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
            monkeypatch.setattr(timm, "create_model", lambda *words, **named: create(*words, **named, **small))
        model = adapted(name).train()
        model(images()).square().sum().backward()
        learning = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
        assert learning == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        layers = {key.partition(".lora_")[0] for key in learning if ".lora_" in key}
        assert layers >= adapted_layers
        if name != "test_resnet":
            assert layers == adapted_layers
        head = next(key for key, module in model.named_modules() if module is model.get_classifier())
        assert learning - {key for key in learning if ".lora_" in key} == {f"{head}.weight", f"{head}.bias"}
        for layer in layers:
            assert model.get_submodule(layer).lora_A["default"].weight.shape[0] == 2

    def test_layers_whose_adapters_cannot_be_merged_get_none(self) -> None:
        model = Awkward()
        assert layers_to_adapt(model, SIDE) == ["first", "last.0"]
        add_adapters(model, 2, SIDE)
        assert {key.partition(".lora_")[0] for key in model.state_dict() if ".lora_" in key} == {"first", "last.0"}

    def test_a_network_without_a_layer_to_adapt_is_refused(self) -> None:
        class Bare(nn.Sequential):
            def get_classifier(self) -> nn.Module:
                return self[-1]

        model = Bare(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
        with pytest.raises(
            ValueError, match="`lora_rank`=2 adapts linear layers and convolutions, but the model, a Bar"
        ):
            add_adapters(model, 2, SIDE)

    def test_of_lift_have_fewer_parameters_than_the_classifier(self, root: Path) -> None:
        """12 blocks, each of rank r at qkv (768 -> 2,304) and proj (768 -> 768), beside C x 768 of the classifier."""
        for recipe, rank, classes in (("imagenet_lt", 8, 1000), ("inaturalist", 64, 8142)):
            text = (root / "recipes" / recipe / "protocols" / "lift.yaml").read_text()
            assert f"lora_rank: {rank}\n" in text
            assert 12 * rank * (768 + 2304 + 768 + 768) < classes * 768


class Awkward(nn.Module):
    """Of its layers only `first` and `last.0` can have adapters that merge."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"))
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.standardised = timm.layers.StdConv2d(4, 4, 1)
        self.twice = self.again = nn.Conv2d(4, 4, 1)
        self.read, self.uncalled = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.fc = nn.Linear(4, CLASSES)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardised(self.circular(self.dilated(self.grouped(self.last(self.first(x))))))
        x = nn.functional.conv2d(self.again(self.twice(x)), self.read.weight, self.read.bias)
        return self.fc(x.mean((2, 3)))


def test_settings_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, message in (
        ({"freeze": True, "drop_path": 0.1}, "`drop_path`=0.1 drops nothing in a frozen network"),
        ({"lora_rank": 4}, "`lora_rank`=4 is for a frozen backbone. Set `freeze: true`"),
        ({"model": "resnet51"}, "`model` 'resnet51' is no model of timm. Some are: "),
        ({"model": "resnet18.a2"}, r"`model` 'resnet18.a2' is unknown to timm. It has .*resnet18.a1_in1k"),
        ({"model": "vit_base_patch16_plus_240", "pretrained": True}, "timm has no weights of `model`"),
        ({"model": "test_vit", "image_size": 33}, "`model` 'test_vit' takes no images of `image_size`=33: "),
        ({"model": "inception_v3", "image_size": 32}, "`model` 'inception_v3' takes no images of `image_size`=32: "),
        ({"model": "resnet10", "pretrained": True}, "`model: resnet10` has no pretrained weights"),
        ({"model": "local-dir:nowhere"}, "must name a folder with timm's config.json and model.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**changes)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'`lora_rank` needs peft. Install it with `pip install "ltaug\[adapters\]"`'):
        make(freeze=True, lora_rank=2)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        ConnectionError, match=r"weights of `model` 'test_vit' could not be loaded \(no route\).*local-d"
    ):
        make(pretrained=True)


def test_a_network_of_a_folder_says_what_its_images_were(tmp_path: Path) -> None:
    """As one of the hub does, by the same file."""
    saved = timm.create_model("test_vit", num_classes=3, img_size=96)
    state = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "input_size": [3, 96, 96],
        "fixed_input_size": True,
        "num_classes": 3,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
    }
    content = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": state}
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    name = f"local-dir:{tmp_path}"
    model = make(name, pretrained=True, image_size=96)
    assert pixel_statistics(model) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, saved.blocks[0].attn.qkv.weight)
    assert model(images(96)).shape == (4, CLASSES)
    again = make(name, pretrained=True, image_size=96, from_run="runs/first")  # whose weights come from there
    assert not torch.equal(again.blocks[0].attn.qkv.weight, saved.blocks[0].attn.qkv.weight)
    assert pixel_statistics(again) == pixel_statistics(model)
    assert make(name, image_size=64)(images()).shape == (4, CLASSES)
    assert pixel_statistics(timm.create_model("resnet50")) == (list(IMAGENET_MEAN), list(IMAGENET_STD))


class TestLearningRates:
    @staticmethod
    def rates(model: nn.Module, **words: Any) -> dict[str, tuple[float, float | None]]:
        """Learning rate over the scheduled one, and weight decay of its own, of every parameter."""
        plan = METHODS["erm"].plan([0, 1], epochs=1)
        groups = scale_learning_rates(plan.parameter_groups(model), model, **words)
        names = {parameter: name for name, parameter in model.named_parameters()}
        return {
            names[parameter]: (group["lr_scale"], group.get("weight_decay"))
            for group in groups
            for parameter in group["params"]
        }

    def test_layers_learn_slower_towards_the_images(self) -> None:
        model = make()
        found = self.rates(model, layer_decay=0.5, head_lr_factor=10.0, weight_decay=0.05)
        assert set(found) == set(dict(model.named_parameters()))
        assert found["head.weight"] == (10.0, 0.05)
        assert found["head.bias"] == (10.0, 0.0)
        for k in range(6):
            assert found[f"blocks.{k}.attn.qkv.weight"] == (0.5 ** (6 - k), 0.05)
            assert found[f"blocks.{k}.norm1.weight"] == (0.5 ** (6 - k), 0.0)
        assert found["pos_embed"] == (0.5**7, 0.0)
        assert found["patch_embed.proj.weight"] == (0.5**7, 0.05)

    @pytest.mark.parametrize("method", ["crt", "lws", "mislas"])
    def test_a_classifier_alone_has_the_rate_of_its_stage(self, method: str) -> None:
        """The factor is over the rate of the rest, which a second stage has frozen."""
        model, plan = make(), METHODS[method].plan(torch.arange(CLASSES), epochs=1)
        plan.attach(model)
        groups = plan.parameter_groups(model)
        found = scale_learning_rates(groups, model, head_lr_factor=50.0)
        assert [group["lr_scale"] for group in found] == [group["lr_scale"] for group in groups]
        assert max(group["lr_scale"] for group in found) == 1.0

    def test_a_classifier_that_shares_its_layer_has_its_own_rate(self) -> None:
        """timm counts ConvNeXt's last norm to the same layer as the classifier, whose bias is not decayed either."""
        found = self.rates(make("test_convnext"), layer_decay=0.5, head_lr_factor=10.0)
        above = {key: scale for key, (scale, _) in found.items() if scale > 1}
        assert above == {"head.fc.weight": 10, "head.fc.bias": 10}

    def test_without_layer_decay_everything_is_decayed_alike(self) -> None:
        model = make()
        found = self.rates(model, head_lr_factor=3.0, weight_decay=5e-4)
        assert found == {key: (3.0 if key.startswith("head") else 1.0, None) for key in dict(model.named_parameters())}

    @pytest.mark.parametrize("layer_decay", [None, 0.5])
    def test_what_is_frozen_is_in_no_group(self, layer_decay: float | None) -> None:
        model = adapted()
        found = self.rates(model, layer_decay=layer_decay, head_lr_factor=10.0)
        assert set(found) == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        for key, (scale, _) in found.items():
            head = key.startswith("head")
            depth = 1.0 if layer_decay is None or head else layer_decay ** (6 - int(key.split(".")[1]))
            assert scale == (10.0 if head else depth)

    def test_the_optimiser_takes_them(self) -> None:
        model = adapted()
        groups = scale_learning_rates([{"params": list(model.parameters())}], model, layer_decay=0.5)
        cfg = TrainSettings(optimizer="lookahead_adamw", out="unused")
        optimizer = make_optimizer(groups, cfg)
        model(images()).square().sum().backward()
        optimizer.step()
        assert len({group["lr_scale"] for group in optimizer.param_groups}) == 7

    def test_a_model_that_is_not_timms(self) -> None:
        with pytest.raises(ValueError, match="`head_lr_factor` needs a model with"):
            scale_learning_rates([], nn.Linear(2, 2), head_lr_factor=2.0)


def test_shared_batch_norm_keeps_the_activation_behind_it() -> None:
    """timm's layers do both in one; torch's own conversion would leave the second out."""
    model = timm.create_model("test_efficientnet", num_classes=CLASSES).eval()
    cfg = TrainSettings(sync_bn=True, out="unused")
    gpus = SimpleNamespace(num_processes=2, device=torch.device("cuda"))
    shared = arrange(copy.deepcopy(model), cfg, gpus)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in shared.modules())
    torch.testing.assert_close(shared(images()), model(images()))
    lost = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not torch.allclose(lost(images()), model(images()), atol=1e-3)


class TestConfigOfTimm:
    """timm opens a run folder by its config.json."""

    @pytest.mark.parametrize("name", ["resnet10", "test_vit", "mobilenetv3_small_050"])
    def test_opens_the_run_as_it_is(self, name: str, tmp_path: Path) -> None:
        network = build_timm_model(name, 3, image_size=SIDE).eval()
        statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
        names = ["dog", "\u00fc, wild", "cat"]
        files = timm_files(network, names, {"image_size": SIDE, "test_resize": 0.5, **statistics})
        (tmp_path / "config.json").write_text(files["config.json"], encoding="utf-8")
        save_file({key: value.clone() for key, value in network.state_dict().items()}, tmp_path / "model.safetensors")
        opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        again = build_timm_model(f"local-dir:{tmp_path}", 3, image_size=SIDE, pretrained=True).eval()
        with torch.no_grad():
            for found in (opened, again):
                assert torch.equal(found(images()), network(images()))
        config = timm.data.resolve_model_data_config(opened)
        assert [*config["input_size"], config["crop_pct"], config["interpolation"]] == [3, SIDE, SIDE, 0.5, "bilinear"]
        assert (list(config["mean"]), list(config["std"])) == (statistics["mean"], statistics["std"])
        assert json.loads(files["config.json"])["label_names"] == names

    def test_is_not_written_of_what_timm_does_not_make(self) -> None:
        values = {"image_size": SIDE, "test_resize": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
        network = make()
        assert set(timm_files(network, ["a"] * CLASSES, values)) == {"config.json"}
        labels = torch.arange(CLASSES).repeat_interleave(3)
        with_cosine = METHODS["ldam_drw"].plan(labels, epochs=1, batch_size=2).attach(network)
        assert timm_files(with_cosine, ["a"] * CLASSES, values) == {}
        assert timm_files(nn.Linear(2, 3), ["a"] * 3, values) == {}
