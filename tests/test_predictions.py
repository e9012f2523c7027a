"""Predictions of new samples, by a model whose logits are written on its pictures: what is read, kept and said."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from torch import Tensor

from ltaug.__main__ import _parsers, main
from ltaug.correction import Correction
from ltaug.errors import UserError
from ltaug.posthoc import TemperatureScaling, shift_logits
from ltaug.predictions import PredictionModel, Predictions, predict_files, predict_logits
from ltaug.unlabelled import content, find_place, make_reader

NAMES, COUNTS = ["ant", "=1+1", "cat, big"], [80, 15, 5]
PRIOR = torch.tensor(COUNTS, dtype=torch.float64) / 100
PIXELS = {"kind": "small_images", "size": [1, 3, 1], "mean": [0.5], "std": [1 / 16]}
"""Grey pictures of three pixels, which become logits from -8 to 8, one a class."""


def model(tmp_path: Path, **info: Any) -> PredictionModel:
    """Logits are the pixels."""
    facts = {"class_names": NAMES, "class_counts": COUNTS, "logits_prior": PRIOR.tolist(), "preprocessing": PIXELS}
    reader = make_reader((facts | info)["preprocessing"])
    return PredictionModel(tmp_path / "run", facts | info, "0", reader, lambda inputs: inputs.flatten(1))


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


def picture(k: int) -> bytes:
    return png([[k % 251, (7 * k) % 241, (31 * k + 90) % 239]])


def logits_of(pictures: Any) -> Tensor:
    """The logits of pictures, by the formula of normalisation."""
    pixels = [np.asarray(Image.open(io.BytesIO(each))).ravel() for each in pictures]
    return torch.tensor(16 * (np.array(pixels) / 255 - 0.5), dtype=torch.float32)


def table(found: Predictions) -> list[list[str]]:
    with (found.folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def files(folder: Path) -> dict[str, bytes]:
    """All that a prediction leaves, but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".ltaug.lock"}


@pytest.fixture(autouse=True)
def _nothing_outlives_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(20):
        (folder / f"{k}.png").write_bytes(picture(k))
    return folder


