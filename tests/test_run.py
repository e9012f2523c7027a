"""The run folder: what is in it, and that neither a full disk nor a killed process can spoil it."""

from __future__ import annotations

import csv
import dataclasses
import errno
import inspect
import json
import math
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from ltaug import RunFolder, run
from ltaug.errors import UserError
from ltaug.run import content_hash, csv_text, read_config, write_atomically

CONFIG = {"method": "bayias", "epochs": 4, "lr": 0.1, "seed": 0}
EPOCHS_FREE = {"resume": True, "free_keys": ("epochs",)}
EPOCH_1, EPOCH_2, EPOCH_3 = (f"checkpoints/epoch_{epoch:05d}" for epoch in (1, 2, 3))


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_checkpoint(run: RunFolder, epoch: int, step: int = 0) -> None:
    with run.checkpoint(epoch, step=step) as folder:
        (folder / "model.bin").write_bytes(b"weights after %d" % epoch)
        (folder / "random").mkdir()
        (folder / "random" / "rank_0.bin").write_bytes(b"state")


class FullDisk:
    """From now on, a file takes the first `room` bytes and then there is no space left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.failures = 0
        open_file = Path.open

        def open_small(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = open_file(path, mode, *arguments, **options)
            if "w" not in mode and "a" not in mode:
                return file
            write = file.write
            disk = self

            class Small:
                def write(self, data: Any) -> None:
                    if len(data) > room:
                        write(data[:room])
                        disk.failures += 1
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                    write(data)

                def __enter__(self) -> Small:
                    return self

                def __exit__(self, *error: Any) -> None:
                    file.close()

                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

            return Small()

        monkeypatch.setattr(Path, "open", open_small)


def fail_to_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other moment in which a full disk shows: the data do not reach it."""

    def fsync(handle: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


class TestFiles:
    def test_a_new_folder_explains_itself(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "a" / "b", CONFIG)
        assert sorted(everything_in(run.path)) == ["command.txt", "config.yaml", "environment.json"]
        assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG
        assert list(read_config(run.path / "config.yaml")) == list(CONFIG)  # in the order of the settings
        command = (run.path / "command.txt").read_text()
        assert command.endswith("\n")
        assert Path(sys.executable).name in command
        facts = json.loads((run.path / "environment.json").read_text())
        assert facts["packages"]["torch"] == torch.__version__
        assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
        assert {"git", "system", "processor", "threads", "accelerator"} <= set(facts)

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        facts = {"class_names": ["a", "b"], "class_counts": torch.tensor([9, 1]), "test_labels": "5e8e"}
        run = RunFolder(tmp_path, CONFIG, data=facts)
        assert json.loads((tmp_path / "data.json").read_text()) == facts | {"class_counts": [9, 1]}
        before = everything_in(tmp_path)
        for changes, said in (
            ({"test_labels": "89be"}, "`test_labels` differs from its data.json"),
            ({"class_counts": [8, 2], "class_names": ["a", "c"]}, "`class_names`, `class_counts` differ from"),
        ):
            with pytest.raises(ValueError, match=said):
                RunFolder(tmp_path, CONFIG | {"epochs": 100}, resume=True, free_keys=("epochs",), data=facts | changes)
            with pytest.raises(ValueError, match=said):
                run.check_data(facts | changes)
            RunFolder(tmp_path, CONFIG, main=False, resume=True, data=facts | changes)  # the main process says it
        assert everything_in(tmp_path) == before
        RunFolder(tmp_path, CONFIG, resume=True, data=facts)
        for text in ("{", "[]"):
            (tmp_path / "data.json").write_text(text)
            with pytest.raises(ValueError, match=r"data.json` is damaged"):
                run.check_data(facts)
        (tmp_path / "data.json").unlink()  # as an earlier version left it
        RunFolder.open(tmp_path).check_data(facts)

    @pytest.mark.parametrize("name", ["logits.safetensors", "held_out.safetensors"])
    def test_a_correction_of_other_logits_goes(self, tmp_path: Path, name: str) -> None:
        run = RunFolder(tmp_path, CONFIG)
        logits, labels = torch.randn(5, 3), torch.arange(5) % 3
        run.save_logits(logits, labels, name)
        for file in ("corrected.json", "mine.json"):
            run.write(file, "{}")
        run.save_logits(logits, labels, name)
        assert (tmp_path / "corrected.json").exists()
        run.save_logits(logits + 1e-3, labels, name)
        assert not (tmp_path / "corrected.json").exists()
        assert (tmp_path / "mine.json").exists()

    def test_a_dataclass_is_its_fields(self, tmp_path: Path) -> None:
        @dataclasses.dataclass
        class Config:
            lr: float = 1e-5
            name: str = "härte"
            milestones: list[int] = dataclasses.field(default_factory=lambda: [1, 2])
            data_dir: str | None = None

        run = RunFolder(tmp_path, Config())
        assert read_config(run.path / "config.yaml") == dataclasses.asdict(Config())
        RunFolder(tmp_path, Config(), resume=True)

    def test_commands_can_be_pasted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", "--out", "my runs/a;b"])
        RunFolder(tmp_path, CONFIG)
        assert (tmp_path / "command.txt").read_text().endswith(" train.py --out 'my runs/a;b'\n")

    def test_results_come_back(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        logits, labels = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32)
        run.save_logits(logits.bfloat16().float(), labels)
        kept = run.load_logits()
        assert (kept[0].dtype, kept[1].dtype) == (torch.float32, torch.int64)
        assert torch.equal(kept[0], logits.detach().bfloat16().float())
        assert kept[1].tolist() == labels.tolist()
        run.save_logits(torch.ones(1, 3), torch.tensor([2]), name="held_out.safetensors")
        assert torch.equal(run.load_logits("held_out.safetensors")[0], torch.ones(1, 3))
        assert torch.equal(run.load_logits()[0], kept[0])

        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        state = {**model.state_dict(), "tied": model[0].weight, "view": model[0].weight.t()}
        info = {"class_names": ["a", "b"], "class_counts": [5, 1], "logits_prior": [0.5, 0.5]}
        run.save_model(state, {name: torch.tensor(v) if name != "class_names" else v for name, v in info.items()})
        weights, facts = run.load_model()
        assert facts == info == run.info()
        assert set(weights) == set(state)
        assert all(torch.equal(weights[name], state[name]) for name in state)

    def test_per_class_table(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        names, accuracy = ["a", 'a "quoted", name', "c"], torch.tensor([0.5, 1.0, float("nan")])
        run.save_per_class(names, torch.tensor([5, 3, 0]), accuracy)
        with (tmp_path / "per_class.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert [row["name"] for row in run.per_class()] == names
        assert [row["test_accuracy"] for row in run.per_class()] == ["0.500000", "1.000000", "nan"]
        assert rows[0] == ["class", "name", "train_count", "test_accuracy"]
        assert rows[1:3] == [["0", "a", "5", "0.500000"], ["1", 'a "quoted", name', "3", "1.000000"]]
        assert rows[3][:3] == ["2", "c", "0"]
        with pytest.raises(ValueError, match=r"shorter|longer"):
            run.save_per_class(["a"], torch.tensor([5, 3]), torch.tensor([0.5, 1.0]))

    def test_names_that_a_spreadsheet_would_run(self, tmp_path: Path) -> None:
        names = ["=HYPERLINK(1)", "+a", "-a", "@a", "\ta", "\ra", "'=a", "'tis", "-0.5", "a=b"]
        run = RunFolder(tmp_path, CONFIG)
        run.save_per_class(names, torch.ones(10), torch.ones(10))
        with (tmp_path / "per_class.csv").open(newline="") as file:
            cells = [row["name"] for row in csv.DictReader(file)]
        assert cells == ["'=HYPERLINK(1)", "'+a", "'-a", "'@a", "'\ta", "'\ra", "''=a", "'tis", "-0.5", "a=b"]
        assert [row["name"] for row in run.per_class()] == names
        assert csv_text([[-0.5, "-0.5", None, "-"]]) == "-0.5,-0.5,,'-\r\n"

    def test_summary_is_plain_json(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)

        @dataclasses.dataclass
        class Part:
            value: float = math.inf

        values = {
            "nan": float("nan"),
            "tensor": torch.tensor([1.5, float("nan")]),
            "scalar": torch.tensor(3),
            "numpy": np.float32(0.5),
            "array": np.array([[1, 2]]),
            "nested": {"few": float("-inf"), 1: (True, None)},
            "path": Path("a") / "b",
            "part": Part(),
            "text": "häß",
        }
        run.write_json("summary.json", values)
        done = subprocess.run([sys.executable, "-m", "json.tool", str(tmp_path / "summary.json")], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert "NaN" not in done.stdout.decode()
        assert json.loads(done.stdout) == {
            "nan": None,
            "tensor": [1.5, None],
            "scalar": 3,
            "numpy": 0.5,
            "array": [[1, 2]],
            "nested": {"few": None, "1": [True, None]},
            "path": str(Path("a") / "b"),
            "part": {"value": None},
            "text": "häß",
        }

    def test_only_the_main_process_writes(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run", CONFIG, main=False)
        run.log(epoch=0, loss=1.0)
        run.write_json("summary.json", {})
        run.save_logits(torch.zeros(1, 2), torch.zeros(1))
        run.save_model({}, {})
        run.save_per_class([], torch.zeros(0), torch.zeros(0))
        assert not run.path.exists()
        assert run.latest_checkpoint() is None
        assert run.rows() == []

    def test_a_folder_without_a_name_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It would be the folder of the shell."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="The run folder's name is empty"):
            RunFolder("", CONFIG)
        with pytest.raises(FileNotFoundError, match="no run folder"):
            RunFolder.open("")
        assert everything_in(tmp_path) == {}


class TestOpen:
    def test_a_run_is_opened_without_leaving_a_trace(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG, data={"test_labels": "5e8e"})
        run.log(epoch=0, loss=1.0)
        save_checkpoint(run, 1)
        leftover = tmp_path / "checkpoints" / ".ltaug-epoch_00002.tmp"  # of a training that is saving
        leftover.mkdir()
        before = everything_in(tmp_path)
        run = RunFolder.open(tmp_path)
        assert run.config() == CONFIG
        assert run.rows() == [{"epoch": 0, "loss": 1.0}]
        assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)
        assert everything_in(tmp_path) == before
        assert leftover.is_dir()
        run.write_json("corrected.json", {"a": 1})
        assert set(everything_in(tmp_path)) == {*before, "corrected.json"}

    def test_a_folder_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for name in ("nothing", "file"):
            with pytest.raises(FileNotFoundError, match=f"{name}` is no run folder"):
                RunFolder.open(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_what_a_run_does_not_have_is_named(self, tmp_path: Path) -> None:
        run = RunFolder.open(tmp_path)
        assert run.rows() == []
        assert run.latest_checkpoint() is None
        for name, read in (
            ("config.yaml", run.config),
            ("summary.json", run.summary),
            ("ltaug.json", run.info),
            ("per_class.csv", run.per_class),
            ("logits.safetensors", run.load_logits),
            ("model.safetensors", run.load_model),
            ("held_out.safetensors", lambda: run.load_logits("held_out.safetensors")),
        ):
            with pytest.raises(FileNotFoundError, match=rf"has no {name}: the run has none, or is not finished"):
                read()

    @pytest.mark.parametrize("old", ["images_per_second", "clips_per_second", "samples_per_second"])
    def test_the_speed_has_one_name_whoever_wrote_it(self, tmp_path: Path, old: str) -> None:
        run = RunFolder(tmp_path, CONFIG)
        run.log(epoch=0, **{old: 81.5})
        run.write_json("summary.json", {"name": "erm", old: 80.5})
        assert run.summary() == {"name": "erm", "samples_per_second": 80.5}
        assert run.rows() == [{"epoch": 0, "samples_per_second": 81.5}]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"epoch": 1, "lo', None),  # cut, the last one
            ('{"epoch": 1, "lo\n', r"damaged in line 2 \(.*\)\. Restore it, or remove it"),
            ('{"epo\n{"epoch": 2}\n', "damaged in line 2"),
            ("[1]\n", "damaged in line 2 .it holds no names"),
        ],
    )
    def test_a_damaged_row_is_named_and_one_being_written_is_left_out(
        self, tmp_path: Path, line: str, message: str | None
    ) -> None:
        run = RunFolder(tmp_path, CONFIG)
        run.log(epoch=0, loss=1.0)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(line)
        if message is None:
            assert run.rows() == [{"epoch": 0, "loss": 1.0}]
        else:
            with pytest.raises(UserError, match=message):
                run.rows()

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"logits": torch.zeros(3, 2), "labels": torch.zeros(2).long()}, "must hold logits .N, C. and integer"),
            ({"logits": torch.zeros(3), "labels": torch.zeros(3).long()}, r"but holds \[3\] and torch.int64 \[3\]"),
            ({"logits": torch.zeros(3, 2), "labels": torch.zeros(3)}, "torch.float32"),
            ({"logits": torch.zeros(0, 2), "labels": torch.zeros(0).long()}, "must hold logits"),
            ({"logits": torch.zeros(3, 2), "labels": torch.tensor([0, 1, 2])}, "labels from 0 to 2, but logits of 2"),
            ({"logits": torch.zeros(3, 2), "labels": torch.tensor([0, 1, -1])}, "labels from -1 to 1"),
            ({"logits": torch.zeros(3, 2)}, "has no labels"),
            ({"other": torch.zeros(3, 2)}, "has no labels and no logits"),
        ],
    )
    def test_logits_that_do_not_fit_their_labels_are_refused(
        self, tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
    ) -> None:
        save_file(tensors, tmp_path / "logits.safetensors")
        with pytest.raises(UserError, match=message):
            RunFolder.open(tmp_path).load_logits()

    @pytest.mark.parametrize("name", ["logits.safetensors", "model.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"{}", bytes(64)])
    def test_damaged_tensors_are_named(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        (tmp_path / "ltaug.json").write_text("{}")
        run = RunFolder.open(tmp_path)
        with pytest.raises(UserError, match=f"{name}` is damaged"):
            run.load_logits() if name.startswith("logits") else run.load_model()


class TestLog:
    def test_a_row_an_epoch(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        assert run.rows() == []
        for epoch in range(3):
            run.log(epoch=epoch, loss=torch.tensor(1.5), few=float("nan"))
        assert run.rows() == [{"epoch": epoch, "loss": 1.5, "few": None} for epoch in range(3)]
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]
        assert "NaN" not in "".join(lines)

    def test_a_resumed_run_replaces_what_it_does_again(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in range(4):
            run.log(epoch=epoch, loss=1.0)
        run = RunFolder(tmp_path, CONFIG, resume=True)
        run.log(epoch=2, loss=2.0)
        assert [(row["epoch"], row["loss"]) for row in run.rows()] == [(0, 1.0), (1, 1.0), (2, 2.0)]
        run.log(epoch=2, loss=3.0)
        run.log(epoch=3, loss=4.0)
        assert [(row["epoch"], row["loss"]) for row in run.rows()] == [(0, 1.0), (1, 1.0), (2, 3.0), (3, 4.0)]

    def test_rows_without_an_epoch_are_appended(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for value in (1, 2):
            run.log(value=value)
        assert run.rows() == [{"value": 1}, {"value": 2}]


class TestResume:
    def test_an_existing_run_is_not_overwritten(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, CONFIG).log(epoch=0, loss=1.0)
        before = everything_in(tmp_path)
        with pytest.raises(FileExistsError, match=r"already holds a run\. Resume it .*another folder.*or delete it"):
            RunFolder(tmp_path, CONFIG)
        assert everything_in(tmp_path) == before

    def test_a_folder_without_a_run_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        run = RunFolder(tmp_path, CONFIG, resume=True)
        assert run.latest_checkpoint() is None
        assert (tmp_path / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": 0.2}, "Cannot resume with another configuration: `lr` was 0.1 and is now 0.2"),
            ({"lr": 0.2, "seed": 1}, "`lr` was 0.1 and is now 0.2; `seed` was 0 and is now 1"),
            ({"alpha": 0.8}, "`alpha` was None and is now 0.8"),
        ],
    )
    def test_another_configuration_is_refused_by_name(self, tmp_path: Path, change: dict, message: str) -> None:
        RunFolder(tmp_path, CONFIG)
        before = everything_in(tmp_path)
        with pytest.raises(ValueError, match=message):
            RunFolder(tmp_path, {**CONFIG, **change}, **EPOCHS_FREE)
        assert everything_in(tmp_path) == before

    def test_a_setting_that_is_gone_is_named(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, {**CONFIG, "old": 1})
        with pytest.raises(ValueError, match="`old` was 1 and is now None"):
            RunFolder(tmp_path, CONFIG, resume=True)

    def test_free_settings_may_change_and_are_recorded(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, CONFIG)
        with pytest.raises(ValueError, match="`epochs` was 4 and is now 8"):
            RunFolder(tmp_path, {**CONFIG, "epochs": 8}, resume=True)
        RunFolder(tmp_path, {**CONFIG, "epochs": 8}, **EPOCHS_FREE)
        assert read_config(tmp_path / "config.yaml")["epochs"] == 8

    @pytest.mark.parametrize(
        ("done", "epochs", "message"),
        [
            ((3, 0), 3, None),
            ((3, 0), None, None),
            ((2, 7), 3, None),
            ((4, 0), 3, "`epochs` is 3, but .* has completed 4. Raise it"),
            ((3, 7), 3, "`epochs` is 3, but .* has completed 3 and 7 steps. Raise it"),
        ],
    )
    def test_fewer_epochs_than_are_done_are_refused(
        self, tmp_path: Path, done: tuple[int, int], epochs: int | None, message: str | None
    ) -> None:
        save_checkpoint(RunFolder(tmp_path, {"steps": 1}), *done)
        before = everything_in(tmp_path)
        changed = {"free_keys": ("steps",), "resume": True, "epochs": epochs}
        if message is None:
            RunFolder(tmp_path, {"steps": 2}, **changed)
            return
        with pytest.raises(UserError, match=message):
            RunFolder(tmp_path, {"steps": 2}, **changed)
        assert everything_in(tmp_path) == before

    @pytest.mark.filterwarnings("ignore:Skipping a damaged checkpoint")
    def test_a_damaged_checkpoint_beyond_the_epochs_does_not_count(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (2, 3):
            save_checkpoint(run, epoch)
        (tmp_path / EPOCH_3 / "model.bin").unlink()
        RunFolder(tmp_path, CONFIG, resume=True, epochs=2)
        with pytest.raises(UserError, match="has completed 2"):
            RunFolder(tmp_path, CONFIG, resume=True, epochs=1)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a: [1", "is not readable as YAML"),
            (b"\xff\xfe\x00", "is not readable as YAML"),
            (b"", "must hold `key: value` lines, but holds NoneType"),
            (b"- 1\n", "must hold `key: value` lines, but holds list"),
        ],
    )
    def test_a_spoilt_config(self, tmp_path: Path, content: bytes, message: str) -> None:
        RunFolder(tmp_path, CONFIG)
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            RunFolder(tmp_path, CONFIG, resume=True)


class TestFullDisk:
    @pytest.mark.parametrize("content", ["new content, longer", b"new content, longer"])
    def test_a_file_is_old_or_new_but_never_a_part(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes
    ) -> None:
        file = tmp_path / "file.txt"
        write_atomically(file, "old")
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, room=7)
            with pytest.raises(OSError, match="No space left") as error:
                write_atomically(file, content)
            assert error.value.errno == errno.ENOSPC
            assert disk.failures == 1
        assert everything_in(tmp_path) == {"file.txt": b"old"}
        with monkeypatch.context() as patch:
            fail_to_flush(patch)
            with pytest.raises(OSError, match="No space left") as error:
                write_atomically(file, content)
            assert error.value.filename == str(file)  # the system gives none where a flush fails
        assert everything_in(tmp_path) == {"file.txt": b"old"}
        write_atomically(file, content)
        assert everything_in(tmp_path) == {"file.txt": b"new content, longer"}

    def test_the_rename_comes_after_the_flush(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # otherwise a power cut leaves an empty file under the right name
        events = []
        fsync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle))[1])
        monkeypatch.setattr(Path, "replace", lambda path, target: (events.append("replace"), replace(path, target))[1])
        write_atomically(tmp_path / "file", b"data")
        assert events[:2] == ["fsync", "replace"]

    def test_an_interrupt_while_writing_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(handle: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "file", b"data")
        assert everything_in(tmp_path) == {}

    def test_two_that_write_one_path_do_not_break_each_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, fsync = tmp_path / "file", os.fsync

        def slowly(handle: Any) -> None:
            monkeypatch.setattr(os, "fsync", fsync)
            write_atomically(file, "of the other, which is faster")
            assert everything_in(tmp_path).pop("file") == b"of the other, which is faster"
            fsync(handle)

        monkeypatch.setattr(os, "fsync", slowly)
        write_atomically(file, "ours")
        assert everything_in(tmp_path) == {"file": b"ours"}

    @pytest.mark.parametrize("how", [lambda patch: FullDisk(patch, room=30), fail_to_flush], ids=["write", "flush"])
    def test_every_file_of_a_run_keeps_its_last_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
    ) -> None:
        run = RunFolder(tmp_path, CONFIG)
        run.log(epoch=0, loss=1.0)
        run.write_json("summary.json", {"final": 1, "a_long_key": "a long value"})
        run.save_logits(torch.zeros(2, 2), torch.zeros(2))
        before = everything_in(tmp_path)
        with monkeypatch.context() as patch:
            how(patch)
            for act in (
                lambda: run.log(epoch=1, loss=2.0),
                lambda: run.write_json("summary.json", {"final": 2, "a_long_key": "a long value"}),
                lambda: run.save_logits(torch.ones(2, 2), torch.ones(2)),
                lambda: RunFolder(tmp_path, {**CONFIG, "epochs": 9}, **EPOCHS_FREE),
            ):
                with pytest.raises(OSError, match="No space left"):
                    act()
        assert everything_in(tmp_path) == before
        assert run.rows() == [{"epoch": 0, "loss": 1.0}]

    def test_a_failing_checkpoint_leaves_the_previous_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = RunFolder(tmp_path, CONFIG)
        save_checkpoint(run, 1)
        before = everything_in(tmp_path)
        with pytest.raises(OSError, match="No space left"), run.checkpoint(2) as folder:  # noqa: PT012
            (folder / "model.bin").write_bytes(b"half of the wei")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert everything_in(tmp_path) == before
        # while the files are flushed to the disk, after the caller has written them
        with monkeypatch.context() as patch:
            fail_to_flush(patch)
            with pytest.raises(OSError, match="No space left"):
                save_checkpoint(run, 2)
        assert everything_in(tmp_path) == before
        # while the list of hashes is written, last of all
        with monkeypatch.context() as patch:
            FullDisk(patch, room=40)
            with pytest.raises(OSError, match="No space left"):
                save_checkpoint(run, 2)
        assert everything_in(tmp_path) == before
        assert not list(tmp_path.glob("checkpoints/.*"))
        assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)
        save_checkpoint(run, 2)
        assert run.latest_checkpoint() == (tmp_path / EPOCH_2, 2, 0)

    @pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), SafetensorError("I/O error")])
    def test_how_torch_and_safetensors_tell_of_a_full_disk(self, tmp_path: Path, error: Exception) -> None:
        run = RunFolder(tmp_path, CONFIG)
        save_checkpoint(run, 1)
        before = everything_in(tmp_path)
        message = (
            rf"checkpoint after epoch 2 could not be saved in .*{error}.* Is the disk full\?.* make room, and resume"
        )
        with pytest.raises(OSError, match=message) as raised, run.checkpoint(2):
            raise error
        assert raised.value.__cause__ is error
        assert everything_in(tmp_path) == before

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("shape"), torch.OutOfMemoryError("no memory")])
    def test_other_errors_pass_as_they_are(self, tmp_path: Path, error: BaseException) -> None:
        run = RunFolder(tmp_path, CONFIG)
        before = everything_in(tmp_path)
        with pytest.raises(type(error)) as raised, run.checkpoint(1):
            raise error
        assert raised.value is error
        assert everything_in(tmp_path) == before


