"""A long tail that is learnt in a second: Gaussian clusters, 500 to 5 samples a class, and a small network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ltaug import ClassPowerSampler, PairSampler, exponential_counts
from ltaug.classifiers import CosineClassifier
from ltaug.metrics import shot_accuracy

C, D, BATCH, EPOCHS = 10, 16, 64, 20
COUNTS = exponential_counts(500, C, 100)
Mixer = Callable[..., tuple[Tensor, Tensor]]


def clusters(counts: Tensor, seed: int, world: int = 0) -> tuple[Tensor, Tensor]:
    """Points of overlapping clusters, whose centres are those of a world, and their labels."""
    centres = torch.randn(C, D, generator=torch.Generator().manual_seed(world))
    labels = torch.repeat_interleave(torch.arange(C), counts)
    noise = torch.randn(len(labels), D, generator=torch.Generator().manual_seed(1000 + seed))
    return centres[labels] + 1.2 * noise, labels


def network(cosine: bool = False) -> nn.Module:
    head = CosineClassifier(64, C) if cosine else nn.Linear(64, C)
    return nn.Sequential(nn.Linear(D, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), head)


def train(
    loss: nn.Module,
    mixer: Mixer | None = None,
    taus: tuple[float, float | None] = (1.0, None),
    cosine: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy by shot group, on balanced test points, of a network trained with a loss.

    Args:
        loss: any of the library's.
        mixer: mixes the two streams.
        taus: class powers of the first and of the partner's stream; no second stream for None.
        cosine: whether the logits are cosines.
        seed: of the points, of the first weights and of the order.
    """
    torch.manual_seed(seed)
    points, labels = clusters(COUNTS, seed, world=seed)
    model = network(cosine)
    first = ClassPowerSampler(labels, taus[0], replacement=False if taus[0] == 1.0 else True, seed=seed)
    sampler = first if taus[1] is None else PairSampler(first, ClassPowerSampler(labels, taus[1], seed=seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(epoch)
        for chosen in sampler.indices().split(BATCH):
            i, j = (chosen, None) if chosen.ndim == 1 else chosen.unbind(1)
            x, y = points[i], labels[i]
            if mixer is not None:
                x, y = mixer(x, y) if j is None else mixer(x, y, points[j], labels[j])
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    test_points, test_labels = clusters(torch.full((C,), 100), 500 + seed, world=seed)
    with torch.no_grad():
        probs = model(test_points).softmax(1)
    return shot_accuracy(probs, test_labels, COUNTS)
