"""The reference: the same work in plain code, as it is usually written. Nothing here is made slow on purpose."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import transforms

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
"""Of CIFAR's pixels, per channel; any would do."""


def cifar_transform() -> transforms.Compose:
    """The augmentation of every CIFAR code: an image in, a normalised tensor out."""
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 holds them: one array, turned into a PIL image and transformed one by one."""

    def __init__(self, images: np.ndarray, labels: list[int], transform: transforms.Compose) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]

    def __len__(self) -> int:
        return len(self.images)


class PlainPairs(Dataset[tuple[Tensor, int, Tensor, int]]):
    """Each image with a partner, drawn in `__getitem__` as two-branch codes do: a class, then one of its images."""

    def __init__(self, samples: PlainImages) -> None:
        self.samples = samples
        self.members: dict[int, list[int]] = {}
        for index, label in enumerate(samples.labels):
            self.members.setdefault(label, []).append(index)
        self.classes = sorted(self.members)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor, int]:
        partner = random.choice(self.members[random.choice(self.classes)])
        return *self.samples[index], *self.samples[partner]

    def __len__(self) -> int:
        return len(self.samples)


def unimix_image_by_image(
    images: Tensor,
    labels: Tensor,
    class_counts: np.ndarray,
    alpha: float,
    rng: Generator,
    partner_images: Tensor | None = None,
    partner_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """UniMix in a loop over the batch: a Beta draw, the factor, the mixed image and the mixed label of each pair.

    Without partners they are a permutation of the batch.
    """
    if partner_images is None or partner_labels is None:
        permutation = torch.randperm(len(images))
        partner_images, partner_labels = images[permutation], labels[permutation]
    one_hot = F.one_hot(labels, len(class_counts)).float()
    partner_one_hot = F.one_hot(partner_labels, len(class_counts)).float()
    mixed = torch.empty_like(images)
    targets = torch.empty_like(one_hot)
    for k, (i, j) in enumerate(zip(labels.tolist(), partner_labels.tolist(), strict=True)):
        n_i, n_j = class_counts[i], class_counts[j]
        lam = (rng.beta(alpha, alpha) + n_j / (n_i + n_j)) % 1.0
        mixed[k] = lam * images[k] + (1.0 - lam) * partner_images[k]
        targets[k] = lam * one_hot[k] + (1.0 - lam) * partner_one_hot[k]
    return mixed, targets


def lade_with_masks(logits: Tensor, labels: Tensor, prior: Tensor, alpha: float, remine_lambda: float) -> Tensor:
    """LADE with a mask for the samples of each class and everything about them in matrices of classes by samples."""
    num_classes = len(prior)
    columns = logits.T
    mask = labels.unsqueeze(0) == torch.arange(num_classes, device=labels.device).unsqueeze(1)
    count = mask.sum(1)
    own = torch.where(mask, columns, torch.zeros_like(columns)).sum(1) / count.clamp(min=1)
    log_ratio = -torch.log(prior * num_classes)[labels]
    log_a = torch.logsumexp(columns + log_ratio.unsqueeze(0), 1) - np.log(len(labels))
    each = log_a + remine_lambda * log_a**2 - own
    regularizer = torch.sum(torch.where(count > 0, prior * each, torch.zeros_like(each)))
    return F.cross_entropy(logits + torch.log(prior), labels) + alpha * regularizer
