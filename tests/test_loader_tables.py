"""Label columns of every type that programs write, and samples held out by class."""

from __future__ import annotations

import decimal
import http.server
import json
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ltaug.errors import UserError
from ltaug.loaders.files import refuse_outside, stored_path
from ltaug.loaders.tables import (
    arrow_column,
    check_columns,
    class_labels,
    hold_out,
    hub_or_cache,
    load_splits,
    stored_paths,
    whole_numbers,
)

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")


def column(values: list[Any], kind: Any = None) -> Any:
    return pyarrow.chunked_array([pyarrow.array(values, kind)])


class TestPaths:
    @pytest.mark.parametrize(
        ("values", "kind", "paths"),
        [
            ([b"x", b"", None], "binary", []),
            (["a", "", None], "string", ["a"]),
            (["a", "b", "a"], "dictionary", ["a", "b", "a"]),
            (
                [{"bytes": b"x", "path": "a"}, {"bytes": b"", "path": "b"}, {"bytes": None, "path": "c"}, None],
                "",
                ["b", "c"],
            ),
            ([{"bytes": b"x", "path": None}, {"bytes": None, "path": None}], "", []),
            ([{"bytes": "text", "path": "a"}], "", ["text", "a"]),  # which the readers take for a path
            ([{"path": "a"}], "", ["a"]),
            ([{"array": [0.5], "path": "a", "sampling_rate": 8000}], "", []),
        ],
    )
    def test_those_that_are_read(self, values: list[Any], kind: str, paths: list[str]) -> None:
        found = column(values, kind if kind in ("binary", "string") else None)
        assert stored_paths(found.dictionary_encode() if kind == "dictionary" else found) == paths

    def test_views(self) -> None:
        kind = pyarrow.struct({"bytes": pyarrow.binary_view(), "path": pyarrow.string_view()})
        values = [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}]
        assert stored_paths(pyarrow.chunked_array([pyarrow.array(values, kind)])) == ["b"]

    def test_a_data_set_of_the_hub_may_name_files_of_its_cache_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
        (tmp_path / "cache").mkdir()
        for name in ("cache/1.jpg", "2.jpg"):
            (tmp_path / name).write_bytes(b"")
        monkeypatch.chdir(tmp_path)
        refuse_outside("", [str(tmp_path / "cache" / "1.jpg")], "It")
        for path in ("2.jpg", str(tmp_path / "2.jpg"), "/etc/passwd"):
            with pytest.raises(
                UserError, match=rf"^It has paths that lie outside the hub's cache, 1 of 1, .* is '{path}'"
            ):
                refuse_outside("", [path], "It")
            refuse_outside("", [path], "It", allow_outside=True)


