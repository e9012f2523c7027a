"""The recipe of sound: its splits and subsets, trainings with its own loop, errors in one line, protocols."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sound_support
import torch
from safetensors.torch import load_file
from sound_support import RECIPE, ROOT, noise, small_training, train_on_rank, write_folder, write_table

import ltaug
from ltaug import training
from ltaug.audio import EnvNet, decoding
from ltaug.methods import METHODS
from ltaug.metrics import classification_report

ESC10 = ROOT.parent / "shared" / "data" / "esc10"
Load = Callable[..., Any]
Train = Callable[..., Path]


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith(("seconds", "_per_second"))} for row in lines]


class TestFolds:
    def test_a_fold_is_the_test_set(self, load: Load, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data")
        for fold in (5, 2):
            data = load(dataset="esc50", data_dir=folder, test_fold=fold)
            assert data.splits == ("test",)
            assert {name[0] for name in data.names["test"]} == {str(fold)}
            assert str(fold) not in {name[0] for name in data.names["train"]}
            assert data.labels["test"].bincount().tolist() == [2, 2, 2]
            assert data.class_names == ["dog", "sea", "fire"]  # 0, 10, 20
            assert data.class_counts.tolist() == ltaug.pareto_counts(8, 3, 4).tolist() == [8, 3, 2]
            assert data.train_labels.tolist() == [0] * 8 + [1] * 3 + [2] * 2

    def test_waveforms_belong_to_their_names(self, load: Load, tmp_path: Path) -> None:
        data = load(dataset="esc50", data_dir=write_table(tmp_path / "data"), imbalance_ratio=1, held_out_per_class=2)
        assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 18, "test": 6, "held_out": 6}
        assert data.left_out == 0
        for split, clips in data.clips.items():
            for name, label, clip in zip(data.names[split], data.labels[split].tolist(), clips, strict=True):
                fold, wanted, take = map(int, name[:-4].split("-"))
                assert label == wanted
                assert clip.dtype == torch.int16
                assert np.abs(clip.numpy() - noise(6 * (fold - 1) + 2 * label + take) * 32768).max() <= 1

    def test_the_hash_is_of_the_indices_in_the_full_set(self, load: Load, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data")
        data = load(dataset="esc50", data_dir=folder)
        parts = [tuple(map(int, name[:-4].split("-"))) for name in data.names["train"]]
        indices = np.array([6 * (fold - 1) + 2 * label + take for fold, label, take in parts], "<i8")
        assert data.index_hash == hashlib.sha256(indices.tobytes()).hexdigest()
        assert data.index_hash == load(dataset="esc50", data_dir=folder, sample_rate=4000).index_hash
        assert data.index_hash != load(dataset="esc50", data_dir=folder, data_seed=1).index_hash

    def test_esc10_is_picked_by_its_column(self, load: Load, tmp_path: Path) -> None:
        data = load(dataset="esc10", data_dir=write_table(tmp_path / "data"))
        assert (data.class_names, data.class_counts.tolist()) == (["dog", "fire"], [8, 2])

    def test_profiles(self, load: Load, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data")
        for profile, counts in {"exponential": [8, 4, 2], "step": [8, 2, 2], "natural": [8, 8, 8]}.items():
            assert load(dataset="esc50", data_dir=folder, profile=profile).class_counts.tolist() == counts

    def test_only_what_is_used_is_decoded(self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded, original = [], decoding.read_clip
        monkeypatch.setattr(decoding, "read_clip", lambda *sound: decoded.append(sound) or original(*sound))
        load(dataset="esc50", data_dir=write_table(tmp_path / "data"))
        assert len(decoded) == 13 + 6

    @pytest.mark.parametrize(
        ("changes", "settings", "message"),
        [
            ({}, {"test_fold": 7}, "`test_fold`=7 is no fold of .* which has 1, 2, 3, 4, 5"),
            ({"fold": [5] * 2 + [1] * 28}, {}, r"`test_fold`=5 has no clip of class 1 \(sea\)"),
            ({"fold": [5, 5, 5, 1, 5, 1] * 5}, {}, r"Class 0 \(dog\) has no training samples"),
            ({"target": [1] * 30, "category": None}, {}, "must have at least two classes, but has 1: 1"),
            ({}, {"imbalance_ratio": 9}, "`imbalance_ratio`=9 leaves class 2"),
            ({}, {"test_crops": 1}, "`test_crops` must be at least 2, spread evenly over a clip, but is 1"),
            ({}, {"sample_rate": 16}, "`sample_rate` is in samples a second and at least 4000, but is 16"),
            ({}, {"dataset": "hub", "data_dir": None}, "`dataset: hub` needs `hub_id`, OWNER/NAME, or `data_dir`"),
            ({}, {"dataset": "folder", "data_dir": None}, "`dataset: folder` needs `data_dir`"),
            ({}, {"dataset": "parquet", "data_dir": None}, "`dataset: parquet` needs `data_dir`, with parquet files"),
            ({}, {"dataset": "folder"}, "holds parquet files. Recipes read such by `dataset: parquet`"),
        ],
    )
    def test_faults(self, load: Load, changes: dict, settings: dict, message: str, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data", **changes)
        with pytest.raises(ValueError, match=message):
            load(**{"dataset": "esc50", "data_dir": folder} | settings)


class TestOtherSplits:
    def test_a_test_split_of_the_data(self, load: Load, tmp_path: Path) -> None:
        folder = write_table(tmp_path / "data", fold=None)
        write_table(folder, "test", fold=None)
        data = load(dataset="parquet", data_dir=folder, label_column="target", imbalance_ratio=1, held_out_per_class=3)
        sizes = {split: labels.bincount().tolist() for split, labels in data.labels.items()}
        assert sizes == {"train": [7] * 3, "test": [10] * 3, "held_out": [3] * 3}
        assert data.splits == ("test", "held_out")
        assert data.held_out_note().startswith("9 clips that training did not use")

    def test_a_validation_split_beside_a_test_split_is_tuned_on(self, load: Load, tmp_path: Path) -> None:
        sizes = {"train": {"ant": 4, "bee": 3}, "test": {"ant": 2, "bee": 2}, "val": {"bee": 2}}
        for split, classes in sizes.items():
            write_folder(tmp_path / split, classes)
        data = load(data_dir=tmp_path, profile="natural")
        assert data.splits == ("test", "held_out")
        assert data.labels["held_out"].tolist() == [1, 1]
        assert data.names["held_out"] == ["val/bee/00.wav", "val/bee/01.wav"]
        for changes, message in (
            ({"held_out_per_class": 1}, "`held_out_per_class` is 1, but .* has a validation split to tune"),
            ({"test_fold": 2}, "`test_fold`=2, but .* has a test split. Leave it out"),
        ):
            with pytest.raises(ValueError, match=message):
                load(data_dir=tmp_path, profile="natural", **changes)

    def test_held_out_clips_are_drawn_by_class(self, load: Load, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 10, "bee": 10, "cat": 10})
        data = load(data_dir=folder, held_out_per_class=2, imbalance_ratio=3)
        sizes = {split: labels.bincount().tolist() for split, labels in data.labels.items()}
        assert sizes["train"] == data.class_counts.tolist() == ltaug.pareto_counts(6, 3, 3).tolist()
        assert sizes["test"] == sizes["held_out"] == [2, 2, 2]
        names = [name for split in data.names.values() for name in split]
        assert len(set(names)) == len(names)
        with pytest.raises(ValueError, match=r"`held_out_per_class`=8 leaves no training samples of class 0 \(ant\)"):
            load(data_dir=folder, held_out_per_class=8)

    def test_long_tailed_by_nature(self, load: Load, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 10, "bee": 5, "cat": 3})
        data = load(data_dir=folder, profile="natural", test_per_class=1)
        assert (data.class_names, data.class_counts.tolist()) == (["ant", "bee", "cat"], [9, 4, 2])
        every = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))
        assert sorted(data.names["train"] + data.names["test"]) == every
        chosen = ltaug.subsample(torch.tensor([0] * 10 + [1] * 5 + [2] * 3), [1, 1, 1])
        assert data.names["test"] == [every[k] for k in chosen]  # whatever order the disk has them in
        again = load(data_dir=folder, profile="natural", test_per_class=1, data_seed=1)
        assert again.names["test"] != data.names["test"]
        with pytest.raises(ValueError, match="asks for 8 training samples of class 1"):
            load(data_dir=folder, test_per_class=2, imbalance_ratio=1)
        with pytest.raises(ValueError, match=r"`test_fold`=2, but .* has no folds"):
            load(data_dir=folder, test_fold=2)

    def test_unreadable_clips_change_the_counts_and_not_the_choice(
        self, load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 10, "bee": 10, "cat": 10})
        good = load(data_dir=folder)
        bad = [good.names["train"][0], good.names["train"][9], good.names["test"][1]]
        for name in bad:
            (folder / name).write_bytes(b"RIFF, but no more")
        data = load(data_dir=folder)
        assert data.index_hash == good.index_hash
        assert data.class_counts.tolist() == data.train_labels.bincount().tolist() == [7, 2, 2]
        for split in ("train", "test"):
            assert data.names[split] == [name for name in good.names[split] if name not in bad]
            assert len(data.clips[split]) == len(data.labels[split]) == len(data.names[split])
        assert data.left_out == 3
        assert "Warning: 3 of 19 clips are left out, since they cannot be read: " in capsys.readouterr().err
        assert data.describe().startswith("11 training and 5 test clips, 3 unreadable left out (subset ")
        with pytest.raises(ValueError, match="`on_error` skip leaves it out"):
            load(data_dir=folder, on_error="raise")
        for name in good.names["test"]:
            if name.startswith("cat"):
                (folder / name).write_bytes(b"")
        with pytest.raises(ValueError, match=r"None of the test clips of class 2 \(cat\) can be read"):
            load(data_dir=folder)

    def test_synthetic_sounds(self, load: Load) -> None:
        data = load(dataset="synthetic", imbalance_ratio=10, test_per_class=8, sample_rate=4000, trim_silence=True)
        assert data.class_names[:3] == ["rain", "wind", "bird"]
        assert data.class_counts.tolist() == ltaug.pareto_counts(32, 10, 10).tolist()
        assert data.index_hash.startswith("a38bb0f33655")
        assert {len(clip) for clips in data.clips.values() for clip in clips} == {8000}

    def test_runs_are_named_after_their_data(self, recipe: SimpleNamespace, tmp_path: Path) -> None:
        settings = recipe.data.DataSettings
        assert settings().data_name == "esc50_ir10"
        assert settings(dataset="folder", data_dir="/my/birds/", profile="natural").data_name == "birds"
        assert settings(dataset="hub", hub_id="owner/urban", imbalance_ratio=20).data_name == "urban_ir20"
        assert settings(dataset="esc10", test_fold=2).data_name == "esc10_ir10_fold2"
        assert settings(dataset="parquet", data_dir="/my/birds", hub_id="owner/other").data_name == "birds_ir10"
        for name, data_name in (("calls.csv", "calls_ir10"), ("metadata.csv", f"{tmp_path.name}_ir10")):
            (tmp_path / name).touch()
            assert settings(dataset="folder", data_dir=str(tmp_path / name)).data_name == data_name


class TestLoaders:
    ALONE = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))

    def test_batches(self, recipe: SimpleNamespace, load: Load) -> None:
        data = load(dataset="synthetic", sample_rate=4000, imbalance_ratio=10)
        cfg = recipe.train.Config(crop_length=900, test_crops=3, batch_size=32)
        sampler = ltaug.ClassPowerSampler(data.train_labels, 1.0)
        train = data.train_loader(cfg, sampler, self.ALONE)
        assert [tuple(inputs.shape) for inputs, _ in train] == [(32, 900)] * 4 + [(15, 900)]
        for batch_size, batches in ((34, 4), (27, 6)):  # 7 of the 143 clips are too few for a last batch, 8 are not
            cfg.batch_size = batch_size
            assert len(data.train_loader(cfg, sampler, self.ALONE)) == batches
        for split in ("train", "test"):
            batches = list(data.eval_loader(cfg, split, self.ALONE))
            assert {tuple(inputs.shape[1:]) for inputs, _ in batches} == {(3, 900)}
            assert torch.cat([labels for _, labels in batches]).equal(data.labels[split])


class TestTraining:
    def test_a_run(self, train: Train) -> None:
        run = train("--method", "unimix_bc_bayias", "--held_out_per_class", 2, "--max_gain_db", 6)
        values = json.loads((run / "summary.json").read_text())
        assert (values["name"], values["data"], values["model"]) == (
            "unimix_bc_bayias",
            "synthetic_ir10",
            "mel_test_resnet",
        )
        final = values["final"]
        assert final == {name: rows(run)[-1][name] for name in final}  # the last epoch's, not the best one's
        info = json.loads((run / "ltaug.json").read_text())
        wanted = {"sample_rate": 4000, "trim_silence": False, "trim_db": None, "crop_length": 900, "test_crops": 2}
        wanted |= {"kind": "sounds", "test_hop": 0.0, "aggregate": "mean"}
        assert info["preprocessing"] == wanted
        assert info["class_names"][:3] == ["rain", "wind", "bird"]
        assert info["logits_prior"][0] < 0.1 < info["logits_prior"][-1]  # it is corrected by more than there is
        kept = load_file(run / "logits.safetensors")
        torch.testing.assert_close(kept["logits"].exp().sum(1), torch.ones(80))  # means of probabilities
        counts = torch.tensor(info["class_counts"])
        report = classification_report(kept["logits"].softmax(1), kept["labels"], counts)
        for name, value in final.items():
            assert math.isnan(report[name]) if value is None else report[name] == pytest.approx(value), name
        hit = kept["logits"].argmax(1) == kept["labels"]
        for k, row in enumerate(csv.DictReader((run / "per_class.csv").open())):
            assert float(row["test_accuracy"]) == pytest.approx(
                hit[kept["labels"] == k].float().mean().item(), abs=1e-6
            )
        assert load_file(run / "held_out.safetensors")["labels"].bincount().tolist() == [2] * 10

    @pytest.mark.parametrize("settings", [{"method": "lob_bc_deferred"}, {"method": "mixup", "max_gain_db": 6.0}])
    def test_resumed_it_ends_in_the_same_bits(self, train: Train, settings: dict[str, Any]) -> None:
        common = {"epochs": 4, "max_scale": 1.25, "checkpoint_every": 1} | settings
        whole = train(out="whole", **common)
        broken = train(out="broken", **(common | {"epochs": 4}))
        for folder in sorted((broken / "checkpoints").iterdir())[2:]:  # as if it had been killed after two epochs
            for file in folder.rglob("*"):
                file.unlink()
            folder.rmdir()
        again = train("--resume", "true", out="broken", **common)
        assert rows(again) == rows(whole)
        assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    @pytest.mark.slow  # test_every_method trains them all on the synthetic sounds
    def test_methods_of_every_kind(self, train: Train) -> None:
        first = {name: train("--method", name, out=name, epochs=1) for name in ("erm", "mixup")}
        for name in ("lob_bc", "manifold_mixup", "ldam_drw"):
            train("--method", name, out=name, epochs=1)
        for name in ("mislas", "lws", "tau_norm"):
            run = train("--method", name, "--from_run", first[METHODS[name].first_stage], out=name, epochs=1)
            kept = load_file(run / "logits.safetensors")["logits"]
            torch.testing.assert_close(kept.exp().sum(1), torch.ones(80))

    def test_the_report_can_be_heard(self, load: Load) -> None:
        data = load(dataset="synthetic", sample_rate=4000)
        labels = data.labels["test"]
        logits = torch.eye(10)[labels]
        logits[3] = torch.eye(10)[7]
        ((title, html),) = data.sections(logits, labels)
        assert title == "Misclassified clips to hear"
        assert html.count("<audio") == 1
        assert data.names["test"][3] in html
        assert "wind, taken for knock with a confidence of 23 %" in html

    def test_too_few_clips_for_a_batch(self, train: Train, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "data", {"ant": 4, "bee": 4}, size=2000)
        changes = {"dataset": "folder", "data_dir": folder, "profile": "natural", "test_per_class": 1}
        with pytest.raises(
            ValueError, match=r"`batch_size`=16 exceeds the 6 samples of an epoch, .* Lower `batch_size`"
        ):
            train(**changes)
        train(**changes, batch_size=6, epochs=1)

    def test_a_training_that_diverges_says_so(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="The loss is nan in epoch 1: the training has diverged"):
            train(lr=1e30, optimizer="sgd", warmup_epochs=0, eval_every=2)
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_two_processes_equal_one(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their shares of the last batch are four clips and five, and each clip counts alike."""
    settings = {"method": "class_balanced", "optimizer": "sgd", "lr": 0.05, "warmup_epochs": 0, "max_scale": 1.25}
    monkeypatch.setattr(sound_support, "NORM", "GroupNorm(2, 8)")  # statistics of batch norm are each process's own
    one, two = train(out="one", **settings), tmp_path / "two"
    words = small_training(out=two, **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "ltaug.audio", "ltaug.training"])
    processes = [context.Process(target=train_on_rank, args=(rank, port, words)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert json.loads((two / "summary.json").read_text())["num_processes"] == 2
    for single, double in zip(rows(one), rows(two), strict=True):
        assert double == pytest.approx(single, abs=1e-4, nan_ok=True)
    weights, others = (load_file(run / "model.safetensors") for run in (one, two))
    assert max((weights[name] - others[name]).abs().max().item() for name in weights) < 1e-5
    torch.testing.assert_close(load_file(two / "logits.safetensors"), load_file(one / "logits.safetensors"))


class TestSettings:
    def settings(self, recipe: SimpleNamespace, *words: str) -> Any:
        return training.settings_of(recipe.train.Config, recipe.train.__file__, words)

    def test_the_published_schedules(self, recipe: SimpleNamespace) -> None:
        cfg = self.settings(recipe)
        rates = [training.learning_rate(cfg, epoch) for epoch in range(600)]
        assert rates == pytest.approx([0.01] * 300 + [0.001] * 150 + [0.0001] * 150, rel=1e-12)  # EnvNet
        cfg = self.settings(recipe, "--protocol", "envnet_v2")
        rates = [training.learning_rate(cfg, epoch) for epoch in range(1000)]
        expected = [0.01] * 10 + [0.1] * 290 + [0.01] * 300 + [0.001] * 300 + [0.0001] * 100
        assert rates == pytest.approx(expected, rel=1e-12)
        assert [self.settings(recipe, "--protocol", name).epochs for name in ("bc", "envnet_v2_bc")] == [1200, 2000]

    # The network of `transformers` is the hub's.
    @pytest.mark.parametrize(
        "protocol", sorted({path.stem for path in (RECIPE / "protocols").glob("*.yaml")} - {"transformers"})
    )
    def test_every_protocol_has_its_network(self, recipe: SimpleNamespace, protocol: str) -> None:
        cfg = self.settings(recipe, "--protocol", protocol)
        assert training.make_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}], cfg)
        with torch.device("cpu" if cfg.model == "mel" else "meta"):
            network = recipe.model.build_model(10, cfg, SimpleNamespace(sample_rate=cfg.sample_rate))
        assert training.find_classifier(network)[1].out_features == 10

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--dataset esc5", "did you mean 'esc50'"),
            ("--imbalance_ratio 0.1", "did you mean 10"),
            ("--max_scale 0.8", "max_scale"),
            ("--max_gain_db -6", "max_gain_db"),
            ("--test_fold -1", "test_fold"),
            ("--model envnetv2", "did you mean 'envnet_v2'"),
            ("--method lob", "`method` 'lob' is not known"),
            ("--protocol envnet", "`protocol` 'envnet' is not known, did you mean 'envnet_v2'"),
        ],
    )
    def test_mistakes_are_named(self, recipe: SimpleNamespace, words: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.settings(recipe, *words.split())

    def test_another_crop_than_the_networks(self, recipe: SimpleNamespace) -> None:
        cfg = self.settings(recipe, "--model", "envnet_v2", "--sample_rate", "44100")
        with pytest.raises(ValueError, match=r"`model: envnet_v2` takes 66650 samples, but `crop_length` is 24014\."):
            recipe.model.build_model(50, cfg, None)


@pytest.mark.slow
def test_envnet_trains(recipe: SimpleNamespace, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe.train, "build_model", recipe.model.build_model)
    changes = {"model": "envnet", "crop_length": 24_014, "sample_rate": 16_000, "optimizer": "nesterov", "lr": 0.01}
    changes |= {"warmup_epochs": 0, "epochs": 1, "imbalance_ratio": 16}
    run = train("--method", "lob_bc", **changes)
    assert rows(run)[0]["loss"] == pytest.approx(math.log(10), rel=0.5)
    with torch.device("meta"):
        expected = EnvNet(10).state_dict()
    state = load_file(run / "model.safetensors")
    assert {name: value.shape for name, value in state.items()} == {name: expected[name].shape for name in expected}


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_esc10(load: Load, tmp_path: Path) -> None:
    from pyarrow import parquet

    data = load(dataset="esc10", data_dir=ESC10, imbalance_ratio=10, cache_dir=tmp_path / "cache")
    assert data.class_counts.tolist() == [32, 23, 17, 13, 10, 8, 6, 5, 3, 3]
    assert data.labels["test"].bincount().tolist() == [8] * 10
    assert data.index_hash == "350fb89811bc07609d61247b056ba1c376d1c3e132053eeb42abe86a25681fd3"
    assert data.class_names[:3] == ["dog", "rain", "sea_waves"]
    assert data.left_out == 0
    columns = ["filename", "fold", "target", "src_file"]
    every = {row["filename"]: row for row in parquet.read_table(ESC10 / "data", columns=columns).to_pylist()}
    train, test = ([every[name] for name in data.names[split]] for split in ("train", "test"))
    assert {row["fold"] for row in test} == {5}
    assert {row["fold"] for row in train} <= {1, 2, 3, 4}
    assert not {row["src_file"] for row in train} & {row["src_file"] for row in test}
    assert [row["target"] for row in train] == data.train_labels.tolist()
    for clip in data.clips["train"] + data.clips["test"]:
        assert 100 < len(clip) <= 8 * 8000
        assert clip[0] != 0 != clip[-1]
