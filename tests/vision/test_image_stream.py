"""Training images out of parquet files: what is drawn, what is held, what is read, and resuming inside an epoch."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
import torch
from image_support import picture as plain_picture
from PIL import Image
from pyarrow import parquet
from scipy.stats import chisquare

import ltaug
from ltaug.methods import METHODS
from ltaug.vision import shards as shards_module
from ltaug.vision import streaming
from ltaug.vision.data import ImageSettings, streamed_data
from ltaug.vision.shards import Pool, Shards
from ltaug.vision.streaming import Stream, StreamLoader, StreamSet, class_exponents
from ltaug.vision.tables import read_image_stream
from ltaug.vision.window import Window

COUNTS = (60, 30, 12, 4, 2, 1)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS)).tolist()
N = len(LABELS)  # 109
BUFFER = 5
HELD = sum(min(count, BUFFER) for count in COUNTS)


def picture(number: int) -> bytes:
    """A small picture of a number; those of larger numbers take more bytes."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (4 + number // 20, 4, 3), np.uint8)
    pixels[0, 0] = number
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def number_of(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0]


def write_shards(folder: Path, change: Callable = lambda k, file: file, files: int = 3, metadata: bool = True) -> Path:
    """Training images in files of row groups of seven, and a test split."""
    names = [f"kind {c}" for c in range(len(COUNTS))]
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}}}
    folder.mkdir(parents=True, exist_ok=True)

    def save(name: str, numbers: list[int]) -> None:
        images = [change(k, {"bytes": picture(k), "path": f"{k}.png"}) for k in numbers]
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        table = pyarrow.table({"image": pyarrow.array(images, kind), "label": [LABELS[k] for k in numbers]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)} if metadata else {})
        parquet.write_table(table, folder / name, row_group_size=7)

    for k, part in enumerate(np.array_split(np.arange(N), files)):
        save(f"train-{k:05d}-of-{files:05d}.parquet", part.tolist())
    save("test-00000-of-00001.parquet", [0, 1, 2, 3])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("stream") / "shards")


def load(folder: Path, buffer: int = BUFFER, **words: Any) -> StreamSet:
    """The training images; decoded they are their numbers."""
    train = read_image_stream(None, str(folder), buffer=buffer, **words)[1]
    train.transform = number_of
    return train


@pytest.fixture(scope="module")
def loaded(folder: Path) -> StreamSet:
    return load(folder)


@pytest.fixture
def train(loaded: StreamSet) -> StreamSet:
    """The training images, of which nothing has been read."""
    images = StreamSet(loaded.shards, loaded.labels, BUFFER, len(COUNTS))
    images.transform = number_of
    return images


