"""Mistakes end in one line that names the setting, what came and what to do; and nothing that was saved is lost."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from recipe_support import Launcher, contents, copy_recipe, rows, settings, summary, tiny_model

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
QUICK = {"epochs": 1, "imbalance_ratio": 4, "batch_size": 20, "dataset": "cifar10"}


def png(label: int, k: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> dict[str, object]:
    """An image as parquet files of the hub hold it."""
    pixels = np.random.default_rng((label % 100, k)).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_split(
    file: Path, images: list, labels: list, columns: tuple[str, str] = ("img", "label"), noted: bool = True
) -> None:
    """A parquet file, with the note on its columns that the `datasets` library leaves if `noted`. Labels may be bad."""
    image, label = columns
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({image: pyarrow.array(images, kind), label: labels})
    if noted:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": NAMES}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file)


def write_data(folder: Path, train: Iterable[int] | None = None, test: Iterable[int] | None = None, **changes) -> Path:
    """A data set of ten classes, 20 training and 4 test images each unless told otherwise."""
    for split, labels in (
        ("train", list(train or np.repeat(range(10), 20).tolist())),
        ("test", list(test or [*range(10)] * 4)),
    ):
        images = [png(label, k, **changes) for k, label in enumerate(labels)]
        write_split(folder / f"{split}-0.parquet", images, labels)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("bad") / "recipe", tiny_model())


@pytest.fixture(scope="module")
def good_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "good")


@pytest.fixture(scope="module")
def finished(launcher: Launcher, recipe: Path) -> Path:
    """A run of three epochs on the digits. Copy it before use."""
    out = recipe.parent / "finished"
    launcher.run(recipe / "train.py", *settings(recipe, "unimix_bayias", out, epochs=3)).good()
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dataset", "cifar1000"], "cifar100, digits, but is 'cifar1000', did you mean 'cifar100'?"),
            (["--dataset", "mnist"], "`dataset` must be one of cifar10, cifar100, digits, but is 'mnist'."),
            (["--imbalance_ratoi", "10"], "--imbalance_ratoi 10, did you mean 'imbalance_ratio'?"),
            (["--imbalance_ratoi=10"], "--imbalance_ratoi=10, did you mean 'imbalance_ratio'?"),
            (["--imbalance", "10"], "--imbalance 10, did you mean 'imbalance_ratio'?"),
            (["--epoch", "10"], "--epoch 10, did you mean 'epochs'?"),
            (["--frobnicate", "10"], "--frobnicate 10; --help lists the settings"),
            (["--epochs", "ten"], '"epochs": Expected a number of type int. Got value: ten'),
            (["--epochs", "1.5"], '"epochs": Expected a number of type int. Got value: 1.5'),
            (["--loss", "bayas"], "Expected one of ['ce', 'bayias', "),
            (["--epochs", "0"], "`epochs` must be at least 1, but is 0."),
            (["--batch_size", "-2"], "`batch_size` must be at least 1, but is -2."),
            (["--lr", "0"], "`lr` must be positive, but is 0.0."),
            (["--seed", "-1"], "`seed` must not be negative, but is -1."),
            (["--data_seed", "-1"], "`data_seed` must not be negative, but is -1."),
            (["--crop_padding", "-4"], "`crop_padding` must not be negative, but is -4."),
            (
                ["--imbalance_ratio", "0.01"],
                "`imbalance_ratio` is largest over smallest class and must be at least 1, "
                "but is 0.01. Did you mean 100?",
            ),
            (["--imbalance_ratio", "-3"], "`imbalance_ratio` must be positive, but is -3.0."),
            (["--log_with", "tensorbord"], "`log_with` is 'tensorbord', but the trackers installed here are: "),
            (["--config", "configs/unimix_bayas.yaml"], "is no file. Did you mean the method unimix_bayias?"),
            (["--config=nowhere.yaml"], "'nowhere.yaml' is no file."),
            (["--config"], "`--config` '' is no file."),
        ],
    )
    def test_on_the_command_line(
        self, launcher: Launcher, recipe: Path, arguments: list[str], message: str, tmp_path: Path
    ) -> None:
        assert message in launcher.run(recipe / "train.py", *arguments, cwd=tmp_path).error()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dataset: cifr10", "must be one of cifar10, cifar100, digits, but is 'cifr10', did you mean 'cifar10'?"),
            ("imbalance_ratoi: 10", "'imbalance_ratoi' is not accepted, did you mean 'imbalance_ratio'?"),
            ("optim:\n  lr: 1.0", "'optim.lr' is not accepted; --help lists the settings"),
            ("epochs: ten", '"epochs": Expected a number of type int. Got value: ten'),
            ("epochs: null", "`epochs` needs a value, but is null."),
            ("mixer: unimx", "'unimix']. Got value: unimx, did you mean 'unimix'?"),
            ("decay_epochs: 5", '"decay_epochs": Expected a list. Got value: 5'),
            ("epochs: [1,\n  foo: :", "bad.yaml' is not readable as YAML"),
            ("\x00\x01", "bad.yaml' is not readable as YAML"),
            ("- 1\n- 2", "bad.yaml' must hold `setting: value` lines, but holds a list."),
            ("", "bad.yaml' must hold `setting: value` lines, but holds nothing."),
        ],
    )
    def test_in_a_file(self, launcher: Launcher, recipe: Path, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text(text)
        error = launcher.run(recipe / "train.py", "--config", "bad.yaml", cwd=tmp_path).error()
        assert message in error
        assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]

    def test_no_setting_at_all_is_fine(self, launcher: Launcher, recipe: Path) -> None:
        # The defaults: ERM on CIFAR-100-LT. The hub, out of reach, is as far as it gets.
        assert "The data set 'uoft-cs/cifar100' could not be" in launcher.run(recipe / "train.py").error()

    def test_numbers_of_every_spelling_are_numbers(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        (tmp_path / "fine.yaml").write_text("lr: 1e-2\nimbalance_ratio: 50\n")
        done = launcher.run(recipe / "train.py", "--config", tmp_path / "fine.yaml", "--print_config").good()
        assert "lr: 0.01\n" in done.out
        assert "imbalance_ratio: 50.0\n" in done.out

    @pytest.mark.parametrize("script", ["quickstart.py", "evaluate.py"])
    def test_the_other_scripts_say_it_in_one_line_too(
        self, launcher: Launcher, recipe: Path, script: str, tmp_path: Path
    ) -> None:
        arguments = {"quickstart.py": ["--methods", "unimix_bayas"], "evaluate.py": ["nowhere"]}[script]
        message = {
            "quickstart.py": "Did you mean the method unimix_bayias?",
            "evaluate.py": "'nowhere' is no run folder",
        }
        assert message[script] in launcher.run(recipe / script, *arguments, cwd=tmp_path).error()
        assert not list(tmp_path.iterdir())


class TestData:
    def error(self, launcher: Launcher, recipe: Path, data: Path | None, folder: Path, **changes: object) -> str:
        """Of a run on some data; it must not leave a run folder."""
        values = QUICK | ({"data_dir": data} if data else {}) | changes
        done = launcher.run(recipe / "train.py", *settings(recipe, "erm", folder / "run", **values))
        assert not (folder / "run").exists()
        return done.error()

    def test_good_data_train(self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path) -> None:
        # The mistakes below are planted in this set: they are what is refused, and nothing else.
        run = tmp_path / "run"
        launcher.run(recipe / "train.py", *settings(recipe, "erm", run, data_dir=good_data, **QUICK)).good()
        assert summary(run)["class_names"] == NAMES
        assert summary(run)["class_counts"] == [20, 17, 14, 12, 10, 9, 7, 6, 5, 5]

    def test_a_step_profile_and_other_columns(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        for split, labels in (("train", [*range(10)] * 20), ("test", [*range(10)] * 4)):
            images = [png(label, k) for k, label in enumerate(labels)]
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, labels, columns=("picture", "kind"))
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path)
        assert (
            "has no column 'img' in its train split, but picture, kind. Name the right one with `--image_column`"
            in error
        )
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path, image_column="picture")
        assert "has no column 'label'" in error
        assert "`--label_column`" in error
        columns = {"image_column": "picture", "label_column": "kind", "profile": "step", "data_dir": tmp_path / "data"}
        launcher.run(recipe / "train.py", *settings(recipe, "erm", tmp_path / "run", **(QUICK | columns))).good()
        assert summary(tmp_path / "run")["class_counts"] == [20] * 5 + [5] * 5

    def test_images_that_are_not_rgb_are_converted(
        self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path
    ) -> None:
        finals = []
        for data in (write_data(tmp_path / "rgba", mode="RGBA"), good_data, write_data(tmp_path / "gray", mode="L")):
            out = tmp_path / f"run_{data.name}"
            launcher.run(recipe / "train.py", *settings(recipe, "erm", out, data_dir=data, **QUICK)).good()
            finals.append((out / "logits.safetensors").read_bytes())
        assert finals[0] == finals[1] != finals[2]

    def test_files_of_other_tools_do_as_well(
        self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path
    ) -> None:
        labels = {"train": np.repeat(range(10), 20).tolist(), "test": [*range(10)] * 4}
        for split, values in labels.items():
            images = [png(label, k) for k, label in enumerate(values)]
            write_split(tmp_path / "plain" / f"{split}-0.parquet", images, values, noted=False)
        for data in (good_data, tmp_path / "plain"):
            out = tmp_path / f"run_{data.name}"
            launcher.run(recipe / "train.py", *settings(recipe, "erm", out, data_dir=data, **QUICK)).good()
        assert rows(tmp_path / "run_good") == rows(tmp_path / "run_plain")
        assert summary(tmp_path / "run_plain")["class_names"] == [str(k) for k in range(10)]

    def test_missing_split(self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path) -> None:
        shutil.copytree(good_data, tmp_path / "data")
        (tmp_path / "data" / "test-0.parquet").unlink()
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path)
        assert "must have a split named 'test', but has train." in error

    @pytest.mark.parametrize(("split", "bad"), [("train", 12), ("train", -1), ("test", 10)])
    def test_labels_out_of_range(self, launcher: Launcher, recipe: Path, split: str, bad: int, tmp_path: Path) -> None:
        labels = {"train": np.repeat(range(10), 20).tolist(), "test": [*range(10)] * 4}
        labels[split][7] = bad
        error = self.error(launcher, recipe, write_data(tmp_path / "data", **labels), tmp_path)
        assert "must have labels in 0..9, its 10 classes" in error
        assert f"{split} split range from {min(bad, 0)} to {max(bad, 9)}" in error

    def test_labels_that_are_no_indices(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        for split in ("train", "test"):
            labels = [NAMES[k % 10] for k in range(200)]
            images = [png(0, k) for k in range(200)]
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, labels, noted=False)
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path)
        assert "must hold class indices in 'label', but sample 0 of its train split has 'airplane'" in error

    def test_fewer_images_in_a_class_than_asked_for(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        labels = [label for label in range(10) for _ in range(3 if label == 3 else 20)]
        error = self.error(launcher, recipe, write_data(tmp_path / "data", train=labels), tmp_path)
        assert error.startswith(
            "`imbalance_ratio`=4 asks for 12 training samples of class 3 (cat), but there are 3 (1 of 10"
        )
        assert "Raise it" in error

    def test_a_class_without_training_samples(
        self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path
    ) -> None:
        error = self.error(launcher, recipe, good_data, tmp_path, imbalance_ratio=50)
        assert error == (
            "`imbalance_ratio`=50 leaves class 7 without training samples, since the largest class has 20. Lower it."
        )

    def test_images_of_different_sizes(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        labels = [*range(10)] * 4
        images = [png(label, k, size=(9, 7) if k == 30 else (8, 8)) for k, label in enumerate(labels)]
        for split in ("train", "test"):
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, labels)
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path)
        assert "image 30 is 9x7, the first is 8x8." in error

    def test_images_that_cannot_be_read(
        self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path
    ) -> None:
        labels = [*range(10)] * 4
        images = [png(label, k) for k, label in enumerate(labels)]
        images[5]["bytes"] = b"no image"
        shutil.copytree(good_data, tmp_path / "data")
        write_split(tmp_path / "data" / "test-0.parquet", images, labels)
        error = self.error(launcher, recipe, tmp_path / "data", tmp_path)
        assert "image 5 in 'img' cannot be read (cannot identify image file" in error
        error = self.error(launcher, recipe, good_data, tmp_path, image_column="label")
        assert "must hold images in 'label', but holds ClassLabel(" in error
        assert "Name another column with `--image_column`" in error

    def test_folder_that_is_none(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        error = self.error(launcher, recipe, tmp_path / "nowhere", tmp_path)
        assert f"`data_dir` '{tmp_path / 'nowhere'}' is no folder." in error
        (tmp_path / "empty").mkdir()
        error = self.error(launcher, recipe, tmp_path / "empty", tmp_path)
        assert f"`data_dir` '{tmp_path / 'empty'}' cannot be read as a data set" in error

    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
    def test_unreachable_hub_names_the_offline_ways(
        self, launcher: Launcher, recipe: Path, dataset: str, tmp_path: Path
    ) -> None:
        # The environment of these processes has HF_HUB_OFFLINE=1 and an empty cache.
        error = self.error(launcher, recipe, None, tmp_path, dataset=dataset)
        assert f"The data set 'uoft-cs/{dataset}' could not be loaded from the hub" in error
        for way in ("--data_dir FOLDER", "a cache filled earlier", "--dataset digits"):
            assert way in error

    def test_batch_larger_than_the_data(
        self, launcher: Launcher, recipe: Path, good_data: Path, tmp_path: Path
    ) -> None:
        error = self.error(launcher, recipe, good_data, tmp_path, batch_size=106)
        assert "`batch_size`=106 exceeds the 105 samples of an epoch" in error
        assert "Lower `batch_size`" in error


class TestSeveralProcesses:
    """The main process speaks, and the other waits to be ended by torchrun; only if it is left alone it speaks too."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"batch_size": 33},
                "`batch_size`=33 is the global batch and must be a positive multiple of the 2 processes.",
            ),
            ({"dataset": "digts"}, "did you mean 'digits'?"),
            ({"dataset": "cifar10"}, "could not be loaded from the hub"),
        ],
    )
    def test_an_error_is_told_once(
        self, launcher: Launcher, recipe: Path, changes: dict, message: str, tmp_path: Path
    ) -> None:
        main, other = launcher.ranks(recipe / "train.py", *settings(recipe, "erm", tmp_path / "run", **changes))
        assert message in main.wait().error()
        other.kill()
        assert other.wait().code == -9
        assert "error" not in other.err.read_text()
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("script", ["quickstart.py", "evaluate.py"])
    def test_scripts_for_one_process_say_so(self, launcher: Launcher, recipe: Path, run: Path, script: str) -> None:
        before = contents(run)
        arguments = {"quickstart.py": ["--out", run], "evaluate.py": [run]}[script]
        main, other = launcher.ranks(recipe / script, *arguments)
        assert "this script runs on one process; train.py runs on several" in main.wait().error()
        other.kill()
        other.wait()
        assert contents(run) == before


