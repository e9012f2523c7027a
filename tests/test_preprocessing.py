"""From raw samples to what networks take: number for number what the recipes' own loaders of test samples give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ltaug import ResidentLoader
from ltaug.errors import UserError
from ltaug.loaders import ResidentWaveformLoader
from ltaug.preprocessing import KINDS, preprocessing_module

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pixels(*shape: int) -> Tensor:
    """Noise, in which every rounding shows."""
    return torch.from_numpy(np.random.default_rng(shape).integers(256, size=shape, dtype=np.uint8))


def test_small_images_are_normalised_as_by_their_loader() -> None:
    images, statistics = pixels(5, 8, 8, 3), {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
    ((expected, _),) = ResidentLoader(images, torch.arange(5), batch_size=5, **statistics)
    found = preprocessing_module({"kind": "small_images", "size": [8, 8, 3], **statistics})(images)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("size", "share"), [(32, 0.875), (48, 1.0), (40, 0.5), (33, 1.2), (20, 6.0)])
def test_every_pixel_of_a_picture_is_that_of_the_test_transform(size: int, share: float) -> None:
    transforms = pytest.importorskip("ltaug.vision.transforms")
    from PIL import Image

    module = preprocessing_module(
        {"kind": "images", "image_size": size, "test_resize": share, "mean": MEAN, "std": STD}
    )
    shapes = [(37, 50), (50, 37), (64, 64), (9, 7), (1, 20), (201, 150), (30, 500), (333, 21), (32, 33), (375, 500)]
    for height, width in shapes:  # smaller and larger, panoramas, and those that are not resized
        image = pixels(height, width, 3)
        cropped = transforms.TestTransform(size, share)(Image.fromarray(image.numpy()))[None]
        assert torch.equal(module(image[None]), transforms.Normalize(MEAN, STD)(cropped)), (height, width)


@pytest.mark.parametrize("more", [{"test_crops": 10, "test_hop": 0.0}, {"test_crops": 3, "test_hop": 0.033}])
@pytest.mark.parametrize("crop_length", [100, 101])
def test_sounds_are_cut_as_by_their_loader(more: dict[str, Any], crop_length: int) -> None:
    module = preprocessing_module({"kind": "sounds", "sample_rate": 1000, "crop_length": crop_length, **more})
    how = {"batch_size": 1, "hop": 33} if more["test_hop"] else {"batch_size": 2, "crops": more["test_crops"]}
    for length in (1, 2, 49, 100, 101, 102, 999):  # much shorter than a crop, and much longer
        clips = torch.from_numpy(np.random.default_rng(length).integers(-32768, 32768, size=(2, length), dtype="int16"))
        loader = ResidentWaveformLoader(clips, [0, 1], crop_length=crop_length, **how)  # type: ignore[arg-type]
        assert torch.equal(module(clips.float() / 32768), torch.cat([inputs for inputs, _ in loader])), length
        louder = clips.float() / 32768 + 0.3 / 32768
        assert torch.equal(module(louder), module(clips.float() / 32768))  # rounded to 16 bits


@pytest.mark.parametrize("size", [(96, 128), (33, 65)])
def test_scenes_are_resized_as_in_their_set(size: tuple[int, int]) -> None:
    segmentation = pytest.importorskip("ltaug.vision.segmentation")
    normalize = pytest.importorskip("ltaug.vision.transforms").Normalize
    height, width = size
    for h, w in [(96, 128), (50, 40), (97, 130), (144, 192), (101, 75), (333, 999)]:
        rgb, metres = pixels(h, w, 3), np.random.default_rng(h).uniform(0, 655, (h, w)).astype(np.float32)
        metres[:5] = 0
        scene = rgb.numpy(), metres, np.zeros((h, w), np.uint8)
        settings = SimpleNamespace(height=height, width=width, modality="rgb", flip=False)
        picture, depth, _ = segmentation.SceneSet(lambda k, scene=scene: scene, settings).scene(0)
        common = {"kind": "scenes", "height": height, "width": width}
        module = preprocessing_module({**common, "modality": "rgb", "mean": MEAN, "std": STD})
        expected = normalize(MEAN, STD)(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])
        assert torch.equal(module(rgb[None]), expected), (h, w)
        module = preprocessing_module({**common, "modality": "depth", "mean": [0.35], "std": [0.3]})
        expected = normalize([0.35], [0.3])(torch.from_numpy(depth.copy())[None, None])
        assert torch.equal(module(torch.from_numpy(metres)[None]), expected), (h, w)


def test_what_is_not_known_is_an_error() -> None:
    with pytest.raises(UserError, match=r"`preprocessing` has no `kind`\. It must be one of small_images, images, s"):
        preprocessing_module({"mean": [0.5]})
    with pytest.raises(UserError, match=r"an unknown `kind`, 'image', did you mean 'images'"):
        preprocessing_module({"kind": "image"})
    for kind in KINDS:
        with pytest.raises(UserError, match=rf"of kind '{kind}' lacks '\w+'\. Restore"):
            preprocessing_module({"kind": kind})