def test_a_folder_of_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, nested folders, links, what other programs leave, files that are no pictures or damaged ones."""
    place = tmp_path / "place"
    names = ["2.png", "10.PNG", "=cmd|' /C calc'!A0.png", "a, b.png", "b/deep/no suffix", "caf\udce9.png"]
    for k, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Path(os.fsencode(place / name).decode("utf-8", "surrogateescape")).write_bytes(picture(k))
    for name in (".hidden.png", "Thumbs.db", "2.png.bak", "__MACOSX/x.png", "notes.txt", "labels.csv"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(picture(9) if "png" in name else b"text")
    (place / "broken.png").write_bytes(picture(3)[:40])
    (place / "empty.jpg").write_bytes(b"")
    (place / "b" / "loop").symlink_to(place)
    (place / "gone.png").symlink_to(place / "nothing")
    found = predict_files(model(tmp_path), place, workers=0)
    assert found.folder == tmp_path / "run" / "predictions" / "place"
    rows = table(found)
    assert rows[0] == ["name", "class", "probability", "second", "second_probability", "error"]
    assert [row[0] for row in rows[1:]] == [
        *("2.png", "10.PNG", "'=cmd|' /C calc'!A0.png", "a, b.png", "b/deep/no suffix", "broken.png", "café.png"),
        "empty.jpg",
    ]
    order = [0, 1, 2, 3, 4, 5]
    expected = logits_of(map(picture, order))
    assert torch.allclose(load_file(found.folder / "logits.safetensors")["logits"], expected, atol=1e-5)
    readable = [row for row in rows[1:] if not row[5]]
    for row, probs in zip(readable, expected.double().softmax(1), strict=True):
        first, second = probs.topk(2).indices.tolist()
        assert row[1].lstrip("'") == NAMES[first]
        assert row[3].lstrip("'") == NAMES[second]
        assert abs(float(row[2]) - probs[first]) < 1e-5 > abs(float(row[4]) - probs[second])
    assert [row[1:5] for row in rows[1:] if row[5]] == [[""] * 4] * 2
    kept = [json.loads(line) for line in (found.folder / "samples.jsonl").read_text().splitlines()]
    assert [row["name"] for row in kept if "error" in row] == ["broken.png", "empty.jpg"]
    assert (found.summary["predicted"], found.summary["unreadable"]) == (6, 2)
    shares = [each["predicted_share"] for each in found.summary["classes"]]
    assert shares == [(expected.argmax(1) == k).double().mean().item() for k in range(3)]
    said = capsys.readouterr().err
    assert "2 of 8 samples cannot be predicted: broken.png (" in said
    assert "4 files of " in said
    assert "are left out, since they are no images (" in said


def test_interrupted_it_goes_on_and_leaves_the_same(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two saved states; then by Ctrl-C; batches and worker processes as before."""
    settings = {"batch_size": 3, "workers": 0}
    (pictures / "5.png").write_bytes(b"damaged")
    whole = predict_files(model(tmp_path), pictures, tmp_path / "whole", **settings)
    again = model(tmp_path)
    seen: list[int] = []

    def stops(after: int, error: type[BaseException]) -> Callable[[Tensor], Tensor]:
        def logits(inputs: Tensor) -> Tensor:
            if sum(seen) >= after:
                raise error("stop")
            seen.append(len(inputs))
            return inputs.flatten(1)

        return logits

    again.logits = stops(8, MemoryError)  # one state is saved: that of the first batch
    with pytest.raises(MemoryError):
        predict_files(again, pictures, tmp_path / "out", **settings)
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["samples"] == 3
    assert (tmp_path / "out" / "logits.partial").stat().st_size > 256 + 3 * 12  # and what follows it is written
    again.logits = stops(14, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        predict_files(again, pictures, tmp_path / "out", **settings)
    done = json.loads((tmp_path / "out" / "progress.json").read_text())["samples"]
    seen.clear()
    again.logits = stops(99, MemoryError)
    predict_files(again, pictures, tmp_path / "out", batch_size=3, workers=2)
    assert sum(seen) == 20 - done
    expected, left = files(whole.folder), files(tmp_path / "out")
    assert left == expected
    assert sorted(left) == ["logits.safetensors", "predict.json", "predictions.csv", "samples.jsonl", "summary.json"]
    again.logits = stops(0, MemoryError)  # what is there is not computed again
    predict_files(again, pictures, tmp_path / "out", target_prior=[1, 1, 1], **settings)
    assert files(tmp_path / "out")["logits.safetensors"] == expected["logits.safetensors"]
    assert files(tmp_path / "out")["predictions.csv"] != expected["predictions.csv"]


@pytest.mark.slow
def test_killed_it_goes_on(pictures: Path, tmp_path: Path, root: Path) -> None:
    """By SIGKILL, with worker processes: `pytest -m slow tests/test_predictions.py -k killed`."""
    code = (
        "import sys, time, pathlib; from test_predictions import model\n"
        "import ltaug.predictions as p, ltaug._prediction_store as s\n"
        "s.SECONDS = 0.0; run = model(pathlib.Path(sys.argv[1]))\n"
        "run.logits = lambda x: time.sleep(0.3) or x.flatten(1)\n"
        "p.predict_files(run, sys.argv[2], sys.argv[3], batch_size=2, workers=2)"
    )
    path = os.pathsep.join([str(root), str(root / "tests")])
    started = [sys.executable, "-c", code, tmp_path, pictures, tmp_path / "out"]
    with subprocess.Popen(started, env={**os.environ, "PYTHONPATH": path}) as process:
        progress = tmp_path / "out" / "progress.json"
        while not progress.is_file() or json.loads(progress.read_text())["samples"] < 6:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    again = model(tmp_path)
    seen: list[int] = []
    again.logits = lambda inputs: seen.append(len(inputs)) or inputs.flatten(1)
    predict_files(again, pictures, tmp_path / "out", batch_size=2, workers=2)
    assert 0 < sum(seen) <= 14
    whole = predict_files(model(tmp_path), pictures, tmp_path / "whole", batch_size=2, workers=0)
    assert files(tmp_path / "out") == files(whole.folder)


def test_another_model_or_other_samples_are_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(model(tmp_path), pictures, out, workers=0)
    before = files(out)
    other = model(tmp_path)
    other.digest = "1"
    with pytest.raises(UserError, match=r"holds predictions of another model\. Name another folder as `out`"):
        predict_files(other, pictures, out, workers=0)
    with pytest.raises(UserError, match="of another `batch_size`"):
        predict_files(model(tmp_path), pictures, out, workers=0, batch_size=7)
    (pictures / "3.png").write_bytes(picture(77))
    with pytest.raises(UserError, match="of other samples"):
        predict_files(model(tmp_path), pictures, out, workers=0)
    assert files(out) == before
    with pytest.raises(UserError, match="holds something else than predictions"):
        predict_files(model(tmp_path), pictures, pictures, workers=0)


def test_corrections(pictures: Path, tmp_path: Path) -> None:
    """That of the run, another prior behind its calibrator, none; and what cannot be."""
    z = logits_of(map(picture, range(20)))
    run = model(tmp_path)
    calibrator = TemperatureScaling()
    labels = torch.arange(20) % 3
    run.correction = Correction(PRIOR, [0.2, 0.3, 0.5], calibrator=calibrator)
    run.correction.tune(z, labels)

    def probability(**more: Any) -> tuple[Tensor, str]:
        found = predict_files(run, pictures, tmp_path / "out", workers=0, **more)
        return torch.tensor([float(row[2]) for row in table(found)[1:]]), found.summary["correction"]

    def top(logits: Tensor) -> Tensor:
        return logits.detach().double().softmax(1).amax(1).float()

    found, words = probability()
    assert torch.allclose(found, top(run.correction(z)), atol=1e-5)
    assert words == "calibrated (TemperatureScaling), and shifted to the prior of the run's saved correction"
    found, words = probability(target_prior=[1, 1, 1])
    assert torch.allclose(found, top(shift_logits(calibrator(z), PRIOR, torch.ones(3))), atol=1e-5)
    assert "the prior asked for" in words
    found, words = probability(raw=True)
    assert torch.allclose(found, top(z), atol=1e-5)
    assert words.startswith("none")
    inside = model(tmp_path, correction=run.correction.digest)  # an exported file, and what is saved beside it
    inside.target, inside.correction = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64), run.correction
    found = predict_files(inside, pictures, tmp_path / "out", workers=0).summary
    assert found["correction"] == "shifted to the default prior of the exported model"
    inside.correction = Correction(PRIOR, [0.2, 0.3, 0.5])
    with pytest.raises(UserError, match="has another correction inside than the one that is saved beside it"):
        predict_files(inside, pictures, tmp_path / "out", workers=0)
    predict_files(inside, pictures, tmp_path / "out", workers=0, raw=True)
    unknown = model(tmp_path, logits_prior=None, logits_prior_reason="mixed by hand")
    for asked, more, message in (
        (run, {"target_prior": [1, 1]}, "`target_prior` has 2 numbers, but the model 3 classes"),
        (run, {"target_prior": [1, 1, 1], "estimate": "trend"}, "Leave one of them out"),
        (run, {"estimate": "trand"}, "did you mean 'trend'"),
        (unknown, {"estimate": "center"}, r"does not say which prior its logits are under \(mixed by hand\)"),
        (model(tmp_path, several_labels=True), {"target_prior": [1, 1, 1]}, "several labels a sample"),
        (model(tmp_path, logits_prior=[0.9, 0.1, 0.0]), {"estimate": "estimate"}, r"is 0 for cat, big \(1 such\)"),
        (model(tmp_path, preprocessing=PIXELS, class_names=NAMES[:2], class_counts=[1, 1]), {}, "names 2 classes"),
    ):
        with pytest.raises(UserError, match=message):
            predict_files(asked, pictures, tmp_path / "other", workers=0, **more)


