"""The data of a training on images: long-tailed parts, held-out images, loaders, and what a report shows of them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_support import names_of, number_of, write, write_folders
from PIL import Image

import ltaug
from ltaug import ClassPowerSampler
from ltaug.testing import check_data
from ltaug.vision import read_digits
from ltaug.vision.data import ImageData, ImageSettings, _default_workers, long_tailed_data
from ltaug.vision.folders import read_image_folder
from ltaug.vision.image_set import Images, name_block

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)


def settings(**changes: Any) -> Any:
    small = ImageSettings(image_size=32, augmentation="flip", test_resize=1.0, test_per_class=1, workers=0)
    return SimpleNamespace(**vars(replace(small, **changes)), batch_size=8, seed=0, channels_last=True)


def load(root: Path, **changes: Any) -> ImageData:
    return long_tailed_data(*read_image_folder(str(root)), settings(**changes))


def names(data: ImageData, split: str) -> list[str]:
    return names_of(data.sets[split].images)


class TestParts:
    def test_a_test_set_is_held_out(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data", {"ant": 10, "bee": 5, "cat": 3})
        data = load(root, test_per_class=2)
        assert data.class_names == ["ant", "bee", "cat"]
        assert data.class_counts.tolist() == [8, 3, 1]
        every = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
        chosen = ltaug.subsample(np.repeat([0, 1, 2], [10, 5, 3]), [2, 2, 2])
        assert names(data, "test") == [every[k] for k in chosen]  # whatever order the disk has them in
        assert sorted([*names(data, "train"), *names(data, "test")]) == every
        for split in data.sets:
            images = data.sets[split]
            for k, name in enumerate(names(data, split)):
                assert abs(number_of(images.image(k)[0]) - 5 * (every.index(name) + 1)) <= 1
                assert data.class_names[int(images.labels[k])] == name.split("/")[0]
        assert names(load(root, test_per_class=2, data_seed=1), "test") != names(data, "test")

    @pytest.mark.parametrize("profile", ["natural", "exponential"])
    def test_images_to_tune_on(self, profile: str, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data", {"ant": 10, "bee": 6, "cat": 4})
        words = {"profile": profile, "imbalance_ratio": 7.0}
        plain, data = load(root, **words), load(root, **words, held_out_per_class=2)
        assert names(data, "test") == names(plain, "test")
        assert data.sets["held_out"].labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.class_counts.tolist() == ([7, 3, 1] if profile == "natural" else [7, 2, 1])
        parts = [set(names(data, split)) for split in data.sets]
        assert len(set.union(*parts)) == sum(map(len, parts)) == len(data.sets["train"]) + 6 + 3
        assert (plain.splits, data.splits) == (("test",), ("test", "held_out"))
        assert data.held_out_note() == "6 images that training did not use (3 of 3 classes, 2 to 2 each)"

    @given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=8), wanted=st.integers(1, 9), seed=st.integers(0, 99))
    def test_every_class_keeps_one(self, sizes: list[int], wanted: int, seed: int) -> None:
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        labels = labels[torch.randperm(len(labels))]
        images = Images(labels, name_block(map(str, range(len(labels)))), torch.arange(len(labels)), None)
        words = settings(held_out_per_class=wanted, data_seed=seed)
        data = long_tailed_data([f"c{k}" for k in range(len(sizes))], {"train": images, "test": images}, words)
        kept, held_out = data.sets["train"].images, data.sets["held_out"].images
        assert sorted([*kept.rows.tolist(), *held_out.rows.tolist()]) == list(range(len(labels)))
        assert torch.equal(kept.labels, labels[kept.rows])
        assert held_out.labels.bincount(minlength=len(sizes)).tolist() == [min(wanted, size - 1) for size in sizes]

    def test_of_three_splits_one_is_to_tune_on(self, tmp_path: Path) -> None:
        for split, sizes in (("train", {"ant": 4, "bee": 3}), ("test", {"ant": 1, "bee": 1}), ("valid", {"bee": 2})):
            write_folders(tmp_path / split, sizes)
        data = load(tmp_path)
        assert [data.sets[split].labels.tolist() for split in data.splits] == [[0, 1], [1, 1]]
        assert data.held_out_note() == "2 images that training did not use (1 of 2 classes, 0 to 2 each)"
        with pytest.raises(ValueError, match=r"`held_out_per_class` is 1, but .* has images to tune corrections on"):
            load(tmp_path, held_out_per_class=1)

    def test_a_profile(self, tmp_path: Path) -> None:
        labels = [0] * 6 + [1] * 5 + [2] * 4
        write_folders(tmp_path / "train", {"ant": 6, "bee": 5, "cat": 4})
        write_folders(tmp_path / "test", {"ant": 1})
        data = load(tmp_path, profile="exponential", imbalance_ratio=3.0)
        chosen = ltaug.subsample(labels, [6, 3, 2])
        assert data.class_counts.tolist() == [6, 3, 2]
        assert data.sets["train"].images.rows.tolist() == chosen.tolist()
        assert data.index_hash == ltaug.index_hash(chosen)
        assert data.describe() == (
            f"11 training images (0 many, 0 medium, 3 few; subset {data.index_hash[:12]}), 1 test images "
            "(none of 2 classes)"
        )
        with pytest.raises(ValueError, match=r"`imbalance_ratio`=1 asks for 6 .* class 1 \(bee\), but there are 5"):
            load(tmp_path, profile="step", imbalance_ratio=1.0)

    def test_faults(self, tmp_path: Path) -> None:
        write_folders(tmp_path, {"ant": 3})
        with pytest.raises(ValueError, match="must have at least two classes, but has ant"):
            load(tmp_path)
        write_folders(tmp_path, {"bee": 2})
        with pytest.raises(ValueError, match=r"`test_per_class`=2 leaves no training samples of class 1 \(bee\)"):
            load(tmp_path, test_per_class=2)
        images = read_image_folder(str(tmp_path))[1]["train"]
        with pytest.raises(ValueError, match=r"Class 2 \(cat\) has no training samples \(1 of 3 classes have none\)"):
            long_tailed_data(["ant", "bee", "cat"], {"train": images, "test": images}, settings())

    def test_folders_of_other_programs_are_no_classes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What is left out is said; a link back to the root is not followed; classes 0 to 10 are in order."""
        write_folders(tmp_path, {str(k): 3 for k in range(11)})
        for name in ("2/Thumbs.db", "2/notes.txt", ".trash/00.jpg", "__MACOSX/a/00.jpg"):
            write(tmp_path / name, "text")
        (tmp_path / "3" / "all").symlink_to("..", target_is_directory=True)
        (tmp_path / "4" / "00.jpg").rename(tmp_path / "4" / "00.jfif")
        data = load(tmp_path)
        assert data.class_names == [str(k) for k in range(11)]
        assert data.class_counts.tolist() == [2] * 11
        assert "1 files are left out, since they are no images (.txt: 1)" in capsys.readouterr().err