class TestRunFolder:
    def test_resume_with_another_config(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        before = contents(run)
        arguments = settings(recipe, "unimix_bayias", run, epochs=3, resume="true", loss="ce", alpha=0.5)
        error = launcher.run(recipe / "train.py", *arguments).error()
        assert "`loss` was 'bayias' and is now 'ce'" in error
        assert "`alpha` was 0.8 and is now 0.5" in error
        assert contents(run) == before

    @pytest.mark.parametrize("text", ["epochs: [1,\n  foo: :", "", "\x00", "- 1"])
    def test_corrupt_config(self, launcher: Launcher, recipe: Path, run: Path, text: str) -> None:
        (run / "config.yaml").write_text(text)
        before = contents(run)
        arguments = settings(recipe, "unimix_bayias", run, epochs=3, resume="true")
        for script in ([recipe / "train.py", *arguments], [recipe / "evaluate.py", run]):
            error = launcher.run(*script).error()
            assert str(run / "config.yaml") in error
            assert "is not readable as YAML" in error or "must hold `" in error
        assert contents(run) == before

    def test_settings_that_evaluate_does_not_know(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        for line, message in (("epochz: 3\n", "did you mean 'epochs'?"), ("epochs: three\n", "Got value: three")):
            text = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(text.replace("epochs: 3\n", line))
            assert message in launcher.run(recipe / "evaluate.py", run).error()
            (run / "config.yaml").write_text(text)

    def test_damaged_weights(self, launcher: Launcher, recipe: Path, run: Path, finished: Path) -> None:
        data = (run / "model.safetensors").read_bytes()
        (run / "model.safetensors").write_bytes(data[: len(data) // 2])
        error = launcher.run(recipe / "evaluate.py", run).error()
        assert f"`{run / 'model.safetensors'}` is damaged" in error
        assert "`train.py --resume true` writes it anew" in error
        arguments = settings(recipe, "unimix_bayias", run, epochs=3, resume="true")
        launcher.run(recipe / "train.py", *arguments).good()
        assert (run / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes() == data

    def test_nothing_to_evaluate(self, launcher: Launcher, recipe: Path, run: Path) -> None:
        (run / "model.safetensors").unlink()
        shutil.rmtree(run / "checkpoints")
        assert "has neither final weights nor a checkpoint" in launcher.run(recipe / "evaluate.py", run).error()

    def test_folder_that_cannot_be_made(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        out = tmp_path / "file" / "run"
        error = launcher.run(recipe / "train.py", *settings(recipe, "erm", out)).error()
        assert str(out) in error


class TestFullDisk:
    """A limit on the size of files stands for a disk without room: what is written stops in the middle."""

    @pytest.fixture
    def begun(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> Path:
        """The run of `finished`, stopped after its second epoch."""
        run = tmp_path / "begun"
        launcher.run(recipe / "train.py", *settings(recipe, "unimix_bayias", run, epochs=2)).good()
        return run

    @pytest.mark.parametrize(
        ("victim", "message"),
        [
            ("checkpoints/epoch_00002/model.safetensors", "The checkpoint after epoch 3 could not be saved in `{run}`"),
            ("checkpoints/epoch_00002/optimizer.bin", "The checkpoint after epoch 3 could not be saved in `{run}`"),
            ("logits.safetensors", "File too large: '{run}/logits.safetensors'"),
        ],
    )
    def test_loses_nothing(
        self, launcher: Launcher, recipe: Path, begun: Path, finished: Path, victim: str, message: str
    ) -> None:
        limit = (begun / victim).stat().st_size - 1
        saved = {name: data for name, data in contents(begun).items() if not name.endswith(("command.txt", ".yaml"))}
        arguments = settings(recipe, "unimix_bayias", begun, epochs=3, resume="true")
        error = launcher.run(recipe / "train.py", *arguments, largest_file=limit).error()
        assert message.format(run=begun) in error
        assert "What was saved before is intact: make room, and resume." in error
        now = contents(begun)
        rows_before = saved.pop("metrics.jsonl")
        assert now["metrics.jsonl"].startswith(rows_before)  # the third epoch has its row
        if victim.startswith("checkpoints"):
            assert {name: now[name] for name in saved} == saved
            assert sorted(path.name for path in (begun / "checkpoints").iterdir()) == ["epoch_00001", "epoch_00002"]
        assert not [name for name in now if name.endswith(".tmp")]

        done = launcher.run(recipe / "train.py", *arguments).good()
        assert f"Resumed after epoch {2 if victim.startswith('checkpoints') else 3} of 3" in done.out
        assert rows(begun) == rows(finished)
        assert (begun / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_training_that_diverges_says_so(launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
    arguments = settings(recipe, "erm", tmp_path / "run", lr=1e30, warmup_epochs=0, eval_every=2)
    error = launcher.run(recipe / "train.py", *arguments).error()
    assert error.startswith("The loss is nan in epoch 1: the training has diverged.")
    assert "Lower `lr`" in error
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


class TestFaultsOfTheProgram:
    """They keep their traceback: one line would leave somebody who adapts the recipe in the dark."""

    @pytest.mark.parametrize("layer", ["nn.Linear(3, 4)", "nn.BatchNorm1d(8)"])  # RuntimeError, ValueError of torch
    def test_in_the_model(self, launcher: Launcher, tmp_path: Path, layer: str) -> None:
        recipe = copy_recipe(tmp_path / "recipe", tiny_model().replace("nn.ReLU()", layer))
        done = launcher.run(recipe / "train.py", *settings(recipe, "erm", tmp_path / "run"))
        assert done.code == 1
        assert "Traceback" in done.err
        assert "model.py" in done.err or "train_one_epoch" in done.err
        assert ": error: " not in done.err

    def test_every_traceback_is_there_on_demand(self, recipe: Path) -> None:
        code = "from config import plain_errors\nwith plain_errors():\n    raise OSError('the disk is full')"
        for flags, status in (([], 2), (["-X", "dev", "-W", "ignore"], 1)):
            command = [sys.executable, *flags, "-c", code]
            done = subprocess.run(command, cwd=recipe, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == status, done.stderr
            assert ("Traceback" in done.stderr) == (status == 1)
            assert done.stderr.endswith("rror: the disk is full\n")
