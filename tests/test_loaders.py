"""The resident loaders against torch's DataLoader, against single images and clips cropped by hand, and over several
processes; global batches and seeded samples over workers and processes."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, TensorDataset

from ltaug import (
    ClassPowerSampler,
    GlobalBatchSampler,
    PairDataset,
    PairSampler,
    ResidentLoader,
    ResidentWaveformLoader,
    SeededDataset,
)
from ltaug.loaders import random_crop_flip

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SIZE = 23
LABELS = torch.arange(SIZE) % 4
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(1, 256, size=(SIZE, 6, 5, 3), dtype=np.uint8))
"""No pixel is 0, so that black padding can be told apart; height and width differ."""
LENGTHS = [1, 2, 5, 40, 41, 37, 12, 60, 3, 29, 30, 31, 7, 50, 18]
CLIPS = [np.random.default_rng(k).integers(1, 2**15, size=length, dtype=np.int16) for k, length in enumerate(LENGTHS)]
CLIP_LABELS = torch.arange(len(CLIPS)) % 3


def loader(**options: Any) -> ResidentLoader:
    return ResidentLoader(IMAGES, LABELS, **{"batch_size": 6, "mean": MEAN, "std": STD, **options})


def sound_loader(**options: Any) -> ResidentWaveformLoader:
    arguments = {"waveforms": CLIPS, "labels": CLIP_LABELS, "batch_size": 4, "crop_length": 20, **options}
    return ResidentWaveformLoader(**arguments)


def naive_padded(clip: np.ndarray, padding: int, crop_length: int) -> np.ndarray:
    """Zeros on both sides, and at the end until a crop fits."""
    padded = np.pad(clip, padding)
    return np.pad(padded, (0, max(0, crop_length - len(padded)))) / 32768


def naive_stretched(clip: np.ndarray, scale: float) -> np.ndarray:
    """Sample k at k / scale, in float64; NumPy repeats the last sample."""
    return np.interp(np.arange(int(len(clip) * scale)) / scale, np.arange(len(clip)), clip.astype(np.float64))


def normalised(images: Tensor) -> Tensor:
    """(pixel / 255 - mean) / std in float64, [N, H, W, C] to [N, C, H, W]."""
    pixels = images.double() / 255
    return ((pixels - torch.tensor(MEAN).double()) / torch.tensor(STD).double()).permute(0, 3, 1, 2)


def flat(batches: Any) -> list[Tensor]:
    """All tensors of all batches, in order, of plain batches and of pairs."""
    if isinstance(batches, Tensor):
        return [batches]
    return [tensor for batch in batches for tensor in flat(batch)]


def naive_crop_flip(image: np.ndarray, row: int, column: int, mirrored: bool, padding: int) -> np.ndarray:
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crop = padded[row : row + image.shape[0], column : column + image.shape[1]]
    return crop[:, ::-1] if mirrored else crop


def views_of(images: Tensor, padding: int, flip: bool) -> list[dict[bytes, tuple[int, int, bool]]]:
    """Every possible crop and flip of every image, by its pixels."""
    offsets = range(2 * padding + 1)
    return [
        {
            naive_crop_flip(image, row, column, mirrored, padding).tobytes(): (row, column, mirrored)
            for row in offsets
            for column in offsets
            for mirrored in ([False, True] if flip else [False])
        }
        for image in images.numpy()
    ]


def pixels_of(inputs: Tensor) -> np.ndarray:
    """Undo the normalisation: uint8 [N, H, W, C]."""
    scaled = inputs.permute(0, 2, 3, 1).double().cpu() * torch.tensor(STD).double() + torch.tensor(MEAN).double()
    return np.ascontiguousarray((scaled * 255).round().to(torch.uint8).numpy())


class Order(Sampler[int]):
    """A sampler that yields what it is told."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __iter__(self) -> Any:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class TestAgainstDataLoader:
    @pytest.mark.parametrize("drop_last", [False, True])
    @pytest.mark.parametrize(
        "sampler",
        [
            None,
            ClassPowerSampler(LABELS, 1.0, replacement=False, seed=3),
            ClassPowerSampler(LABELS, -1.0, num_samples=40, seed=3),
            Order([5, 5, 0, 22, 7]),
        ],
        ids=["sequential", "shuffled", "reversed", "any"],
    )
    def test_the_same_batches(self, sampler: Sampler[int] | None, drop_last: bool, device: torch.device) -> None:
        size = 5
        dataset = TensorDataset(normalised(IMAGES).float(), LABELS)
        plain = DataLoader(dataset, batch_size=size, sampler=sampler, drop_last=drop_last)
        resident = loader(batch_size=size, sampler=sampler, drop_last=drop_last, device=device)
        assert len(resident) == len(plain)
        for epoch in range(2):
            resident.set_epoch(epoch)  # passes the epoch on to the sampler that both share
            ours = list(resident)
            resident.set_epoch(epoch)
            pairs = list(zip(ours, plain, strict=True))
            assert len(pairs) == len(plain)
            for (inputs, labels), (expected_inputs, expected_labels) in pairs:
                assert inputs.device.type == labels.device.type == device.type
                assert torch.equal(labels.cpu(), expected_labels)
                torch.testing.assert_close(inputs.cpu(), expected_inputs, rtol=1e-5, atol=2e-6)

    def test_the_same_pairs(self) -> None:
        sampler = PairSampler(ClassPowerSampler(LABELS, 1.0), ClassPowerSampler(LABELS, -1.0))
        dataset = PairDataset(TensorDataset(normalised(IMAGES).float(), LABELS))
        plain = flat(DataLoader(dataset, batch_size=6, sampler=sampler))
        sampler.set_epoch(0)
        resident = flat(loader(sampler=sampler))
        assert len(plain) == len(resident) == 4 * 4
        for tensor, expected in zip(resident, plain, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=2e-6)

    def test_a_sampler_of_torch_and_its_epochs(self) -> None:
        resident = loader(sampler=RandomSampler(range(SIZE), generator=torch.Generator().manual_seed(1)))
        resident.set_epoch(1)
        seen = torch.cat([labels for _, labels in resident])
        assert seen.sort().values.tolist() == LABELS.sort().values.tolist()

    def test_length(self) -> None:
        for size, drop_last, expected in ((23, True, 1), (22, True, 1), (22, False, 2), (100, False, 1), (1, True, 23)):
            resident = loader(batch_size=size, drop_last=drop_last)
            assert len(resident) == len(list(resident)) == expected
        sizes = [len(labels) for _, labels in loader(batch_size=6)]
        assert sizes == [6, 6, 6, 5]
        assert [len(labels) for _, labels in loader(batch_size=6, drop_last=True)] == [6, 6, 6]


