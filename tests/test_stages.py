"""What is frozen in a second stage: parameters by `freeze`, batch norm's statistics by its mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ltaug.classifiers import CausalNormClassifier, CosineClassifier, GeneralizedClassifier
from ltaug.stages import freeze, reinitialize, set_batch_norm_mode, unfreeze


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.ReLU())
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x).mean(2))


def step(model: nn.Module, decay: float = 0.1) -> set[str]:
    """One optimiser step on shifted data; the names in the state that it changed."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=decay)
    model(3 + 2 * torch.randn(16, 2, 5)).square().sum().backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


AFFINE = {"backbone.1.weight", "backbone.1.bias"}
STATISTICS = {"backbone.1.running_mean", "backbone.1.running_var", "backbone.1.num_batches_tracked"}
CLASSIFIER = {"fc.weight", "fc.bias"}


class TestFreeze:
    def test_a_frozen_module_has_no_gradient_and_the_rest_learns(self) -> None:
        model = Network()
        assert freeze(model.backbone) is model.backbone
        set_batch_norm_mode(model.train(), "fixed")
        assert step(model) == CLASSIFIER
        assert all(parameter.grad is None for parameter in model.backbone.parameters())

    def test_it_does_not_hold_batch_norms_statistics(self) -> None:
        # The trap that the modes are for: they move in a frozen backbone.
        model = Network()
        freeze(model.backbone)
        assert step(model.train()) == CLASSIFIER | STATISTICS

    def test_gradients_of_the_first_stage_are_forgotten(self) -> None:
        model = Network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        model(torch.randn(4, 2, 5)).sum().backward()
        freeze(model.backbone)
        before = copy.deepcopy(model.backbone.state_dict())
        optimizer.step()
        assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())

    def test_unfreeze_undoes_it(self) -> None:
        model = Network()
        assert unfreeze(freeze(model)) is model
        assert step(model.train()) == {*CLASSIFIER, *STATISTICS, *AFFINE, "backbone.0.weight"} | (
            step(model) & {"backbone.0.bias"}  # batch norm takes its gradient away, up to rounding
        )

    def test_a_new_classifier_on_a_frozen_network_learns(self) -> None:
        model = freeze(Network())
        model.fc = GeneralizedClassifier(model.fc)
        set_batch_norm_mode(model.train(), "fixed")
        assert step(model) == {"fc.weight_delta", "fc.bias_delta", "fc.scale_delta"}


class TestReinitialize:
    @pytest.mark.parametrize("layer", [nn.Linear(3, 4), CosineClassifier(3, 4), CausalNormClassifier(4, 4)], ids=str)
    def test_it_draws_anew_in_place(self, layer: nn.Module) -> None:
        before = layer.weight.detach().clone()
        parameter = layer.weight
        assert reinitialize(layer) is layer
        assert layer.weight is parameter
        assert not bool((layer.weight == before).any())

    def test_a_layer_that_cannot_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"`module`.*Network.*model\.fc"):
            reinitialize(Network())


class TestBatchNormMode:
    @pytest.mark.parametrize(
        ("mode", "moves"), [("fixed", set()), ("shift", STATISTICS), ("train", STATISTICS | AFFINE)]
    )
    def test_what_moves(self, mode: str, moves: set[str]) -> None:
        model = Network()
        freeze(model.backbone[0])
        assert set_batch_norm_mode(model.train(), mode) == 1
        assert step(model) == CLASSIFIER | moves

    @pytest.mark.parametrize("first", ["fixed", "shift", "train"])
    @pytest.mark.parametrize("second", ["fixed", "shift", "train"])
    def test_the_last_call_counts(self, first: str, second: str) -> None:
        twice, once = Network(), Network()
        set_batch_norm_mode(twice.train(), first)
        set_batch_norm_mode(twice, second)
        set_batch_norm_mode(once.train(), second)
        for a, b in zip(twice.modules(), once.modules(), strict=True):
            assert a.training == b.training
        assert [p.requires_grad for p in twice.parameters()] == [p.requires_grad for p in once.parameters()]

    @pytest.mark.parametrize("mode", ["fixed", "shift", "train"])
    def test_what_it_normalises_by(self, mode: str) -> None:
        layer = nn.BatchNorm1d(2)
        layer.running_mean.copy_(torch.tensor([5.0, -5.0]))
        layer.running_var.copy_(torch.tensor([4.0, 9.0]))
        x = torch.randn(50, 2)
        set_batch_norm_mode(layer.train(), mode)
        if mode == "fixed":
            expected = (x - torch.tensor([5.0, -5.0])) / torch.tensor([2.0, 3.0])
        else:
            expected = (x - x.mean(0)) / x.std(0, correction=0)
        assert torch.allclose(layer(x), expected, atol=1e-3)

    def test_shift_moves_the_statistics_to_those_of_the_new_stream(self) -> None:
        model = freeze(Network())
        for _ in range(100):
            set_batch_norm_mode(model.train(), "shift")
            x = 3 + 2 * torch.randn(200, 2, 5)
            model(x)
        seen = model.backbone[0](x).transpose(0, 1).flatten(1)
        assert torch.allclose(model.backbone[1].running_mean, seen.mean(1), atol=0.15)
        assert torch.allclose(model.backbone[1].running_var, seen.var(1), rtol=0.15)

    def test_train_undoes_fixed_so_it_is_called_again(self) -> None:
        model = Network()
        set_batch_norm_mode(model.train(), "fixed")
        assert not model.backbone[1].training
        assert model.fc.training
        model.train()
        assert model.backbone[1].training
        assert not model.backbone[1].weight.requires_grad  # but frozen stays frozen

    @pytest.mark.parametrize(
        "layer", [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2)], ids=str
    )
    def test_every_kind_is_found_however_deep(self, layer: nn.Module) -> None:
        model = nn.Sequential(nn.Sequential(nn.Identity(), layer), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2))
        assert set_batch_norm_mode(model.train(), "fixed") == 1
        assert not layer.training
        assert model[1].weight.requires_grad
        assert model[2].training

    def test_layers_without_affine_parameters_and_models_without_layers(self) -> None:
        assert set_batch_norm_mode(nn.BatchNorm1d(2, affine=False), "shift") == 1
        assert set_batch_norm_mode(nn.Linear(2, 2), "fixed") == 0

    @pytest.mark.parametrize("mode", ["fixed", "shift"])
    def test_layers_without_statistics_are_named_and_nothing_is_changed(self, mode: str) -> None:
        model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
        with pytest.raises(ValueError, match=f'`mode` {mode!r}.*"1".*track_running_stats'):
            set_batch_norm_mode(model, mode)
        assert model[0].training
        assert model[0].weight.requires_grad
        assert set_batch_norm_mode(model, "train") == 2

    def test_a_bad_mode_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"`mode`.*'frozen'"):
            set_batch_norm_mode(Network(), "frozen")
