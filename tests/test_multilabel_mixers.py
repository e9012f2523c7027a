"""Mixing of multi-hot targets, re-derived with the weights that were drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ltaug import BetweenClass, CutMix, MixUp, UniMix, effective_prior
from ltaug.mixers import Mixer
from ltaug.mixers.functional import between_class_mix

Y = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
PARTNERS = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
MIXERS: list[Any] = [MixUp, lambda *a, **k: CutMix(*a, dims=(-1,), **k), lambda *a, **k: BetweenClass(*a, 16000, **k)]
NAMES = ["mixup", "cutmix", "between_class"]


def with_weights(mixer: Mixer, lam: Tensor) -> Mixer:
    mixer.weights = lambda *_: lam  # type: ignore[method-assign]
    return mixer


class TestFixedWeights:
    lam = torch.tensor([0.25, 1.0, 0.7])

    def test_mixup(self) -> None:
        x, px = torch.randn(3, 5), torch.randn(3, 5)
        lam = self.lam.unsqueeze(1)
        mixed, rows = with_weights(MixUp(4, multi_label="convex"), self.lam)(x, Y, px, PARTNERS)
        torch.testing.assert_close(mixed, lam * x + (1 - lam) * px)
        torch.testing.assert_close(rows, torch.tensor([[1, 0.75, 0.25, 0], [0, 1, 0, 0], [0, 0, 0, 0.3]]))
        again, union = with_weights(MixUp(4, multi_label="union"), self.lam)(x, Y, px, PARTNERS)
        torch.testing.assert_close(again, mixed)
        assert union.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]

    def test_between_class(self) -> None:
        x, px = torch.randn(3, 4000), 0.1 * torch.randn(3, 4000)
        for rule, expected in (("union", torch.maximum(Y, PARTNERS).float()), ("convex", None)):
            mixer = BetweenClass(4, 16000, multi_label=rule)
            mixed, rows = with_weights(mixer, self.lam)(x, Y, px, PARTNERS)
            torch.testing.assert_close(mixed, between_class_mix(x, px, self.lam, 16000))
            share = self.lam.unsqueeze(1)
            torch.testing.assert_close(rows, share * Y + (1 - share) * PARTNERS if expected is None else expected)

    def test_cutmix_mixes_by_the_share_that_is_left(self) -> None:
        x, px = torch.zeros(3, 100), torch.ones(3, 100)
        mixed, rows = CutMix(4, dims=(-1,), multi_label="convex")(x, Y, px, PARTNERS)
        share = 1.0 - mixed.mean(1, keepdim=True)
        torch.testing.assert_close(rows, share * Y + (1 - share) * PARTNERS)


@pytest.mark.parametrize("make", MIXERS, ids=NAMES)
class TestRules:
    @pytest.mark.parametrize("rule", ["union", "convex"])
    def test_forms_of_targets_and_partners_of_the_batch(self, make: Any, rule: str, device: torch.device) -> None:
        x = torch.randn(3, 2048, device=device)
        found = []
        for rows in (Y, Y.bool(), Y.float(), Y.double(), Y.to(torch.uint8)):
            rows = rows.to(device)
            before = x.clone(), rows.clone()
            torch.manual_seed(5)
            mixed, dense = make(4, multi_label=rule)(x, rows)
            assert dense.is_floating_point()
            assert torch.equal(x, before[0])
            assert torch.equal(rows, before[1])
            assert bool((dense.sum(1) <= 3).all())
            found.append((mixed, dense.float()))
        for mixed, dense in found[1:]:
            torch.testing.assert_close(mixed, found[0][0])
            torch.testing.assert_close(dense, found[0][1])

    def test_a_sample_that_is_its_own_partner_stays(self, make: Any) -> None:
        x = torch.randn(1, 2048)
        for rule in ("union", "convex"):
            _, dense = make(4, multi_label=rule)(x, Y[:1])
            torch.testing.assert_close(dense, Y[:1].float())

    def test_mixed_rows_may_be_mixed_again(self, make: Any) -> None:
        mixer = make(4, multi_label="convex")
        x, rows = mixer(torch.randn(3, 2048), Y)
        assert mixer(x, rows)[1].shape == (3, 4)

    def test_one_label_alone(self, make: Any) -> None:
        x, y = torch.randn(6, 2048), torch.tensor([0, 1, 1, 0, 1, 0])
        assert make(1, multi_label="convex")(x, y)[1].shape == (6,)
        assert make(1, multi_label="union")(x, y.unsqueeze(1))[1].shape == (6, 1)

    def test_errors(self, make: Any) -> None:
        x = torch.randn(3, 2048)
        mixer = make(4, multi_label="union")
        with pytest.raises(ValueError, match=r"`targets` must be multi-hot rows \[N, 4, \.\.\.\] .*have shape \[3\]"):
            mixer(x, torch.tensor([0, 1, 2]))
        with pytest.raises(ValueError, match=r"`targets` must be multi-hot rows .*have shape \[3, 3\]"):
            mixer(x, Y[:, :3])
        with pytest.raises(ValueError, match=r"`partner_targets` must be 0, 1 or between them .*an entry is 2"):
            mixer(x, Y, x, 2 * PARTNERS)
        with pytest.raises(ValueError, match=r"`partner_targets` must be multi-hot rows"):
            mixer(x, Y, x, torch.tensor([0, 1, 2]))
        with pytest.raises(ValueError, match=r'`multi_label` must be "union", "convex" or None, but is \'max\''):
            make(4, multi_label="max")
        with pytest.raises(ValueError, match=r'a mixer with `multi_label="union"`'):
            make(4)(x, Y.float())


def test_what_compares_classes_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="`different_classes` compares the classes of two clips"):
        BetweenClass(4, 16000, different_classes=True, multi_label="union")
    with pytest.raises(ValueError, match="`ratio` compares the classes of two clips"):
        BetweenClass(2, 16000, UniMix([5, 5]), multi_label="union")
    with pytest.raises(ValueError, match="`mixer` mixes several labels a sample"):
        effective_prior([5, 5], MixUp(2, multi_label="convex"))


def test_repr_says_how_labels_are_mixed() -> None:
    assert repr(MixUp(4, 0.5, "union")) == "MixUp(num_classes=4, alpha=0.5, multi_label='union')"
    assert "multi_label" not in repr(MixUp(4))