class TestDigits:
    def test_are_those_of_cifar_lt(self) -> None:
        digits = read_digits(60, seed=3)
        train, test = digits.enlarged(digits.train), digits.enlarged(digits.test)
        words = settings(profile="exponential", imbalance_ratio=10.0, data_seed=3)
        data = long_tailed_data([str(k) for k in range(10)], {"train": train, "test": test}, words)
        rows = digits.train[ltaug.subsample(digits.labels[digits.train], data.class_counts, seed=3)]
        assert data.class_counts.tolist() == ltaug.exponential_counts(114, 10, 10).tolist()
        assert torch.equal(data.train_labels, digits.labels[rows])
        image = data.sets["train"].image(7)[0]
        assert (image.size, image.mode) == ((64, 64), "RGB")
        small = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=float)
        pixels = digits.images(rows[7:8])[0, :, :, 0].numpy()
        assert np.corrcoef(small.ravel(), pixels.ravel())[0, 1] > 0.9

    def test_sizes(self) -> None:
        digits = read_digits()
        assert ltaug.class_counts(digits.labels[digits.test]).tolist() == [60] * 10
        assert ltaug.class_counts(digits.labels[digits.train]).tolist() == [114] * 10
        assert not set(digits.test.tolist()) & set(digits.train.tolist())
        assert digits.images(digits.test, 8).shape == (600, 8, 8, 1)
        with pytest.raises(ValueError, match=r"`test_per_class` must lie in 1\.\.173, .* but is 174"):
            read_digits(174)


