"""Training images out of shards, of imagenet_lt: what is drawn, what is held, what is read, and going on inside."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from recipe_support import ROOT, Launcher, contents, copy_recipe, imported, settings, summary
from scipy.stats import chisquare

import ltaug

COUNTS = (60, 30, 12, 4, 2, 1)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(6), COUNTS)).tolist()
N = len(LABELS)  # 109
BUFFER = 5
HELD = sum(min(count, BUFFER) for count in COUNTS)

# Without batch norm, whose statistics are those of each process.
TINY = '''
"""A network that trains in milliseconds."""

from torch import nn


def build_model(num_classes, cfg):
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(72, num_classes),
    )


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())
'''
KILLED = """

import os
import pathlib
import signal

FIRST_LIFE = pathlib.Path(__file__).with_name("first_life")


def kill_at_last_step(module, inputs):
    if module.training and FIRST_LIFE.exists():
        steps = int(FIRST_LIFE.read_text()) - 1
        FIRST_LIFE.write_text(str(steps))
        if steps == 0:
            FIRST_LIFE.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


build = build_model


def build_model(num_classes, cfg):
    model = build(num_classes, cfg)
    model.register_forward_pre_hook(kill_at_last_step)
    return model
"""


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
def modules() -> Iterator[SimpleNamespace]:
    with imported(ROOT / "recipes" / "imagenet_lt", "data", "streaming") as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("stream") / "shards")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def load(modules: SimpleNamespace, caches: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """load_data of a stream; its images are their numbers."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "arrow")
    monkeypatch.setenv("LTAUG_CACHE", str(caches / "ltaug"))
    defaults = {
        "dataset": "hub",
        "hub_id": None,
        "list_dir": None,
        "image_column": "image",
        "label_column": "label",
        "train_split": "train",
        "test_split": None,
        "test_per_class": 1,
        "profile": "natural",
        "imbalance_ratio": 4.0,
        "data_seed": 0,
        "stream": True,
        "stream_buffer": BUFFER,
        "held_out_per_class": 0,
    }

    def run(data_dir: Path, **changes: object) -> SimpleNamespace:
        data = modules.data.load_data(SimpleNamespace(**(defaults | {"data_dir": str(data_dir)} | changes)))
        data.train.transform = number_of
        return data

    return run


