"""Sets of images that are decoded when they are asked for: broken ones, workers, names."""

from __future__ import annotations

import io
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_support import number_of, picture, write
from PIL import Image

from ltaug.vision.image_set import Files, Images, ImageSet, name_block


def image_set(root: Path, labels: list[int], names: list[str]) -> ImageSet:
    return ImageSet(Images(torch.tensor(labels), name_block(names), torch.arange(len(names)), Files(root)))


def test_broken_images_are_replaced_by_others_of_their_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(big, "JPEG")
    contents = [picture(0), big.getvalue()[:-900], picture(20), b"no picture", None, picture(50), picture(60)[:9]]
    for k, content in enumerate(contents):
        if content is not None:
            write(tmp_path / f"{k}.jpg", content)
    images = image_set(tmp_path, [0, 1, 0, 0, 1, 1, 0], [f"{k}.jpg" for k in range(7)])
    images.transform = number_of
    for _ in range(2):
        assert [images[k] for k in range(7)] == [(0, 0), (50, 1), (20, 0), (0, 0), (50, 1), (50, 1), (0, 0)]
    assert images.unreadable == 4
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split("'")[1] for line in lines) == ["1.jpg", "3.jpg", "4.jpg", "6.jpg"]
    assert lines[0].startswith("Warning: the image '1.jpg' cannot be read (")
    assert "'3.jpg' cannot be read (of no kind that Pillow knows) and is replaced by another one of its" in lines[-2]


def test_of_a_class_without_a_readable_image_others_take_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in ((9, "good.jpg"), (20, "last.jpg")):
        write(tmp_path / name, picture(number))
    images = image_set(tmp_path, [0, 1, 1, 2], ["good.jpg", "a.jpg", "b.jpg", "last.jpg"])
    for _ in range(2):
        found = [(number_of(image), label) for image, label in (images[k] for k in range(4))]
        assert found == [(9, 0), (20, 2), (20, 2), (20, 2)]  # with their own labels
    warnings = capsys.readouterr().err
    assert warnings.count("of class 1 none of the 2 images can be read") == 1
    assert warnings.count("Warning:") == 3
    assert images.unreadable == 2


def test_a_set_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    images = image_set(tmp_path, [0, 1], ["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"None of the 2 images can be read, the first of which is 'a\.jpg'"):
        images[1]
    assert images.unreadable == 2


def test_a_transform_that_fails_is_no_broken_image(tmp_path: Path) -> None:
    write(tmp_path / "good.jpg", picture(9))
    images = image_set(tmp_path, [0], ["good.jpg"])
    images.transform = lambda image: image.nothing
    with pytest.raises(AttributeError, match="nothing"):
        images[0]
    assert images.unreadable == 0


def test_a_converted_image_of_one_colour_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(2):
        Image.fromarray(np.full((4, 4), 7, np.uint16)).save(tmp_path / f"{k}.png")  # 7 of 65535: black
    write(tmp_path / "2.png", picture(7, "PNG"))  # of one colour in the file
    images = image_set(tmp_path, [0, 0, 0], ["0.png", "1.png", "2.png"])
    assert [number_of(images[k][0]) for k in range(3)] == [0, 0, 7]
    warnings = capsys.readouterr().err
    assert warnings.count("Warning") == 1
    assert "the image '0.png', stored as I;16, has one colour only" in warnings


def test_workers_count_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for k in range(12):
        write(tmp_path / f"{k}.jpg", picture(10 * k) if k % 3 else b"no picture")
    images = image_set(tmp_path, [0] * 12, [f"{k}.jpg" for k in range(12)])
    images.transform = number_of
    loader = torch.utils.data.DataLoader(images, batch_size=2, num_workers=2, multiprocessing_context="fork")
    numbers = torch.cat([batch[0] for batch in loader]).tolist()
    assert numbers == [10 * k if k % 3 else 10 * (k + 1) for k in range(12)]
    assert images.unreadable == 4
    assert torch.cat([batch[0] for batch in loader]).tolist() == numbers
    assert capfd.readouterr().err.count("cannot be read") == 4


def test_a_spawned_worker_shares_the_count(tmp_path: Path) -> None:
    images = image_set(tmp_path, [0, 0], ["a.jpg", "b.jpg"])
    copy = pickle.loads(ForkingPickler.dumps(images))
    copy.notes.broken[1] = 1
    assert images.unreadable == 1


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))), st.data())
def test_names(names: list[str], data: st.DataObject) -> None:
    names = [*names, os.fsdecode(b"caf\xe9")]  # as Python keeps a name that is no UTF-8
    images = Images(torch.arange(len(names)), name_block(names), torch.arange(len(names)), None)
    assert [images.name(k) for k in range(len(names))] == names
    chosen = data.draw(st.lists(st.integers(0, len(names) - 1)))
    taken = images.take(torch.tensor(chosen, dtype=torch.long))
    assert [taken.name(k) for k in range(len(chosen))] == [names[k] for k in chosen]
    assert taken.labels.tolist() == taken.rows.tolist() == chosen


def test_names_need_little_memory() -> None:
    names = name_block(f"train_val2018/Plantae/{k % 8142}/{k:032x}.jpg" for k in range(10_000))
    assert names.nbytes < 85 * len(names)


def test_the_fingerprint_sees_labels_names_order_and_sizes(tmp_path: Path) -> None:
    def fingerprint(names: list[str], labels: list[int]) -> str:
        files = Images(torch.tensor(labels), name_block(names), torch.arange(len(names)), Files(tmp_path))
        return files.content_hash()

    for name, size in (("a", 3), ("b", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    found = [fingerprint(*each) for each in ((["a", "b"], [0, 1]), (["b", "a"], [0, 1]), (["a", "b"], [1, 0]))]
    assert fingerprint(["a", "b"], [0, 1]) == found[0]
    (tmp_path / "a").write_bytes(b"x" * 4)
    assert len({*found, fingerprint(["a", "b"], [0, 1])}) == 4
