"""The networks and optimisers of imagenet_lt: sizes, what a frozen network keeps, adapters, groups of parameters."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recipe_support import ROOT, imported
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

timm = pytest.importorskip("timm")

FOLDER = ROOT / "recipes" / "imagenet_lt"
CLASSES, SIDE = 7, 64


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    with imported(FOLDER, "adapters", "model", "optimizer", "config", "loader") as modules:
        yield modules


@pytest.fixture
def make(recipe: SimpleNamespace) -> Callable[..., nn.Module]:
    """A network, always with the same weights but for the adapters'."""

    def build(model: str = "test_vit", classes: int = CLASSES, **changes: object) -> nn.Module:
        torch.manual_seed(0)
        return recipe.model.build_model(classes, config(recipe, model=model, **changes))

    return build


def config(recipe: SimpleNamespace, **changes: object) -> object:
    values = {"model": "test_vit", "image_size": SIDE, "optimizer": "adamw", **changes}
    return recipe.config.Config(out="unused", **values)


def images(side: int = SIDE) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))


def adapted(make: Callable[..., nn.Module], model: str = "test_vit", **changes: object) -> nn.Module:
    """A network whose adapters have learnt something."""
    network = make(model, freeze=True, lora_rank=2, **changes)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


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
        ("swin_tiny_patch4_window7_224", 448, 28.29),
        ("beitv2_base_patch16_224", 384, None),
        ("convnext_tiny", 288, 28.59),
        pytest.param("tiny_vit_5m_224", 256, None, marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", 224, None, marks=pytest.mark.slow),
    ],
)
def test_networks_take_images_of_their_size(
    recipe: SimpleNamespace, make: Callable[..., nn.Module], name: str, side: int, millions: float | None
) -> None:
    with torch.device("meta"):
        model = make(name, 1000, image_size=side)
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 1000)  # in training mode: no auxiliary output
    if millions is not None:
        assert recipe.model.count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "resnet10", "levit_conv_128s"])
def test_only_the_classifier_of_a_frozen_network_learns(
    recipe: SimpleNamespace, make: Callable[..., nn.Module], name: str
) -> None:
    side = 224 if name.startswith("levit") else SIDE
    model = make(name, freeze=True, image_size=side)
    before = copy.deepcopy(model.state_dict())
    optimizer = recipe.optimizer.make_optimizer(config(recipe, optimizer="sgd", lr=1.0), model)
    model.train()
    model(images(side)).square().sum().backward()
    optimizer.step()
    heads = {id(parameter) for parameter in recipe.adapters.classifier_of(model).parameters()}
    learning = {name for name, parameter in model.named_parameters() if id(parameter) in heads}
    assert learning
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learning
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    head_buffers = {name for name in changed if name.rpartition(".")[2] in ("running_mean", "running_var")}
    head_buffers |= {name for name in changed if name.endswith("num_batches_tracked")}
    assert changed - head_buffers <= learning
    assert all(name.startswith("head") for name in head_buffers)  # LeViT's classifier begins with batch norm
    assert any(name.endswith("weight") for name in changed & learning)


def test_statistics_and_dropout_of_a_frozen_network_rest(make: Callable[..., nn.Module]) -> None:
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


def test_a_copy_of_a_frozen_network_has_modes_of_its_own(make: Callable[..., nn.Module]) -> None:
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


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_byobnet", "test_maxvit"])
def test_adapters_start_at_the_backbone_and_merge_into_it(
    recipe: SimpleNamespace, make: Callable[..., nn.Module], name: str
) -> None:
    pytest.importorskip("peft")
    plain, fresh = make(name, freeze=True), make(name, freeze=True, lora_rank=2)
    torch.testing.assert_close(fresh.eval()(images()), plain.eval()(images()), rtol=0, atol=0)
    model = adapted(make, name)
    own = copy.deepcopy(model.state_dict())
    outputs = model.eval()(images())
    state = recipe.adapters.plain_state(model)
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


def test_merged_weights_are_the_sum(recipe: SimpleNamespace, make: Callable[..., nn.Module]) -> None:
    pytest.importorskip("peft")
    model = adapted(make)
    state, own = recipe.adapters.plain_state(model), model.state_dict()
    for name in ("blocks.0.attn.qkv", "blocks.5.attn.proj"):
        a, b = (own[f"{name}.lora_{letter}.default.weight"].double() for letter in "AB")
        expected = own[f"{name}.base_layer.weight"].double() + b @ a  # without any factor
        torch.testing.assert_close(state[f"{name}.weight"].double(), expected, rtol=1e-5, atol=1e-7)
    for name in ("blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.weight"):
        assert torch.equal(state[name], own[name.replace("qkv.", "qkv.base_layer.")])


