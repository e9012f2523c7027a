"""From PIL images to batches, of imagenet_lt: crops and colours of torchvision, alike on workers, device, processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_support import ROOT, imported
from scipy.stats import ks_2samp
from torch import Tensor
from torch.utils.data import Dataset

from ltaug import ClassPowerSampler, PairSampler

pytest.importorskip("timm")
v2 = pytest.importorskip("torchvision.transforms.v2")


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    with imported(ROOT / "recipes" / "imagenet_lt", "config", "data", "loader") as modules:
        yield modules


def photo(k: int, width: int = 60, height: int = 44) -> Image.Image:
    """Smooth colours of every brightness."""
    coarse = np.random.default_rng(k).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


class Photos(Dataset):
    """What the recipe's ImageSet does, without files."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform
        self.labels = torch.arange(20) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return self.transform(photo(k)), int(self.labels[k])


def settings(recipe: SimpleNamespace, **changes: Any) -> Any:
    return recipe.config.Config(**{"image_size": 32, "batch_size": 8, "workers": 0, **changes})


def epoch_of(
    recipe: SimpleNamespace, epoch: int = 1, *, processes: int = 1, paired: bool = False, first: int = 0, **changes: Any
) -> list[Tensor]:
    """All tensors of an epoch, step by step, put together from all processes."""
    cfg = settings(recipe, **changes)
    photos = Photos(recipe.loader.train_transform(cfg))
    sampler: Any = ClassPowerSampler(photos.labels, 0.0, seed=2)
    if paired:
        sampler = PairSampler(sampler, sampler)
    parts = []
    for process in range(processes):
        loader = recipe.loader.TrainLoader(cfg, photos, processes, process)
        parts.append([flat(batch) for batch in loader.epoch(sampler, epoch, first)])
    return [torch.cat(tensors) for step in zip(*parts, strict=True) for tensors in zip(*step, strict=True)]


def flat(batch: Any) -> list[Tensor]:
    return [batch] if isinstance(batch, Tensor) else [tensor for part in batch for tensor in flat(part)]