class TestLabels:
    @pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "int64", "uint64", "float32", "float64", "decimal"])
    def test_numbers_of_any_type(self, kind: str) -> None:
        values = column([3, 1, 1, 7])
        values = values.cast(pyarrow.decimal128(20) if kind == "decimal" else getattr(pyarrow, kind)())
        names, labels = class_labels({"train": values})
        assert names == ["1", "3", "7"]
        assert labels["train"].tolist() == [1, 0, 0, 2]
        assert labels["train"].dtype == torch.int64

    def test_booleans(self) -> None:
        assert class_labels({"train": column([True, False])})[1]["train"].tolist() == [1, 0]

    @pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
    def test_text(self, kind: str) -> None:
        values = column(["bee 10", "bee 9", "ant"])
        values = values.dictionary_encode() if kind == "dictionary" else values.cast(getattr(pyarrow, kind)())
        names, labels = class_labels({"train": values, "test": column(["ant", "bee 10"])})
        assert names == ["ant", "bee 9", "bee 10"]
        assert [labels[split].tolist() for split in ("train", "test")] == [[2, 1, 0], [0, 2]]

    def test_text_in_two_spellings(self, capsys: pytest.CaptureFixture[str]) -> None:
        apart = unicodedata.normalize("NFD", "café")
        names, labels = class_labels({"train": column([apart, "bar "]), "test": column(["bar", "café"])})
        assert (names, labels["train"].tolist(), labels["test"].tolist()) == (["bar", "café"], [1, 0], [0, 1])
        assert capsys.readouterr().err == ""
        assert class_labels({"train": column(["Bar", "bar"])})[0] == ["Bar", "bar"]
        assert "'Bar' and 'bar' are two classes, though they differ in case" in capsys.readouterr().err

    def test_names_of_the_numbers(self) -> None:
        names, labels = class_labels({"train": column([2, 0])}, ["a", "b", "c"])
        assert names == ["a", "b", "c"]
        assert labels["train"].tolist() == [2, 0]

    @pytest.mark.parametrize(
        ("values", "names", "message"),
        [
            ([0, None], None, "sample 1 of its train split has None"),
            (["a", None], None, "sample 1 of its train split has None"),
            (["a", " "], None, "sample 1 of its train split has ' '"),
            ([0.0, 1.5], None, r"sample 1 of its train split has 1\.5"),
            ([0.0, float("nan")], None, "sample 1 of its train split has nan"),
            ([decimal.Decimal("0.5")], None, "sample 0 .* has Decimal"),
            ([1e30], None, r"sample 0 .* has 1e\+30"),
            ([0, -1], None, "must hold class indices or names as labels, but sample 1 .* has -1"),
            ([0, 3], ["a", "b"], "must hold class indices below 2 as labels, but sample 1 .* has 3"),
            ([[{"a": 1}], [{"a": 2}]], None, r"sample 0 .* has {'a': 1}"),
            ([[1], None], None, r"a list of labels for each sample, which may be empty, but sample 1 .* has none"),
            ([b"a"], None, "sample 0 .* has b'a'"),
            ([{"bytes": b"x"}], None, "sample 0 .* has {'bytes': b'x'}"),
        ],
    )
    def test_faults_name_the_sample(self, values: list[Any], names: list[str] | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            class_labels({"train": column(values)}, names)

    def test_text_in_one_split_and_numbers_in_another(self) -> None:
        with pytest.raises(ValueError, match="numbers as labels in one split and text in another"):
            class_labels({"train": column([0, 1]), "test": column(["a"])})

    def test_whole_numbers(self) -> None:
        assert whole_numbers(column(["a"])) is None
        assert whole_numbers(column([1, None])) is None
        assert whole_numbers(column([2.0, 1.0])).tolist() == [2, 1]


class TestHoldOut:
    def test_equally_many_of_each_class(self) -> None:
        labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 9)
        taken = hold_out(labels, 2, list("abc"), "test_per_class", seed=1)
        assert labels[taken].tolist() == [0, 0, 1, 1, 2, 2]
        assert taken.unique().numel() == 6
        assert hold_out(labels, 2, list("abc"), "test_per_class", seed=1).equal(taken)
        assert not hold_out(labels, 2, list("abc"), "test_per_class", seed=2).equal(taken)

    def test_faults(self) -> None:
        labels = torch.tensor([0, 0, 0, 1, 1])
        with pytest.raises(ValueError, match="`held_out_per_class` must be at least 1, but is 0"):
            hold_out(labels, 0, ["a", "b"], "held_out_per_class")
        with pytest.raises(
            ValueError, match=r"`n`=2 leaves no training samples of class 1 \(b\), which has 2 \(1 of 2 classes are too"
        ):
            hold_out(labels, 2, ["a", "b"], "n")


def write(folder: Path, names: list[str] | None = None, **columns: list[Any]) -> str:
    """Parquet files of two splits, the names of whose labels may be those of train in another order."""
    from pyarrow import parquet

    folder.mkdir()
    for split in ("train", "test"):
        table = pyarrow.table(columns or {"label": [1, 0]})
        if names:
            ordered = names if split == "test" else sorted(names)
            features = {"label": {"_type": "ClassLabel", "names": ordered}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, folder / f"{split}-0.parquet")
    return str(folder)


