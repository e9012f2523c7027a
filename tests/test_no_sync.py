"""Mixing on a GPU must not make the host wait for it."""

from __future__ import annotations

import pytest
import torch

from ltaug import BayiasLoss, BetweenClass, CutMix, LADELoss, MixUp, ReMix, UniMix, exponential_counts

COUNTS = exponential_counts(500, 100, 100)
MIXERS = [
    MixUp(100),
    UniMix(COUNTS),
    UniMix(COUNTS, in_batch_tau=0.9),
    ReMix(COUNTS),
    CutMix(100),
    BetweenClass(100, 44100),
    BetweenClass(100, 16000, ratio=UniMix(COUNTS), different_classes=True),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_a_mixer_does_not_synchronise(mixer: MixUp) -> None:
    inputs = torch.rand(128, 3, 32, 32, device="cuda")
    targets = torch.randint(100, (128,), device="cuda")
    losses = [BayiasLoss(COUNTS).cuda(), LADELoss(COUNTS).cuda()]
    mixer(inputs, targets)  # moves its table of counts, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, dense = mixer(inputs, targets)
        mixer(inputs, targets, inputs, targets)
        for loss in losses:
            loss(mixed.mean((1, 2, 3)).unsqueeze(1).expand(-1, 100), dense)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_synchronisation_would_be_seen() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError):
            torch.rand(3, device="cuda").max().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
