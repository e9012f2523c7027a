"""From PIL images to tensors: crops, resizing, colours and normalisation are torchvision's; panoramas stay small."""

from __future__ import annotations

import math
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from ltaug.vision import transforms
from ltaug.vision.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalize,
    TestTransform,
    TrainTransform,
    collate_images,
    jitter,
    random_box,
    square_box,
    to_pixels,
)


def photo(k: int, width: int = 60, height: int = 44) -> Image.Image:
    """Smooth colours of every brightness."""
    coarse = np.random.default_rng(k).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


class TestTraining:
    @pytest.mark.parametrize("box", [(5, 3, 55, 41), (10, 20, 30, 38)])  # smaller, and larger than before
    def test_resized_as_torchvision_does(self, monkeypatch: pytest.MonkeyPatch, box: tuple) -> None:
        monkeypatch.setattr(transforms, "random_box", lambda width, height: box)
        transform = TrainTransform(32, "plain")
        left, top, right, bottom = box
        expected = v2.functional.resized_crop(
            v2.functional.pil_to_tensor(photo(0)), top, left, bottom - top, right - left, [32, 32], antialias=True
        )
        mirrored = 0
        for _ in range(20):
            pixels = transform(photo(0))
            assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
            straight, back = ((other.int() - expected.int()).abs().max() for other in (pixels, pixels.flip(-1)))
            assert min(straight, back) <= 1
            mirrored += int(back < straight)
        assert 2 <= mirrored <= 18

    @pytest.mark.parametrize(("width", "height"), [(500, 375), (90, 200)])
    def test_crops_are_distributed_as_torchvisions(self, width: int, height: int) -> None:
        boxes = np.array([random_box(width, height) for _ in range(3000)], dtype=float)
        drawn = [
            v2.RandomResizedCrop.get_params(torch.empty(3, height, width), [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(3000)
        ]
        theirs = np.array([[left, top, left + w, top + h] for top, left, h, w in drawn], float)
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
    def test_a_strip_is_cropped_in_the_middle(self, width: int, height: int, box: tuple) -> None:
        assert random_box(width, height) == box

    def test_a_crop_of_the_resized_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As torchvision's Resize(256), RandomCrop(224): a box of 7/8 of the shorter side, anywhere."""
        boxes = torch.tensor([square_box(600, 400) for _ in range(2000)]).double()
        assert (boxes[:, 2:] - boxes[:, :2] == 350).all()
        for place, most in ((boxes[:, 0], 250), (boxes[:, 1], 50)):
            assert (place.min(), place.max()) == (0, most)
            assert abs(place.mean() - most / 2) < most / 40
        assert square_box(1, 1) == (0, 0, 1, 1)
        monkeypatch.setattr(transforms, "square_box", lambda width, height: (64, 32, 288, 256))  # at (64, 32)
        image = photo(1, 400, 256)
        pixels = TrainTransform(224, "crop")(image)
        wanted = v2.functional.crop(v2.functional.pil_to_tensor(v2.Resize(256)(image)), 32, 64, 224, 224)
        assert torch.equal(pixels, wanted) or torch.equal(pixels, wanted.flip(-1))

    def test_half_of_the_images_are_flipped(self) -> None:
        ramp = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
        transform, image = TrainTransform(16, "flip"), Image.fromarray(ramp)
        pixels = [transform(image) for _ in range(400)]
        flipped = sum(int(each[0, 0, 0] > 127) for each in pixels)
        assert abs(flipped - 200) < 40  # four standard deviations
        assert all(torch.equal(each[0].sort().values, torch.from_numpy(ramp[..., 0])) for each in pixels)

    def test_the_whole_image(self) -> None:
        expected = v2.Resize((32, 32))(v2.functional.pil_to_tensor(photo(3))).int()
        pixels = TrainTransform(32, "flip")(photo(3)).int()
        assert min((other - expected).abs().max() for other in (pixels, pixels.flip(-1))) <= 1

    def test_colours_are_torchvisions(self) -> None:
        """Step by step in floats, but for one rounding to 8 bits."""
        steps = [v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation]
        orders, clamped = set(), False
        for k in range(30):
            pixels, draws = v2.functional.pil_to_tensor(photo(k)), torch.rand(6)
            expected, order = pixels.float() / 255, draws[3:].argsort().tolist()
            orders.add(tuple(order))
            for step in order:
                expected = steps[step](expected, 0.6 + 0.8 * float(draws[step]))
            jittered = jitter(pixels, draws)
            assert jittered.dtype == torch.uint8
            assert (jittered - 255 * expected).abs().max() < 0.51
            clamped |= bool((jittered == 255).any())
        assert len(orders) == 6
        assert clamped

    def test_every_image_has_its_own_colours(self) -> None:
        transform, image = TrainTransform(4, "color"), Image.new("RGB", (8, 8), (100, 100, 100))
        assert len({int(transform(image)[0, 0, 0]) for _ in range(20)}) > 10

    def test_randaugment_changes_images(self) -> None:
        changed = 0
        for seed in range(20):
            torch.manual_seed(seed)
            augmented = TrainTransform(32, "randaugment")(photo(2)).int()
            torch.manual_seed(seed)
            plain = TrainTransform(32, "plain")(photo(2)).int()
            changed += int(min((augmented - other).abs().max() for other in (plain, plain.flip(-1))) > 25)
        assert changed > 10


class TestTest:
    @pytest.mark.parametrize("share", [1.0, 0.875])
    def test_as_torchvision_does(self, share: float) -> None:
        side = [32, 32] if share == 1 else math.floor(32 / 0.875 + 0.5)
        expected = v2.Compose([v2.ToImage(), v2.Resize(side), v2.CenterCrop(32)])
        for k in range(5):
            pixels = TestTransform(32, share)(photo(k))
            assert (pixels.int() - torch.as_tensor(expected(photo(k))).int()).abs().max() <= 1

    @pytest.mark.parametrize("size", [(3000, 8), (8, 3000)])
    def test_a_panorama_gives_its_centre(self, size: tuple[int, int]) -> None:
        """Within what antialiasing sees beyond the part that is resized."""
        width, height = size
        ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
        pixels = np.broadcast_to((ramp[None] if width > height else ramp[:, None])[..., None], (height, width, 3))
        image = Image.fromarray(np.ascontiguousarray(pixels))
        whole = v2.Compose([v2.ToImage(), v2.Resize(37), v2.CenterCrop(32)])(image)
        assert (TestTransform(32)(image).int() - torch.as_tensor(whole).int()).abs().max() <= 1

    def test_a_panorama_takes_little_memory(self) -> None:
        """Resized whole, to 256 x 5,120,000 pixels, it would take gigabytes."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert TestTransform(224)(Image.new("RGB", (20_000, 1))).shape == (3, 224, 224)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalisation_is_torchvisions(channels_last: bool) -> None:
    pixels = torch.randint(256, (2, 3, 5, 4), dtype=torch.uint8)
    kept = pixels.clone()
    inputs = Normalize(IMAGENET_MEAN, IMAGENET_STD, channels_last)(pixels)
    torch.testing.assert_close(inputs, v2.functional.normalize(pixels / 255, IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(pixels, kept)
    assert inputs.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_pixels_keep_their_places() -> None:
    image = photo(5)
    assert torch.equal(to_pixels(image), v2.functional.pil_to_tensor(image))


def test_batches_have_their_channels_last_in_memory() -> None:
    """Whatever the images have: those of a jitter are laid out plane by plane."""
    images = [to_pixels(photo(k)) for k in range(3)] + [to_pixels(photo(3)).contiguous()]
    batch, labels = collate_images([(image, k) for k, image in enumerate(images)])
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack(images))
    assert (labels.dtype, labels.tolist()) == (torch.int64, [0, 1, 2, 3])