def stream(
    train: StreamSet,
    taus: tuple[float, ...],
    batch_size: int,
    seed: int,
    epoch: int,
    processes: int = 1,
    process: int = 0,
    first_step: int = 0,
) -> Stream:
    """An epoch, as a StreamLoader makes it."""
    sampler = ltaug.ClassPowerSampler(train.labels, 1.0)
    loader = StreamLoader(train, batch_size, sampler=sampler, seed=seed, num_processes=processes, process_index=process)
    loader.set_epoch(epoch, first_step)
    return Stream(loader, taus)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that have been read."""
    groups: list[int] = []
    whole = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, k: groups.append(k) or whole(self, k))
    return groups


def as_worker(monkeypatch: pytest.MonkeyPatch, worker: int, workers: int) -> None:
    info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
    monkeypatch.setattr(streaming, "get_worker_info", lambda: info)


def batches(epoch: Stream, workers: int = 0) -> list:
    """What a loader makes of a stream."""
    words = {"multiprocessing_context": "fork"} if workers else {}
    return list(torch.utils.data.DataLoader(epoch, batch_size=epoch.share, num_workers=workers, **words))


class TestIndex:
    def test_labels_without_images(self, folder: Path, read: list[int]) -> None:
        names, train, splits = read_image_stream(None, str(folder), buffer=BUFFER)
        assert names == [f"kind {c}" for c in range(6)]
        assert train.labels.tolist() == LABELS
        assert train.labels.dtype == torch.int64
        assert train.counts.tolist() == list(COUNTS)
        assert len(train) == N
        assert splits["test"].labels.tolist() == LABELS[:4]
        assert read == []

    def test_it_is_kept_as_long_as_the_files_are_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        folder = write_shards(tmp_path / "shards")
        load(folder)
        with monkeypatch.context() as context:
            context.setattr(shards_module.pyarrow, "concat_tables", None)
            assert load(folder).labels.tolist() == LABELS
        (folder / "train-00001-of-00003.parquet").touch()
        assert load(folder).labels.tolist() == LABELS
        assert len(list((tmp_path / "cache" / "streams").glob("*.parquet"))) == 2
        assert not list((tmp_path / "cache" / "streams").glob("*.part"))

    @pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * 300])
    def test_a_damaged_cache_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: Any
    ) -> None:
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        train = load(write_shards(tmp_path / "shards"))
        arguments = train.labels.numpy(), train.counts.numpy(), BUFFER
        rows = shards_module._pooled(train.shards.pool(*arguments)).column("row").to_pylist()
        kept = sorted(file for file in (tmp_path / "cache").rglob("*") if file.suffix in (".parquet", ".arrow"))
        assert len(kept) == 2
        for file in kept:
            file.write_bytes(damage(file.read_bytes()))
        again = load(tmp_path / "shards")
        assert again.labels.tolist() == LABELS
        assert shards_module._pooled(again.shards.pool(*arguments)).column("row").to_pylist() == rows
        said = capsys.readouterr().err
        assert all(f"`{file}` of the cache is damaged and made anew (" in said for file in kept)

    def test_another_file_system(self, train: StreamSet, folder: Path) -> None:
        memory = fsspec.filesystem("memory")
        paths = []
        for file in sorted(folder.glob("train*")):
            memory.pipe(f"/shards/{file.name}", file.read_bytes())
            paths.append(f"fsspec+memory:///shards/{file.name}")
        remote = Shards(paths, "train", "image", "label", "memory")
        assert remote.labels.to_pylist() == LABELS
        assert remote.read(4).to_pylist() == train.shards.read(4).to_pylist()
        assert remote.key != train.shards.key

    def test_faults(self, train: StreamSet, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"no column 'img' in its train split .*, but image, label.* `image_column`"
        ):
            load(folder, image_column="img")
        with pytest.raises(ValueError, match=r"no split named 'dev', but .* with `train_split`"):
            load(folder, train_split="dev")
        (tmp_path / "csv").mkdir()
        (tmp_path / "csv" / "train.csv").write_text("image,label\n")
        with pytest.raises(ValueError, match=r"A stream reads parquet files only, but .* has .*train\.csv"):
            load(tmp_path / "csv")
        sampler = ltaug.ClassPowerSampler
        assert class_exponents(sampler(train.labels, 0.5)) == (0.5,)
        pairs = ltaug.PairSampler(sampler(train.labels, 1.0, replacement=False), sampler(train.labels, -1.0))
        assert class_exponents(pairs) == (1, -1)
        with pytest.raises(ValueError, match="by a power of their sizes, which ClassAwareSampler does not"):
            class_exponents(ltaug.ClassAwareSampler(train.labels))
        apart = ltaug.PairSampler(sampler(train.labels), sampler(train.labels), different_classes=train.labels)
        with pytest.raises(ValueError, match="which PairSampler does not"):
            class_exponents(apart)
        with pytest.raises(ValueError, match="`batch_size`=110 exceeds the 109 training images"):
            stream(train, (1.0,), 110, 0, 0)

    def test_what_does_not_go_with_a_stream(self, train: StreamSet, folder: Path) -> None:
        names, _, splits = read_image_stream(None, str(folder), buffer=BUFFER)
        for changes, message in (
            ({"profile": "step"}, "`stream` takes every image as it comes, but `profile` is step"),
            ({"held_out_per_class": 2}, "but `held_out_per_class` is 2"),
        ):
            with pytest.raises(ValueError, match=message):
                streamed_data(names, train, splits, ImageSettings(**changes))
        with pytest.raises(ValueError, match=r"no split to test on\. Name one with `test_split`"):
            streamed_data(names, train, {}, ImageSettings())
        data = streamed_data(names, train, splits, ImageSettings(workers=0))
        assert (data.splits, data.class_counts.tolist()) == (("test",), list(COUNTS))
        with pytest.raises(ValueError, match="A stream has no image by its number"):
            data.eval_loader(None, "train", None)

    def test_names_from_the_features_of_the_whole(self, tmp_path: Path) -> None:
        bare = write_shards(tmp_path / "bare", metadata=False)
        assert read_image_stream(None, str(bare), buffer=1)[0] == [str(c) for c in range(6)]


class TestOnce:
    """tau = 1: a shuffled epoch."""

    @pytest.mark.parametrize("workers", [0, 3])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [6, 54])
    def test_every_image_comes_once(
        self, train: StreamSet, monkeypatch: pytest.MonkeyPatch, workers: int, processes: int, batch_size: int
    ) -> None:
        seen: list[int] = []
        for process in range(processes):
            epoch = stream(train, (1.0,), batch_size, 3, 1, processes, process)
            mine = []
            for worker in range(max(workers, 1)):
                as_worker(monkeypatch, worker, workers)
                mine += list(epoch)
            assert len(mine) == len(epoch) == N // batch_size * batch_size // processes
            assert all(label == LABELS[number] for number, label in mine)
            seen += [number for number, _ in mine]
        assert len(seen) == len(set(seen)) == N - N % batch_size

    def test_real_workers_of_two_processes(self, train: StreamSet) -> None:
        shares = []
        for process in range(2):
            epoch = stream(train, (1.0,), 12, 0, 0, 2, process)
            found = batches(epoch, 2)
            assert [len(numbers) for numbers, _ in found] == [6] * 9
            assert all((torch.tensor(LABELS)[numbers] == labels).all() for numbers, labels in found)
            assert torch.equal(torch.cat([b[0] for b in batches(epoch, 2)]), torch.cat([b[0] for b in found]))
            shares.append(set(torch.cat([numbers for numbers, _ in found]).tolist()))
        assert not shares[0] & shares[1]
        assert len(shares[0] | shares[1]) == 108

    def test_orders(self, folder: Path) -> None:
        train = load(folder, buffer=2)

        def order(seed: int, epoch: int) -> list[int]:
            return [number for number, _ in stream(train, (1.0,), 1, seed, epoch)]

        first = order(0, 0)
        assert sorted(first) == list(range(N))
        assert first == order(0, 0)
        assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4
        # Neither the files' order nor that of the row groups is left.
        assert abs(np.corrcoef(first, range(N))[0, 1]) < 0.5
        assert np.mean(np.diff(first) == 1) < 0.2

    def test_all_places_are_alike(self) -> None:
        """Over seeds, an image that is read late does not come late more often than the window makes it."""
        places = np.zeros((20, 20))
        for seed in range(2000):
            window = Window(np.zeros(20, int), 20, (1.0,), np.array([20]), None, seed)
            places[[image for (image,), _ in window], range(20)] += 1
        assert chisquare(places.ravel()).pvalue > 1e-4


class TestClasses:
    """Other exponents: classes by n^tau."""

    @pytest.mark.parametrize("taus", [(0.0,), (-1.0,), (0.5,), (1.0, 0.0), (1.0, -1.0), (0.0, 0.0), (1.0, 1.0)])
    def test_frequencies(self, taus: tuple[float, ...]) -> None:
        rng = np.random.default_rng(1)
        counts = np.array([3000, 800, 150, 20, 6, 1])
        labels = rng.permutation(np.repeat(np.arange(6), counts))
        kept = np.minimum(counts, 20)
        pool: Any = SimpleNamespace(counts=kept, starts=np.cumsum(kept) - kept)
        owner = np.repeat(np.arange(6), kept)
        found = np.zeros((len(taus), 6))
        first: Counter = Counter()
        from_pool: Counter = Counter()
        for seed in range(5):
            for images, _ in Window(labels, 60, taus, counts, pool, seed):
                for k, image in enumerate(images):
                    found[k, owner[-1 - image] if image < 0 else labels[image]] += 1
                    from_pool[-1 - image if image < 0 else None] += 1
                first[images[0]] += 1
        total = 5 * counts.sum()
        assert found.sum(1).tolist() == [total] * len(taus)
        for k, tau in enumerate(taus):
            wanted = counts.astype(float) ** tau / (counts.astype(float) ** tau).sum()
            if k == 0 and tau == 1:
                assert set(first.values()) == {5}
            elif tau == 1:  # a partner from the window, whose classes are those of neighbours and so not independent
                assert np.abs(found[k] / total - wanted).max() < 0.02
            else:
                assert chisquare(found[k], total * wanted).pvalue > 1e-4
        if set(taus) != {1.0}:  # the pool has every image of these
            members = [from_pool[image] for image in np.flatnonzero(owner == 3)]
            assert chisquare(members).pvalue > 1e-4

    def test_images_are_of_the_class_that_was_drawn(self, train: StreamSet) -> None:
        seen: Counter = Counter()
        for epoch in range(12):
            for first, partner in stream(train, (0.0, -1.0), 12, 0, epoch, 2, epoch % 2):
                for number, label in (first, partner):
                    assert LABELS[number] == label
                    seen[number] += 1
        of_the_largest = [seen[k] for k in range(N) if LABELS[k] == 0]
        assert np.count_nonzero(of_the_largest) > 30  # those that the pool lacks as well
        assert max(of_the_largest) < sum(of_the_largest) / 6
        assert all(seen[k] for k in range(N) if COUNTS[LABELS[k]] <= BUFFER)

    def test_real_workers_repeat_themselves(self, train: StreamSet) -> None:
        epoch = stream(train, (1.0, 0.0), 12, 0, 3, 2, 1)
        one, two = (batches(epoch, 2) for _ in range(2))
        assert len(one) == 9
        for (first, partner), (first_again, partner_again) in zip(one, two, strict=True):
            assert torch.equal(first[0], first_again[0])
            assert torch.equal(partner[0], partner_again[0])

    def test_the_pool(
        self,
        folder: Path,
        read: list[int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path))
        train = load(folder)
        stream(train, (1.0,), 12, 0, 0)
        assert read == []  # not needed
        stream(train, (1.0, 0.0), 12, 0, 0)
        assert len(read) == len(set(read))
        rare = {k // 7 for k in range(N) if COUNTS[LABELS[k]] <= BUFFER}
        assert len(read) < len(train.shards.sizes)
        assert len(read) >= len(rare) - 2  # files end with row groups of their own
        assert f"Reading {HELD} images of train once, of every class up to {BUFFER}" in capsys.readouterr().err
        path = train.shards.pool(train.labels.numpy(), train.counts.numpy(), BUFFER)
        pool = Pool(path, train.labels.numpy(), 6)
        assert pool.counts.tolist() == [min(count, BUFFER) for count in COUNTS]
        members = [pool[k] for k in range(HELD)]
        assert [LABELS[row] for row, _ in members] == np.repeat(range(6), pool.counts).tolist()
        for row, stored in members:
            assert stored == {"bytes": picture(row), "path": f"{row}.png"}
        read.clear()
        stream(load(folder), (0.0,), 12, 0, 1)
        assert read == []
        assert capsys.readouterr().err == ""

    def test_classes_by_classes_on_the_disk(self) -> None:
        """A window without a class takes it from the pool; row groups are shuffled, images inside them are not."""
        counts, kept = np.array([500, 500, 500]), np.full(3, 50)
        pool: Any = SimpleNamespace(counts=kept, starts=np.cumsum(kept) - kept)
        window = Window(np.repeat(np.arange(3), 500), 40, (0.0,), counts, pool, 0)
        found = Counter((-1 - image) // 50 if image < 0 else image // 500 for (image,), _ in window)
        assert chisquare([found[c] for c in range(3)]).pvalue > 1e-4


@pytest.mark.parametrize("taus", [(1.0,), (0.0,), (1.0, 1.0)])
@pytest.mark.parametrize("workers", [1, 3])
def test_memory_is_what_the_formula_says(
    train: StreamSet, monkeypatch: pytest.MonkeyPatch, taus: tuple[float, ...], workers: int
) -> None:
    most = [0] * 2 * workers
    for process in range(2):
        for worker in range(workers):
            as_worker(monkeypatch, worker, workers)
            made: list[Any] = []
            make = streaming.WindowDataset
            with monkeypatch.context() as context:
                context.setattr(streaming, "WindowDataset", lambda *args: made.append(make(*args)) or made[-1])  # noqa: B023
                for _ in stream(train, taus, 6, 0, 0, 2, process):
                    held = [len(stored["bytes"]) for _, stored in made[0].encoded.values()]
                    most[process * workers + worker] = max(most[process * workers + worker], sum(held))
    mean = sum(len(picture(k)) for k in range(N)) / N
    largest = max(len(picture(k)) for k in range(N))
    assert train.held == HELD
    # The images are of different sizes, and the last row group may be more than is needed.
    assert sum(most) <= 1.3 * HELD * mean + 2 * workers * 7 * largest
    assert sum(most) > 0.5 * HELD * mean


class TestResume:
    @pytest.mark.parametrize("taus", [(1.0,), (0.0,), (1.0, -1.0)])
    @pytest.mark.parametrize("first_step", [1, 7, 18])
    @pytest.mark.parametrize("workers", [0, 3])
    def test_inside_an_epoch(
        self, train: StreamSet, monkeypatch: pytest.MonkeyPatch, taus: tuple[float, ...], first_step: int, workers: int
    ) -> None:
        train.transform = lambda image: (number_of(image), float(torch.rand(())))  # as the augmentation draws

        def steps(first_step: int) -> dict[int, list]:
            """The batches of each step, as a loader takes them in turn from its workers."""
            epoch = stream(train, taus, 6, 0, 5, first_step=first_step)
            found = []
            for worker in range(max(workers, 1)):
                as_worker(monkeypatch, worker, workers)
                samples = list(epoch)
                found.append([samples[k : k + 6] for k in range(0, len(samples), 6)])
            turns = max(map(len, found))
            in_turn = [each[k] for k in range(turns) for each in found if k < len(each)]
            return dict(enumerate(in_turn, first_step))

        whole, rest = steps(0), steps(first_step)
        assert list(whole) == list(range(18))
        assert rest == {step: batch for step, batch in whole.items() if step >= first_step}

    def test_nothing_is_read_that_is_gone(self, folder: Path, read: list[int]) -> None:
        train = load(folder, buffer=1)
        assert train.held == 6
        list(stream(train, (1.0,), 1, 0, 0))
        assert len(read) == len(set(read)) == len(train.shards.sizes)
        read.clear()
        list(stream(train, (1.0,), 1, 0, 0, first_step=90))
        assert 3 <= len(read) <= 9


class TestBrokenImages:
    def test_are_replaced_counted_and_named(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        bad = {LABELS.index(0): b"no picture", LABELS.index(3): picture(0)[:40], LABELS.index(5): b""}

        def change(k: int, file: dict) -> dict | None:
            return None if bad.get(k) == b"" else {**file, "bytes": bad.get(k, file["bytes"])}

        train = load(write_shards(tmp_path / "shards", change))
        capfd.readouterr()
        found = batches(stream(train, (1.0,), 6, 0, 0), 2)
        numbers = torch.cat([batch[0] for batch in found]).tolist()
        assert len(numbers) == 108
        assert not set(numbers) & set(bad)
        assert all((torch.tensor(LABELS)[batch[0]] == batch[1]).all() for batch in found)
        lines = capfd.readouterr().err.splitlines()
        named = {line.split("'")[1] for line in lines}
        assert len(lines) == len(named) == train.unreadable
        assert named <= {f"{k}.png" if file else f"train {k}" for k, file in bad.items()}
        assert len(named) >= 2
        assert "cannot be read (" in lines[0]
        assert lines[0].endswith(" and is replaced by another one.")
        # Class 5 has but this image: another class stands in for it. Class 3 has others.
        labels = [label for _, label in stream(train, (0.0,), 6, 0, 0)]
        assert 5 not in labels
        assert 3 in labels
        assert train.unreadable == 3

    def test_none_can_be_read(self, tmp_path: Path) -> None:
        folder = write_shards(tmp_path / "shards", lambda k, file: {**file, "bytes": b"none"})
        with pytest.raises(ValueError, match="None of the 22 images that a stream holds can be read"):
            next(iter(stream(load(folder), (1.0,), 6, 0, 0)))


def test_a_spawned_worker_gets_the_same(train: StreamSet) -> None:
    epoch = stream(train, (1.0, 0.0), 12, 0, 0)
    copy = pickle.loads(ForkingPickler.dumps(epoch))
    assert list(copy) == list(epoch)
    copy.images.notes.broken[3] = 1
    assert train.unreadable == 1


def test_a_plans_sampler_drives_the_loader(train: StreamSet) -> None:
    """Pairs until nothing is mixed, on the device and normalised; resumed, the same batches."""
    plan = METHODS["unimix_bayias"].plan(LABELS, epochs=10, batch_size=12)
    train.transform = lambda image: torch.tensor(float(number_of(image)))
    loader = StreamLoader(train, 12, sampler=plan.sampler, finish=lambda numbers: numbers / 2)
    for epoch, mixed in ((0, True), (9, False)):
        plan.set_epoch(epoch)
        loader.set_epoch(epoch)
        found = list(loader)
        assert len(found) == len(loader) == 9
        for batch in found:
            assert isinstance(batch[0], tuple) == mixed
            numbers, labels = batch[0] if mixed else batch
            assert [LABELS[int(2 * number)] for number in numbers] == labels.tolist()
        loader.set_epoch(epoch, first_step=4)
        rest = list(loader)
        assert len(rest) == len(loader) == 5
        assert all(torch.equal(flat(a), flat(b)) for a, b in zip(rest, found[4:], strict=True))


def flat(batch: Any) -> torch.Tensor:
    return batch.double() if isinstance(batch, torch.Tensor) else torch.cat([flat(part) for part in batch])


def test_columns_of_bytes_alone(tmp_path: Path) -> None:
    """As other tools store images: no struct, no name."""
    for split, size in (("train", 8), ("test", 2)):
        columns = {"image": [plain_picture(5 * k, "PNG") for k in range(size)], "label": [k % 2 for k in range(size)]}
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{split}-0.parquet")
    found = sorted(stream(load(tmp_path), (1.0,), 2, 0, 0))
    assert found == [(5 * k, k % 2) for k in range(8)]
    drawn = list(stream(load(tmp_path), (0.0,), 2, 0, 0))
    assert all(number // 5 % 2 == label for number, label in drawn)
