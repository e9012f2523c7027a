"""Labels of other libraries' data sets without loading a sample, batches of dictionaries, pairs at the speed of one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, StackDataset, Subset, TensorDataset, random_split

import ltaug
from ltaug import METHODS, ClassPowerSampler, MixUp, PairDataset, PairSampler, labels_of
from ltaug.integrations.datasets import mix_batch

datasets = pytest.importorskip("datasets")

LABELS = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)


def explode(*_: Any) -> Any:
    """A transform that must not run."""
    raise AssertionError("a sample was loaded")


def table(labels: Any = LABELS, **columns: Any) -> Any:
    """A data set of `datasets` whose samples cannot be loaded."""
    features = datasets.Features({"image": datasets.Value("int64"), "label": datasets.ClassLabel(names=list("abc"))})
    made = datasets.Dataset.from_dict({"image": list(range(len(labels))), "label": [int(k) for k in labels]}, features)
    for name, values in columns.items():
        made = made.add_column(name, values)
    made.set_transform(explode)
    return made


class TestTorch:
    def test_nested(self) -> None:
        data = TensorDataset(torch.zeros(10, 2), LABELS)
        both = ConcatDataset([Subset(data, [9, 0]), data])
        assert labels_of(both).tolist() == [2, 0, *LABELS.tolist()]
        parts = random_split(both, [7, 5], generator=torch.Generator().manual_seed(0))
        assert [labels_of(part).tolist() for part in parts] == [[int(y) for _, y in part] for part in parts]
        assert labels_of(PairDataset(parts[0])).tolist() == labels_of(parts[0]).tolist()

    def test_stacked(self) -> None:
        data = TensorDataset(torch.zeros(10, 2), LABELS)
        assert labels_of(StackDataset(torch.zeros(10), LABELS)).tolist() == LABELS.tolist()
        assert labels_of(StackDataset(image=torch.zeros(10), label=LABELS)).tolist() == LABELS.tolist()
        assert labels_of(StackDataset(torch.zeros(10), data)).tolist() == LABELS.tolist()

    def test_of_ones_own(self) -> None:
        class Own(Dataset[Any]):
            def __init__(self, **named: Any) -> None:
                self.__dict__ |= named

            def __len__(self) -> int:
                return 3

            def __getitem__(self, k: int) -> Any:
                explode()

        assert labels_of(Own(targets=[2, 0, 1])).tolist() == [2, 0, 1]
        assert labels_of(Own(labels=np.array([2, 0, 1], dtype=np.uint8))).dtype == torch.int64
        assert labels_of(Own(kinds=[1, 1, 0]), column="kinds").tolist() == [1, 1, 0]
        assert labels_of(Own(targets=[2, 0, 1], target_transform=lambda y: 10 - y)).tolist() == [8, 10, 9]
        with pytest.raises(TypeError, match=r"`dataset` is a Own, which keeps its labels at no place.*column"):
            labels_of(Own())
        with pytest.raises(ValueError, match=r"one label a sample, but has 3 samples and 2 labels"):
            labels_of(Own(targets=[0, 1]))
        with pytest.raises(ValueError, match=r"must be integers"):
            labels_of(Own(targets=[0.5, 1.0, 0.0]))

    def test_a_stream_has_none(self) -> None:
        class Stream(torch.utils.data.IterableDataset[Any]):
            def __iter__(self) -> Any:
                explode()

        for stream in (Stream(), table().with_format(None).to_iterable_dataset()):
            with pytest.raises(TypeError, match=r"is a stream.*ClassPowerStream"):
                labels_of(stream)


class TestTables:
    def test_after_every_way_to_choose_rows(self) -> None:
        data = table()
        assert labels_of(data).tolist() == LABELS.tolist()
        shuffled = data.shuffle(seed=1)
        assert labels_of(shuffled).tolist() == [LABELS[k] for k in shuffled.with_format(None)["image"]]
        assert labels_of(data.select([9, 0, 9])).tolist() == [2, 0, 2]
        assert labels_of(datasets.concatenate_datasets([data, data.select([8])])).tolist() == [*LABELS.tolist(), 2]
        assert labels_of(Subset(data, [5, 6])).tolist() == [1, 1]

    def test_which_column(self) -> None:
        data = table(fine=list(range(10)))
        assert labels_of(data, column="fine").tolist() == list(range(10))
        with pytest.raises(ValueError, match=r"`column` must be one of image, label, fine, but is 'coarse'"):
            labels_of(data, column="coarse")
        plain = datasets.Dataset.from_dict({"x": [1, 2], "kind": [0, 1]})
        with pytest.raises(ValueError, match=r"`column` must be given: .*x, kind"):
            labels_of(plain)
        with pytest.raises(ValueError, match=r"holds texts.*class_encode_column\('label'\)"):
            labels_of(datasets.Dataset.from_dict({"label": ["cat", "dog"]}))
        with pytest.raises(TypeError, match=r"one split, but holds train, test.*`dataset\['train'\]`"):
            labels_of(datasets.DatasetDict(train=plain, test=plain))

    def test_lists_of_labels_are_multi_hot(self) -> None:
        kinds = datasets.List(datasets.ClassLabel(names=list("abcd")))
        data = datasets.Dataset.from_dict({"label": [[0, 2], [], [1]]}, datasets.Features({"label": kinds}))
        assert labels_of(data.select([2, 0, 1])).tolist() == [
            [False, True, False, False],
            [True, False, True, False],
            [False] * 4,
        ]

    @pytest.mark.parametrize(
        "feature",
        [
            datasets.List(datasets.Value("int64"), length=3),
            datasets.List(datasets.Value("float32")),
            datasets.List(datasets.Value("bool")),
        ],
        ids=["fixed length", "floats", "flags"],
    )
    def test_rows_of_0_and_1_are_multi_hot(self, feature: Any) -> None:
        rows = [[0, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]
        data = datasets.Dataset.from_dict({"label": rows}, datasets.Features({"label": feature}))
        assert labels_of(data.select([3, 2, 1, 0])).tolist() == [[x == 1 for x in row] for row in rows[::-1]]
        for wrong in ([[0, 1, 2]], [[0, 1, None]], [None]):
            if wrong == [[0, 1, 2]] and feature.feature.dtype == "bool":
                continue
            data = datasets.Dataset.from_dict({"label": wrong}, datasets.Features({"label": feature}))
            with pytest.raises(ValueError, match=r"`column`='label' must hold"):
                labels_of(data)

    def test_lists_that_could_be_either(self) -> None:
        """The rule of `label_counts`, and the two ways out that the message names."""
        rows = [[0, 1, 0], [1, 0, 0]]
        data = datasets.Dataset.from_dict({"label": rows})
        with pytest.raises(ValueError, match=r"multi-hot rows or label indices.*Rows are .*'bool'.*indices `dataset"):
            labels_of(data)
        as_rows = data.cast_column("label", datasets.List(datasets.Value("bool")))
        assert labels_of(as_rows).tolist() == [[False, True, False], [True, False, False]]
        as_indices = data.cast_column("label", datasets.List(datasets.ClassLabel(num_classes=3)))
        assert labels_of(as_indices).tolist() == [[True, True, False]] * 2
        assert labels_of(datasets.Dataset.from_dict({"label": [[0, 1], [1]]})).tolist() == [[True, True], [False, True]]

    @pytest.mark.parametrize(("rows", "shown"), [([[0, -1], [2]], "-1 to 2"), ([[0, 3], [2]], "0 to 3")])
    def test_labels_that_are_none(self, rows: Any, shown: str) -> None:
        """An unknown label is no last class."""
        if shown == "-1 to 2":
            with pytest.raises(ValueError, match=rf"label indices in 0\.\.2, but has {shown}"):
                labels_of(datasets.Dataset.from_dict({"label": rows}))
        plain = datasets.Dataset.from_dict({"label": rows}).data.table
        kinds = datasets.Features({"label": datasets.List(datasets.ClassLabel(num_classes=3))})
        with pytest.raises(ValueError, match=rf"label indices in 0\.\.2, but has {shown}"):
            labels_of(datasets.Dataset(datasets.table.InMemoryTable(plain), datasets.DatasetInfo(features=kinds)))
        with pytest.raises(ValueError, match=r"at place 1 is missing \(None\)"):
            labels_of(datasets.Dataset.from_dict({"label": [[0, 2], None]}))

    def test_missing_labels(self) -> None:
        with pytest.raises(ValueError, match=r"place 1 is missing"):
            labels_of(datasets.Dataset.from_dict({"label": [0, None, 1]}))

    def test_fifty_thousand_in_a_fifth_of_a_second(self) -> None:
        labels = torch.arange(50_000) % 3
        data = table(labels).shuffle(seed=0)
        start = time.process_time()
        found = labels_of(data)
        assert time.process_time() - start < 0.2
        assert found.bincount().tolist() == labels.bincount().tolist()


class TestVision:
    def test_torchvision(self, tmp_path: Path) -> None:
        torchvision = pytest.importorskip("torchvision")
        for name in ("a/1.png", "a/2.png", "b/1.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()  # no picture: to load one fails
        folder = torchvision.datasets.ImageFolder(str(tmp_path), transform=explode)
        assert labels_of(folder).tolist() == [0, 0, 1]
        folder = torchvision.datasets.DatasetFolder(
            str(tmp_path), explode, ("png",), target_transform=[5, 3].__getitem__
        )
        assert labels_of(Subset(folder, [2, 0])).tolist() == [3, 5]
        fake = torchvision.datasets.FakeData(size=4)
        with pytest.raises(TypeError, match="no place that is known"):
            labels_of(fake)

    def test_timm(self, tmp_path: Path) -> None:
        timm = pytest.importorskip("timm")
        for name in ("a/1.png", "b/1.png", "b/2.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        data = timm.data.create_dataset("", str(tmp_path))
        assert labels_of(data).tolist() == [0, 1, 1]
        assert labels_of(timm.data.dataset.AugMixDataset(data)).tolist() == [0, 1, 1]

    def test_our_own(self) -> None:
        data = TensorDataset(torch.zeros(10, 2), LABELS)
        assert labels_of(ltaug.SeededDataset(data)).tolist() == LABELS.tolist()


class TestPairs:
    class Batched(Dataset[Any]):
        """Counts how often it is asked."""

        calls = 0

        def __len__(self) -> int:
            return 10

        def __getitem__(self, k: int) -> Any:
            raise AssertionError("one by one")

        def __getitems__(self, places: list[int]) -> list[int]:
            self.calls += 1
            return [10 * k for k in places]

    def test_a_batch_is_read_at_once(self) -> None:
        data = self.Batched()
        assert PairDataset(data).__getitems__([(1, 2), 3, [0, 1]]) == [(10, 20), 30, (0, 10)]
        assert data.calls == 1
        with pytest.raises(ValueError, match="`index` must be an index or a pair"):
            PairDataset(data).__getitems__([(1, 2, 3)])

    def test_the_same_as_one_by_one(self) -> None:
        data = PairDataset(TensorDataset(torch.arange(10.0), LABELS))
        indices = [(1, 2), (9, 9), 4]
        assert data.__getitems__(indices) == [data[k] for k in indices]

    def test_a_subclass_is_not_passed_by(self) -> None:
        class Marked(PairDataset[Any]):
            def __getitem__(self, index: Any) -> Any:
                return "marked", index

        assert Marked(self.Batched()).__getitems__([(1, 2), 3]) == [("marked", (1, 2)), ("marked", 3)]

    def test_a_pair_of_a_table_costs_as_much_as_its_samples(self) -> None:
        data = datasets.Dataset.from_dict({"image": list(np.zeros((512, 8))), "label": [k % 3 for k in range(512)]})
        data = data.with_format("torch")
        sampler = ClassPowerSampler(labels_of(data), tau=0)

        def seconds(loader: Any) -> float:
            best = []
            for _ in range(5):
                start = time.process_time()
                assert sum(1 for _ in loader) == 8
                best.append(time.process_time() - start)
            return min(best)

        single = seconds(DataLoader(data, 64, sampler=sampler))
        pairs = DataLoader(
            PairDataset(data), 64, sampler=PairSampler(sampler, ClassPowerSampler(labels_of(data), -1.0))
        )
        assert seconds(pairs) / 2 < 1.5 * single


BATCH = {"image": torch.rand(8, 2), "label": torch.arange(8) % 3, "name": list("abcdefgh")}


class TestMixBatch:
    def test_a_mixer(self) -> None:
        torch.manual_seed(1)
        mixed = mix_batch(MixUp(3), BATCH)
        torch.manual_seed(1)
        inputs, targets = MixUp(3)(BATCH["image"], BATCH["label"])
        assert torch.equal(mixed["image"], inputs)
        assert torch.equal(mixed["label"], targets)
        assert mixed["name"] is BATCH["name"]

    def test_pairs_and_a_plan(self) -> None:
        plan = METHODS["unimix"].plan(LABELS, epochs=1, batch_size=4)
        data = table().with_format("torch")
        loader = DataLoader(
            PairDataset(data.map(lambda row: {"image": [float(row["image"])]})), 5, sampler=plan.sampler
        )
        for batch in loader:
            mixed = mix_batch(plan, batch)
            rest = (batch[0]["image"] - mixed["image"]).abs().sum()
            assert mixed["label"].shape == (5, 3)
            assert torch.allclose(mixed["label"].sum(1), torch.ones(5))
            assert rest > 0 or torch.equal(batch[0]["image"], batch[1]["image"])

    def test_what_is_no_batch(self) -> None:
        with pytest.raises(ValueError, match=r"`inputs`='pixel_values' must be a column.*image, label, name"):
            mix_batch(MixUp(3), BATCH, inputs="pixel_values")
        with pytest.raises(ValueError, match=r"`labels`='label' must be a tensor in the batch, but is a list"):
            mix_batch(MixUp(3), {"image": torch.rand(3, 2), "label": [0, 1, 2]})
        with pytest.raises(ValueError, match=r"a dictionary, or two .* but is Tensor, Tensor"):
            mix_batch(MixUp(3), (torch.rand(2, 2), torch.tensor([0, 1])))


def test_a_plan_takes_what_it_reads() -> None:
    """The journey: from a table to a sampler of pairs, without a pass over its images."""
    labels: Tensor = labels_of(table())
    plan = METHODS["unimix_bayias"].plan(labels, epochs=3, batch_size=4)
    assert plan.class_counts.tolist() == [5, 3, 2]
