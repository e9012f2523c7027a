"""Manifold mixup against a network written out by hand, and what must not go wrong in silence."""

from __future__ import annotations

import copy
import functools
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltaug.mixers import ManifoldMixUp, MixUp

C = 4
LAYERS = ("first", "block.0", "block")


class Net(nn.Module):
    """Four stages in float64, each of which a test can also run by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.block = nn.Sequential(nn.Linear(6, 7), nn.Tanh())
        self.last = nn.Linear(7, C)
        self.double()

    def stages(self) -> list[tuple[str, nn.Module]]:
        return [("first", self.first), ("block.0", self.block[0]), ("block", self.block[1]), ("last", self.last)]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x)))


def batch(size: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(C, (size,), generator=generator)


def by_hand(net: Net, layer: str, x: Tensor, y: Tensor, lam: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits of N rows where ``layer`` is mixed, written with sums; partners are rows ``order``, or the second half."""
    for name, stage in net.stages():
        x = stage(x)
        if name == layer:
            size = len(lam)
            rows = [(i, size + i if order is None else int(order[i])) for i in range(size)]
            x = torch.stack([lam[i] * x[i] + (1 - lam[i]) * x[j] for i, j in rows])
    return x, y


def lam_of(targets: Tensor, y: Tensor, partner: Tensor) -> Tensor:
    """The weights, read off the mixed targets; where both labels agree they cannot be seen."""
    assert not bool((y == partner).any())
    return targets.gather(1, y[:, None])[:, 0].double()


def gradients(net: Net, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


class TestHiddenLayers:
    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize("streams", [1, 2])
    def test_it_is_the_network_written_out(self, layer: str, streams: int) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, alpha=2.0, layers=[layer]).attach(net)
        x, _ = batch()
        y = torch.tensor([0, 1, 2, 3, 0, 1])
        torch.manual_seed(3)
        if streams == 1:
            # Every label its own class: then the targets show both the partner and the weight of every row.
            dense = torch.eye(6, dtype=torch.float64)
            mixer.num_classes = 6
            inputs, targets = mixer(x, dense)
            assert inputs is x
            lam = targets.diagonal().clone()
            order = (targets - torch.diag(lam)).argmax(1)
            alone = lam == 1.0  # a row that is its own partner
            order[alone] = alone.nonzero()[:, 0]
        else:
            partner_x, _ = batch(seed=2)
            partner_y = (y + 1) % C
            inputs, targets = mixer(x, y, partner_x, partner_y)
            assert torch.equal(inputs, torch.cat([x, partner_x]))
            lam, order = lam_of(targets, y, partner_y), None
        assert 0.0 < lam.min() < lam.max()
        logits = net(inputs)
        expected, _ = by_hand(net, layer, inputs, y, lam, order)
        assert logits.shape == (6, C)
        # The targets, from which lam is read, are float32 for class indices.
        tolerance = 1e-12 if streams == 1 else 1e-6
        assert torch.allclose(logits, expected, rtol=0, atol=tolerance)
        ours = gradients(net, F.cross_entropy(logits, y))
        theirs = gradients(net, F.cross_entropy(expected, y))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=tolerance)
        assert not torch.allclose(logits, net(x), atol=1e-3)  # mixing makes a difference, and happens once

    def test_both_samples_of_a_pair_carry_gradient(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["first"]).attach(net)
        x, y = batch()
        inputs, _ = mixer(x.requires_grad_(), y, (other := batch(seed=2)[0]).requires_grad_(), y)
        net(inputs).sum().backward()
        assert bool((x.grad != 0).all(1).all())
        assert bool((other.grad != 0).all(1).all())

    @pytest.mark.parametrize("size", [1, 2, 7])
    @pytest.mark.parametrize("streams", [1, 2])
    def test_any_batch_size(self, size: int, streams: int) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        inputs, targets = mixer(*batch(size), *(batch(size, 2) if streams == 2 else ()))
        assert net(inputs).shape == targets.shape == (size, C)
        assert torch.allclose(targets.sum(1), torch.ones(size))

    def test_a_batch_of_one_without_partner_is_itself(self) -> None:
        net = Net()
        x, y = batch(1)
        expected = net(x)
        inputs, _ = ManifoldMixUp(C, layers=["block"]).attach(net)(x, y)
        assert torch.allclose(net(inputs), expected)

    def test_every_layer_has_its_turn(self) -> None:
        net, counts = Net(), Counter()
        names = ("input", *LAYERS)
        mixer = ManifoldMixUp(C, layers=names).attach(net)
        outputs: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, args: object, output: Tensor) -> None:
            outputs[name] = output

        for name in LAYERS:
            net.get_submodule(name).register_forward_hook(functools.partial(keep, name))
        x, y = batch(3)
        for _ in range(400):
            inputs, _ = mixer(x, y, *batch(3, 2))
            net(inputs)
            # In which stage do six rows become three? Each hook of the test runs after the mixer's.
            mixed = next(name for name in LAYERS if len(outputs[name]) == 3) if len(inputs) == 6 else "input"
            counts[mixed] += 1
        # Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand.
        assert sum((counts[name] - 100) ** 2 / 100 for name in names) < 16.3

    def test_the_weights_are_beta_draws_one_a_pair(self) -> None:
        net = nn.Sequential(nn.Identity())
        for alpha in (0.3, 1.0, 4.0):
            mixer = ManifoldMixUp(2, alpha=alpha, layers=["0"]).attach(net)
            zeros, labels = torch.zeros(4000, 1), torch.zeros(4000, dtype=torch.long)
            inputs, targets = mixer(zeros + 1, labels, zeros, labels + 1)
            h = net(inputs)[:, 0]
            assert torch.allclose(h, targets[:, 0])
            assert h.mean().item() == pytest.approx(0.5, abs=0.03)
            assert h.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
            mixer.detach()

    def test_token_indices_can_be_inputs(self) -> None:
        net = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, C))
        inputs, _ = ManifoldMixUp(C, layers=["0"]).attach(net)(torch.randint(9, (5, 4)), torch.arange(5) % C)
        assert net(inputs).shape == (5, C)

    def test_expected_weights_are_those_of_the_draws(self) -> None:
        weights = ManifoldMixUp(C, layers=["input"]).expected_weights()
        assert weights.dtype == torch.float64
        assert torch.equal(weights, torch.full((C, C), 0.5, dtype=torch.float64))