@pytest.fixture(scope="module")
def data() -> ImageData:
    digits = read_digits()
    splits = {"train": digits.enlarged(digits.train[::20]), "test": digits.enlarged(digits.test[::20])}
    return long_tailed_data([str(k) for k in range(10)], splits, settings(held_out_per_class=1))


def test_the_contract_of_data(data: ImageData) -> None:
    check_data(data, settings())


def test_batches_are_normalised_and_laid_out(data: ImageData) -> None:
    cfg = settings()
    ((inputs, labels), *_) = data.eval_loader(cfg, "test", ACCELERATOR)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels, data.sets["test"].labels[:8])
    pixels = np.asarray(data.sets["test"].image(3)[0].resize((32, 32), Image.Resampling.BOX)) / 255
    expected = (pixels - np.array(data.mean)) / np.array(data.std)
    assert np.corrcoef(inputs[3].permute(1, 2, 0).numpy().ravel(), expected.ravel())[0, 1] > 0.99
    assert data.preprocessing == {
        "kind": "images",
        "image_size": 32,
        "test_resize": 1.0,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_training_images_without_augmentation(data: ImageData) -> None:
    """As nearest class means want them: all of them, in order, never flipped."""
    cfg = settings()
    first, again = (list(data.eval_loader(cfg, "train", ACCELERATOR)) for _ in range(2))
    assert torch.equal(torch.cat([labels for _, labels in first]), data.train_labels)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    loader = data.train_loader(cfg, ClassPowerSampler(data.train_labels), ACCELERATOR)
    assert len(loader) == len(data.train_labels) // 8
    assert len(list(loader)) == len(loader)


def test_mistakes_of_every_shot_group(data: ImageData, tmp_path: Path) -> None:
    labels = data.sets["test"].labels
    logits = torch.zeros(len(labels), 10)
    logits[range(len(labels)), (labels + 1) % 10] = torch.linspace(1, 3, len(labels))  # all wrong, the last the surest
    names_before, data.class_names = data.class_names, ["<b>0</b>", *data.class_names[1:]]
    sections = dict(data.sections(logits, labels))
    data.class_names = names_before
    assert list(sections) == ["Mistakes: few-shot"]
    page = sections["Mistakes: few-shot"]
    assert f"{len(labels)} of {len(labels)} test images are wrong; the most confident 8." in page
    assert page.count('<img src="data:image/jpeg;base64,') == 8
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert "<b>" not in page
    shares = [int(share) for share in re.findall(r"<figcaption>[^<]*\((\d+) %\)", page)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == round(100 * math.exp(3) / (math.exp(3) + 9))


def test_unreadable_images_are_in_the_report(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"ant": 3, "bee": 3})
    write_folders(tmp_path / "test", {"ant": 1, "bee": 1})
    write(tmp_path / "train" / "ant" / "01.jpg", "no picture")
    data = load(tmp_path)
    for _ in data.eval_loader(settings(), "train", ACCELERATOR):
        pass
    logits = torch.eye(2) * 5
    assert data.sections(logits, torch.tensor([0, 1])) == [
        ("Unreadable images", "<p>1 train images could not be decoded; others took their place.</p>")
    ]


def test_workers_are_the_cores_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)), raising=False)
    for processes, workers in ((1, 8), (2, 6), (24, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert _default_workers() == workers