@pytest.mark.parametrize("how", ["estimate", "center"])
def test_the_mix_of_the_samples_is_found(how: str, tmp_path: Path) -> None:
    """Of samples whose true mix is the reverse of the training's: it is in the interval, and accuracy rises."""
    truth = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(truth, 1200, replacement=True, generator=generator)
    points = 2.5 * torch.eye(3)[labels] + torch.randn(1200, 3, generator=generator)
    z = 2.5 * points + PRIOR.log()  # Bayes' rule, but for a constant a sample
    pixels = (255 * ((z / 16) + 0.5)).round().clamp(0, 255)
    rows = [{"bytes": png([row]), "path": None} for row in pixels.tolist()]
    parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "shifted.parquet", row_group_size=500)
    run = model(tmp_path, class_counts=[800, 150, 50])
    found = predict_files(run, tmp_path / "shifted.parquet", tmp_path / "out", estimate=how, workers=0)
    classes = found.summary["classes"]
    mix = torch.tensor([each["estimated_share"] for each in classes], dtype=torch.float64)
    assert float((mix - truth).abs().sum()) < (0.06 if how == "estimate" else 0.2)
    if how == "estimate":
        assert all(each["low"] < share < each["high"] for each, share in zip(classes, truth, strict=True))
        assert all(each["high"] - each["low"] < 0.12 for each in classes)
    predicted = torch.tensor([[*map(str, NAMES)].index(row[1].removeprefix("'")) for row in table(found)[1:]])
    assert (predicted == labels).double().mean() > (z.argmax(1) == labels).double().mean() + 0.05
    assert found.summary["estimated_on"] == 1200
    assert table(found)[1][0] == "shifted 0"


