"""Scenes of files: SYNTHIA's layout, folders, tables, and what is odd in them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import ltaug
from ltaug.errors import UserError
from ltaug.metrics import StreamingSegmentation
from ltaug.testing import ContractError, check_data
from ltaug.vision.dense import Segmented, save_segmented
from ltaug.vision.scenes import Scenes
from ltaug.vision.segmentation import (
    SceneData,
    SceneSettings,
    encode_depth,
    read_plane,
    read_scene_folder,
    read_scene_table,
    read_synthia,
    rendered_scenes,
)

CPU = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
SMALL = {"height": 16, "width": 24, "workers": 0}


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, grey or in colour, perhaps with transparency, which Pillow cannot write."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    return png([row.astype(">u2").tobytes() for row in pixels], pixels.shape[1], 16, kind)


def png(packed: list[bytes], width: int, bits: int, kind: int) -> bytes:
    """A PNG of rows of bytes."""
    rows = b"".join(b"\0" + row for row in packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, len(packed), bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def colours(ids: np.ndarray) -> np.ndarray:
    """Labels as SYNTHIA stores them: 16-bit colours, the class in red, an instance in green."""
    return np.stack([ids, np.full_like(ids, 700), np.zeros_like(ids)], -1)


def write_synthia(root: Path, frames: int = 10) -> Path:
    """Two seen and one unseen weather, two cameras; sizes differ, and a label that is not defined."""
    random = np.random.default_rng(0)
    for weather in ("DAWN", "NIGHT", "RAINNIGHT"):
        for camera in ("Stereo_Left/Omni_F", "Stereo_Right/Omni_B"):
            place = root / f"SYNTHIA-SEQS-05-{weather}"
            for kind in ("RGB", "Depth", "GT/LABELS", "GT/COLOR"):
                (place / kind / camera).mkdir(parents=True)
            for k in range(frames):
                height, width = (16, 24) if k else (20, 30)
                ids = random.choice([0, 1, 3, 12, 13, 15], (height, width))
                if k == 0:
                    ids[0, 0] = 22  # of another collection
                name = f"{camera}/{k:06d}.png"
                Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(place / "RGB" / name)
                (place / "Depth" / name).write_bytes(png16(np.full((height, width), 1000 + k)))
                (place / "GT/LABELS" / name).write_bytes(png16(colours(ids)))
    return root


class TestPlanes:
    def test_16_bit_colours_keep_small_numbers(self) -> None:
        """Pillow takes their upper byte: of class ids 0."""
        ids = np.array([[1, 15], [300, 0]])
        data = png16(colours(ids))
        assert np.asarray(Image.open(io.BytesIO(data)))[0, 1, 0] == 0
        assert np.array_equal(read_plane(Image.open(io.BytesIO(data))), ids)

    def test_greys_and_palettes(self) -> None:
        ids = np.array([[1, 65535], [300, 0]])
        assert np.array_equal(read_plane(Image.open(io.BytesIO(png16(ids)))), ids)
        palette = Image.fromarray(np.array([[0, 2]], np.uint8), "P")
        palette.putpalette([9, 9, 9] * 256)
        assert read_plane(palette).tolist() == [[0, 2]]

    @pytest.mark.parametrize("channels", [2, 4])
    def test_16_bits_beside_transparency(self, channels: int) -> None:
        pixels = np.full((2, 2, channels), 65535)
        pixels[..., 0] = ids = np.array([[1, 15], [300, 65535]])
        assert np.array_equal(read_plane(Image.open(io.BytesIO(png16(pixels)))), ids)

    def test_16_bits_that_lose_a_half_are_refused(self) -> None:
        image = Image.open(io.BytesIO(png16(colours(np.array([[1, 2]])))))
        image.tile = [(*tile[:3], "RGB;16N") for tile in image.tile]
        with pytest.raises(UserError, match="Store it as a grey PNG"):
            read_plane(image)

    @pytest.mark.parametrize(
        ("bits", "packed", "ids"), [(1, 0b10100000, [1, 0, 1]), (2, 0b00011011, [0, 1, 2, 3]), (4, 0x1A, [1, 10])]
    )
    def test_greys_of_few_bits_are_not_scaled(self, bits: int, packed: int, ids: list[int]) -> None:
        image = Image.open(io.BytesIO(png([bytes([packed])], len(ids), bits, 0)))
        plane = read_plane(image)
        assert (plane.dtype, plane.tolist()) == (np.uint8, [ids])

    def test_encoded_depth_falls_with_the_distance(self) -> None:
        encoded = encode_depth(np.array([0.5, 2, 10, 50, 600, 0]))
        assert (np.diff(encoded[:5].astype(int)) < 0).all()
        assert encoded[5] == 0


class TestSynthia:
    def test_published_layout(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        names, files = read_synthia(str(write_synthia(tmp_path)), SceneSettings(**SMALL))
        assert "has labels that SYNTHIA does not define (13" in capfd.readouterr().err
        # 7, 1 and 2 of 10 frames of each of 2 cameras, in 2 kinds of weather; of the unseen one 2 of each camera.
        assert {name: len(each) for name, each in files.items()} == {
            "train": 28,
            "held_out": 4,
            "test": 8,
            "rainnight": 4,
        }
        every = [triple for each in files.values() for triple in each.triples]
        assert len({str(triple) for triple in every}) == len(every)
        assert all(len({Path(path).name for path in triple}) == 1 for triple in every)
        data = SceneData(names, files, SceneSettings(**SMALL))
        assert data.conditions == ("test", "held_out", "rainnight")
        there = (data.class_counts > 0).nonzero().flatten().tolist()
        assert [names[k] for k in there] == ["sky", "road", "lane marking", "traffic light"]
        rgb, depth, labels = data.sets["train"].scene(0)
        assert (rgb.shape, depth.shape, labels.shape) == ((16, 24, 3), (16, 24), (16, 24))
        assert int(depth[0, 0]) == encode_depth(np.array(10.0 + 0.01 * int(Path(files["train"].triples[0][0]).stem)))

    def test_depth_batches(self, tmp_path: Path) -> None:
        settings = SceneSettings(modality="depth", **SMALL)
        data = SceneData(*read_synthia(str(write_synthia(tmp_path)), settings), settings)
        cfg = SimpleNamespace(batch_size=3, seed=0, channels_last=None, workers=0)
        images, labels = next(iter(data.eval_loader(cfg, "test", CPU)))
        assert images.shape == (3, 1, 16, 24)
        assert set(labels.unique().tolist()) <= {0, 2, 11, 12, 255}

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="SYNTHIA-SEQS-05-DAWN"):
            read_synthia(str(tmp_path), SceneSettings())
        write_synthia(tmp_path)
        (tmp_path / "SYNTHIA-SEQS-05-DAWN/Depth/Stereo_Left/Omni_F/000003.png").unlink()
        with pytest.raises(UserError, match=r"but 000003 is in one of them only \(1 such\)"):
            read_synthia(str(tmp_path), SceneSettings())


def write_folder(root: Path, number: int = 10, most: int = 2) -> Path:
    random = np.random.default_rng(0)
    for kind in ("rgb", "depth", "labels"):
        (root / kind).mkdir(parents=True)
    for k in range(number):
        size = (16 + k, 24)
        labels = random.integers(0, most + 1, size, np.uint8)
        labels[0] = 255
        Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(root / "rgb" / f"{k}.jpg")
        Image.fromarray(random.integers(1, 9000, size).astype(np.uint16)).save(root / "depth" / f"{k}.png")
        Image.fromarray(labels).save(root / "labels" / f"{k}.png")
    return root


class TestFolders:
    def test_triples_are_split(self, tmp_path: Path) -> None:
        names, files = read_scene_folder(str(write_folder(tmp_path)), SceneSettings(**SMALL))
        assert names == ["class 0", "class 1", "class 2"]
        assert [len(files[name]) for name in ("train", "held_out", "test")] == [7, 1, 2]

    def test_splits_and_conditions_and_named_classes(self, tmp_path: Path) -> None:
        for name in ("train", "val", "test", "snow"):
            write_folder(tmp_path / name, 3)
        (tmp_path / "classes.txt").write_text("road\nsky\nsign\ncar\n")
        names, files = read_scene_folder(str(tmp_path), SceneSettings(**SMALL))
        assert names == ["road", "sky", "sign", "car"]
        assert sorted(files) == ["held_out", "snow", "test", "train"]

    def test_a_class_beyond_those_named(self, tmp_path: Path) -> None:
        (write_folder(tmp_path) / "classes.txt").write_text("road\nsky\n")
        names, files = read_scene_folder(str(tmp_path), SceneSettings(**SMALL))
        with pytest.raises(UserError, match=r"labels.*have the class 2, but there are 2 classes, from 0 on, and 255"):
            SceneData(names, files, SceneSettings(**SMALL))

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_labels_in_colours_are_refused(self, tmp_path: Path, mode: str) -> None:
        root = write_folder(tmp_path)
        for path in (root / "labels").iterdir():
            Image.open(path).convert(mode).save(path)
        assert len(read_scene_folder(str(root), SceneSettings(**SMALL))[0]) == 3  # grey, stored as colours
        for path in (root / "labels").iterdir():
            palette = np.array([[128, 64, 128], [70, 130, 180], [220, 20, 60]], np.uint8)
            Image.fromarray(palette[np.asarray(Image.open(path))[..., 0] % 3]).convert(mode).save(path)
        with pytest.raises(UserError, match="are colours, but must be class numbers"):
            read_scene_folder(str(root), SceneSettings(**SMALL))

    def test_conditions_that_are_passed_over_are_said(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        for name in ("Training", "validation", "test", "snow"):
            write_folder(tmp_path / name, 3)
        for name in ("fog/rgb", "fog/depth", "fog/labels", "night/depth", ".git/x"):
            (tmp_path / name).mkdir(parents=True)
        settings = SceneSettings(**SMALL)
        data = SceneData(*read_scene_folder(str(tmp_path), settings), settings)
        assert sorted(data.sets) == ["held_out", "snow", "test", "train"]
        said = capfd.readouterr().err
        assert "the folder night of" in said
        assert "no scenes for fog, which is left out" in said
        assert ".git" not in said
        write_folder(tmp_path / "val", 3)
        with pytest.raises(UserError, match="two folders for held_out, val and validation"):
            read_scene_folder(str(tmp_path), settings)

    def test_two_files_of_one_scene(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path) / "rgb"
        Image.open(folder / "3.jpg").save(folder / "3.png")
        with pytest.raises(UserError, match=r"3\.jpg` and `.*3\.png` are two images of one scene"):
            read_scene_folder(str(tmp_path), SceneSettings(**SMALL))

    def test_labels_of_16_bits_beyond_the_largest_class(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        for path in (tmp_path / "labels").iterdir():
            labels = np.array(Image.open(path)).astype(np.uint16)
            Image.fromarray(np.where(labels == 255, 65535, labels).astype(np.uint16)).save(path)
        with pytest.raises(UserError, match="have 65535, which is beyond 254, the largest class"):
            read_scene_folder(str(tmp_path), SceneSettings(**SMALL))

    def test_a_stray_label_is_said(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        read_scene_folder(str(write_folder(tmp_path)), SceneSettings(**SMALL))
        assert "range up to" not in capfd.readouterr().err
        for path in (tmp_path / "labels").iterdir():
            labels = np.array(Image.open(path))
            labels[1, 1] = 7
            Image.fromarray(labels).save(path)
        assert len(read_scene_folder(str(tmp_path), SceneSettings(**SMALL))[0]) == 8
        said = capfd.readouterr().err
        assert "up to 7, so that there are 8 classes, but 4 of them, such as 3, have no pixel" in said
        assert "classes.txt" in said

    def test_columns_of_a_table(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "files")

        def stored(kind: str) -> list[Any]:
            paths = sorted((folder / kind).iterdir(), key=lambda path: int(path.stem))
            return [{"bytes": path.read_bytes(), "path": None} for path in paths]

        table = pyarrow.table({name: stored(name) for name in ("rgb", "depth", "labels")})
        (tmp_path / "table").mkdir()
        for split, rows in (("train", table), ("test", table.slice(0, 3)), ("night", table.slice(3, 2))):
            parquet.write_table(rows, tmp_path / "table" / f"{split}-0.parquet")
        names, files = read_scene_table(None, str(tmp_path / "table"), SceneSettings(**SMALL))
        assert len(names) == 3
        assert {"train": 9, "held_out": 1, "test": 3}.items() <= {k: len(v) for k, v in files.items()}.items()
        rgb, depth, labels = files["test"](0)
        assert rgb.shape[:2] == depth.shape == labels.shape
        assert set(np.unique(labels)) == {0, 1, 2, 255}


class TestData:
    def test_training_scenes_are_mirrored_with_their_labels(self) -> None:
        settings = SceneSettings(height=32, width=48, workers=0)
        data = SceneData([f"{k}" for k in range(13)], rendered_scenes(8, 1, 1, height=32, width=48), settings)
        torch.manual_seed(0)
        plain = data.sets["train"].scene(0)
        seen = set()
        for _ in range(12):
            image, labels = data.sets["train"][0]
            mirrored = not np.array_equal(labels.numpy(), plain[2])
            seen.add(mirrored)
            wanted = [plane[:, ::-1] if mirrored else plane for plane in plain]
            assert np.array_equal(image.numpy().transpose(1, 2, 0), wanted[0])
            assert np.array_equal(labels.numpy(), wanted[2])
        assert seen == {True, False}

    def test_counts_are_of_pixels(self) -> None:
        files = rendered_scenes(6, 1, 1, height=32, width=48)
        data = SceneData([f"{k}" for k in range(13)], files, SceneSettings(height=32, width=48))
        labels = torch.from_numpy(np.stack([files["train"].labels(k) for k in range(6)]))
        assert torch.equal(data.class_counts, ltaug.class_counts(labels, 13, ignore_index=255))

    @pytest.mark.parametrize(
        ("name", "words"), [("train", "all labels are void"), ("test", "of test"), ("held_out", "_")]
    )
    def test_void_scenes_are_refused_before_the_training(self, name: str, words: str) -> None:
        files = rendered_scenes(2, 1, 1, height=32, width=48)
        files[name].scenes.labels[:] = 255
        with pytest.raises(UserError, match=words):
            SceneData([f"{k}" for k in range(13)], files, SceneSettings(height=32, width=48))

    def test_a_void_condition_loses_its_scores_alone(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Its results are written after the whole training."""
        files = rendered_scenes(2, 1, 1, height=32, width=48)
        void = np.full_like(files["fog"].scenes.labels, 255)
        files["fog"].scenes = Scenes(files["fog"].scenes.rgb, files["fog"].scenes.depth, void)
        settings = SceneSettings(height=32, width=48, workers=0, keep_every=2)
        data = SceneData([f"{k}" for k in range(13)], files, settings)
        alone = SimpleNamespace(device=torch.device("cpu"))
        cfg = SimpleNamespace(batch_size=2, seed=0, channels_last=None, workers=0)
        kept: list[Any] = []
        run = SimpleNamespace(
            main=True, data=data, accelerator=alone, cfg=cfg, save_dense=lambda *all: kept.extend(all)
        )
        found = {}
        for name in data.conditions:
            scores = StreamingSegmentation(13, ignore_index=255)
            labels = torch.from_numpy(data.sets[name].scene(0)[2])[None]
            scores.update(torch.zeros(1, 13, 32, 48), labels)
            found[name] = Segmented(scores, torch.zeros(1, 13, 16, 24), labels[:, 1::2, 1::2])
        save_segmented(run, torch.nn.Conv2d(3, 13, 1), found, (0.1, 0.1))
        assert set(data.conditions) - set(kept[1]["scores"]) == {"fog"}
        assert "no pixel of fog has a class" in capfd.readouterr().err
        json.dumps(kept[1]["scores"])

    def test_few_kept_pixels_are_said(self, capfd: pytest.CaptureFixture[str]) -> None:
        for keep_every, few in ((1, False), (8, True)):
            settings = SceneSettings(height=96, width=128, keep_every=keep_every)
            SceneData([f"{k}" for k in range(13)], rendered_scenes(1, 1, 1), settings)
            assert ("pixels of the test scenes are kept" in capfd.readouterr().err) == few
        with pytest.raises(UserError, match="`keep_every` 500 is too large for scenes of 96 x 128"):
            SceneData(
                [f"{k}" for k in range(13)],
                rendered_scenes(1, 1, 1),
                SceneSettings(height=96, width=128, keep_every=500),
            )

    def test_the_contract(self) -> None:
        settings = SceneSettings(height=32, width=48, workers=0)
        data = SceneData([f"{k}" for k in range(13)], rendered_scenes(8, 2, 2, height=32, width=48), settings)
        cfg = SimpleNamespace(batch_size=4, seed=0, channels_last=None, workers=0)
        check_data(data, cfg, batches=2)
        data.ignore_index = 250
        with pytest.raises(ContractError, match=r"labels range from 0 to 255"):
            check_data(data, cfg, batches=2)