class TestInput:
    @pytest.mark.parametrize("partners", [False, True])
    def test_it_is_mixup(self, partners: bool) -> None:
        given = [*batch(), *(batch(seed=2) if partners else ())]
        torch.manual_seed(5)
        expected = MixUp(C, alpha=0.4)(*given)
        torch.manual_seed(5)
        ours = ManifoldMixUp(C, alpha=0.4, layers=["input"])(*given)  # needs no model
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))

    def test_the_models_forward_is_left_alone(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["input", "block"]).attach(net)
        x, y = batch()
        seen = set()
        for _ in range(20):
            inputs, _ = mixer(x, y)
            hidden = inputs is x
            logits = net(inputs)
            seen.add(hidden)
            assert torch.equal(logits, net(inputs)) != hidden  # a forward that follows is a plain one
        assert seen == {True, False}


class TestOnce:
    def test_only_the_next_forward_mixes(self) -> None:
        net = Net()
        x, y = batch()
        plain = net(x)
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        assert torch.equal(net(x), plain)  # attached, not called
        mixer(x, y)
        assert not torch.allclose(net(x), plain)
        assert torch.equal(net(x), plain)

    def test_evaluation_in_between_is_not_mixed(self) -> None:
        net = Net()
        x, y = batch()
        plain = net(x)
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        mixer(x, y)
        assert torch.equal(net.eval()(x), plain)
        assert torch.allclose(net(x[:2]), plain[:2])  # of any size
        assert not torch.allclose(net.train()(x), plain)  # the batch still had its turn

    def test_a_frozen_layer_is_mixed_as_well(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["first"]).attach(net)
        x, y = batch()
        plain = net(x)
        net.first.eval().requires_grad_(False)
        mixer(x, y)
        assert not torch.allclose(net(x), plain)

    def test_a_shared_layer_is_mixed_at_its_first_call(self) -> None:
        shared = nn.Linear(3, 3).double()
        net = nn.Sequential(shared, nn.Tanh(), shared)
        x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6)
        for name in ("0", "2"):  # two names of one module
            mixer = ManifoldMixUp(6, layers=[name]).attach(net)
            _, targets = mixer(x, torch.eye(6, dtype=torch.float64)[y])
            assert torch.allclose(net(x), shared(torch.tanh(targets @ shared(x))))
            mixer.detach()

    def test_a_second_batch_before_the_forward_is_refused(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        x, y = batch()
        mixer(x, y)
        net.eval()(x)
        with pytest.raises(RuntimeError, match=r"'block'.*training mode.*before the next"):
            mixer(x, y)
        mixer.detach()
        plain = net.train()(x)
        mixer.attach(net)
        mixer(x, y)
        assert not torch.allclose(net(x), plain)

    def test_a_refused_call_leaves_nothing_behind(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        x, y = batch()
        plain = net(x)
        with pytest.raises(ValueError, match="`targets`"):
            mixer(x, torch.rand(6, C + 1))
        assert torch.equal(net(x), plain)
        mixer(x, y)
        net(x)


class TestErrors:
    def test_names(self) -> None:
        net = Net()
        with pytest.raises(ValueError, match=r"`layers` names 'blok', .*'block'"):
            ManifoldMixUp(C, layers=["first", "blok"]).attach(net)
        assert not net.first._forward_hooks  # nothing is half attached
        wrapped = nn.ModuleDict({"module": net})
        with pytest.raises(ValueError, match=r"'module\.first'"):
            ManifoldMixUp(C, layers=["first"]).attach(wrapped)
        with pytest.raises(ValueError, match="named_modules"):
            ManifoldMixUp(C, layers=["zzzzzzzz"]).attach(net)
        with pytest.raises(ValueError, match="no submodule"):
            ManifoldMixUp(C, layers=[""]).attach(net)

    @pytest.mark.parametrize("layers", [[], ["first", "first"], "first"])
    def test_layers(self, layers: list[str]) -> None:
        with pytest.raises(ValueError, match="`layers`"):
            ManifoldMixUp(C, layers=layers)

    def test_alpha(self) -> None:
        with pytest.raises(ValueError, match="`alpha`"):
            ManifoldMixUp(C, alpha=0.0, layers=["first"])

    def test_a_hidden_layer_needs_a_model(self) -> None:
        with pytest.raises(ValueError, match=r"'first'.*attach\(model\)"):
            ManifoldMixUp(C, layers=["first"])(*batch())

    def test_attached_twice(self) -> None:
        mixer = ManifoldMixUp(C, layers=["first"]).attach(Net())
        with pytest.raises(ValueError, match="detach"):
            mixer.attach(Net())

    def test_shapes(self) -> None:
        mixer = ManifoldMixUp(C, layers=["first"]).attach(Net())
        x, y = batch()
        with pytest.raises(ValueError, match=r"`targets`.*\[6, 5\] and \[5\]"):
            mixer(x, y[:5])
        with pytest.raises(ValueError, match="belong together"):
            mixer(x, y, x)
        with pytest.raises(ValueError, match=r"`partner_inputs`.*\[5, 5\]"):
            mixer(x, y, x[:5], y[:5])
        with pytest.raises(ValueError, match=r"`partner_targets`.*\[5\]"):
            mixer(x, y, x, y[:5])

    @pytest.mark.parametrize("streams", [1, 2])
    def test_another_batch_size(self, streams: int) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["first"]).attach(net)
        x, y = batch()
        mixer(x, y, *(batch(seed=2) if streams == 2 else ()))
        with pytest.raises(RuntimeError, match=rf"'first'.*{6 * streams}.*\[5, 6\]"):
            net(x[:5])
        mixer(x, y)  # and the mixer goes on
        net(x)

    def test_a_tuple(self) -> None:
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.LSTM(5, 3, batch_first=True)

            def forward(self, x: Tensor) -> Tensor:
                return self.cell(x)[0]

        net = Recurrent()
        mixer = ManifoldMixUp(C, layers=["cell"]).attach(net)
        inputs, _ = mixer(torch.randn(4, 2, 5), torch.arange(4))
        with pytest.raises(RuntimeError, match=r"'cell'.*tuple"):
            net(inputs)


class TestCompany:
    def test_detach_takes_the_hooks_away(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=LAYERS).attach(net)
        mixer(*batch())
        mixer.detach()
        assert not any(module._forward_hooks for module in net.modules())
        x, _ = batch()
        assert torch.equal(net(x), by_hand(net, "", x, x, x, None)[0])

    def test_copies_of_the_model_do_not_mix(self) -> None:
        net = Net()
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        x, y = batch()
        plain = net(x)
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        mixer(x, y)
        for other in copies:
            assert torch.equal(other(x), plain)
        assert not torch.allclose(net(x), plain)
        assert set(net.state_dict()) == set(Net().state_dict())

    def test_autocast(self) -> None:
        net = Net().float()
        mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
        x, y = batch()
        x = x.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = net(x)
            mixer(x, y)
            logits = net(x)
        assert logits.dtype == torch.bfloat16
        assert not torch.allclose(logits, plain)
        logits.float().sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in net.parameters())

    @pytest.mark.slow  # the import alone takes seconds
    def test_distributed_data_parallel(self, tmp_path) -> None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            net = Net()
            mixer = ManifoldMixUp(C, layers=["block"]).attach(net)
            wrapped = nn.parallel.DistributedDataParallel(net)
            x, y = batch()
            plain = wrapped(x)
            inputs, _ = mixer(x, y, *batch(seed=2))
            logits = wrapped(inputs)
            assert logits.shape == plain.shape
            assert not torch.allclose(logits, plain)
            F.cross_entropy(logits, y).backward()
            assert all(p.grad is not None for p in net.parameters())
        finally:
            torch.distributed.destroy_process_group()

    def test_repr(self) -> None:
        assert repr(ManifoldMixUp(2, layers=["a"])) == "ManifoldMixUp(num_classes=2, alpha=1.0, layers=['a'])"