@pytest.fixture
def read(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups that have been read."""
    groups: list[int] = []
    whole = modules.streaming.Shards.read
    monkeypatch.setattr(modules.streaming.Shards, "read", lambda self, k: groups.append(k) or whole(self, k))
    return groups


def as_worker(monkeypatch: pytest.MonkeyPatch, modules: SimpleNamespace, worker: int, workers: int) -> None:
    info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
    monkeypatch.setattr(modules.streaming, "get_worker_info", lambda: info)


def batches(stream: object, workers: int = 0) -> list:
    """What a loader makes of a stream."""
    settings = {"multiprocessing_context": "fork"} if workers else {}
    return list(torch.utils.data.DataLoader(stream, batch_size=stream.share, num_workers=workers, **settings))


class TestIndex:
    def test_labels_without_images(self, load: Callable, folder: Path, read: list[int]) -> None:
        data = load(folder)
        assert data.class_names == [f"kind {c}" for c in range(6)]
        assert data.train.labels.tolist() == LABELS
        assert data.train.labels.dtype == torch.int64
        assert data.class_counts.tolist() == list(COUNTS)
        assert len(data.train) == N
        assert data.index_hash == ltaug.index_hash(range(N))
        assert [data.test[k][1] for k in range(4)] == LABELS[:4]
        assert read == []

    def test_it_is_kept_as_long_as_the_files_are_the_same(
        self, load: Callable, modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path / "cache"))
        shards = write_shards(tmp_path / "shards")
        load(shards)
        with monkeypatch.context() as context:
            context.setattr(modules.streaming, "checked_labels", None)
            assert load(shards).train.labels.tolist() == LABELS
        (tmp_path / "shards" / "train-00001-of-00003.parquet").touch()
        assert load(shards).train.labels.tolist() == LABELS
        assert len(list((tmp_path / "cache" / "streams").glob("*.npz"))) == 2
        assert not list((tmp_path / "cache" / "streams").glob("*.part"))

    def test_another_file_system(self, load: Callable, modules: SimpleNamespace, folder: Path) -> None:
        memory = fsspec.filesystem("memory")
        paths = []
        for file in sorted(folder.glob("train*")):
            memory.pipe(f"/shards/{file.name}", file.read_bytes())
            paths.append(f"fsspec+memory:///shards/{file.name}")
        shards = modules.streaming.Shards(paths, None, "train", "image", "label", "memory")
        assert shards.labels.tolist() == LABELS
        assert shards.features["label"].names[2] == "kind 2"
        local = load(folder).train.shards
        assert shards.read(4).to_pylist() == local.read(4).to_pylist()
        assert shards.key != local.key

    def test_faults(self, load: Callable, modules: SimpleNamespace, folder: Path, tmp_path: Path) -> None:
        def fails(message: str, where: Path = folder, **changes: object) -> None:
            with pytest.raises(ValueError, match=message):
                load(where, **changes)

        fails("`stream` takes every image there is, but `profile` is step", profile="step")
        fails("`held_out_per_class` is 2, but a stream holds no images out", held_out_per_class=2)
        fails("no column 'img' in its train split .*, but image, label.* `--image_column`", image_column="img")
        fails("no split named 'dev', but .* with `--train_split`", train_split="dev")
        fails("must hold class indices in 'image', but image 0 of `.*train-0", label_column="image")
        alone = write_shards(tmp_path / "alone")
        (alone / "test-00000-of-00001.parquet").unlink()
        fails("no split to test on, and a stream holds no images out. Name one with `--test_split`", alone)
        (tmp_path / "csv").mkdir()
        (tmp_path / "csv" / "train.csv").write_text("image,label\n")
        fails("a stream reads parquet files only, but there is .*train.csv", tmp_path / "csv")
        train = load(folder).train
        with pytest.raises(ValueError, match="no image by its number"):
            train[0]
        labels = train.labels
        sampler = ltaug.ClassPowerSampler
        exponents = modules.streaming.exponents
        assert exponents(sampler(labels, 0.5)) == (0.5,)
        assert exponents(ltaug.PairSampler(sampler(labels, 1.0, replacement=False), sampler(labels, -1.0))) == (1, -1)
        with pytest.raises(ValueError, match="by a power of their sizes, which ClassAwareSampler does not"):
            exponents(ltaug.ClassAwareSampler(labels))
        with pytest.raises(ValueError, match="which PairSampler does not"):
            exponents(ltaug.PairSampler(sampler(labels), sampler(labels), different_classes=labels))

    def test_names_from_the_features_of_the_whole(self, load: Callable, tmp_path: Path) -> None:
        bare = write_shards(tmp_path / "bare", metadata=False)
        assert load(bare, test_split="test").class_names == [str(c) for c in range(6)]


class TestOnce:
    """tau = 1: a shuffled epoch."""

    @pytest.mark.parametrize("workers", [0, 1, 2, 3])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [6, 12, 54])
    def test_every_image_comes_once(
        self,
        load: Callable,
        modules: SimpleNamespace,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        workers: int,
        processes: int,
        batch_size: int,
    ) -> None:
        train = load(folder).train
        seen: list[int] = []
        for process in range(processes):
            stream = modules.streaming.Stream(train, (1.0,), batch_size, 3, 1, processes, process)
            mine = []
            for worker in range(max(workers, 1)):
                as_worker(monkeypatch, modules, worker, workers)
                mine += list(stream)
            assert len(mine) == len(stream) == N // batch_size * batch_size // processes
            assert all(label == LABELS[number] for number, label in mine)
            seen += [number for number, _ in mine]
        assert len(seen) == len(set(seen)) == N - N % batch_size

    def test_real_workers_of_two_processes(self, load: Callable, modules: SimpleNamespace, folder: Path) -> None:
        train = load(folder).train
        shares = []
        for process in range(2):
            stream = modules.streaming.Stream(train, (1.0,), 12, 0, 0, 2, process)
            found = batches(stream, 2)
            assert [len(numbers) for numbers, _ in found] == [6] * 9
            assert all((torch.tensor(LABELS)[numbers] == labels).all() for numbers, labels in found)
            assert torch.equal(torch.cat([b[0] for b in batches(stream, 2)]), torch.cat([b[0] for b in found]))
            shares.append(set(torch.cat([numbers for numbers, _ in found]).tolist()))
        assert not shares[0] & shares[1]
        assert len(shares[0] | shares[1]) == 108

    def test_orders(self, load: Callable, modules: SimpleNamespace, folder: Path) -> None:
        train = load(folder, stream_buffer=2).train

        def order(seed: int, epoch: int) -> list[int]:
            return [number for number, _ in modules.streaming.Stream(train, (1.0,), 1, seed, epoch)]

        first = order(0, 0)
        assert sorted(first) == list(range(N))
        assert first == order(0, 0)
        assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4
        # Neither the files' order nor that of the row groups is left.
        assert abs(np.corrcoef(first, range(N))[0, 1]) < 0.5
        assert np.mean(np.diff(first) == 1) < 0.2

    def test_all_places_are_alike(self, modules: SimpleNamespace) -> None:
        """Over seeds, an image that is read late does not come late more often than the window makes it."""
        places = np.zeros((20, 20))
        for seed in range(2000):
            window = modules.streaming.Window(np.zeros(20, int), 20, (1.0,), np.array([20]), None, seed)
            places[[image for (image,), _ in window], range(20)] += 1
        assert chisquare(places.ravel()).pvalue > 1e-4


class TestClasses:
    """Other exponents: classes by n^tau."""

    @pytest.mark.parametrize("taus", [(0.0,), (-1.0,), (0.5,), (1.0, 0.0), (1.0, -1.0), (0.0, 0.0), (1.0, 1.0)])
    def test_frequencies(self, modules: SimpleNamespace, taus: tuple[float, ...]) -> None:
        rng = np.random.default_rng(1)
        counts = np.array([3000, 800, 150, 20, 6, 1])
        labels = rng.permutation(np.repeat(np.arange(6), counts))
        kept = np.minimum(counts, 20)
        pool = SimpleNamespace(counts=kept, starts=np.cumsum(kept) - kept)
        owner = np.repeat(np.arange(6), kept)
        found = np.zeros((len(taus), 6))
        first, from_pool = Counter(), Counter()
        for seed in range(5):
            for images, _ in modules.streaming.Window(labels, 60, taus, counts, pool, seed):
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

    def test_images_are_of_the_class_that_was_drawn(
        self, load: Callable, modules: SimpleNamespace, folder: Path
    ) -> None:
        train = load(folder).train
        seen: Counter[int] = Counter()
        for epoch in range(12):
            for first, partner in modules.streaming.Stream(train, (0.0, -1.0), 12, 0, epoch, 2, epoch % 2):
                for number, label in (first, partner):
                    assert LABELS[number] == label
                    seen[number] += 1
        of_the_largest = [seen[k] for k in range(N) if LABELS[k] == 0]
        assert np.count_nonzero(of_the_largest) > 30  # those that the pool lacks as well
        assert max(of_the_largest) < sum(of_the_largest) / 6
        assert all(seen[k] for k in range(N) if COUNTS[LABELS[k]] <= BUFFER)

    def test_real_workers_repeat_themselves(self, load: Callable, modules: SimpleNamespace, folder: Path) -> None:
        train = load(folder).train
        stream = modules.streaming.Stream(train, (1.0, 0.0), 12, 0, 3, 2, 1)
        one, two = (batches(stream, 2) for _ in range(2))
        assert len(one) == 9
        for (first, partner), (first_again, partner_again) in zip(one, two, strict=True):
            assert torch.equal(first[0], first_again[0])
            assert torch.equal(partner[0], partner_again[0])

    def test_the_pool(
        self,
        load: Callable,
        modules: SimpleNamespace,
        folder: Path,
        read: list[int],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("LTAUG_CACHE", str(tmp_path))
        train = load(folder).train
        modules.streaming.Stream(train, (1.0,), 12, 0, 0)
        assert read == []  # not needed
        modules.streaming.Stream(train, (1.0, 0.0), 12, 0, 0)
        assert len(read) == len(set(read))
        rare = {k // 7 for k in range(N) if COUNTS[LABELS[k]] <= BUFFER}
        assert len(read) < len(train.shards.sizes)
        assert len(read) >= len(rare) - 2  # files end with row groups of their own
        assert f"Reading {HELD} images of train once, of every class up to {BUFFER}" in capsys.readouterr().err
        pool = modules.streaming.Pool(train.pool(), train.labels, 6)
        assert pool.counts.tolist() == [min(count, BUFFER) for count in COUNTS]
        members = [pool[k] for k in range(HELD)]
        assert [LABELS[row] for row, _ in members] == np.repeat(range(6), pool.counts).tolist()
        for row, stored in members:
            assert stored == {"bytes": picture(row), "path": f"{row}.png"}
        read.clear()
        modules.streaming.Stream(load(folder).train, (0.0,), 12, 0, 1)
        assert read == []
        assert capsys.readouterr().err == ""

    def test_classes_by_classes_on_the_disk(self, modules: SimpleNamespace) -> None:
        """A window without a class takes it from the pool; row groups are shuffled, images inside them are not."""
        counts = np.array([500, 500, 500])
        kept = np.full(3, 50)
        pool = SimpleNamespace(counts=kept, starts=np.cumsum(kept) - kept)
        window = modules.streaming.Window(np.repeat(np.arange(3), 500), 40, (0.0,), counts, pool, 0)
        found = Counter((-1 - image) // 50 if image < 0 else image // 500 for (image,), _ in window)
        assert chisquare([found[c] for c in range(3)]).pvalue > 1e-4


class TestMemory:
    @pytest.mark.parametrize("taus", [(1.0,), (0.0,), (1.0, 1.0)])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_is_what_the_formula_says(
        self,
        load: Callable,
        modules: SimpleNamespace,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        taus: tuple[float, ...],
        workers: int,
    ) -> None:
        train = load(folder).train
        most = [0] * 2 * workers
        for process in range(2):
            for worker in range(workers):
                as_worker(monkeypatch, modules, worker, workers)
                helds = []
                make = modules.streaming.Held
                with monkeypatch.context() as context:
                    context.setattr(modules.streaming, "Held", lambda *args: helds.append(make(*args)) or helds[-1])  # noqa: B023
                    for _ in modules.streaming.Stream(train, taus, 6, 0, 0, 2, process):
                        held = [len(stored["bytes"]) for _, stored in helds[0].encoded.values()]
                        most[process * workers + worker] = max(most[process * workers + worker], sum(held))
        mean = sum(len(picture(k)) for k in range(N)) / N
        largest = max(len(picture(k)) for k in range(N))
        assert train.held == HELD
        # The images are of different sizes, and the last row group may be more than is needed.
        assert sum(most) <= 1.3 * HELD * mean + 2 * workers * 7 * largest
        assert sum(most) > 0.5 * HELD * mean


class TestResume:
    @pytest.mark.parametrize("taus", [(1.0,), (0.0,), (1.0, -1.0), (1.0, 1.0)])
    @pytest.mark.parametrize("first_step", [1, 7, 8, 17, 18])
    @pytest.mark.parametrize("workers", [0, 2, 3])
    def test_inside_an_epoch(
        self,
        load: Callable,
        modules: SimpleNamespace,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        taus: tuple[float, ...],
        first_step: int,
        workers: int,
    ) -> None:
        train = load(folder).train
        train.transform = lambda image: (number_of(image), float(torch.rand(())))  # as the augmentation draws

        def steps(first_step: int) -> dict[int, list]:
            """The batches of each step, as a loader takes them in turn from its workers."""
            stream = modules.streaming.Stream(train, taus, 6, 0, 5, first_step=first_step)
            found = []
            for worker in range(max(workers, 1)):
                as_worker(monkeypatch, modules, worker, workers)
                samples = list(stream)
                found.append([samples[k : k + 6] for k in range(0, len(samples), 6)])
            turns = max(map(len, found))
            in_turn = [each[k] for k in range(turns) for each in found if k < len(each)]
            return dict(enumerate(in_turn, first_step))

        whole, rest = steps(0), steps(first_step)
        assert list(whole) == list(range(18))
        assert rest == {step: batch for step, batch in whole.items() if step >= first_step}

    def test_nothing_is_read_that_is_gone(
        self, load: Callable, modules: SimpleNamespace, folder: Path, read: list[int]
    ) -> None:
        train = load(folder, stream_buffer=1).train
        assert train.held == 6
        list(modules.streaming.Stream(train, (1.0,), 1, 0, 0))
        assert len(read) == len(set(read)) == len(train.shards.sizes)
        read.clear()
        list(modules.streaming.Stream(train, (1.0,), 1, 0, 0, first_step=90))
        assert 3 <= len(read) <= 9


class TestBrokenImages:
    def test_are_replaced_counted_and_named(
        self, load: Callable, modules: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bad = {LABELS.index(0): b"no picture", LABELS.index(3): picture(0)[:40], LABELS.index(5): b""}

        def change(k: int, file: dict) -> dict | None:
            return None if bad.get(k) == b"" else {**file, "bytes": bad.get(k, file["bytes"])}

        shards = write_shards(tmp_path / "shards", change)
        train = load(shards).train
        capfd.readouterr()
        found = batches(modules.streaming.Stream(train, (1.0,), 6, 0, 0), 2)
        numbers = torch.cat([batch[0] for batch in found]).tolist()
        assert len(numbers) == 108
        assert not set(numbers) & set(bad)
        assert all((torch.tensor(LABELS)[batch[0]] == batch[1]).all() for batch in found)
        lines = capfd.readouterr().err.splitlines()
        told = {line.split("'")[1] for line in lines}
        assert len(lines) == len(told) == train.unreadable
        assert told <= {f"{k}.png" if file else f"train {k}" for k, file in bad.items()}
        assert len(told) >= 2
        assert "cannot be read (" in lines[0]
        assert lines[0].endswith(" and is replaced by another one.")
        # Class 5 has but this image: another class stands in for it. Class 3 has others.
        labels = [label for _, label in modules.streaming.Stream(train, (0.0,), 6, 0, 0)]
        assert 5 not in labels
        assert 3 in labels
        assert train.unreadable == 3

    def test_none_can_be_read(self, load: Callable, modules: SimpleNamespace, tmp_path: Path) -> None:
        shards = write_shards(tmp_path / "shards", lambda k, file: {**file, "bytes": b"none"})
        with pytest.raises(ValueError, match=r"None of the 22 images can be read that a stream holds\. Mend the files"):
            next(iter(modules.streaming.Stream(load(shards).train, (1.0,), 6, 0, 0)))


def test_a_spawned_worker_gets_the_same(load: Callable, modules: SimpleNamespace, folder: Path) -> None:
    stream = modules.streaming.Stream(load(folder).train, (1.0, 0.0), 12, 0, 0)
    copy = pickle.loads(ForkingPickler.dumps(stream))
    assert list(copy) == list(stream)
    copy.images.broken[3] = 1
    assert stream.images.unreadable == 1


def copied(tmp_path: Path, model: str) -> Path:
    """A copy of the recipe with a cache of its own."""
    recipe = copy_recipe(tmp_path / "recipe", model, recipe="imagenet_lt")
    with (recipe / "streaming.py").open("a") as file:
        file.write(f'\n\nos.environ["LTAUG_CACHE"] = {str(tmp_path / "cache")!r}\n')
    return recipe


def arguments(recipe: Path, method: str, out: Path, folder: Path, **changes: object) -> list[str]:
    """Of a short run on the shards."""
    common = {
        "dataset": "hub",
        "profile": "natural",
        "data_dir": folder,
        "stream": True,
        "stream_buffer": BUFFER,
        "batch_size": 12,
        "workers": 2,
        "threads": 1,
        "image_size": 32,
    }
    return settings(recipe, method, out, **common | changes)


def test_a_run_that_is_killed_goes_on(launcher: Launcher, folder: Path, tmp_path: Path) -> None:
    """Pairs over the whole set, two workers: killed in its second epoch behind the checkpoint of its third step."""
    recipe = copied(tmp_path, TINY + KILLED)
    changes = {"mix_stop_at": 1, "checkpoint_steps": 3}
    whole, killed = (arguments(recipe, "unimix_bayias", tmp_path / name, folder, **changes) for name in ("a", "b"))
    launcher.run(recipe / "train.py", *whole).good()
    steps = N // 12
    (recipe / "first_life").write_text(str(steps + 5))
    assert launcher.run(recipe / "train.py", *killed).code == -9
    again = launcher.run(recipe / "train.py", *killed, "--resume", "true").good()
    assert f"Resumed after epoch 1 of 2, step 3 of {steps}." in again.out
    ours, theirs = (contents(tmp_path / name)["model.safetensors"] for name in ("a", "b"))
    assert ours == theirs
    assert summary(tmp_path / "a")["class_counts"] == list(COUNTS)


def test_two_processes(launcher: Launcher, folder: Path, tmp_path: Path) -> None:
    recipe = copied(tmp_path, TINY)
    command = arguments(recipe, "class_balanced", tmp_path / "run", folder, epochs=1, workers=1)
    done = [process.wait().good() for process in launcher.ranks(recipe / "train.py", *command)]
    assert sum(each.err.count(f"Reading {HELD} images of train once") for each in done) == 1  # the other one waits
    assert summary(tmp_path / "run")["num_processes"] == 2
