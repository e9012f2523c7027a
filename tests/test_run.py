"""The run folder: what is in it, and that neither a full disk nor a killed process can spoil it."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError

from ltaug import RunFolder
from ltaug.run import environment, finite_loss, peak_memory_bytes, read_config, reuse_freed_memory, write_atomically

CONFIG = {"method": "bayias", "epochs": 4, "lr": 0.1, "seed": 0}
EPOCHS_FREE = {"resume": True, "free_keys": ("epochs",)}


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_checkpoint(run: RunFolder, epoch: int) -> None:
    with run.checkpoint(epoch) as folder:
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
        RunFolder(tmp_path, CONFIG, resume=True, write_config=False).check_data(facts)

    def test_corrections_of_other_logits_go(self, tmp_path: Path) -> None:
        run, names = RunFolder(tmp_path, CONFIG), ("corrected.json", "shifted.csv", "shifted.json", "shifted.png")
        logits, labels = torch.randn(5, 3), torch.arange(5) % 3
        run.save_logits(logits, labels)
        for name in names:
            run.write(name, "{}")
        run.save_logits(logits, labels)
        assert all((tmp_path / name).exists() for name in names)
        run.save_logits(logits + 1e-3, labels)
        assert not any((tmp_path / name).exists() for name in names)

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

    def test_the_commit_is_that_of_the_script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = tmp_path / "train.py"
        script.write_text("")
        monkeypatch.setattr(sys, "argv", [str(script)])
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert environment()["git"] is None

        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
            command = ["git", "-C", str(tmp_path), *identity, *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        git("init", "-q")
        git("add", "train.py")
        git("commit", "-q", "-m", "x")
        assert environment()["git"] == {"commit": git("rev-parse", "HEAD"), "clean": True}
        script.write_text("changed = 1\n")
        assert environment()["git"] == {"commit": git("rev-parse", "HEAD"), "clean": False}

    def test_results_come_back(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        logits, labels = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32)
        run.save_logits(logits.bfloat16().float(), labels)
        kept = run.load_logits()
        assert (kept[0].dtype, kept[1].dtype) == (torch.float32, torch.int64)
        assert torch.equal(kept[0], logits.detach().bfloat16().float())
        assert kept[1].tolist() == labels.tolist()

        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        state = {**model.state_dict(), "tied": model[0].weight, "view": model[0].weight.t()}
        info = {"class_names": ["a", "b"], "class_counts": [5, 1], "logits_prior": [0.5, 0.5]}
        run.save_model(state, {name: torch.tensor(v) if name != "class_names" else v for name, v in info.items()})
        weights, facts = run.load_model()
        assert facts == info
        assert set(weights) == set(state)
        assert all(torch.equal(weights[name], state[name]) for name in state)

    def test_per_class_table(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        names, accuracy = ["a", 'a "quoted", name', "c"], torch.tensor([0.5, 1.0, float("nan")])
        run.save_per_class(names, torch.tensor([5, 3, 0]), accuracy)
        with (tmp_path / "per_class.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["class", "name", "train_count", "test_accuracy"]
        assert rows[1:3] == [["0", "a", "5", "0.500000"], ["1", 'a "quoted", name', "3", "1.000000"]]
        assert rows[3][:3] == ["2", "c", "0"]
        with pytest.raises(ValueError, match=r"shorter|longer"):
            run.save_per_class(["a"], torch.tensor([5, 3]), torch.tensor([0.5, 1.0]))

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

    def test_a_run_can_be_opened_without_leaving_a_trace(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, CONFIG)
        before = everything_in(tmp_path)
        run = RunFolder(tmp_path, CONFIG, resume=True, write_config=False)
        assert everything_in(tmp_path) == before
        run.write_json("summary.json", {"a": 1})
        assert set(everything_in(tmp_path)) == {*before, "summary.json"}


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
        assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00001", 1)
        save_checkpoint(run, 2)
        assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00002", 2)

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
            assert run.latest_checkpoint() == (tmp_path / "checkpoints" / f"epoch_{epoch:05d}", epoch)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch_00009", "epoch_00010"]
        folder, _ = run.latest_checkpoint()
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
        folder, epoch = run.latest_checkpoint()
        assert epoch == 1
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "other.bin"]

    def test_nothing_counts_before_everything_is_there(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        with run.checkpoint(1) as folder:
            (folder / "model.bin").write_bytes(b"x")
            assert run.latest_checkpoint() is None
            assert folder.parent == tmp_path / "checkpoints"  # the same file system, so that it can be renamed
        assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00001", 1)

    def test_processes_wait_for_each_other(self, tmp_path: Path) -> None:
        events: list[str] = []
        main, other = RunFolder(tmp_path, CONFIG), RunFolder(tmp_path, CONFIG, main=False)

        def barrier() -> None:
            events.append(f"{sorted(path.name for path in tmp_path.glob('checkpoints/*'))}")

        with main.checkpoint(1, barrier) as folder, other.checkpoint(1, barrier) as same:
            assert folder == same
            (same / "rank_1.bin").write_bytes(b"from the other process")
        # The folder is there before anyone writes to it, is renamed after everyone has, and before anyone goes on.
        assert events == ["['.epoch_00001.tmp']"] * 2 + ["['.epoch_00001.tmp']"] * 3 + ["['epoch_00001']"]
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
        leftover = tmp_path / "checkpoints" / ".epoch_00003.tmp"
        assert (leftover / "model.bin").read_bytes() == b"half"
        run = RunFolder(tmp_path, CONFIG, resume=True)
        assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00002", 2)
        assert not leftover.exists()

    def test_leftovers_of_a_crash_are_cleaned_but_only_by_the_main_process(self, tmp_path: Path) -> None:
        RunFolder(tmp_path, CONFIG)
        leftover = tmp_path / "checkpoints" / ".epoch_00003.tmp"
        leftover.mkdir(parents=True)
        (leftover / "model.bin").write_bytes(b"half")
        (tmp_path / ".summary.json.tmp").write_bytes(b"{")
        (tmp_path / "mine.tmp").write_bytes(b"not a leftover of ours")
        other = RunFolder(tmp_path, CONFIG, main=False, resume=True)
        assert leftover.exists()
        assert other.latest_checkpoint() is None
        RunFolder(tmp_path, CONFIG, resume=True, write_config=False)  # a reader, beside a training that may be saving
        assert leftover.exists()
        RunFolder(tmp_path, CONFIG, resume=True)
        assert not leftover.exists()
        assert not (tmp_path / ".summary.json.tmp").exists()
        assert (tmp_path / "mine.tmp").exists()

    def test_what_an_earlier_attempt_left_is_not_sealed_in(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, CONFIG)
        leftover = tmp_path / "checkpoints" / ".epoch_00001.tmp"
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


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_a_damaged_checkpoint_is_passed_over_with_a_warning(self, tmp_path: Path, name: str) -> None:
        damage, reason = DAMAGE[name]
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        damage(tmp_path / "checkpoints" / "epoch_00002")
        with pytest.warns(UserWarning, match=f"Skipping a damaged checkpoint .*epoch_00002: .*{reason}"):
            assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00001", 1)

    def test_a_damaged_older_one_does_not_matter(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        (tmp_path / "checkpoints" / "epoch_00001" / "model.bin").unlink()
        assert run.latest_checkpoint() == (tmp_path / "checkpoints" / "epoch_00002", 2)
        assert not list(recwarn)

    def test_all_processes_choose_the_same_and_one_warns(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        run = RunFolder(tmp_path, CONFIG)
        for epoch in (1, 2):
            save_checkpoint(run, epoch)
        (tmp_path / "checkpoints" / "epoch_00002" / "model.bin").unlink()
        assert RunFolder(tmp_path, CONFIG, main=False).latest_checkpoint() == (tmp_path / "checkpoints/epoch_00001", 1)
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
        with pytest.raises(RuntimeError, match=message):
            run.latest_checkpoint()


class TestProcess:
    def test_peak_memory_is_what_the_kernel_says(self) -> None:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("no Linux")
        kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        assert peak_memory_bytes() == pytest.approx(1024 * kilobytes, rel=0.05)

    def test_freed_memory_can_be_kept_or_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ctypes

        calls = []

        class Libc:
            def mallopt(self, parameter: int, value: int) -> int:
                calls.append((parameter, value))
                return 1

        with monkeypatch.context() as patch:
            patch.setattr(ctypes, "CDLL", lambda name: Libc())
            assert reuse_freed_memory() is True
        assert calls == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD of glibc's malloc.h

        def missing(name: str) -> None:
            raise OSError(name)

        with monkeypatch.context() as patch:
            patch.setattr(ctypes, "CDLL", missing)
            assert reuse_freed_memory() is False

    def test_a_system_without_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert environment()["git"] is None


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
        assert found[1] == 100_000
        assert (tmp_path / "checkpoints" / "epoch_00002_backup").is_dir()

    def test_a_manifest_of_another_kind_is_damage(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path, {})
        with run.checkpoint(1) as folder:
            (folder / "state").write_text("x")
        (tmp_path / "checkpoints" / "epoch_00001" / "manifest.json").write_text("[]")
        with pytest.warns(UserWarning, match="damaged"), pytest.raises(RuntimeError, match=r"manifest\.json"):
            run.latest_checkpoint()

    def test_keeping_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`keep` must be at least 1, but is 0"):
            RunFolder(tmp_path, {}, keep=0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_diverges_is_told(loss: float) -> None:
    assert finite_loss(0.5, 2) == 0.5
    with pytest.raises(ValueError, match=rf"The loss is {loss} in epoch 3: .* Lower `lr`"):
        finite_loss(loss, 2)