def test_state_without_adapters_is_the_networks_own(recipe: SimpleNamespace, make: Callable[..., nn.Module]) -> None:
    for model in (make(), nn.Linear(2, 3)):
        state = recipe.adapters.plain_state(model)
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
def test_adapters_and_classifier_learn(
    recipe: SimpleNamespace,
    make: Callable[..., nn.Module],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    adapted_layers: set[str],
) -> None:
    pytest.importorskip("peft")
    if name.startswith("beit"):
        create = timm.create_model
        small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
        monkeypatch.setattr(timm, "create_model", lambda *words, **named: create(*words, **named, **small))
    model = adapted(make, name, cosine_classifier=True).train()
    model(images()).square().sum().backward()
    learning = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    layers = {key.partition(".lora_")[0] for key in learning if ".lora_" in key}
    assert layers >= adapted_layers
    if name != "test_resnet":
        assert layers == adapted_layers
    head = next(key for key, module in model.named_modules() if module is model.get_classifier())
    assert learning - {key for key in learning if ".lora_" in key} == {f"{head}.weight"}
    for layer in layers:
        assert model.get_submodule(layer).lora_A["default"].weight.shape[0] == 2
    assert recipe.model.count_parameters(model) == sum(
        parameter.numel() for key, parameter in model.named_parameters() if key in learning
    )


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


def test_layers_whose_adapters_cannot_be_merged_get_none(recipe: SimpleNamespace) -> None:
    pytest.importorskip("peft")
    model = Awkward()
    assert recipe.adapters.layers_to_adapt(model, SIDE) == ["first", "last.0"]
    recipe.adapters.put_adapters(model, SimpleNamespace(lora_rank=2, image_size=SIDE, model="awkward"))
    assert {key.partition(".lora_")[0] for key in model.state_dict() if ".lora_" in key} == {"first", "last.0"}


def test_settings_that_do_not_fit_are_told(make: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, said in (
        ({"freeze": True, "drop_path": 0.1}, "`drop_path`=0.1 drops nothing in a frozen network"),
        ({"model": "resnet51"}, "`model` 'resnet51' is no model of timm. Some are: "),
        ({"model": "resnet18.a2"}, r"`model` 'resnet18.a2' is unknown to timm. It has .*resnet18.a1_in1k"),
        ({"model": "vit_base_patch16_plus_240", "pretrained": True}, "timm has no weights of `model`"),
        ({"model": "test_vit", "image_size": 33}, "`model` 'test_vit' takes no images of `image_size`=33: "),
        ({"model": "inception_v3", "image_size": 32}, "`model` 'inception_v3' takes no images of `image_size`=32: "),
        ({"model": "resnet10", "pretrained": True}, "`model: resnet10` has no pretrained weights"),
        ({"model": "levit_conv_128s", "image_size": 224, "cosine_classifier": True}, "ends in a tuple"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**changes)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'`lora_rank` needs peft. Install it with `pip install "ltaug\[adapters\]"`'):
        make(freeze=True, lora_rank=2)


def test_a_network_of_a_folder_says_what_its_images_were(
    recipe: SimpleNamespace, make: Callable[..., nn.Module], tmp_path: Path
) -> None:
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
    cfg = config(recipe, model=name, pretrained=True, image_size=96)
    assert recipe.loader.mean_and_std(cfg) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    model = make(name, pretrained=True, image_size=96)
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, saved.blocks[0].attn.qkv.weight)
    assert model(images(96)).shape == (4, CLASSES)
    assert make(name, image_size=64)(images()).shape == (4, CLASSES)
    plain = config(recipe, model=name, image_size=96)
    assert recipe.loader.mean_and_std(plain) == (recipe.loader.IMAGENET_MEAN, recipe.loader.IMAGENET_STD)


