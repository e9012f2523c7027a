"""CutMix and ReMix against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltaug.mixers import CutMix, ReMix
from ltaug.mixers.functional import cut_boxes, remix_label_weight


class TestCutMix:
    def test_a_box_is_pasted_and_its_area_is_the_labels_weight(self) -> None:
        torch.manual_seed(0)
        zeros, ones = torch.zeros(200, 2, 12, 16), torch.ones(200, 2, 12, 16)
        first, partner = torch.zeros(200, dtype=torch.long), torch.ones(200, dtype=torch.long)
        mixed, targets = CutMix(2)(zeros, first, ones, partner)
        for image, target in zip(mixed, targets, strict=True):
            assert bool((image[0] == image[1]).all())  # the same box in every channel
            pasted = image[0].nonzero()
            if len(pasted):
                low, high = pasted.min(0).values, pasted.max(0).values + 1
                assert len(pasted) == int((high - low).prod())  # a full rectangle
            assert target[1].item() == pytest.approx(len(pasted) / (12 * 16), abs=1e-6)
        assert len({int(image.sum()) for image in mixed}) > 20  # a box of its own for every pair

    def test_boxes_are_those_of_a_plain_loop(self) -> None:
        generator = np.random.default_rng(0)
        lam, centre = generator.random(50), generator.random((50, 2))
        start, stop, kept = cut_boxes(torch.tensor(lam), torch.tensor(centre), [10, 30])
        for k in range(50):
            share = 1.0
            for axis, size in enumerate((10, 30)):
                cut = int(size * np.sqrt(1.0 - lam[k]))
                middle = int(size * centre[k, axis])
                low, high = max(middle - cut // 2, 0), min(middle + cut // 2, size)
                assert (start[k, axis].item(), stop[k, axis].item()) == (low, high)
                share *= (high - low) / size
            assert kept[k].item() == pytest.approx(1.0 - share)

    def test_one_axis_cuts_a_stretch(self) -> None:
        torch.manual_seed(1)
        zeros, ones, labels = torch.zeros(50, 1, 1000), torch.ones(50, 1, 1000), torch.zeros(50, dtype=torch.long)
        mixed, targets = CutMix(2, dims=(-1,))(zeros, labels, ones, labels + 1)
        assert torch.allclose(mixed.mean((1, 2)), targets[:, 1], atol=1e-6)
        assert bool((mixed.diff(dim=-1).abs().sum((1, 2)) <= 2).all())  # one stretch has two ends at most

    @pytest.mark.parametrize("dims", [(0, 1), (-1, 3), (5,), (-4, -1)])
    def test_bad_axes_are_named(self, dims: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="`dims` must name different axes"):
            CutMix(2, dims=dims)(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long))


class TestReMix:
    @pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (2.0, 0.9), (10.0, 0.0)])
    def test_the_label_follows_the_three_cases(self, kappa: float, tau: float) -> None:
        generator = np.random.default_rng(0)
        lam = torch.tensor(generator.random(500))
        n_i, n_j = (torch.tensor(generator.choice([1, 3, 9, 10, 30, 90], 500)) for _ in range(2))
        weight = remix_label_weight(lam, n_i, n_j, kappa, tau)
        seen = set()
        for value, share, i, j in zip(weight.tolist(), lam.tolist(), n_i.tolist(), n_j.tolist(), strict=True):
            if i / j >= kappa and share < tau:
                expected, case = 0.0, "partner"
            elif j / i >= kappa and 1 - share < tau:
                expected, case = 1.0, "first"
            else:
                expected, case = share, "both"
            assert value == expected
            seen.add(case)
        assert seen == ({"both"} if tau == 0.0 else {"partner", "first", "both"})

    def test_inputs_are_mixup_whatever_the_label(self) -> None:
        torch.manual_seed(0)
        zeros, ones = torch.zeros(400, 3), torch.ones(400, 3)
        head, tail = torch.zeros(400, dtype=torch.long), torch.ones(400, dtype=torch.long)
        mixed, targets = ReMix([100, 1])(ones, head, zeros, tail)
        lam = mixed[:, 0]
        assert torch.allclose(targets[:, 0], torch.where(lam < 0.5, torch.zeros_like(lam), lam))

    def test_equal_counts_are_mixup(self) -> None:
        torch.manual_seed(0)
        zeros, ones, labels = torch.zeros(50, 1), torch.ones(50, 1), torch.zeros(50, dtype=torch.long)
        mixed, targets = ReMix([7, 7])(ones, labels, zeros, labels + 1)
        assert torch.allclose(targets[:, 0], mixed[:, 0])

    @pytest.mark.parametrize(
        ("arguments", "name"), [({"kappa": 1.0}, "kappa"), ({"tau": 1.5}, "tau"), ({"alpha": 0}, "alpha")]
    )
    def test_bad_arguments_are_named(self, arguments: dict[str, float], name: str) -> None:
        with pytest.raises(ValueError, match=f"`{name}`"):
            ReMix([5, 5], **arguments)


@pytest.mark.parametrize(
    ("shape", "dims", "alpha"), [((32, 32), (-2, -1), 1.0), ((7, 24), (-2, -1), 0.4), ((9,), (-1,), 2.0)]
)
def test_the_mean_weight_in_whole_pixels(shape: tuple[int, ...], dims: tuple[int, ...], alpha: float) -> None:
    mixer = CutMix(2, alpha, dims, sizes=shape)
    drawn = []
    for _ in range(20):
        blank, zeros = torch.zeros(2000, 1, *shape), torch.zeros(2000, dtype=torch.int64)
        drawn.append(mixer(blank, zeros, blank, zeros + 1)[1][:, 0].double())
    drawn = torch.cat(drawn)
    error = (drawn.mean() - mixer.expected_weights()[0, 1]).abs()
    assert error < 4 * drawn.std() / len(drawn) ** 0.5
    # The continuous image is another one, and is what many pixels come to.
    smooth = CutMix(2, alpha, dims).expected_weights()[0, 1]
    assert (smooth - mixer.expected_weights()[0, 1]).abs() > 5e-3
    fine = CutMix(2, alpha, dims, sizes=tuple(2000 for _ in dims)).expected_weights()[0, 1]
    assert fine == pytest.approx(float(smooth), abs=1e-3)


def test_sizes_are_one_an_axis() -> None:
    with pytest.raises(ValueError, match="one positive length for each of the dims"):
        CutMix(2, sizes=(32,))