class TestCheckpoints:
    def test_the_newest_two_stay(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        assert run.latest_checkpoint() is None
        for epoch in (1, 2, 9, 10):
            save_checkpoint(run, epoch)
            assert run.latest_checkpoint() == (tmp_path / "checkpoints" / f"epoch_{epoch:05d}", epoch, 0)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch_00009", "epoch_00010"]
        folder, _, _ = run.latest_checkpoint()
        assert (folder / "model.bin").read_bytes() == b"weights after 10"
        assert (folder / "random" / "rank_0.bin").exists()

    @pytest.mark.parametrize("keep", [1, 3])
    def test_or_as_many_as_asked(self, tmp_path: Path, keep: int) -> None:
        run = RunFolder(tmp_path, CONFIG, keep=keep)
        for epoch in range(1, 6):
            save_checkpoint(run, epoch)
        epochs = [int(path.name[-5:]) for path in sorted((tmp_path / "checkpoints").iterdir())]
        assert epochs == list(range(6 - keep, 6))

    def test_saving_an_epoch_again_replaces_it(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        save_checkpoint(run, 1)
        with run.checkpoint(1) as folder:
            assert list(folder.iterdir()) == []
            (folder / "other.bin").write_bytes(b"new")
        folder, epoch, step = run.latest_checkpoint()
        assert (epoch, step) == (1, 0)
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "other.bin"]

    def test_states_inside_an_epoch_stand_between_its_ends(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG, keep=9)
        places = [(1, 0), (1, 200), (2, 0), (2, 90), (2, 1000), (2, 12_345_678)]
        for epoch, step in reversed(places):
            save_checkpoint(run, epoch, step)
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == [
            "epoch_00001",
            "epoch_00001_step_0000200",
            "epoch_00002",
            "epoch_00002_step_0000090",
            "epoch_00002_step_0001000",
            "epoch_00002_step_12345678",
        ]
        for epoch, step in reversed(places):
            folder, *reached = run.latest_checkpoint()
            assert reached == [epoch, step]
            shutil.rmtree(folder)
        assert run.latest_checkpoint() is None

    def test_those_inside_an_epoch_count_towards_the_newest(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for place in ((1, 0), (1, 5), (1, 10), (2, 0)):
            save_checkpoint(run, *place)
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == ["epoch_00001_step_0000010", "epoch_00002"]

    @pytest.mark.parametrize("moment", ["before", "between", "after"])
    def test_a_kill_while_a_state_is_replaced_loses_neither(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Killed before the old state is renamed, before the new one is, and before the old one is removed."""
        run = RunFolder(tmp_path, CONFIG)
        for place in ((1, 0), (2, 7)):
            save_checkpoint(run, *place)
        rename, rmtree, renamed = Path.rename, shutil.rmtree, []

        class Kill(BaseException):
            pass

        def killed_rename(path: Path, target: Path) -> Path:
            if len(renamed) == ("before", "between").index(moment):
                raise Kill
            renamed.append(target)
            return rename(path, target)

        def killed_rmtree(path: Path, **options: Any) -> None:
            if path.name.endswith("_replaced") and path.exists():
                raise Kill
            if moment == "after":
                rmtree(path, **options)

        with monkeypatch.context() as patch:
            if moment != "after":
                patch.setattr(Path, "rename", killed_rename)
            patch.setattr(shutil, "rmtree", killed_rmtree)
            with pytest.raises(Kill), run.checkpoint(2, step=7) as folder:
                (folder / "model.bin").write_bytes(b"again")
        run = RunFolder(tmp_path, CONFIG, resume=True)
        folder, *reached = run.latest_checkpoint()
        assert reached == [2, 7]
        assert (folder / "model.bin").read_bytes() == (b"again" if moment == "after" else b"weights after 2")
        save_checkpoint(run, 2, 7)  # and what the kill has left does not stand in the way
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == ["epoch_00001", "epoch_00002_step_0000007"]

    def test_nothing_counts_before_everything_is_there(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        with run.checkpoint(1) as folder:
            (folder / "model.bin").write_bytes(b"x")
            assert run.latest_checkpoint() is None
            assert folder.parent == tmp_path / "checkpoints"  # the same file system, so that it can be renamed
        assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)

    def test_processes_wait_for_each_other(self, tmp_path: Path) -> None:
        events: list[str] = []
        main, other = RunFolder(tmp_path, CONFIG), RunFolder(tmp_path, CONFIG, main=False)

        def barrier() -> None:
            events.append(f"{sorted(path.name for path in tmp_path.glob('checkpoints/*'))}")

        with main.checkpoint(1, barrier) as folder, other.checkpoint(1, barrier) as same:
            assert folder == same
            (same / "rank_1.bin").write_bytes(b"from the other process")
        # The folder is there before anyone writes to it, is renamed after everyone has, and before anyone goes on.
        assert events == ["['.ltaug-epoch_00001.tmp']"] * 5 + ["['epoch_00001']"]
        assert json.loads((tmp_path / "checkpoints/epoch_00001/manifest.json").read_text()).keys() == {"rank_1.bin"}

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system with SIGKILL")
    def test_a_process_killed_while_saving(self, tmp_path: Path, root: Path) -> None:
        save_checkpoint(RunFolder(tmp_path, CONFIG), 2)
        program = (
            "import os, signal, sys\n"
            "from ltaug import RunFolder\n"
            f"run = RunFolder(sys.argv[1], {CONFIG!r}, resume=True)\n"
            "with run.checkpoint(3) as folder:\n"
            "    (folder / 'model.bin').write_bytes(b'half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root)
        assert done.returncode == -signal.SIGKILL
        leftover = tmp_path / "checkpoints" / ".ltaug-epoch_00003.tmp"
        assert (leftover / "model.bin").read_bytes() == b"half"
        run = RunFolder(tmp_path, CONFIG, resume=True)
        assert run.latest_checkpoint() == (tmp_path / EPOCH_2, 2, 0)
        assert not leftover.exists()

    def test_leftovers_of_a_crash_are_cleaned_but_only_ours_and_only_by_the_main_process(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, CONFIG)
        ours = [tmp_path / "checkpoints/.ltaug-epoch_00003.tmp/model.bin", tmp_path / ".ltaug-summary.json-0a1b.tmp"]
        foreign = [
            tmp_path / "mine.tmp",
            tmp_path / ".mine.tmp",
            tmp_path / ".cache.tmp" / "everything",
            tmp_path / ".ltaug-notes",
            tmp_path / "checkpoints" / ".epoch_00003.tmp" / "model.bin",
            tmp_path / "deeper" / ".ltaug-x.tmp",
        ]
        for file in ours + foreign:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"half")
        assert RunFolder(tmp_path, CONFIG, main=False, resume=True).latest_checkpoint() is None
        RunFolder.open(tmp_path)  # a reader, beside a training that may be saving
        with pytest.raises(FileExistsError):
            RunFolder(tmp_path, CONFIG)
        with pytest.raises(UserError):
            RunFolder(tmp_path, {**CONFIG, "lr": 9}, resume=True)
        assert all(file.exists() for file in ours)
        RunFolder(tmp_path, CONFIG, resume=True)
        assert not any(file.exists() for file in ours)
        assert not (tmp_path / "checkpoints" / ".ltaug-epoch_00003.tmp").exists()
        assert all(file.read_bytes() == b"half" for file in foreign)

    def test_what_an_earlier_attempt_left_is_not_sealed_in(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        leftover = tmp_path / "checkpoints" / ".ltaug-epoch_00001.tmp"
        leftover.mkdir(parents=True)
        (leftover / "stale.bin").write_bytes(b"old")
        save_checkpoint(run, 1)
        assert not (tmp_path / "checkpoints" / "epoch_00001" / "stale.bin").exists()


DAMAGE = {
    "a changed byte": (lambda folder: (folder / "model.bin").write_bytes(b"weights after X"), "model.bin has changed"),
    "a cut file": (lambda folder: (folder / "model.bin").write_bytes(b"wei"), "model.bin has changed"),
    "an empty file": (lambda folder: (folder / "random" / "rank_0.bin").write_bytes(b""), "rank_0.bin has changed"),
    "a missing file": (lambda folder: (folder / "model.bin").unlink(), "model.bin is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "a cut manifest": (lambda folder: (folder / "manifest.json").write_text('{"model.bin": "'), "unreadable"),
    "a manifest of zeros": (lambda folder: (folder / "manifest.json").write_bytes(bytes(64)), "unreadable"),
    "a manifest of bytes": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\xfd"), "unreadable"),
}


class TestSystems:
    """File systems and platforms that lack something."""

    @pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EACCES])
    def test_a_file_system_without_fsync_of_folders(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        """CIFS and several FUSE mounts."""
        fsync, refused = os.fsync, []

        def files_only(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                refused.append(handle)
                raise OSError(error, os.strerror(error))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", files_only)
        run = RunFolder(tmp_path, CONFIG)
        save_checkpoint(run, 1)
        assert refused
        assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)

    def test_a_system_that_flushes_only_what_is_open_for_writing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows."""
        fcntl = pytest.importorskip("fcntl")
        fsync, flushed = os.fsync, []

        def writable_only(handle: int) -> None:
            read_only = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            if read_only and not stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flushed.append(handle)
            fsync(handle)

        monkeypatch.setattr(os, "fsync", writable_only)
        run = RunFolder(tmp_path, CONFIG)
        save_checkpoint(run, 1)
        assert flushed
        assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)
        with (tmp_path / "config.yaml").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
            os.fsync(file.fileno())  # the simulation does refuse

    def test_checkpoints_are_not_read_into_memory(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        size = 32 << 20
        with run.checkpoint(1) as folder, (folder / "large.bin").open("wb") as file:
            file.truncate(size)
        tracemalloc.start()
        try:
            with run.checkpoint(2) as folder, (folder / "large.bin").open("wb") as file:
                file.truncate(size)
            assert run.latest_checkpoint()[1:] == (2, 0)
            peak = tracemalloc.get_traced_memory()[1]
            (tmp_path / EPOCH_1 / "large.bin").read_bytes()
            whole = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < size / 4
        assert whole > size  # reading it whole would have been seen


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_a_damaged_checkpoint_is_passed_over_with_a_warning(self, tmp_path: Path, name: str) -> None:
        damage, reason = DAMAGE[name]
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        damage(tmp_path / "checkpoints" / "epoch_00002")
        with pytest.warns(UserWarning, match=f"Skipping a damaged checkpoint .*epoch_00002: .*{reason}"):
            assert run.latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)

    def test_a_damaged_older_one_does_not_matter(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        (tmp_path / "checkpoints" / "epoch_00001" / "model.bin").unlink()
        assert run.latest_checkpoint() == (tmp_path / EPOCH_2, 2, 0)
        assert not list(recwarn)

    def test_all_processes_choose_the_same_and_one_warns(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        (tmp_path / "checkpoints" / "epoch_00002" / "model.bin").unlink()
        assert RunFolder(tmp_path, CONFIG, main=False).latest_checkpoint() == (tmp_path / EPOCH_1, 1, 0)
        assert not list(recwarn)

    @pytest.mark.filterwarnings("ignore:Skipping a damaged checkpoint")
    def test_when_all_are_damaged_training_does_not_start_anew_unasked(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
            (tmp_path / "checkpoints" / f"epoch_{epoch:05d}" / "model.bin").unlink()
        message = (
            r"No checkpoint .* can be used \(epoch_00002: model.bin is missing; epoch_00001: .*\)\. "
            r"Start anew in another folder"
        )
        with pytest.raises(UserError, match=message):
            run.latest_checkpoint()


def test_the_simulated_disk_does_fill_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative twin: a plain write does leave half a file on it."""
    (tmp_path / "plain").write_bytes(b"old")
    with monkeypatch.context() as patch:
        FullDisk(patch, room=4)
        with pytest.raises(OSError, match="No space left"), (tmp_path / "plain").open("wb") as file:
            file.write(b"new and longer")
    assert (tmp_path / "plain").read_bytes() == b"new "


class TestOddCases:
    def test_tuples_and_paths_in_a_config_are_the_same_after_reading(self, tmp_path: Path) -> None:
        config = {"decay": (160, 180), "data": tmp_path / "data", "nothing": math.nan}
        RunFolder(tmp_path / "run", config)
        RunFolder(tmp_path / "run", config, resume=True)
        with pytest.raises(ValueError, match="`decay`"):
            RunFolder(tmp_path / "run", config | {"decay": (160,)}, resume=True)

    def test_folders_that_are_no_checkpoints_are_left_alone(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, {})
        for epoch in (99_999, 100_000):
            with run.checkpoint(epoch) as folder:
                (folder / "state").write_text(str(epoch))
        (tmp_path / "checkpoints" / "epoch_00002_backup").mkdir()
        found = run.latest_checkpoint()
        assert found is not None
        assert found[1:] == (100_000, 0)
        assert (tmp_path / "checkpoints" / "epoch_00002_backup").is_dir()

    def test_a_manifest_of_another_kind_is_damage(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, {})
        with run.checkpoint(1) as folder:
            (folder / "state").write_text("x")
        (tmp_path / "checkpoints" / "epoch_00001" / "manifest.json").write_text("[]")
        with pytest.warns(UserWarning, match="damaged"), pytest.raises(UserError, match=r"manifest\.json"):
            run.latest_checkpoint()

    def test_keeping_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`keep` must be at least 1, but is 0"):
            RunFolder(tmp_path, {}, keep=0)


# Settings of scripts, flags of commands and files of one command.
KNOWN_TO_OTHERS = re.compile(r"shifted|--[a-z]|warmup|precision|momentum|`lr`")


def test_the_folder_knows_no_setting_flag_or_file_of_others() -> None:
    assert KNOWN_TO_OTHERS.findall(inspect.getsource(run)) == []
    assert KNOWN_TO_OTHERS.search('raise ValueError("Lower `lr`.")')  # negative twin
    assert KNOWN_TO_OTHERS.search("choose another folder (`--out`)")


def test_infinity_stays_in_a_config(tmp_path: Path) -> None:
    config = {"limit": math.inf, "deep": [{"low": -math.inf}]}
    assert RunFolder(tmp_path, config).config() == config
    RunFolder(tmp_path, config, resume=True)
    with pytest.raises(UserError, match="`limit` was inf and is now 3"):
        RunFolder(tmp_path, config | {"limit": 3.0}, resume=True)


def test_damaged_rows_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    RunFolder(tmp_path, CONFIG).log(epoch=0, loss=1.0)
    (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl` is damaged in line 1"):
        RunFolder(tmp_path, CONFIG, resume=True)
    assert everything_in(tmp_path) == before


def test_a_fingerprint_sees_every_change(tmp_path: Path) -> None:
    pixels, labels, names = (
        torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4),
        torch.tensor([0, 1]),
        ["a.png", "b.png"],
    )
    changed = pixels.clone()
    changed[1, 2, 3] ^= 1
    found = [
        content_hash(*parts)
        for parts in (
            (pixels, labels, names),
            (changed, labels, names),
            (pixels.flip(0), labels, names),
            (pixels.reshape(2, 4, 3), labels, names),
            (pixels, labels.flip(0), names),
            (pixels, labels.float(), names),
            (pixels, labels, names[::-1]),
            (labels, pixels, names),
        )
    ]
    assert len(set(found)) == len(found)
    assert content_hash(pixels.clone(), labels, tuple(names)) == found[0] == content_hash(pixels.numpy(), labels, names)
    run = RunFolder(tmp_path, CONFIG, data={"classes": 2})
    run.check_data({"classes": 2, "pixels": found[0]})  # an earlier version did not know the pixels
    RunFolder(tmp_path, CONFIG, resume=True, data={"classes": 2, "pixels": found[0]})
    with pytest.raises(UserError, match=r"`pixels` differs from its data\.json"):
        run.check_data({"classes": 2, "pixels": found[1]})


class TestStrangeFiles:
    """Whatever lies in a run folder is named before an epoch is trained, not after it."""

    def run_folder(self, path: Path) -> RunFolder:
        run = RunFolder(path, {"lr": 0.1}, data={"labels": "abc"})
        for epoch in range(3):
            run.log(epoch=epoch, loss=1.0, seconds=1.0, samples_per_second=5.0)
            with run.checkpoint(epoch + 1) as folder:
                (folder / "state").write_bytes(b"state")
        return run

    def resumed(self, path: Path) -> RunFolder:
        return RunFolder(path, {"lr": 0.1}, data={"labels": "abc"}, resume=True)

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ('{"epoch": "x"}', "`epoch` is 'x'"),
            ('{"epoch": null}', "`epoch` is None"),
            ('{"epoch": 3, "loss": NaN}', "NaN is no number"),
            ('{"epoch": 3, "loss": Infinity}', "Infinity is no number"),
            ('{"epoch": 3, "seconds": "x"}', "`seconds` is 'x'"),
            ('{"epoch": 3, "samples_per_second": [1]}', r"`samples_per_second` is \[1\]"),
            ('{"epoch": 2}', "epoch 2 comes after epoch 2"),
            ("[3]", "it holds no names"),
        ],
    )
    def test_a_row_of_another_kind(self, tmp_path: Path, line: str, fault: str) -> None:
        path = self.run_folder(tmp_path / "run").path / "metrics.jsonl"
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(UserError, match=rf"metrics.jsonl` is damaged in line 4 \({fault}\)"):
            self.resumed(tmp_path / "run")

    @pytest.mark.parametrize("name", ["../state", "/dev/zero", "pipe"])
    def test_a_manifest_of_other_files(self, tmp_path: Path, name: str) -> None:
        """Nothing outside of a checkpoint is opened, and nothing that never ends."""
        run = self.run_folder(tmp_path / "run")
        newest = run.path / "checkpoints" / "epoch_00003"
        os.mkfifo(newest / "pipe")
        (newest / "manifest.json").write_text(json.dumps({name: "0" * 64, "state": "0" * 64}))
        with pytest.warns(UserWarning, match="epoch_00003: .* is missing"):
            assert run.latest_checkpoint() == (run.path / "checkpoints" / "epoch_00002", 2, 0)

    @pytest.mark.parametrize(
        ("text", "fault"), [("{}", "is no list of files"), ('{"other": "0"}', "does not list state")]
    )
    def test_a_manifest_that_lists_nothing(self, tmp_path: Path, text: str, fault: str) -> None:
        run = self.run_folder(tmp_path / "run")
        (run.path / "checkpoints" / "epoch_00003" / "manifest.json").write_text(text)
        with pytest.warns(UserWarning, match=f"epoch_00003: manifest.json {fault}"):
            assert run.latest_checkpoint() == (run.path / "checkpoints" / "epoch_00002", 2, 0)

    def test_a_fingerprint_of_nothing(self, tmp_path: Path) -> None:
        (self.run_folder(tmp_path / "run").path / "data.json").write_text("{}")
        with pytest.raises(UserError, match=r"data.json` is damaged \(it is empty\)"):
            self.resumed(tmp_path / "run")

    @pytest.mark.parametrize(
        "text", ["lr: 2020-99-99", "lr: !!float x", "lr: !!int x", "? [a, b]\n: 1", "? {a: b}\n: 1"]
    )
    def test_values_that_are_none(self, tmp_path: Path, text: str) -> None:
        (self.run_folder(tmp_path / "run").path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config.yaml` is not readable as YAML: .*\. Restore it"):
            self.resumed(tmp_path / "run")

    @pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "model.safetensors", "checkpoints"])
    def test_a_folder_for_a_file(self, tmp_path: Path, name: str) -> None:
        path = self.run_folder(tmp_path / "run").path / name
        if name == "checkpoints":
            shutil.rmtree(path)
            path.touch()
        else:
            path.unlink(missing_ok=True)
            path.mkdir()
        with pytest.raises(UserError, match=rf"{name}` is a (folder|file), but the run keeps a (file|folder) there"):
            self.resumed(tmp_path / "run")