def test_a_network_without_a_layer_to_adapt_is_told(recipe: SimpleNamespace) -> None:
    pytest.importorskip("peft")

    class Bare(nn.Sequential):
        def get_classifier(self) -> nn.Module:
            return self[-1]

    model = Bare(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    with pytest.raises(ValueError, match="`lora_rank`=2 adapts linear layers and convolutions, but `model` 'bare' has"):
        recipe.adapters.put_adapters(model, SimpleNamespace(lora_rank=2, image_size=SIDE, model="bare"))


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate over the scheduled one, and weight decay, of every parameter that the optimiser has."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_layers_learn_slower_towards_the_images(recipe: SimpleNamespace, make: Callable[..., nn.Module]) -> None:
    model = make()
    cfg = config(recipe, layer_decay=0.5, head_lr_factor=10.0, weight_decay=0.05)
    found = rates(recipe.optimizer.make_optimizer(cfg, model), model)
    assert set(found) == set(dict(model.named_parameters()))
    assert found["head.weight"] == (10.0, 0.05)
    assert found["head.bias"] == (10.0, 0.0)
    for k in range(6):
        assert found[f"blocks.{k}.attn.qkv.weight"] == (0.5 ** (6 - k), 0.05)
        assert found[f"blocks.{k}.norm1.weight"] == (0.5 ** (6 - k), 0.0)
    assert found["pos_embed"] == (0.5**7, 0.0)
    assert found["patch_embed.proj.weight"] == (0.5**7, 0.05)


def test_a_classifier_that_shares_its_layer_has_its_own_rate(
    recipe: SimpleNamespace, make: Callable[..., nn.Module]
) -> None:
    """timm counts ConvNeXt's last norm to the same layer as the classifier, whose bias is not decayed either."""
    model = make("test_convnext")
    cfg = config(recipe, layer_decay=0.5, head_lr_factor=10.0)
    found = rates(recipe.optimizer.make_optimizer(cfg, model), model)
    assert {key: scale for key, (scale, _) in found.items() if scale > 1} == {"head.fc.weight": 10, "head.fc.bias": 10}


def test_without_layer_decay_everything_is_decayed_alike(
    recipe: SimpleNamespace, make: Callable[..., nn.Module]
) -> None:
    model = make()
    cfg = config(recipe, head_lr_factor=3.0, weight_decay=5e-4, optimizer="sgd")
    found = rates(recipe.optimizer.make_optimizer(cfg, model), model)
    assert found == {key: (3.0 if key.startswith("head") else 1.0, 5e-4) for key in dict(model.named_parameters())}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_what_is_frozen_is_not_in_the_optimiser(
    recipe: SimpleNamespace, make: Callable[..., nn.Module], layer_decay: float | None
) -> None:
    pytest.importorskip("peft")
    model = adapted(make)
    cfg = config(recipe, layer_decay=layer_decay, head_lr_factor=10.0)
    optimizer = recipe.optimizer.make_optimizer(cfg, model)
    found = rates(optimizer, model)
    assert set(found) == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for key, (scale, _) in found.items():
        depth = 1.0 if layer_decay is None or key.startswith("head") else layer_decay ** (6 - int(key.split(".")[1]))
        assert scale == (10.0 if key.startswith("head") else depth)
    model(images()).square().sum().backward()
    optimizer.step()
    assert len(optimizer.state) == len(found)


def test_sgd_is_the_published_one(recipe: SimpleNamespace, make: Callable[..., nn.Module]) -> None:
    """m <- 0.9 m + g + 5e-4 w, w <- w - lr m; no Nesterov, which timm's own "sgd" has."""
    model = make(freeze=True)
    weight = model.get_classifier().weight
    optimizer = recipe.optimizer.make_optimizer(config(recipe, optimizer="sgd", lr=0.1, weight_decay=5e-4), model)
    expected, momentum = weight.detach().double(), torch.zeros(weight.shape, dtype=torch.float64)
    for step in range(3):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        weight.grad = gradient
        optimizer.step()
        momentum = 0.9 * momentum + gradient.double() + 5e-4 * expected
        expected = expected - 0.1 * momentum
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    groups = recipe.optimizer.make_optimizer(config(recipe, optimizer="nesterov"), model).param_groups
    assert groups[0]["nesterov"]


def test_optimisers_that_do_not_fit_are_told(recipe: SimpleNamespace, make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="`optimizer` must be sgd or one of timm's, but is 'adamm', did you mean 'ada"):
        recipe.optimizer.make_optimizer(config(recipe, optimizer="adamm"), make())
    with pytest.raises(ValueError, match="`head_lr_factor` needs a model with"):
        recipe.optimizer.make_optimizer(config(recipe, head_lr_factor=2.0), nn.Linear(2, 2))
    assert recipe.optimizer.make_optimizer(config(recipe, optimizer="lookahead_adamw"), make())


def test_the_lift_config_has_fewer_adapter_than_classifier_parameters(
    recipe: SimpleNamespace, make: Callable[..., nn.Module]
) -> None:
    """12 blocks, each of rank 8 at qkv (768 -> 2,304) and proj (768 -> 768), beside 1,000 x 768 of the classifier."""
    cfg = recipe.config.parse_config(["--config", str(FOLDER / "configs" / "lift_bayias.yaml")])
    assert (cfg.model, cfg.freeze, cfg.cosine_classifier) == ("vit_base_patch16_clip_224.openai", True, True)
    adapters = 12 * cfg.lora_rank * (768 + 2304 + 768 + 768)
    assert adapters == 442_368 < 1000 * 768


@pytest.mark.parametrize("folder", ["imagenet_lt", "inaturalist"])
@pytest.mark.parametrize("script", ["train", "train_stage2"])
def test_shared_batch_norm_keeps_the_activation_behind_it(folder: str, script: str) -> None:
    """timm's layers do both in one; torch's own conversion would leave the second out."""
    model = timm.create_model("test_efficientnet", num_classes=CLASSES).eval()
    with imported(ROOT / "recipes" / folder, script) as modules:
        shared = getattr(modules, script).convert_sync_batchnorm(copy.deepcopy(model))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in shared.modules())
    torch.testing.assert_close(shared(images()), model(images()))
    lost = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not torch.allclose(lost(images()), model(images()), atol=1e-3)