def test_several_labels(pictures: Path, tmp_path: Path) -> None:
    found = predict_files(model(tmp_path, several_labels=True), pictures, tmp_path / "out", workers=0)
    probs = logits_of(map(picture, range(20))).sigmoid()
    rows = table(found)
    assert rows[0] == ["name", "labels", "p(ant)", "p(=1+1)", "p(cat, big)", "error"]
    for row, p in zip(rows[1:], probs, strict=True):
        assert torch.allclose(torch.tensor(list(map(float, row[2:5]))), p, atol=1e-5)
        above = [NAMES[k] for k in p.argsort(descending=True).tolist() if p[k] > 0.5]
        assert row[1].removeprefix("'") == "; ".join(above)


@pytest.mark.parametrize("modality", ["rgb", "depth"])
def test_scenes(modality: str, tmp_path: Path) -> None:
    """A picture of classes as large as the scene, shares of pixels, logits on a grid."""
    channels = 3 if modality == "rgb" else 1
    values = {"kind": "scenes", "modality": modality, "height": 8, "width": 16, "depth_scale": 0.01}
    values |= {"mean": [0.0] * channels, "std": [1.0] * channels}
    place = tmp_path / "scenes"
    place.mkdir()
    left = np.zeros((16, 32, 3), np.uint8)
    left[:, :16, 0] = 255
    depth = np.full((16, 32), 60000, np.uint16)
    depth[:, :16] = 100
    Image.fromarray(left if modality == "rgb" else depth).save(place / "a.png")
    (place / "b.png").write_bytes(b"no")
    run = model(tmp_path, preprocessing=values)
    run.logits = lambda x: torch.cat([8 * x[:, :1], 4 + 0 * x[:, :1], 0 * x[:, :1] - 9], 1)
    run.grid = 4
    found = predict_files(run, place, tmp_path / "out", workers=0)
    assert found.logits().shape == (1, 3, 2, 4)
    rows = table(found)
    assert rows[0] == ["name", "picture", "share(ant)", "share(=1+1)", "share(cat, big)", "error"]
    with Image.open(found.folder / rows[1][1]) as image:
        classes = np.asarray(image)
    assert classes.shape == (16, 32)
    assert (classes[:, :14] == 0).all()
    assert (classes[:, 18:] == 1).all()
    assert [float(cell) for cell in rows[1][2:5]] == pytest.approx([(classes == k).mean() for k in range(3)], abs=1e-5)
    assert rows[2][0] == "b.png"
    assert rows[2][5]
    logits = predict_logits(run, place)
    assert logits.shape == (8, 3)
    assert (tmp_path / "run" / "predictions" / "scenes_logits").is_dir()
    with pytest.raises(UserError, match="before their mix is known"):
        predict_files(run, place, tmp_path / "out", estimate="trend")
    for number, source in enumerate(([1, 1, 1], [9, 1, 1])):  # said in the same words, for the same target
        run.correction = Correction(source, [1, 1, 1])
        with pytest.raises(UserError, match="of another correction, with which pictures of classes were written"):
            predict_files(run, place, tmp_path / "out", workers=0)
        predict_files(run, place, tmp_path / f"out{number}", workers=0)
    with pytest.raises(UserError, match="of another correction"):
        predict_files(run, place, tmp_path / "out0", workers=0)