def pixels_of(inputs: Tensor, recipe: SimpleNamespace) -> Tensor:
    """Undo the normalisation, to 0..255."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (recipe.loader.IMAGENET_MEAN, recipe.loader.IMAGENET_STD))
    return (inputs * std + mean) * 255


class TestCrop:
    @pytest.mark.parametrize(("width", "height"), [(500, 375), (90, 200)])
    def test_boxes_are_distributed_as_torchvisions(self, recipe: SimpleNamespace, width: int, height: int) -> None:
        boxes = np.array([recipe.loader.random_box(width, height) for _ in range(3000)], dtype=float)
        transform = v2.RandomResizedCrop(32)
        drawn = [transform.make_params([torch.empty(3, height, width)]) for _ in range(3000)]
        theirs = np.array([[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in drawn], float)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        for quantity in (
            lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]),
            lambda b: (b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]),
            lambda b: b[:, 0],
            lambda b: b[:, 3],
        ):
            assert ks_2samp(quantity(boxes), quantity(theirs)).pvalue > 1e-4

    @pytest.mark.parametrize(("width", "height", "box"), [(1000, 10, (493, 0, 506, 10)), (9, 300, (0, 144, 9, 156))])
    def test_a_strip_is_cropped_in_the_middle(
        self, recipe: SimpleNamespace, width: int, height: int, box: tuple
    ) -> None:
        assert recipe.loader.random_box(width, height) == box

    @pytest.mark.parametrize("box", [(5, 3, 55, 41), (10, 20, 30, 38)])  # smaller, and larger than before
    @pytest.mark.parametrize("augment_on", ["workers", "device"])
    def test_resized_as_torchvision_does(
        self, recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, box: tuple, augment_on: str
    ) -> None:
        monkeypatch.setattr(recipe.loader, "random_box", lambda width, height: box)
        transform = recipe.loader.train_transform(settings(recipe, augmentation="plain", augment_on=augment_on))
        left, top, right, bottom = box
        expected = v2.functional.resized_crop(
            v2.functional.pil_to_tensor(photo(0)), top, left, bottom - top, right - left, [32, 32], antialias=True
        )
        mirrored = 0
        for _ in range(20):
            result = transform(photo(0))
            pixels, draws = (result, None) if augment_on == "workers" else result
            assert pixels.dtype == torch.uint8
            straight, back = ((other.int() - expected.int()).abs().max() for other in (pixels, pixels.flip(-1)))
            assert min(straight, back) <= 1
            assert draws is None or (straight <= 1 and draws.shape == (7,))
            mirrored += int(back < straight)
        assert (2 <= mirrored <= 18) == (augment_on == "workers")

    def test_the_whole_image(self, recipe: SimpleNamespace) -> None:
        transform = recipe.loader.train_transform(settings(recipe, augmentation="flip", augment_on="device"))
        expected = v2.Resize((32, 32))(v2.functional.pil_to_tensor(photo(3))).int()
        assert (transform(photo(3))[0].int() - expected).abs().max() <= 1


class TestColour:
    def test_steps_are_torchvisions(self, recipe: SimpleNamespace) -> None:
        functional = v2.functional
        steps = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
        images = torch.stack([v2.functional.pil_to_tensor(photo(k)) for k in range(30)]).float()
        draws = torch.rand(30, 7)
        batch = recipe.loader.jitter_batch(images.clone(), draws)
        orders = set()
        for image, numbers, together in zip(images, draws, batch, strict=True):
            expected, order = image / 255, numbers[4:].argsort().tolist()
            orders.add(tuple(order))
            for step in order:
                expected = steps[step](expected, 0.6 + 0.8 * float(numbers[1 + step]))
            alone = recipe.loader.jitter_image(image.clone(), numbers)
            torch.testing.assert_close(alone / 255, expected, rtol=0, atol=2e-4)
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-2)
        assert len(orders) == 6
        assert (batch == 255).any()  # something was clamped

    def test_every_image_has_its_own(self, recipe: SimpleNamespace) -> None:
        images = torch.full((8, 3, 4, 4), 100.0)
        jittered = recipe.loader.jitter_batch(images, torch.rand(8, 7))
        assert len(set(jittered[:, 0, 0, 0].tolist())) == 8


class TestBatches:
    @pytest.mark.parametrize("augmentation", ["plain", "color", "randaugment", "flip"])
    def test_workers_and_device_make_the_same(self, recipe: SimpleNamespace, augmentation: str) -> None:
        mine, others = (
            epoch_of(recipe, augmentation=augmentation, augment_on=where) for where in ("workers", "device")
        )
        assert len(mine) == len(others) == 2 * 2
        for a, b in zip(mine, others, strict=True):
            if a.ndim == 1:
                assert torch.equal(a, b)
            else:
                assert a.dtype == b.dtype == torch.float32
                # workers round to uint8 once more
                difference = (pixels_of(a, recipe) - pixels_of(b, recipe)).abs().max()
                assert difference < (0.51 if augmentation == "color" else 1e-3)

    @pytest.mark.parametrize("augment_on", ["workers", "device"])
    @pytest.mark.parametrize("paired", [False, True])
    def test_the_same_on_any_number_of_processes_and_workers(
        self, recipe: SimpleNamespace, augment_on: str, paired: bool
    ) -> None:
        alone = epoch_of(recipe, augment_on=augment_on, paired=paired)
        each = 4 if paired else 2
        others = [
            epoch_of(recipe, augment_on=augment_on, paired=paired, processes=2),
            alone[:each] + epoch_of(recipe, augment_on=augment_on, paired=paired, first=1),
        ]
        if paired:
            others.append(epoch_of(recipe, augment_on=augment_on, paired=paired, workers=2))
        for other in others:
            for a, b in zip(alone, other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        another = epoch_of(recipe, 2, augment_on=augment_on, paired=paired)
        assert not torch.equal(another[0], alone[0])

    def test_epochs_in_turn_from_the_same_workers(self, recipe: SimpleNamespace) -> None:
        cfg = settings(recipe, workers=1)
        photos = Photos(recipe.loader.train_transform(cfg))
        loader = recipe.loader.TrainLoader(cfg, photos, 1, 0)
        plain = ClassPowerSampler(photos.labels, 0.0, seed=2)
        labels = [batch[1] for batch in loader.epoch(plain, 1)]
        pairs = [flat(batch) for batch in loader.epoch(PairSampler(plain, plain), 2)]
        assert torch.equal(torch.cat(labels), epoch_of_labels(plain, photos, 1))
        assert [len(batch) for batch in pairs] == [4, 4]
        assert len(loader) == 2

    def test_the_mixing_draws_what_it_would_draw_without(self, recipe: SimpleNamespace) -> None:
        before = torch.get_rng_state()
        epoch_of(recipe)
        assert torch.equal(before, torch.get_rng_state())

    def test_randaugment_changes_images(self, recipe: SimpleNamespace) -> None:
        changed, plain = (epoch_of(recipe, augmentation=name, augment_on="device") for name in ("randaugment", "plain"))
        different = (changed[0] - plain[0]).abs().flatten(1).amax(1) > 0.1
        assert different.float().mean() > 0.5

    def test_normalisation_is_torchvisions(self, recipe: SimpleNamespace) -> None:
        cfg = settings(recipe)
        pixels = torch.randint(256, (2, 3, 5, 4), dtype=torch.uint8)
        finished = recipe.loader.Finished([(pixels, torch.tensor([0, 1]))], cfg, "cpu")
        ((inputs, labels),) = finished
        expected = v2.functional.normalize(pixels / 255, recipe.loader.IMAGENET_MEAN, recipe.loader.IMAGENET_STD)
        torch.testing.assert_close(inputs, expected)
        assert labels.tolist() == [0, 1]
        assert len(finished) == 1


class TestTestImages:
    @pytest.mark.parametrize("test_resize", [1.0, 0.875])
    def test_as_torchvision_does(self, recipe: SimpleNamespace, test_resize: float) -> None:
        cfg = settings(recipe, test_resize=test_resize)
        side = [32, 32] if test_resize == 1 else math.floor(32 / 0.875 + 0.5)
        expected = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(side),
                v2.CenterCrop(32),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(recipe.loader.IMAGENET_MEAN, recipe.loader.IMAGENET_STD),
            ]
        )
        photos = Photos(recipe.loader.test_transform(cfg))
        shares = [recipe.loader.test_loader(cfg, photos, 3, process) for process in range(3)]
        inputs, labels = (torch.cat(parts) for parts in zip(*(b for share in shares for b in share), strict=True))
        assert torch.equal(labels, photos.labels)
        for k, image in enumerate(inputs):
            torch.testing.assert_close(image, torch.as_tensor(expected(photo(k))), rtol=0, atol=0.02)


def epoch_of_labels(sampler: ClassPowerSampler, photos: Photos, epoch: int) -> Tensor:
    sampler.set_epoch(epoch)
    return photos.labels[sampler.indices()][:16]
