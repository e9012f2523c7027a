"""A mixer with a loss trains the same network as the papers' sums over two labels, written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ltaug import (
    BayiasLoss,
    CDTLoss,
    ClassWeightedLoss,
    FocalLoss,
    LabelAwareSmoothingLoss,
    LDAMLoss,
    MixUp,
    PriorCorrectedLoss,
    ReMix,
    UniMix,
)
from ltaug.losses import effective_number_weights
from ltaug.mixers import Mixer

COUNTS = [300, 90, 20, 4]
C, D, BATCH, STEPS, ALPHA = len(COUNTS), 6, 16, 25, 0.6

Weights = Callable[[float, int, int], tuple[float, float]]
"""From a Beta draw and the counts of both classes to the weights of the first input and of the first label."""


def mixup(b: float, n_i: int, n_j: int) -> tuple[float, float]:
    return b, b


def unimix(b: float, n_i: int, n_j: int) -> tuple[float, float]:
    xi = (b + n_j / (n_i + n_j)) % 1.0
    return xi, xi


def remix(b: float, n_i: int, n_j: int) -> tuple[float, float]:
    if n_i / n_j >= 3 and b < 0.5:
        return b, 0.0
    if n_i / n_j <= 1 / 3 and 1 - b < 0.5:
        return b, 1.0
    return b, b


def swapped(b: float, n_i: int, n_j: int) -> tuple[float, float]:
    return b, 1.0 - b


MIXERS: dict[str, tuple[Mixer, Weights]] = {
    "MixUp": (MixUp(C, ALPHA), mixup),
    "UniMix": (UniMix(COUNTS, ALPHA), unimix),
    "ReMix": (ReMix(COUNTS, ALPHA), remix),
}
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross-entropy": nn.CrossEntropyLoss,
    "Bayias": lambda: BayiasLoss(COUNTS),
    "prior": lambda: PriorCorrectedLoss(COUNTS, tau=0.5, target_prior=[1, 2, 3, 4]),
    "smoothing": lambda: LabelAwareSmoothingLoss(COUNTS),
    "LDAM": lambda: LDAMLoss(COUNTS, scale=3.0),
    "focal": lambda: FocalLoss(2.0),
    "CDT": lambda: CDTLoss(COUNTS),
    "weighted": lambda: ClassWeightedLoss(nn.CrossEntropyLoss(), effective_number_weights(COUNTS)),
}


def batches() -> list[list[Tensor]]:
    """Two streams: points in float64 and labels, frequent first and rare as partners."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor(COUNTS, dtype=torch.float64)
    streams = []
    for _ in range(STEPS):
        batch = []
        for weight in (weights, 1 / weights):
            labels = torch.multinomial(weight, BATCH, replacement=True, generator=generator)
            batch += [labels[:, None] + torch.randn(BATCH, D, dtype=torch.float64, generator=generator), labels]
        streams.append(batch)
    return streams


def trained(step: Callable[[nn.Module, list[Tensor]], Tensor]) -> Tensor:
    """All parameters after a run of SGD with the given loss of a model and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 12), nn.Tanh(), nn.Linear(12, C)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for k, batch in enumerate(batches()):
        torch.manual_seed(k)
        optimizer.zero_grad()
        step(model, batch).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def written_out(loss: nn.Module, weights: Weights) -> Callable[[nn.Module, list[Tensor]], Tensor]:
    """One forward for each pair, and the mean of lam * loss(y_i) + (1 - lam) * loss(y_j)."""

    def step(model: nn.Module, batch: list[Tensor]) -> Tensor:
        alpha = torch.full((BATCH,), ALPHA)
        draws = torch.distributions.Beta(alpha, alpha).sample().tolist()
        total = torch.zeros((), dtype=torch.float64)
        for b, x_i, y_i, x_j, y_j in zip(draws, *batch, strict=True):
            share, lam = weights(b, COUNTS[y_i], COUNTS[y_j])
            logits = model(share * x_i + (1 - share) * x_j).unsqueeze(0)
            total = total + lam * loss(logits, y_i.view(1)) + (1 - lam) * loss(logits, y_j.view(1))
        return total / BATCH

    return step


def with_ltaug(loss: nn.Module, mixer: Mixer) -> Callable[[nn.Module, list[Tensor]], Tensor]:
    def step(model: nn.Module, batch: list[Tensor]) -> Tensor:
        inputs, targets = mixer(*batch)
        return loss(model(inputs), targets)

    return step


@pytest.mark.parametrize(
    ("mixer", "loss"),
    [
        *((name, "Bayias") for name in MIXERS),
        *(("UniMix", name) for name in LOSSES if name != "Bayias"),
        ("MixUp", "cross-entropy"),
        ("ReMix", "cross-entropy"),
    ],
)
def test_a_mixer_and_a_loss_are_the_sum_over_two_labels(mixer: str, loss: str) -> None:
    ours = trained(with_ltaug(LOSSES[loss](), MIXERS[mixer][0]))
    theirs = trained(written_out(LOSSES[loss](), MIXERS[mixer][1]))
    # Draws and weights are float32 in both.
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_wrong_weights_are_noticed() -> None:
    ours = trained(with_ltaug(BayiasLoss(COUNTS), MIXERS["MixUp"][0]))
    for wrong in (unimix, remix, swapped):
        assert not torch.allclose(ours, trained(written_out(BayiasLoss(COUNTS), wrong)), rtol=1e-2, atol=1e-2)