def test_scenes_of_many_classes(tmp_path: Path) -> None:
    """A byte a pixel has 256 of them."""
    values = {"kind": "scenes", "modality": "rgb", "height": 8, "width": 8, "mean": [0.0] * 3, "std": [1.0] * 3}
    (tmp_path / "scenes").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "scenes" / "a.png")
    names = [f"c{k}" for k in range(300)]
    run = model(tmp_path, preprocessing=values, class_names=names, class_counts=[1] * 300, logits_prior=None)
    run.logits = lambda x: torch.eye(300)[290].view(1, -1, 1, 1).repeat(len(x), 1, 8, 8)
    found = predict_files(run, tmp_path / "scenes", tmp_path / "out", workers=0)
    with Image.open(found.folder / table(found)[1][1]) as image:
        assert (np.asarray(image) == 290).all()
        assert image.size == (16, 16)


def test_sounds(tmp_path: Path) -> None:
    """Any rate and format; crops as the recipe's loader has them, or windows; raw for an exported file."""
    soundfile = pytest.importorskip("soundfile")
    from ltaug.audio import read_clip
    from ltaug.loaders import ResidentWaveformLoader

    place = tmp_path / "sounds"
    place.mkdir()
    for k, rate in enumerate((8000, 16000, 8000)):
        noise = np.random.default_rng(k).normal(0, 0.1, 3000 + 500 * k)
        soundfile.write(place / f"{k}.{'flac' if k else 'wav'}", noise, rate)
    (place / "bad.wav").write_bytes(b"RIFF")
    values = {"kind": "sounds", "sample_rate": 8000, "trim_silence": True, "trim_db": None, "crop_length": 2000}
    clips = [torch.from_numpy(read_clip(path, 8000)) for path in sorted(place.glob("[0-9]*"))]
    for more in ({"test_crops": 4, "test_hop": 0.0}, {"test_crops": 4, "test_hop": 0.1}):
        how = {"batch_size": 1, "crops": 4} if not more["test_hop"] else {"batch_size": 1, "hop": 800}
        run = model(tmp_path, preprocessing=values | more)
        run.logits = lambda x: torch.stack([x.std((1, 2)), x.amax((1, 2)), x.shape[1] * torch.ones(len(x))], 1)
        out = tmp_path / f"out{more['test_hop']}"
        found = predict_files(run, place, out, workers=0, batch_size=2)
        loader = ResidentWaveformLoader(clips, torch.zeros(3, dtype=torch.int64), crop_length=2000, **how)
        expected = torch.cat([run.logits(inputs) for inputs, _ in loader])
        assert torch.allclose(torch.from_numpy(np.array(found.logits())), expected, atol=1e-6)
        assert [row[0] for row in table(found)[1:]] == ["0.wav", "1.flac", "2.flac", "bad.wav"]
    reader = make_reader(values | {"test_crops": 4, "test_hop": 0.0}, raw=True)
    raw = [reader.read(str(path)).sample for path in sorted(place.glob("[0-9]*"))]
    assert all(torch.equal(a, b / 32768) for a, b in zip(raw, clips, strict=True))
    with pytest.raises(ValueError, match="has no samples"):
        reader.read((np.zeros(0), 8000))