class TestPixels:
    def test_normalisation_of_every_value(self) -> None:
        images = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 16, 16, 3)
        ((inputs, _),) = ResidentLoader(images, [0], batch_size=1, mean=MEAN, std=STD)
        assert inputs.dtype == torch.float32
        torch.testing.assert_close(inputs.double(), normalised(images), rtol=1e-6, atol=1e-6)

    def test_normalisation_is_torchvisions(self) -> None:
        functional = pytest.importorskip("torchvision.transforms.functional")
        inputs = torch.cat([inputs for inputs, _ in loader()])
        for image, actual in zip(IMAGES, inputs, strict=True):
            expected = functional.normalize(functional.to_tensor(image.numpy()), MEAN, STD)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_any_number_of_channels(self, channels: int) -> None:
        images = torch.randint(256, (3, 4, 2, channels), dtype=torch.uint8)
        mean, std = [0.1 * k for k in range(channels)], [0.3 + 0.1 * k for k in range(channels)]
        ((inputs, _),) = ResidentLoader(images, [0, 0, 0], batch_size=3, mean=mean, std=std, crop_padding=0)
        assert inputs.shape == (3, channels, 4, 2)
        for k in range(channels):
            expected = (images[..., k].double() / 255 - mean[k]) / std[k]
            torch.testing.assert_close(inputs[:, k].double(), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("options", [{}, {"crop_padding": 2, "flip": True}])
    def test_batches_are_channels_last_and_new(self, options: dict) -> None:
        before = IMAGES.clone()
        for inputs, labels in loader(**options):
            assert inputs.is_contiguous(memory_format=torch.channels_last)
            inputs.zero_()
            labels.zero_()
        assert torch.equal(IMAGES, before)
        assert torch.equal(LABELS, torch.arange(SIZE) % 4)

    def test_the_set_is_not_copied(self) -> None:
        resident = loader()
        assert resident.images.data_ptr() == IMAGES.data_ptr()
        assert resident.images.dtype == torch.uint8

    def test_labels_of_other_forms(self) -> None:
        for labels in (LABELS.tolist(), LABELS.int(), LABELS.to(torch.uint8)):
            resident = ResidentLoader(IMAGES, labels, batch_size=SIZE, mean=MEAN, std=STD)
            ((_, seen),) = resident
            assert seen.dtype == torch.int64
            assert torch.equal(seen, LABELS)


class TestCropsAndFlips:
    @pytest.mark.parametrize("padding", [0, 1, 4])
    def test_one_gather_is_image_by_image(self, padding: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(padding)
        rows, columns = torch.randint(2 * padding + 1, (2, SIZE), generator=generator)
        mirrored = torch.rand(SIZE, generator=generator) < 0.5
        before = IMAGES.clone()
        views = random_crop_flip(*(t.to(device) for t in (IMAGES, rows, columns, mirrored)), padding).cpu().numpy()
        assert torch.equal(IMAGES, before)
        for k in range(SIZE):
            arguments = int(rows[k]), int(columns[k]), bool(mirrored[k]), padding
            np.testing.assert_array_equal(views[k], naive_crop_flip(IMAGES[k].numpy(), *arguments))

    def test_every_image_is_one_of_its_views_and_every_view_comes(self) -> None:
        padding = 2
        views = views_of(IMAGES, padding, flip=True)
        assert all(len(of_image) == 5 * 5 * 2 for of_image in views)
        resident = loader(crop_padding=padding, flip=True)
        table = np.zeros((5, 5, 2))
        epochs = 300
        for epoch in range(epochs):
            resident.set_epoch(epoch)
            seen = np.concatenate([pixels_of(inputs) for inputs, _ in resident])
            for image, of_image in zip(seen, views, strict=True):
                row, column, mirrored = of_image[image.tobytes()]
                table[row, column, int(mirrored)] += 1
        assert table.sum() == SIZE * epochs
        # 50 views, each expected 138 times: chi-square of 49 degrees of freedom is below 100 but once in 25,000
        expected = table.sum() / 50
        assert ((table - expected) ** 2 / expected).sum() < 100

    @pytest.mark.parametrize(("padding", "flip"), [(2, False), (0, True)])
    def test_one_without_the_other(self, padding: int, flip: bool) -> None:
        views = views_of(IMAGES, padding, flip)
        resident = loader(crop_padding=padding, flip=flip)
        seen = set()
        for epoch in range(40):
            resident.set_epoch(epoch)
            images = np.concatenate([pixels_of(inputs) for inputs, _ in resident])
            seen |= {of_image[image.tobytes()] for image, of_image in zip(images, views, strict=True)}
        assert len(seen) == (2 * padding + 1) ** 2 * (1 + flip)

    def test_are_a_function_of_seed_epoch_and_batch(self) -> None:
        def epoch_of(seed: int, epoch: int, **options: Any) -> Tensor:
            resident = loader(crop_padding=2, flip=True, seed=seed, **options)
            resident.set_epoch(epoch)
            return torch.cat([inputs for inputs, _ in resident])

        epochs = {(seed, epoch): epoch_of(seed, epoch) for seed in range(2) for epoch in range(2)}
        torch.manual_seed(77)
        for (seed, epoch), inputs in epochs.items():
            assert torch.equal(inputs, epoch_of(seed, epoch))
        assert len({inputs.numpy().tobytes() for inputs in epochs.values()}) == 4
        # one and the same image is augmented in another way in every batch of an epoch, and in every place of a batch
        repeated = epoch_of(0, 0, sampler=Order([3] * 24))
        assert len({image.numpy().tobytes() for image in repeated}) > 15

    def test_the_epoch_may_be_set_in_any_order_and_repeated(self) -> None:
        sampler = ClassPowerSampler(LABELS, 0.0, seed=2)
        resident = loader(sampler=sampler, crop_padding=2, flip=True)
        epochs = []
        for epoch in (1, 0, 1):
            resident.set_epoch(epoch)
            assert sampler.epoch == epoch
            epochs.append(torch.cat(flat(iter(resident))[::2]))
        assert torch.equal(epochs[0], epochs[2])
        assert not torch.equal(epochs[0], epochs[1])

    def test_without_an_epoch_each_iteration_moves_on(self) -> None:
        make = functools.partial(loader, crop_padding=2, flip=True)
        walking, chosen = (make(sampler=ClassPowerSampler(LABELS, 0.0, seed=2)) for _ in range(2))
        for epoch in range(3):
            chosen.set_epoch(epoch)
            assert all(map(torch.equal, flat(iter(walking)), flat(iter(chosen))))
        # A sampler whose epoch the loop sets by itself is not set back.
        own = ClassPowerSampler(LABELS, 0.0, seed=2)
        resident = make(sampler=own)
        for epoch in (5, 6):
            own.set_epoch(epoch)
            labels = torch.cat(flat(iter(resident))[1::2])
            assert torch.equal(labels, LABELS[own.indices()])
            assert own.epoch == epoch

    def test_leaves_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        list(loader(sampler=ClassPowerSampler(LABELS), crop_padding=2, flip=True))
        assert torch.equal(before, torch.get_rng_state())

    def test_an_image_and_its_partner_are_augmented_apart(self) -> None:
        same = Order(list(range(SIZE)))
        resident = loader(sampler=PairSampler(same, Order(same.order)), crop_padding=2, flip=True)
        first, second = (torch.cat([pair[side][0] for pair in resident]) for side in (0, 1))
        labels = [torch.cat([pair[side][1] for pair in resident]) for side in (0, 1)]
        assert torch.equal(labels[0], labels[1])
        equal = (first == second).flatten(1).all(1).sum()
        assert int(equal) < 5  # one in fifty by chance


class TestSeveralProcesses:
    @pytest.mark.parametrize("drop_last", [False, True])
    @pytest.mark.parametrize("processes", [2, 3])
    @pytest.mark.parametrize("paired", [False, True])
    def test_together_they_see_what_one_sees(self, paired: bool, processes: int, drop_last: bool) -> None:
        def make(**options: Any) -> ResidentLoader:
            sampler: Any = ClassPowerSampler(LABELS, 1.0, replacement=False, seed=5)
            if paired:
                sampler = PairSampler(sampler, ClassPowerSampler(LABELS, -1.0, seed=5))
            common = {"sampler": sampler, "crop_padding": 2, "flip": True, "drop_last": drop_last, "seed": 4}
            return loader(batch_size=6, **common, **options)

        alone = make()
        shares = [make(num_processes=processes, process_index=index) for index in range(processes)]
        epochs = []
        for epoch in range(3):
            for resident in (alone, *shares):
                resident.set_epoch(epoch)
            assert {len(share) for share in shares} == {len(alone)}
            batches = [flat(batch) for batch in alone]
            parts = [[flat(batch) for batch in share] for share in shares]
            for number, batch in enumerate(batches):
                for place, tensor in enumerate(batch):
                    together = torch.cat([part[number][place] for part in parts])
                    assert torch.equal(together, tensor), (epoch, number, place)
                sizes = [len(part[number][0]) for part in parts]
                assert max(sizes) - min(sizes) <= 1
                if len(batch[0]) == 6:
                    assert set(sizes) == {6 // processes}
            epochs.append(torch.cat([batch[0].flatten() for batch in batches]))
        assert not torch.equal(epochs[0], epochs[1])

    def test_a_last_batch_smaller_than_the_processes_leaves_some_with_nothing(self) -> None:
        shares = [
            list(loader(sampler=Order([0, 1, 2, 3]), batch_size=3, num_processes=3, process_index=k)) for k in range(3)
        ]
        last = [share[-1] for share in shares]
        assert sorted(len(labels) for _, labels in last) == [0, 0, 1]
        assert {inputs.shape[1:] for inputs, _ in last} == {(3, 6, 5)}

    def test_a_process_holds_contiguous_rows(self) -> None:
        share = loader(batch_size=6, num_processes=2, process_index=1)
        assert share.batch_indices(1, torch.arange(SIZE)).tolist() == [9, 10, 11]


class TestWaveformCrops:
    @pytest.mark.parametrize("padding", [None, 0, 3, 30])
    def test_every_crop_is_one_of_its_clip(self, padding: int | None, device: torch.device) -> None:
        length = 20
        resident = sound_loader(padding=padding, seed=1, device=device)
        width = length // 2 if padding is None else padding
        for epoch in range(3):
            resident.set_epoch(epoch)
            batches = list(resident)
            inputs = torch.cat([inputs for inputs, _ in batches])
            assert inputs.dtype == torch.float32
            assert inputs.shape == (len(CLIPS), length)
            assert inputs.device.type == batches[0][1].device.type == device.type
            assert torch.equal(torch.cat([labels for _, labels in batches]).cpu(), CLIP_LABELS)
            for clip, crop in zip(CLIPS, inputs.cpu().numpy(), strict=True):
                padded = naive_padded(clip, width, length)
                assert any(
                    np.array_equal(crop, view) for view in np.lib.stride_tricks.sliding_window_view(padded, length)
                )

    def test_every_start_comes_equally_often(self) -> None:
        # rising clips without a 0, in which a crop tells where it starts; 40 + 2 * 6 - 20 + 1 = 33 starts
        clips = np.tile(np.arange(1, 41, dtype=np.int16), (64, 1))
        resident = ResidentWaveformLoader(clips, [0] * 64, batch_size=16, crop_length=20, padding=6)
        table = np.zeros(33)
        for epoch in range(100):
            resident.set_epoch(epoch)
            for inputs, _ in resident:
                crops = (inputs * 32768).long()
                place = (crops > 0).long().argmax(dim=1)  # the first sample that is not padding
                starts = crops.gather(1, place.view(-1, 1)).view(-1) - 1 + 6 - place
                table += np.bincount(starts.numpy(), minlength=33)
        assert table.sum() == 6400
        # chi-square of 32 degrees of freedom is below 75 but once in 33,000
        expected = 6400 / 33
        assert ((table - expected) ** 2 / expected).sum() < 75

    def test_a_clip_shorter_than_the_crop_is_followed_by_zeros(self) -> None:
        clips = [np.array([1, 2], dtype=np.int16), np.array([3], dtype=np.int16), np.array([4] * 9, dtype=np.int16)]
        ((inputs, _),) = ResidentWaveformLoader(clips, [0, 0, 0], batch_size=3, crop_length=6, padding=1)
        assert (inputs[:2] * 32768).tolist() == [[0, 1, 2, 0, 0, 0], [0, 3, 0, 0, 0, 0]]

    def test_full_scale(self) -> None:
        clip = torch.tensor([-32768, 32767, 0, 1], dtype=torch.int16)
        ((inputs, _),) = ResidentWaveformLoader([clip], [0], batch_size=1, crop_length=4, padding=0)
        assert inputs.tolist() == [[-1.0, 32767 / 32768, 0.0, 1 / 32768]]

    def test_forms_of_waveforms(self) -> None:
        whole = np.stack([clip[:12] for clip in CLIPS if len(clip) >= 12])
        frozen = whole.copy()
        frozen.flags.writeable = False  # as a memory map
        forms = [whole, frozen, torch.from_numpy(whole), list(whole), tuple(torch.from_numpy(whole))]
        batches = [flat(ResidentWaveformLoader(form, [0] * len(whole), batch_size=4, crop_length=6)) for form in forms]
        for other in batches[1:]:
            assert all(torch.equal(a, b) for a, b in zip(batches[0], other, strict=True))

    def test_memory(self) -> None:
        resident = sound_loader(crop_length=20, padding=20)
        assert resident.samples.dtype == torch.int16
        assert resident.samples.numel() <= sum(LENGTHS) + (len(CLIPS) + 1) * 20 + 1

    def test_batches_are_new(self) -> None:
        for options in ({"padding": 0}, {"crops": 3}, {"max_scale": 1.25}):
            resident = sound_loader(**options)
            before = resident.samples.clone()
            for inputs, labels in resident:
                inputs.fill_(1)
                labels.fill_(1)
            assert torch.equal(resident.samples, before)
            assert torch.equal(resident.labels, CLIP_LABELS)


class TestWaveformStretch:
    @given(
        lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
        crop_length=st.integers(1, 60),
        padding=st.none() | st.integers(0, 40),
        max_scale=st.sampled_from([1.0, 1.25, 1.0001, 3.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_clip_by_clip(
        self, lengths: list[int], crop_length: int, padding: int | None, max_scale: float, seed: int
    ) -> None:
        generator = np.random.default_rng(seed)
        clips = [generator.integers(-(2**15), 2**15, size=length, dtype=np.int16) for length in lengths]
        resident = ResidentWaveformLoader(
            clips,
            [0] * len(clips),
            batch_size=len(clips),
            crop_length=crop_length,
            padding=padding,
            max_scale=max_scale,
            seed=seed,
        )
        ((inputs, _),) = resident
        width = crop_length // 2 if padding is None else padding
        for crop, clip, scale, place in zip(inputs.numpy(), clips, *resident._scales_and_places(0, 0), strict=True):
            padded = naive_padded(naive_stretched(clip, float(scale)), width, crop_length)
            start = int(float(place) * (len(padded) - crop_length + 1))
            np.testing.assert_allclose(crop, padded[start : start + crop_length], rtol=0, atol=5e-7)

    def test_a_long_clip_is_read_at_the_right_places(self, device: torch.device) -> None:
        # 5 s at 44.1 kHz of the steepest sound there is: an error of a place of 1e-3 would be one of 2e-3
        clip = np.where(np.arange(220_500) % 2, 32767, -32768).astype(np.int16)
        resident = ResidentWaveformLoader(
            [clip] * 4, range(4), batch_size=4, crop_length=210_000, padding=100, max_scale=1.25, device=device
        )
        ((inputs, _),) = resident
        for crop, scale, place in zip(inputs.cpu().numpy(), *resident._scales_and_places(0, 0), strict=True):
            padded = naive_padded(naive_stretched(clip, float(scale)), 100, 210_000)
            start = int(float(place) * (len(padded) - 210_000 + 1))
            np.testing.assert_allclose(crop, padded[start : start + 210_000], rtol=0, atol=5e-7)

    def test_log_stretch_is_uniform(self) -> None:
        # in a rising clip the difference of neighbours is 1 / s
        clips = np.tile(np.arange(1, 20_001, 10, dtype=np.int16), (64, 1))
        resident = ResidentWaveformLoader(clips, [0] * 64, batch_size=64, crop_length=100, padding=0, max_scale=1.5)
        exponents = []
        for epoch in range(60):
            resident.set_epoch(epoch)
            ((inputs, _),) = resident
            steps = (inputs[:, 99] - inputs[:, 0]).double() * 32768 / 99
            exponents.append(torch.log(10 / steps) / np.log(1.5))
        table = torch.histc(torch.cat(exponents), bins=20, min=-1, max=1)
        assert table.sum() == 64 * 60
        expected = table.sum() / 20
        # chi-square of 19 degrees of freedom is below 55 but once in 45,000
        assert ((table - expected) ** 2 / expected).sum() < 55

    def test_no_stretch_is_the_limit(self) -> None:
        plain, nearly = (torch.cat(flat(sound_loader(max_scale=scale))[::2]) for scale in (1.0, 1 + 1e-12))
        equal = (plain - nearly).abs().amax(dim=1) < 1e-6
        assert equal.float().mean() > 0.3  # int(T s) is T - 1 for every other clip, which moves some crops


class TestWaveformTest:
    @pytest.mark.parametrize("crops", [2, 3, 10])
    @pytest.mark.parametrize("padding", [None, 0, 30])
    def test_equally_spaced(self, crops: int, padding: int | None, device: torch.device) -> None:
        length = 20
        resident = sound_loader(crops=crops, padding=padding, device=device)
        width = length // 2 if padding is None else padding
        inputs = torch.cat([inputs for inputs, _ in resident]).cpu().numpy()
        assert inputs.shape == (len(CLIPS), crops, length)
        for clip, views in zip(CLIPS, inputs, strict=True):
            padded = naive_padded(clip, width, length)
            stride = (len(padded) - length) // (crops - 1)
            for i, view in enumerate(views):
                np.testing.assert_array_equal(view, padded[stride * i : stride * i + length])

    def test_nothing_is_random(self) -> None:
        first, second = sound_loader(crops=4), sound_loader(crops=4, seed=5)
        second.set_epoch(3)
        assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


class TestWaveformBatches:
    @pytest.mark.parametrize("options", [{}, {"max_scale": 1.25}, {"crops": 3}], ids=["crop", "stretch", "test"])
    @pytest.mark.parametrize("processes", [2, 3])
    @pytest.mark.parametrize("paired", [False, True])
    def test_together_they_see_what_one_sees(self, paired: bool, processes: int, options: dict) -> None:
        def make(**shared: Any) -> ResidentWaveformLoader:
            sampler: Any = ClassPowerSampler(CLIP_LABELS, 1.0, replacement=False, seed=5)
            if paired:
                sampler = PairSampler(sampler, ClassPowerSampler(CLIP_LABELS, -1.0, seed=5))
            return sound_loader(batch_size=6, sampler=sampler, seed=4, **options, **shared)

        alone = make()
        shares = [make(num_processes=processes, process_index=index) for index in range(processes)]
        epochs = []
        for epoch in range(2):
            for resident in (alone, *shares):
                resident.set_epoch(epoch)
            parts = [[flat(batch) for batch in share] for share in shares]
            batches = [flat(batch) for batch in alone]
            assert {len(part) for part in parts} == {len(batches)} == {len(alone)}
            for number, batch in enumerate(batches):
                assert len(batch) == (4 if paired else 2)
                for place, tensor in enumerate(batch):
                    together = torch.cat([part[number][place] for part in parts])
                    assert torch.equal(together, tensor), (epoch, number, place)
            epochs.append(torch.cat([batch[0].flatten() for batch in batches]))
        assert not torch.equal(epochs[0], epochs[1])

    def test_pairs_and_partners_are_augmented_apart(self) -> None:
        # the same clip on both sides, long enough that two crops agree once in a thousand
        clips = np.random.default_rng(1).integers(-999, 999, size=(15, 1000), dtype=np.int16)
        same = PairSampler(Order(list(range(15))), Order(list(range(15))))
        for options in ({}, {"max_scale": 1.25}):
            resident = sound_loader(waveforms=clips, sampler=same, **options)
            sides = [[torch.cat([pair[side][k] for pair in resident]) for k in (0, 1)] for side in (0, 1)]
            assert torch.equal(sides[0][1], sides[1][1])
            assert int((sides[0][0] == sides[1][0]).all(1).sum()) < 2

    @pytest.mark.parametrize("options", [{}, {"max_scale": 1.25}])
    def test_are_a_function_of_seed_epoch_and_batch(self, options: dict) -> None:
        def epoch_of(seed: int, epoch: int) -> Tensor:
            resident = sound_loader(seed=seed, **options)
            resident.set_epoch(epoch)
            return torch.cat([inputs for inputs, _ in resident])

        epochs = {(seed, epoch): epoch_of(seed, epoch) for seed in range(2) for epoch in range(2)}
        before = torch.get_rng_state()
        for (seed, epoch), inputs in epochs.items():
            assert torch.equal(inputs, epoch_of(seed, epoch))
        assert torch.equal(before, torch.get_rng_state())
        assert len({inputs.numpy().tobytes() for inputs in epochs.values()}) == 4

    def test_a_small_last_batch_is_left_out(self) -> None:
        def sizes(**options: Any) -> list[int]:
            resident = sound_loader(batch_size=6, **options)  # 15 clips: 6, 6 and 3
            counts = [len(labels) for _, labels in resident]
            assert len(counts) == len(resident)
            return counts

        assert sizes() == sizes(min_last=3) == [6, 6, 3]
        assert sizes(min_last=4) == sizes(min_last=6) == sizes(drop_last=True) == [6, 6]
        assert sizes(sampler=Order([0] * 12), min_last=6) == [6, 6]
        for index in range(3):
            assert sizes(num_processes=3, process_index=index) == [2, 2, 1]
            assert sizes(num_processes=3, process_index=index, min_last=6) == [2, 2]

    def test_an_empty_share_of_a_last_batch(self) -> None:
        for options, shape in (({}, (20,)), ({"max_scale": 1.25}, (20,)), ({"crops": 3}, (3, 20))):
            resident = sound_loader(
                sampler=Order([0, 1, 2, 3]), batch_size=3, num_processes=3, process_index=0, **options
            )
            inputs, labels = list(resident)[-1]
            assert inputs.shape == (0, *shape)
            assert labels.shape == (0,)


class Noisy(Dataset):
    """Index and three numbers of torch's generator."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, k: int) -> tuple[int, Tensor]:
        if k == 22:
            raise OSError("unreadable")
        return k, torch.rand(3)


class TestGlobalBatches:
    @given(
        size=st.integers(1, 60),
        share=st.integers(1, 5),
        processes=st.integers(1, 4),
        epoch=st.integers(0, 9),
        first=st.integers(0, 3),
        paired=st.booleans(),
    )
    def test_together_the_processes_see_what_one_sees(
        self, size: int, share: int, processes: int, epoch: int, first: int, paired: bool
    ) -> None:
        order: Any = ClassPowerSampler([0, 1] * size, 0.0, num_samples=size, seed=3)
        if paired:
            order = PairSampler(order, order)
        batch_size, steps = share * processes, size // (share * processes)
        if not steps:
            with pytest.raises(ValueError, match="exceeds"):
                GlobalBatchSampler(order, batch_size, num_processes=processes)
            return
        first = min(first, steps)
        parts = []
        for index in range(processes):
            batches = GlobalBatchSampler(order, batch_size, num_processes=processes, process_index=index)
            batches.set_epoch(epoch, first)
            parts.append(list(batches))
            assert len(parts[-1]) == len(batches) == steps - first
            assert {len(batch) for batch in parts[-1]} <= {share}
        order.set_epoch(epoch)
        rows = [row if paired else (row,) for row in order]
        together = [[item for part in step for item in part] for step in zip(*parts, strict=True)]
        expected = [(epoch, place, *row) for place, row in enumerate(rows)][first * batch_size : steps * batch_size]
        assert [item for batch in together for item in batch] == expected

    def test_an_epoch_is_read_as_it_is_needed(self) -> None:
        taken = []

        class Counting(Order):
            def __iter__(self) -> Any:
                for k in self.order:
                    taken.append(k)
                    yield k

        stream = iter(GlobalBatchSampler(Counting(list(range(1000))), 10))
        next(stream)
        assert len(taken) <= 11

    def test_the_sampler_may_be_exchanged(self) -> None:
        batches = GlobalBatchSampler(Order([1, 2, 3, 4]), 2)
        batches.sampler = PairSampler(Order([5, 6]), Order([7, 8]))
        batches.set_epoch(1)
        assert list(batches) == [[(1, 0, 5, 7), (1, 1, 6, 8)]]


class TestSeeded:
    @staticmethod
    def epoch_of(
        epoch: int, *, first: int = 0, seed: int = 4, paired: bool = True, processes: int = 1, **options: Any
    ) -> list[Tensor]:
        """All tensors of an epoch, batch by batch, put together from all processes."""
        order: Any = ClassPowerSampler(torch.arange(22) % 4, 0.0, seed=5)
        if paired:
            order = PairSampler(order, order)
        parts = []
        for index in range(processes):
            batches = GlobalBatchSampler(order, 6, num_processes=processes, process_index=index)
            batches.set_epoch(epoch, first)
            parts.append(
                [flat(batch) for batch in DataLoader(SeededDataset(Noisy(), seed), batch_sampler=batches, **options)]
            )
        return [torch.cat(tensors) for step in zip(*parts, strict=True) for tensors in zip(*step, strict=True)]

    @pytest.mark.parametrize("paired", [False, True])
    def test_the_same_on_any_number_of_processes_and_workers_and_after_resuming(self, paired: bool) -> None:
        alone = self.epoch_of(2, paired=paired)
        each = 4 if paired else 2
        assert len(alone) == 3 * each
        others = [
            self.epoch_of(2, paired=paired, processes=2),
            self.epoch_of(2, paired=paired, processes=3),
            self.epoch_of(2, paired=paired, num_workers=2, multiprocessing_context="fork"),
            alone[:each] + self.epoch_of(2, paired=paired, first=1),
        ]
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))

    def test_seed_epoch_place_and_stream_count(self) -> None:
        noise = [
            SeededDataset(Noisy(), seed)[epoch, place, 3][1]
            for seed in range(2)
            for epoch in range(2)
            for place in range(50)
        ]
        assert len({tuple(each.tolist()) for each in noise}) == 200
        (_, first), (_, second) = SeededDataset(Noisy())[0, 0, 3, 3]
        assert not torch.equal(first, second)
        assert torch.equal(first, SeededDataset(Noisy())[0, 0, 3][1])

    def test_the_numbers_are_uniform(self) -> None:
        dataset = SeededDataset(Noisy(), 8)
        table = torch.histc(torch.cat([dataset[1, place, 0][1] for place in range(2000)]), bins=20, min=0, max=1)
        # chi-square of 19 degrees of freedom is below 55 but once in 45,000
        assert ((table - 300) ** 2 / 300).sum() < 55

    def test_leaves_the_global_generator_alone(self) -> None:
        before, dataset = torch.get_rng_state(), SeededDataset(Noisy())
        dataset[0, 0, 1, 2]
        with pytest.raises(OSError, match="unreadable"):
            dataset[0, 0, 22]
        assert torch.equal(before, torch.get_rng_state())
        assert len(dataset) == SIZE

    def test_workers_live_on_into_the_next_epoch(self) -> None:
        batches = GlobalBatchSampler(Order(list(range(12))), 4)
        loader = DataLoader(
            SeededDataset(Noisy()),
            batch_sampler=batches,
            num_workers=1,
            persistent_workers=True,
            multiprocessing_context="fork",
        )
        epochs = []
        for epoch in (0, 1, 0):
            batches.set_epoch(epoch)
            epochs.append(torch.cat(flat(loader)[1::2]))
        assert torch.equal(epochs[0], epochs[2])
        assert not torch.equal(epochs[0], epochs[1])


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"images": IMAGES.float()}, r"are for uint8 images, but `images` are torch\.float32, which go through"),
            (
                {"images": IMAGES.long()},
                r"`images` must be uint8 \[N, H, W, C\], or floating point .* are torch\.int64",
            ),
            ({"mean": None}, r"`mean` and `std` of the pixels are needed for uint8 images"),
            (
                {"images": IMAGES[0]},
                r"`images` must be uint8 \[N, H, W, C\], .* but are torch\.uint8 of shape \[6, 5, 3\]",
            ),
            ({"labels": LABELS[:5]}, "`labels` must hold one class an image, but there are 5 and 23 images"),
            ({"labels": LABELS.float()}, "`labels` must be integers"),
            ({"mean": [0.5]}, "`mean` and `std` need 3 values, one a channel, but have 1 and 3"),
            ({"std": [0.5] * 4}, "`mean` and `std` need 3 values, one a channel, but have 3 and 4"),
            ({"std": [0.5, 0.0, 0.5]}, "`std` must be positive"),
            ({"crop_padding": -1}, "`crop_padding` must not be negative, but is -1"),
            ({"process_index": 1}, r"`process_index` must lie in 0\.\.0, but is 1"),
            ({"num_processes": 2, "process_index": -1}, r"`process_index` must lie in 0\.\.1, but is -1"),
            ({"batch_size": 0}, "`batch_size`=0 is the global batch and must be a positive multiple"),
            ({"batch_size": 5, "num_processes": 2}, "`batch_size`=5 .* a positive multiple of the 2 processes"),
            (
                {"batch_size": 24, "drop_last": True},
                r"`batch_size`=24 exceeds the 23 samples of an epoch, and `drop_last` leaves no batch\. Lower",
            ),
        ],
    )
    def test_construction(self, options: dict, message: str) -> None:
        arguments = {"images": IMAGES, "labels": LABELS, "batch_size": 4, "mean": MEAN, "std": STD, **options}
        with pytest.raises(ValueError, match=message):
            ResidentLoader(**arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"waveforms": []}, "`waveforms` is empty"),
            (
                {"waveforms": [CLIPS[0], CLIPS[1].astype(np.float32)]},
                r"`waveforms` must be int16 of shape \[T\] each.* but number 1 is float32 of shape \[2\]",
            ),
            ({"waveforms": [torch.zeros(3, dtype=torch.int32)]}, r"number 0 is int32 of shape \[3\]"),
            ({"waveforms": [CLIPS[0], CLIPS[1][:0]]}, r"at least one sample, but number 1 is int16 of shape \[0\]"),
            ({"waveforms": np.zeros((2, 3, 4), dtype=np.int16)}, r"number 0 is int16 of shape \[3, 4\]"),
            ({"waveforms": CLIPS[3]}, r"number 0 is int16 of shape \[\]"),
            ({"labels": [0]}, "`labels` must hold one class a waveform, but there are 1 and 15 waveforms"),
            ({"crop_length": 0}, "`crop_length` must be at least 1, but is 0"),
            ({"padding": -1}, "`padding` must not be negative, but is -1"),
            ({"max_scale": 0.8}, r"`max_scale` must be at least 1, where 1 is off, but is 0\.8"),
            ({"max_scale": float("nan")}, "`max_scale` must be at least 1, where 1 is off, but is nan"),
            ({"crops": 0}, "`crops` must be at least 1, but is 0"),
            ({"crops": 2, "max_scale": 1.25}, r"`crops`=2 .* without randomness, but `max_scale` is 1\.25"),
            ({"min_last": 0}, r"`min_last` must lie in 1\.\.4, the `batch_size`, but is 0"),
            ({"min_last": 5}, r"`min_last` must lie in 1\.\.4, the `batch_size`, but is 5"),
            ({"batch_size": 5, "num_processes": 2}, "`batch_size`=5 .* a positive multiple of the 2 processes"),
            ({"process_index": 1}, r"`process_index` must lie in 0\.\.0, but is 1"),
            (
                {"batch_size": 16, "min_last": 16},
                r"`batch_size`=16 exceeds the 15 samples of an epoch, and `min_last`=16 leaves no batch\. Lower",
            ),
            ({"batch_size": 16, "drop_last": True}, "exceeds the 15 samples of an epoch, and `drop_last` leaves no"),
        ],
    )
    def test_construction_of_sound(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sound_loader(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "`batch_size`=0 is the global batch and must be a positive multiple"),
            ({"num_processes": 3}, "`batch_size`=4 .* a positive multiple of the 3 processes"),
            ({"num_processes": 2, "process_index": 2}, r"`process_index` must lie in 0\.\.1, but is 2"),
            ({"batch_size": 9}, "`batch_size`=9 exceeds the 8 samples of an epoch, and only full batches are taken"),
        ],
    )
    def test_global_batches(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GlobalBatchSampler(**{"sampler": Order([0] * 8), "batch_size": 4, **options})

    def test_epochs_and_items(self) -> None:
        batches = GlobalBatchSampler(Order([0] * 8), 4)
        with pytest.raises(ValueError, match="`epoch` must not be negative, but is -1"):
            batches.set_epoch(-1)
        with pytest.raises(ValueError, match=r"`first_step` must lie in 0\.\.2, the steps of an epoch, but is 3"):
            batches.set_epoch(0, 3)
        with pytest.raises(ValueError, match="`seed` must not be negative, but is -1"):
            SeededDataset(Noisy(), -1)
        for item in (3, (0, 3), (0, 1, 2, 3, 4)):
            with pytest.raises(ValueError, match=r"`item` must be \(epoch, place, index\) .* Use `GlobalBatchSampler`"):
                SeededDataset(Noisy())[item]


@pytest.mark.parametrize("shape", [(7, 6, 128), (7, 5), (7, 3, 4, 4)])
def test_samples_that_are_no_images_go_through_as_they_are(shape: tuple[int, ...]) -> None:
    signals, labels = torch.randn(shape, dtype=torch.float64), torch.arange(7)
    whole = list(ResidentLoader(signals.numpy(), labels, batch_size=4))
    assert torch.equal(torch.cat([inputs for inputs, _ in whole]), signals.float())
    assert torch.equal(torch.cat([targets for _, targets in whole]), labels)
    shares = [list(ResidentLoader(signals, labels, batch_size=4, num_processes=2, process_index=k)) for k in (0, 1)]
    for (inputs, _), *parts in zip(whole, *shares, strict=True):
        assert torch.equal(inputs, torch.cat([mine for mine, _ in parts]))


class TestAugment:
    """Code of others on every training crop; the stand-in has the signature of audiomentations' compositions."""

    class Compose:
        """Draws from all global generators, as audiomentations, NumPy's and torch's transforms do."""

        def __call__(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
            assert samples.dtype == np.float32
            assert sample_rate == 8000
            drawn = random.random() + np.random.uniform() + torch.rand(()).item()  # noqa: NPY002
            samples *= np.float32(drawn)
            return samples

    def make(self, **options: Any) -> ResidentWaveformLoader:
        settings = {"augment": self.Compose(), "sample_rate": 8000, "batch_size": 6, "seed": 4} | options
        order = ClassPowerSampler(CLIP_LABELS, 1.0, replacement=False, seed=5)
        return sound_loader(sampler=PairSampler(order, ClassPowerSampler(CLIP_LABELS, -1.0, seed=5)), **settings)

    @pytest.mark.parametrize("options", [{}, {"max_scale": 1.25}, {"versions": [CLIPS[::-1], CLIPS]}])
    def test_together_processes_see_what_one_sees(self, options: dict[str, Any]) -> None:
        alone = self.make(**options)
        shares = [self.make(num_processes=2, process_index=index, **options) for index in (0, 1)]
        seen = [flat(batch) for batch in alone]
        parts = [[flat(batch) for batch in share] for share in shares]
        for number, batch in enumerate(seen):
            for place, tensor in enumerate(batch):
                assert torch.equal(torch.cat([part[number][place] for part in parts]), tensor)
        again = flat(self.make(**options))
        assert all(torch.equal(a, b) for a, b in zip(flat(seen), again, strict=True))

    def test_every_clip_has_draws_of_its_own_and_the_crops_stay_as_they_are(self) -> None:
        loaders = self.make(), self.make(augment=None)
        factors = []
        for _epoch in range(2):
            for changed, plain in zip(*map(list, loaders), strict=True):
                for (inputs, _), (crops, _) in zip(changed, plain, strict=True):
                    ratio = inputs.abs().sum(1) / crops.abs().sum(1)
                    torch.testing.assert_close(inputs, crops * ratio[:, None])
                    factors += ratio.tolist()
        assert len(set(factors)) == len(factors) == 60  # epochs, batches, rows and partners
        assert 1.2 < np.mean(factors) < 1.8  # of three uniform draws, 1.5 with a standard error of 0.065

    def test_global_generators_are_left_alone(self) -> None:
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002, TID251
        expected = random.random(), np.random.uniform(), torch.rand(()).item()  # noqa: NPY002
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002, TID251
        list(self.make())
        assert (random.random(), np.random.uniform(), torch.rand(()).item()) == expected  # noqa: NPY002

    def test_versions_are_drawn_equally_often(self) -> None:
        same = [np.full((15, 30), value, dtype=np.int16) for value in (1, 2, 3)]
        resident = sound_loader(waveforms=same[0], versions=same[1:], padding=0)
        seen = torch.cat([inputs[:, 0] * 32768 for _ in range(40) for inputs, _ in resident])
        counts = torch.bincount(seen.long())[1:]
        assert counts.sum() == 600
        assert ((counts - 200) ** 2 / 200).sum() < 18  # chi-square of 2 degrees of freedom, once in 8,000

    @pytest.mark.parametrize(
        ("hook", "message"),
        [
            (lambda x, rate: x[:-1], r"must return floating.* of shape \[20\].* shape \[19\] for the clip c\d"),
            (lambda x, rate: (9 * x).astype(np.int16), r"`augment` .*<lambda> must return floating.* returns int16"),
            (lambda x, rate: None, "must return floating-point samples .* returns object"),
            (lambda x, rate: x * np.nan, r"`augment` .*<lambda> returns NaN, infinity or numbers .* for the clip c\d+"),
            (
                lambda x, rate: x.astype(np.float64) + 1e300,
                r"`augment` .* returns NaN, infinity or numbers beyond float32 for the clip",
            ),
            (lambda x, rate: x / undefined, r"`augment` .* fails on the clip c\d+: NameError: name 'undefined'"),  # noqa: F821
        ],
    )
    def test_what_goes_wrong_is_named(self, hook: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            list(self.make(augment=hook, names=[f"c{k}" for k in range(15)]))
        random.seed(1)
        expected = random.random()
        random.seed(1)
        with pytest.raises(ValueError, match="clip number"):
            list(self.make(augment=hook))
        assert random.random() == expected

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"augment": len}, "`augment` must be a callable .* and `sample_rate` is None"),
            ({"augment": 3, "sample_rate": 8000}, "`augment` must be a callable .* but is 3"),
            ({"augment": len, "sample_rate": 8000, "crops": 2}, "`augment` is for training, but `crops`=2 and"),
            ({"versions": [CLIPS], "crops": 2}, "`versions` is for training, but `crops`=2"),
            ({"versions": [CLIPS[:3]]}, r"`versions\[0\]` must hold a version of each of the 15 .* holds 3"),
            ({"versions": [[np.zeros(3)] * 15]}, r"`versions\[0\]` must be int16 .* number 0 is float64"),
            ({"names": ["a"]}, "`names` must hold one name a waveform, but there are 1 and 15"),
        ],
    )
    def test_settings_that_do_not_fit(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sound_loader(**options)