class TestSplits:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
        datasets.disable_progress_bars()

    def test_what_other_programs_leave_is_passed_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "data"
        write(folder)
        write(folder / "@Recycle")  # deleted ones
        (folder / "@eaDir").mkdir()
        for junk in ("@eaDir/train-0.parquet", "Thumbs.db", "desktop.ini", "._train-0.parquet"):
            (folder / junk).write_bytes(b"no parquet")
        splits = load_splits("owner/name", str(folder))
        assert [len(rows) for rows in splits.values()] == [2, 2]
        assert "3 files in hidden folders of" in capsys.readouterr().err

    def test_class_names_in_another_order_in_another_split(self, tmp_path: Path) -> None:
        """`datasets` takes those of the first file for all: silently swapped classes."""
        message = r"has other class names for 'label' in its test split than in train: 0 is 'bee' in one and 'ant' in"
        with pytest.raises(ValueError, match=message):
            load_splits("owner/name", write(tmp_path / "data", ["bee", "ant"]))
        load_splits("owner/name", write(tmp_path / "good", ["ant", "bee"]))

    def test_folders_that_are_no_tables(self, tmp_path: Path) -> None:
        (tmp_path / "images" / "ant").mkdir(parents=True)
        (tmp_path / "images" / "ant" / "1.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=r"holds files of samples, no parquet files\. .* by `dataset: folder`\."):
            load_splits("owner/name", str(tmp_path / "images"))
        with pytest.raises(ValueError, match=r"takes \[ in its path for a pattern\. Rename the folder"):
            load_splits("owner/name", write(tmp_path / "data [2020]"))

    def test_paths_of_windows(self, tmp_path: Path) -> None:
        for name in ("images", "odd\\name"):
            (tmp_path / name).mkdir()
        assert stored_path(str(tmp_path), "odd\\name") == str(tmp_path / "odd\\name")
        assert stored_path("data", "images\\1.jpg") == str(Path("data/images/1.jpg"))

    def test_a_folder_of_parquet_files(self, tmp_path: Path) -> None:
        write(tmp_path / "data")
        splits = load_splits("owner/name", str(tmp_path / "data"))
        assert set(splits) == {"train", "test"}
        assert arrow_column(splits["train"], "label").to_pylist() == [1, 0]
        check_columns(splits["train"], "It", label_column="label")
        with pytest.raises(
            ValueError, match=r"It has no column 'target', but label\. Name the right one with `label_col"
        ):
            check_columns(splits["train"], "It", label_column="target")

    @pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
    @pytest.mark.parametrize(
        "address", ["https://host/a.parquet", "hf://datasets/a/b/c.parquet", "s3://host/a.parquet"]
    )
    def test_a_card_that_names_addresses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: str, address: str
    ) -> None:
        monkeypatch.setattr("socket.getaddrinfo", None)
        folder = write(tmp_path / "data")
        self.write_card(folder, [{"split": "train", "path": address}], card)
        with pytest.raises(
            UserError, match=rf"{card}` has files of the data at '{address}'\. Put them into the folder"
        ):
            load_splits("owner/name", folder, allow_outside=True)

    def test_a_card_that_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "data")
        write(tmp_path / "other", label=[1, 2, 3])
        for path in ("../other/train-0.parquet", str(tmp_path / "other" / "train-0.parquet")):
            self.write_card(folder, [{"split": "train", "path": path}, {"split": "test", "path": "test-*.parquet"}])
            message = (
                r"README\.md of `data_dir` .* out of it: 1 of 2 files lie elsewhere, the first of which is '.*other/t"
            )
            with pytest.raises(UserError, match=message):
                load_splits("owner/name", folder)
            splits = load_splits("owner/name", folder, allow_outside=True)
            assert [len(rows) for rows in splits.values()] == [3, 2]

    def test_a_card_of_the_hub_and_linked_files_are_fine(self, tmp_path: Path) -> None:
        """As the hub's own cache has them, below a folder that is a link itself."""
        folder = Path(write(tmp_path / "data"))
        self.write_card(folder, [{"split": "train", "path": "train-*"}, {"split": "test", "path": "test-*"}])
        (tmp_path / "blobs").mkdir()
        for file in folder.glob("*.parquet"):
            file.rename(tmp_path / "blobs" / file.name)
            file.symlink_to(tmp_path / "blobs" / file.name)
        (tmp_path / "link").symlink_to(folder)
        for place in (folder, tmp_path / "link"):
            assert [len(rows) for rows in load_splits("owner/name", str(place)).values()] == [2, 2]

    def test_a_card_of_aliases(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "data")
        names = "".join(f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9)}]\n" for k in range(1, 40))
        Path(folder, "README.md").write_text(f"---\nx0: &x0 [lol]\n{names}configs: *x39\n---\n")
        begin = time.process_time()
        with pytest.raises(
            UserError, match=r"README\.md` is too large: its aliases stand for 1,000,000 values and more"
        ):
            load_splits("owner/name", folder)
        assert time.process_time() - begin < 5

    @staticmethod
    def write_card(folder: str | Path, files: list[dict[str, str]], name: str = "README.md") -> None:
        text = json.dumps({"license": "mit", "configs": [{"config_name": "default", "data_files": files}]})
        Path(folder, name).write_text(f"---\n{text}\n---\nSee https://host.\n" if name == "README.md" else text)

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"nowhere' is no folder\. Leave it out to read owner/name from the hub"):
            load_splits("owner/name", str(tmp_path / "nowhere"))
        with pytest.raises(ValueError, match=r"cannot be read as a data set of parquet files: "):
            load_splits("owner/name", str(tmp_path))

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError("no route"), r"'owner/name' could not .* \(OSError: no route\)\. Offline ways: `data_dir`"),
            (RuntimeError("Dataset is gated"), "'owner/name' is open to those only who have accepted its terms"),
        ],
    )
    def test_an_unreachable_hub(self, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
        import datasets

        def unreachable(source: str) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(ConnectionError, match=message):
            load_splits("owner/name")


class TestHub:
    @pytest.fixture
    def endpoint(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[http.server.HTTPServer]:
        """A hub that knows nothing, on loopback; closed by the test that wants none."""

        class Empty(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Empty)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for client in (huggingface_hub.constants, datasets.config):
            monkeypatch.setattr(client, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        server.server_close()

    def test_one_that_answers_is_asked(self, endpoint: http.server.HTTPServer, capsys: Any) -> None:
        with hub_or_cache():
            assert not datasets.config.HF_HUB_OFFLINE
        assert capsys.readouterr().err == ""

    def test_one_that_is_out_of_reach_costs_no_minute(self, endpoint: http.server.HTTPServer, capsys: Any) -> None:
        endpoint.shutdown()
        endpoint.server_close()
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"'nobody/nothing' could not be loaded from the hub.*Offline ways"):
            load_splits("nobody/nothing")
        assert time.monotonic() - began < 5  # its client tries for 47 s
        assert "does not answer" in capsys.readouterr().err
        assert not datasets.config.HF_HUB_OFFLINE
        assert not huggingface_hub.constants.HF_HUB_OFFLINE