def test_raw_pictures_of_several_sizes_are_computed_apart(tmp_path: Path) -> None:
    """An exported file takes pictures as they are: neighbours of one size together, in their order."""
    place = tmp_path / "sizes"
    place.mkdir()
    for k, size in enumerate([(4, 6), (4, 6), (8, 2), (4, 6)]):
        Image.fromarray(np.full((*size, 3), 10 * k, np.uint8)).save(place / f"{k}.png")
    values = {"kind": "images", "image_size": 4, "test_resize": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    run = model(tmp_path, preprocessing=values)
    run.reader = make_reader(values, raw=True)
    shapes = []

    def logits(inputs: Tensor) -> Tensor:
        shapes.append(tuple(inputs.shape))
        return inputs.float().mean((1, 2))

    run.logits = logits
    found = predict_files(run, place, tmp_path / "out", workers=0)
    assert shapes == [(2, 4, 6, 3), (1, 8, 2, 3), (1, 4, 6, 3)]
    assert found.logits()[:, 0].tolist() == [0, 10, 20, 30]


def test_places(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables by bytes, structs and names of files; splits; from any sample on; what is no place."""
    stored = [{"bytes": picture(k), "path": f"{k % 2}.png"} for k in range(9)]
    both = tmp_path / "both" / "data"
    both.mkdir(parents=True)
    for split, rows in (("train", stored), ("test", stored[:4])):
        parquet.write_table(pyarrow.table({"label": [0] * len(rows), "img": rows}), both / f"{split}-0.parquet", 4)
    place = find_place(both.parent, split="train")
    assert (place.size, place.name) == (9, "both-train")
    for start in (0, 3, 4, 8):
        found = list(place.samples(start))
        assert [content(each.stored) for each in found] == [each["bytes"] for each in stored[start:]]
        assert [each.name for each in found] == [each["path"] for each in stored[start:]]
    found = predict_files(model(tmp_path), place, tmp_path / "out", workers=0)
    assert "7 names are there more than once" in capsys.readouterr().err
    shutil.copytree(pictures, tmp_path / "named")
    parquet.write_table(pyarrow.table({"file": ["3.png", "gone.png"]}), tmp_path / "table.parquet")
    shutil.move(tmp_path / "table.parquet", tmp_path / "named" / "table.parquet")
    found = predict_files(model(tmp_path), tmp_path / "named" / "table.parquet", tmp_path / "out2", workers=0)
    assert [row[0] for row in table(found)[1:]] == ["3.png", "gone.png"]
    assert table(found)[2][5] == "No such file or directory"
    one = find_place(pictures / "3.png")
    assert [each.name for each in one.samples()] == ["3.png"]
    outside = tmp_path / "outside"
    outside.mkdir()
    parquet.write_table(pyarrow.table({"file": ["../pictures/3.png"]}), outside / "table.parquet")
    with pytest.raises(UserError, match="lie outside"):
        list(find_place(outside).samples())
    assert len(list(find_place(outside, allow_outside=True).samples())) == 1
    shutil.copytree(tmp_path / "outside", tmp_path / "mixed")
    (tmp_path / "mixed" / "1.png").write_bytes(picture(1))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    twice = pyarrow.Table.from_arrays([pyarrow.array([b"1"])] * 2, names=["img", "img"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.md").write_text("x")
    for where, more, message in (
        (tmp_path / "empty", {}, "has no images that can be read."),
        (tmp_path / "text", {}, r"but 1 other files \(.md: 1\)"),
        (tmp_path / "text" / "a.md", {}, "has no images"),
        (tmp_path / "pictur", {}, "did you mean 'pictures'"),
        (both.parent, {}, "several splits: there are train, test"),
        (both.parent, {"split": "val"}, "no split named 'val'"),
        (both / "test-0.parquet", {"column": "image"}, "no column 'image', but label, img"),
        (both / "test-0.parquet", {"column": "label"}, "Column 'label' of .* is of type int64, but images are bytes"),
        (tmp_path / "mixed", {}, "has 1 images and 1 parquet files. Name a single one of them"),
        (tmp_path / "bad.parquet", {}, r"bad\.parquet` cannot be read as parquet"),
        (tmp_path / "twice.parquet", {}, r"twice\.parquet` has 2 columns 'img', but must have one"),
        (pictures, {"split": "test"}, "`split` is 'test', but .* holds files and no tables"),
    ):
        with pytest.raises(UserError, match=message):
            find_place(where, **more)
    with pytest.raises(UserError, match=r"None of the 1 samples .* can be predicted: 3\.png"):
        predict_files(model(tmp_path), find_place(broken(tmp_path / "broken" / "3.png")), tmp_path / "out3")
    assert sorted(path.name for path in (tmp_path / "out3").iterdir()) == [".ltaug.lock"]


def broken(path: Path) -> Path:
    path.parent.mkdir()
    path.write_bytes(b"no picture")
    return path.parent


def test_the_command(
    pictures: Path, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltaug.commands.predict.open_model", lambda *_: model(tmp_path))
    (pictures / "5.png").write_bytes(b"")
    prior = tmp_path / "prior.json"
    prior.write_text('{"ant": 1, "=1+1": 2, "cat, big": 3}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("method: erm\n")
    words = ["predict", str(tmp_path / "run"), str(pictures), "--workers", "0"]
    main([*words, "--target_prior", str(prior)])
    said = capsys.readouterr().out
    assert "Correction: shifted to the prior asked for (" in said
    assert "19 samples are predicted, 1 could not be read. Written: " in said
    z = shift_logits(logits_of(picture(k) for k in range(20) if k != 5), PRIOR, torch.tensor([1.0, 2.0, 3.0]))
    share = 100 * (z.argmax(1) == 0).double().mean()
    assert f"| ant | 80.00 | {share:.2f} | {100 * z.double().softmax(1)[:, 0].mean():.2f} |" in said
    main([*words, "--estimate"])
    out, err = capsys.readouterr()
    assert "| class | training | predicted | mean probability | mix | 95 % interval |" in out
    assert "shifted to the mix of these samples (estimate)" in out
    assert "a free estimate may be worse than none; --estimate center" in err
    assert "not calibrated" in out
    for more, message in (
        (["--target_prior", "unifrom"], "did you mean 'uniform'"),
        (["--target_prior", "center"], "is not a prior that is given: --estimate center"),
        (["--device", "cuda:99"], "`device` must be one of this machine"),
        (["--split", "test"], "`split` is 'test', but "),
        (["--batch_size", "5"], "holds predictions of another `batch_size`"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "rum"), *words[2:]])
    assert "did you mean 'run'" in capsys.readouterr().err
    commands = re.findall(r"`ltaug (predict [^`]+)`", (root / "docs" / "use_a_run.md").read_text())
    assert len(commands) > 6
    _, parsers = _parsers()
    assert all(parsers["predict"].parse_args(shlex.split(command)[1:]) for command in commands)


def test_the_hub(tmp_path: Path) -> None:
    """A split is streamed, as bytes in parquet files or as files; a transfer that breaks off goes on later."""
    from datasets import disable_progress_bars
    from hub_server import asked_by_this_process, serving

    disable_progress_bars()
    rows = [{"bytes": picture(k), "path": f"{k}.png"} for k in range(7)]
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"label": [0] * 7, "image": rows}), file, row_group_size=2)
    with serving() as hub, asked_by_this_process(hub, tmp_path / "home"):
        hub.add("ada/table", {"data/test-00000-of-00001.parquet": file.getvalue()}, "dataset")
        hub.add("ada/files", {f"test/{k}.png": picture(k) for k in range(3)}, "dataset")
        found = predict_files(model(tmp_path), "ada/table", tmp_path / "out", workers=0, batch_size=3)
        assert [row[0] for row in table(found)[1:]] == [f"{k}.png" for k in range(7)]
        assert torch.allclose(torch.tensor(found.logits()), logits_of(map(picture, range(7))), atol=1e-5)
        found = predict_files(model(tmp_path), "ada/files", split="test", workers=0)
        assert found.folder.name == "files-test"
        assert torch.allclose(torch.tensor(found.logits()), logits_of(map(picture, range(3))), atol=1e-5)
        with pytest.raises(UserError, match="no split named 'val'"):
            find_place("ada/table", split="val")
        with pytest.raises(ConnectionError, match="There is no data set 'ada/nothing' on the hub"):
            find_place("ada/nothing")
        place = find_place("ada/table")
        hub.fails(403, "1.png")
        with pytest.raises(ConnectionError, match="The hub has not given 'hf://") as told:
            predict_files(model(tmp_path), "ada/files", tmp_path / "out3", split="test", workers=2, batch_size=1)
        assert "Traceback" not in str(told.value)
        hub.fails(404, "parquet")
        with pytest.raises(ConnectionError, match="'ada/table' has stopped after 5 samples"):
            list(place.samples(5))


def test_a_preprocessing_of_somebody_s_own_is_refused() -> None:
    with pytest.raises(UserError, match="Its recipe is somebody's own"):
        make_reader({"scale": 3})


def test_many_samples_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are read in parts, and a mix is estimated on evenly spaced ones."""
    monkeypatch.setattr("ltaug._prediction_tables.NUMBERS_AT_ONCE", 9)
    monkeypatch.setattr("ltaug.predictions.ESTIMATED_ON", 5)
    place = tmp_path / "many"
    place.mkdir()
    for k in range(10):
        (place / f"{k}.png").write_bytes(picture(k))
    found = predict_files(model(tmp_path), place, tmp_path / "out", workers=0)
    assert len(table(found)) == 11
    assert predict_logits(model(tmp_path), place, tmp_path / "out").tolist() == found.logits()[[0, 2, 4, 7, 9]].tolist()


def test_logits_that_are_no_numbers_are_no_predictions(pictures: Path, tmp_path: Path) -> None:
    run, whole = model(tmp_path), model(tmp_path)
    run.logits = lambda x: torch.where(x.flatten(1)[:, :1] < -7, torch.tensor(float("nan")), x.flatten(1))
    found = predict_files(run, pictures, tmp_path / "out", workers=0)
    expected = torch.tensor(predict_files(whole, pictures, tmp_path / "whole", workers=0).logits())
    kept = expected[:, 0] >= -7
    assert 0 < int(kept.sum()) < 20
    assert torch.equal(torch.tensor(found.logits()), expected[kept])
    assert [row[5] == "" for row in table(found)[1:]] == kept.tolist()
    assert "its logits are not finite" in {row[5] for row in table(found)}
    run.logits = lambda x: x.flatten(1) / 0
    with pytest.raises(UserError, match=r"None of the 20 samples .* can be predicted: 0\.png \(its logits are not fin"):
        predict_files(run, pictures, tmp_path / "none", workers=0)


def test_damaged_predictions_are_not_believed(pictures: Path, tmp_path: Path) -> None:
    out = predict_files(model(tmp_path), pictures, tmp_path / "out", workers=0).folder
    for name in ("samples.jsonl", "logits.safetensors"):
        before = (out / name).read_bytes()
        for damaged in (before[:-5], before[: before.rindex(b"{")] if name == "samples.jsonl" else before + b"\0", b""):
            (out / name).write_bytes(damaged)
            with pytest.raises(UserError, match=r"out` is damaged \(.*\)\. Delete it, and predict again"):
                predict_files(model(tmp_path), pictures, out, workers=0)
        (out / name).write_bytes(before)
    (out / "samples.jsonl").write_text((out / "samples.jsonl").read_text() + '{"name": "x", "error": "y"}\n')
    with pytest.raises(UserError, match="has 21 samples, but there were 20"):
        predict_files(model(tmp_path), pictures, out, workers=0)
    with pytest.raises(UserError, match=r"`out` must be a folder, but `.*3\.png` is a file"):
        predict_files(model(tmp_path), pictures, pictures / "3.png", workers=0)
