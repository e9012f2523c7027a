"""Mistakes end in one line that names the setting, what came and what to do; and nothing that was saved is lost."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from recipe_support import (
    Done,
    Launcher,
    Recipe,
    checkpoints,
    contents,
    copy_recipe,
    imported,
    rows,
    summary,
    tiny_model,
)

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
QUICK = {"epochs": 1, "imbalance_ratio": 4, "batch_size": 20, "dataset": "cifar10"}
METHOD = "unimix_bayias"
Run = Callable[..., Done]


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


@pytest.fixture
def run(tiny: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Do what the program does with some words, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: tiny.launch(capsys, *words)


@pytest.fixture(scope="module")
def good_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "good")


@pytest.fixture(scope="module")
def finished(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs on the digits. Copy it before use."""
    return tiny.train(METHOD, tmp_path_factory.mktemp("finished") / "run", epochs=3)


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "done"))


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dataset", "cifar1000"], "cifar100, digits, but is 'cifar1000', did you mean 'cifar100'?"),
            (["--dataset", "mnist"], "`dataset` must be one of cifar10, cifar100, digits, but is 'mnist'."),
            (["--imbalance_ratoi", "10"], "no setting `--imbalance_ratoi`, did you mean 'imbalance_ratio'?"),
            (["--imbalance_ratoi=10"], "no setting `--imbalance_ratoi`, did you mean 'imbalance_ratio'?"),
            (["--imbalance", "10"], "no setting `--imbalance`, did you mean 'imbalance_ratio'?"),
            (["--epoch", "10"], "no setting `--epoch`, did you mean 'epochs'?"),
            (["--frobnicate", "10"], "no setting `--frobnicate`; --help lists the settings."),
            (["--epochs", "ten"], "`epochs` must be an integer from 0, but is ten."),
            (["--epochs", "1.5"], "`epochs` must be an integer from 0, but is 1.5."),
            (["--method", "bayas"], "`method` 'bayas' is not known, did you mean 'bayias'?"),
            (["--set.loss", "bayas"], "`set`: `loss` must be one of ce, prior_corrected, "),
            (["--set.alhpa", "1"], "`set`: `alhpa` is no setting of a method, did you mean 'alpha'?"),
            (["--protocol", "digit"], "`protocol` 'digit' is not known, did you mean 'digits'?"),
            (["--epochs", "0"], "`epochs` must be at least 1, but is 0."),
            (["--batch_size", "-2"], "`batch_size` must be an integer from 1, but is -2."),
            (["--lr", "0"], "`lr` must be a number above 0, but is 0."),
            (["--seed", "-1"], "`seed` must be an integer from 0, but is -1."),
            (["--seed", "4294967296"], "`seed` must be below 4294901760, but is 4294967296"),
            (["--threads", "100000"], "`threads` must be at most 1024, but is 100000"),
            (["--data_seed", "-1"], "`data_seed` must be an integer from 0, but is -1."),
            (["--crop_padding", "-4"], "`crop_padding` must be an integer from 0, but is -4."),
            (["--decay_at", "[160]"], "`decay_at` must be a list, [A, B, ...], each a number in 0..1, but is [160]."),
            (
                ["--imbalance_ratio", "0.01"],
                "at least 1, the largest class over the smallest, but is 0.01, did you mean 100?",
            ),
            (["--imbalance_ratio", "-3"], "the largest class over the smallest, but is -3."),
            (["--log_with", "tensorbord"], "`log_with` is 'tensorbord', but the trackers installed here are: "),
            (["--method", "mislas"], "trained with `--method mixup`"),
            (["--config", "nowhere/unimix.yaml"], "`nowhere/unimix.yaml` is no file."),
            (["--config=nowhere.yaml"], "`nowhere.yaml` is no file."),
            (["--config"], "`--config` needs a file."),
        ],
    )
    def test_on_the_command_line(self, run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
        assert message in " ".join(run(*arguments).error().split())
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dataset: cifr10", "must be one of cifar10, cifar100, digits, but is 'cifr10', did you mean 'cifar10'?"),
            (
                "imbalance_ratoi: 10",
                "`bad.yaml`: there is no setting `imbalance_ratoi`, did you mean 'imbalance_ratio'?",
            ),
            ("optim:\n  lr: 1.0", "`bad.yaml`: there is no setting `optim`, did you mean 'optimizer'?"),
            ("epochs: ten", "`bad.yaml`: `epochs` must be an integer from 0, but is ten."),
            ("epochs: null", "`epochs` needs a value, but is null."),
            ("method: unimx", "`method` 'unimx' is not known, did you mean 'unimix'?"),
            ("set:\n  mixer: unimx", "`set`: `mixer` must be one of none, mixup, "),
            ("decay_at: 5", "`bad.yaml`: `decay_at` must be a list, [A, B, ...]"),
            ("epochs: [1,\n  foo: :", "`bad.yaml` is not readable as YAML"),
            ("\x00\x01", "`bad.yaml` is not readable as YAML"),
            ("lr: 0.1\nseed: 1\nlr: 0.2", "`lr` in line 3 is there a second time"),
            ("set: {a: 1, a: 2}", "`a` in line 1 is there a second time"),
            ("set: &x {a: 1}\ndecay_at: *x", "`*x` in line 2: aliases are not supported"),
            ("- 1\n- 2", "`bad.yaml` must hold `setting: value` lines, but holds a list."),
            ("", "`bad.yaml` must hold `setting: value` lines, but holds nothing."),
        ],
    )
    def test_in_a_file(self, run: Run, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text(text)
        assert message in " ".join(run("--config", "bad.yaml").error().split())
        assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]

    def test_a_wrong_name_of_a_file_beside_others(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("epochs: 3\n")
        assert "`mien.yaml` is no file, did you mean 'mine'? There are: mine." in run("--config", "mien.yaml").error()

    def test_no_setting_at_all_is_fine(self, run: Run, tmp_path: Path) -> None:
        # The defaults: ERM on CIFAR-100-LT. The hub, out of reach, is as far as it gets.
        assert "The data set 'uoft-cs/cifar100' could not be" in run("--threads", "1").error()
        assert not (tmp_path / "runs").exists()

    def test_numbers_of_every_spelling_are_numbers(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "fine.yaml").write_text("lr: 1e-2\nimbalance_ratio: 50\n")
        out = run("--config", "fine.yaml", "--print_config").good().out
        assert "lr: 0.01\n" in out
        assert "imbalance_ratio: 50.0\n" in out


class TestData:
    @pytest.fixture
    def error(self, tiny: Recipe, run: Run, tmp_path: Path) -> Callable[..., str]:
        """What a run on some data says; it must not leave a run folder."""

        def found(data: Path | None, **changes: object) -> str:
            values = QUICK | ({"data_dir": data} if data else {}) | changes
            message = run(*tiny.words("erm", tmp_path / "run", **values)).error()
            assert not (tmp_path / "run").exists()
            return message

        return found

    def test_good_data_train(self, tiny: Recipe, good_data: Path, tmp_path: Path) -> None:
        # The mistakes below are planted in this set: they are what is refused, and nothing else.
        run = tiny.train("erm", tmp_path / "run", data_dir=good_data, **QUICK)
        assert summary(run)["class_names"] == NAMES
        assert summary(run)["class_counts"] == [20, 17, 14, 12, 10, 9, 7, 6, 5, 5]

    def test_a_step_profile_and_other_columns(self, tiny: Recipe, error: Callable[..., str], tmp_path: Path) -> None:
        for split, labels in (("train", [*range(10)] * 20), ("test", [*range(10)] * 4)):
            images = [png(label, k) for k, label in enumerate(labels)]
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, labels, columns=("picture", "kind"))
        message = error(tmp_path / "data")
        assert "has no column 'img', but picture, kind. Name the right one with `image_column`" in message
        message = error(tmp_path / "data", image_column="picture")
        assert "has no column 'label'" in message
        assert "`label_column`" in message
        columns = {"image_column": "picture", "label_column": "kind", "profile": "step", "data_dir": tmp_path / "data"}
        tiny.train("erm", tmp_path / "run", **(QUICK | columns))
        assert summary(tmp_path / "run")["class_counts"] == [20] * 5 + [5] * 5

    def test_images_that_are_not_rgb_are_converted(self, tiny: Recipe, good_data: Path, tmp_path: Path) -> None:
        finals = []
        for data in (write_data(tmp_path / "rgba", mode="RGBA"), good_data, write_data(tmp_path / "gray", mode="L")):
            out = tiny.train("erm", tmp_path / f"run_{data.name}", data_dir=data, **QUICK)
            finals.append((out / "logits.safetensors").read_bytes())
        assert finals[0] == finals[1] != finals[2]

    def test_files_of_other_tools_do_as_well(self, tiny: Recipe, good_data: Path, tmp_path: Path) -> None:
        labels = {"train": np.repeat(range(10), 20).tolist(), "test": [*range(10)] * 4}
        for split, values in labels.items():
            images = [png(label, k) for k, label in enumerate(values)]
            write_split(tmp_path / "plain" / f"{split}-0.parquet", images, values, noted=False)
        for data in (good_data, tmp_path / "plain"):
            tiny.train("erm", tmp_path / f"run_{data.name}", data_dir=data, **QUICK)
        assert rows(tmp_path / "run_good") == rows(tmp_path / "run_plain")
        assert summary(tmp_path / "run_plain")["class_names"] == [str(k) for k in range(10)]

    def test_labels_may_be_names(self, tiny: Recipe, tmp_path: Path) -> None:
        for split, count in (("train", 20), ("test", 4)):
            labels = [*range(10)] * count
            images = [png(label, k) for k, label in enumerate(labels)]
            named = [NAMES[label] for label in labels]
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, named, noted=False)
        tiny.train("erm", tmp_path / "run", data_dir=tmp_path / "data", **QUICK)
        assert summary(tmp_path / "run")["class_names"] == NAMES

    def test_missing_split(self, error: Callable[..., str], good_data: Path, tmp_path: Path) -> None:
        shutil.copytree(good_data, tmp_path / "data")
        (tmp_path / "data" / "test-0.parquet").unlink()
        assert "has no split named 'test', but train." in error(tmp_path / "data")

    @pytest.mark.parametrize(("split", "bad"), [("train", 12), ("train", -1), ("test", 10)])
    def test_labels_out_of_range(self, error: Callable[..., str], split: str, bad: int, tmp_path: Path) -> None:
        labels = {"train": np.repeat(range(10), 20).tolist(), "test": [*range(10)] * 4}
        labels[split][7] = bad
        message = error(write_data(tmp_path / "data", **labels))
        assert f"must hold class indices below 10 as labels, but sample 7 of its {split} split has {bad}." in message

    def test_fewer_images_in_a_class_than_asked_for(self, error: Callable[..., str], tmp_path: Path) -> None:
        labels = [label for label in range(10) for _ in range(3 if label == 3 else 20)]
        message = error(write_data(tmp_path / "data", train=labels))
        assert "`imbalance_ratio`=4 asks for 12 training samples of class 3 (cat), but there are 3 (1 of 10" in message
        assert "Raise it" in message

    def test_a_class_without_training_samples(self, error: Callable[..., str], good_data: Path) -> None:
        message = error(good_data, imbalance_ratio=50)
        assert "`imbalance_ratio`=50 leaves class 7" in message
        assert "without training samples, since the largest class has 20." in message

    def test_images_of_different_sizes(self, error: Callable[..., str], tmp_path: Path) -> None:
        labels = [*range(10)] * 4
        images = [png(label, k, size=(9, 7) if k == 30 else (8, 8)) for k, label in enumerate(labels)]
        for split in ("train", "test"):
            write_split(tmp_path / "data" / f"{split}-0.parquet", images, labels)
        assert "image 30 is 9x7, the first is 8x8." in error(tmp_path / "data")

    def test_images_that_cannot_be_read(self, error: Callable[..., str], good_data: Path, tmp_path: Path) -> None:
        labels = [*range(10)] * 4
        images = [png(label, k) for k, label in enumerate(labels)]
        images[5]["bytes"] = b"no image"
        shutil.copytree(good_data, tmp_path / "data")
        write_split(tmp_path / "data" / "test-0.parquet", images, labels)
        assert "image 5 in 'img' cannot be read (cannot identify image file" in error(tmp_path / "data")
        message = error(good_data, image_column="label")
        assert "'label'" in message
        assert "`image_column`" in message

    def test_folder_that_is_none(self, error: Callable[..., str], tmp_path: Path) -> None:
        assert f"`data_dir` '{tmp_path / 'nowhere'}' is no folder." in error(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        message = error(tmp_path / "empty")
        assert f"`data_dir` '{tmp_path / 'empty'}' cannot be read as a data set" in message

    @pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
    def test_unreachable_hub_names_the_offline_ways(self, error: Callable[..., str], dataset: str) -> None:
        message = error(None, dataset=dataset)
        assert f"The data set 'uoft-cs/{dataset}' could not be loaded from the hub" in message
        for way in ("`data_dir`", "a cache filled earlier"):
            assert way in message

    def test_batch_larger_than_the_data(self, error: Callable[..., str], good_data: Path) -> None:
        message = error(good_data, batch_size=106)
        assert "`batch_size`=106 exceeds the 105 samples of an epoch" in message
        assert "Lower `batch_size`" in message

    def test_names_of_layers(self, tiny: Recipe, run: Run, tmp_path: Path) -> None:
        words = tiny.words("manifold_mixup", tmp_path / "run", **{"set.manifold_layers": "[bdy.2]"})
        assert "body.2" in run(*words).error()
        assert not (tmp_path / "run").exists()


class TestSeveralProcesses:
    """The main process speaks, and the other waits to be ended by torchrun; only if it is left alone it speaks too."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"batch_size": 33},
                "`batch_size`=33 is the global batch and must be a positive multiple of the 2 processes.",
            ),
            ({"dataset": "cifar10"}, "could not be loaded from the hub"),
        ],
    )
    def test_an_error_is_told_once(
        self, launcher: Launcher, tiny: Recipe, changes: dict[str, object], message: str, tmp_path: Path
    ) -> None:
        main, other = launcher.ranks(tiny.script, *tiny.words("erm", tmp_path / "run", **changes))
        assert message in main.wait().error()
        other.kill()
        assert other.wait().code == -9
        assert "error" not in other.err.read_text()
        assert not (tmp_path / "run").exists()


class TestRunFolder:
    def test_resume_with_another_method(self, tiny: Recipe, run: Run, done: Path) -> None:
        before = contents(done)
        error = run(*tiny.words("unimix", done, epochs=3, resume=True, **{"set.alpha": 0.5})).error()
        assert "`method` was 'unimix_bayias' and is now 'unimix'" in error
        assert "`set` was None and is now {'alpha': 0.5}" in error
        assert contents(done) == before

    @pytest.mark.parametrize("text", ["epochs: [1,\n  foo: :", "", "\x00", "- 1"])
    def test_corrupt_config(self, tiny: Recipe, run: Run, done: Path, text: str) -> None:
        (done / "config.yaml").write_text(text)
        before = contents(done)
        for words in (tiny.words(METHOD, done, epochs=3, resume=True), tiny.words("crt", done, from_run=done)):
            error = run(*words).error()
            assert str(done / "config.yaml") in error
            assert "is not readable as YAML" in error or "must hold `" in error
        assert contents(done) == before

    def test_damaged_weights(self, tiny: Recipe, run: Run, done: Path, finished: Path, tmp_path: Path) -> None:
        data = (done / "model.safetensors").read_bytes()
        (done / "model.safetensors").write_bytes(data[: len(data) // 2])
        error = run(*tiny.words("crt", tmp_path / "crt", from_run=done)).error()
        assert f"`{done / 'model.safetensors'}` is damaged" in error
        assert "`--resume true` on its run writes it again" in error
        tiny.train(METHOD, done, epochs=3, resume=True)
        assert (done / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes() == data

    def test_folder_that_cannot_be_made(self, tiny: Recipe, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        out = tmp_path / "file" / "run"
        assert str(out) in run(*tiny.words("erm", out)).error()

    def test_folder_that_holds_a_run(self, tiny: Recipe, run: Run, done: Path) -> None:
        before = contents(done)
        assert f"`{done}` already holds a run. Resume it" in run(*tiny.words(METHOD, done, epochs=3)).error()
        assert contents(done) == before


class TestFullDisk:
    """A limit on the size of files stands for a disk without room: what is written stops in the middle."""

    @pytest.mark.parametrize(
        ("victim", "message"),
        [
            ("checkpoints/epoch_00002/model.safetensors", "The checkpoint after epoch 3 could not be saved in `{run}`"),
            ("checkpoints/epoch_00002/optimizer.bin", "The checkpoint after epoch 3 could not be saved in `{run}`"),
            ("logits.safetensors", "File too large: '{run}/logits.safetensors'"),
        ],
    )
    def test_loses_nothing(
        self, launcher: Launcher, tiny: Recipe, finished: Path, tmp_path: Path, victim: str, message: str
    ) -> None:
        # The run of `finished`, as it was after its second epoch.
        begun = Path(shutil.copytree(finished, tmp_path / "begun"))
        limit = (begun / victim).stat().st_size - 1
        shutil.rmtree(begun / "checkpoints" / "epoch_00003")
        results = ("summary.json", "model.safetensors", "ltaug.json", "logits.safetensors", "held_out.safetensors")
        for name in (*results, "per_class.csv"):
            (begun / name).unlink()
        lines = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
        (begun / "metrics.jsonl").write_text("".join(lines[:2]))
        own = ("command.txt", ".yaml", ".lock")  # each process writes its own
        saved = {name: data for name, data in contents(begun).items() if not name.endswith(own)}
        words = tiny.words(METHOD, begun, epochs=3, resume=True)
        error = launcher.run(tiny.script, *words, largest_file=limit).error()
        assert message.format(run=begun) in error
        assert "What was saved before is intact: make room, and resume." in error
        now = contents(begun)
        rows_before = saved.pop("metrics.jsonl")
        assert now["metrics.jsonl"].startswith(rows_before)  # the third epoch has its row
        if victim.startswith("checkpoints"):
            assert {name: now[name] for name in saved if name != "environment.json"} == {
                name: data for name, data in saved.items() if name != "environment.json"
            }
            assert checkpoints(begun) == ["epoch_00002"]
        assert not [name for name in now if name.endswith(".tmp")]
        tiny.train(METHOD, begun, epochs=3, resume=True)
        assert rows(begun) == rows(finished)
        assert (begun / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_training_that_diverges_says_so(tiny: Recipe, run: Run, tmp_path: Path) -> None:
    error = run(*tiny.words("erm", tmp_path / "run", lr=1e30, warmup_epochs=0, eval_every=2)).error()
    assert error.startswith("The loss is nan in epoch 1: the training has diverged.")
    assert "Lower the learning rate" in error
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


class TestFaultsOfTheProgram:
    """They keep their traceback: one line would leave somebody who adapts the recipe in the dark."""

    @pytest.mark.parametrize(
        ("layer", "kind"),
        [("nn.Linear(3, 4)", RuntimeError), ("nn.BatchNorm1d(8)", ValueError)],  # of torch
    )
    def test_in_the_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], layer: str, kind: type[Exception]
    ) -> None:
        folder = copy_recipe(tmp_path / "recipe", tiny_model().replace("nn.ReLU()", layer))
        with imported(folder) as recipe, pytest.raises(kind):
            recipe.launch(capsys, *recipe.words("erm", tmp_path / "run"))
        assert ": error: " not in capsys.readouterr().err

    def test_before_the_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A network without a layer that could be replaced is the user's, and told in one line."""
        folder = copy_recipe(tmp_path / "recipe", tiny_model().replace("self.fc", "self.last"))
        with imported(folder) as recipe:
            recipe.launch(capsys, *recipe.words("erm", tmp_path / "erm", epochs=1)).good()
            assert summary(tmp_path / "erm")["epochs"] == 1
            text = folder / "model.py"
            text.write_text(text.read_text().replace("nn.Linear(72, num_classes)", "nn.Conv1d(72, num_classes, 1)"))
        with imported(folder) as recipe:
            error = recipe.launch(capsys, *recipe.words("ldam", tmp_path / "run")).error()
        assert "must have one linear layer as its classifier, but has 0 such layers" in error
        assert not (tmp_path / "run").exists()


def test_settings_without_names_that_their_modules_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Types are checked, whatever data.py and model.py import or leave to be looked up."""
    folder = copy_recipe(tmp_path / "recipe", "from __future__ import annotations\n" + tiny_model())
    (folder / "data.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import Literal\n\n\n"
        "@dataclass\nclass DataSettings:\n    dataset: Literal['mine', 'yours'] = 'mine'\n\n"
        "    @property\n    def data_name(self): return self.dataset\n\n\n"
        "def load_data(cfg): raise ValueError('no data')\n"
    )
    with imported(folder) as recipe:
        assert "did you mean 'yours'?" in recipe.launch(capsys, "--dataset", "your").error()
        assert "`epochs` must be an integer from 0" in recipe.launch(capsys, "--epochs", "ten").error()
        assert recipe.launch(capsys, "--method", "mixup", "--set.alpha", "0.5").error() == "no data"
