"""The table of many runs: rows by what settings differ in, means, published numbers, damaged and old summaries."""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from ltaug import tables
from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.run import RunFolder
from ltaug.tables import (
    Row,
    collect,
    published_numbers,
    read_published,
    read_summaries,
    run_labels,
    training_set,
    write_tables,
)

ASCII = set(map(chr, range(32, 127)))
SETTINGS = {"dataset": "my_set", "imbalance_ratio": 50.0, "profile": "exponential", "lr": 0.1, "set": None}


def summary(method: str, top1: float = 0.5, seed: int = 0, epochs: int = 2, **settings: Any) -> dict[str, Any]:
    """What a run of today leaves."""
    values = {**SETTINGS, "method": method, "seed": seed, "epochs": epochs, "out": f"runs/{method}", **settings}
    return {
        "name": method,
        "method": method,
        "data": f"{values.get('dataset')}_ir50",
        "model": "",
        "epochs": epochs,
        "settings": values,
        "final": {"top1": top1, "few": None, "ece": 0.25},
        "wall_time_s": 90.0,
        "parameters": 3,
        "class_names": ["a", "b"],
    }


def plant(out: Path, **summaries: dict[str, Any]) -> None:
    for name, values in summaries.items():
        (out / name).mkdir(parents=True)
        (out / name / "summary.json").write_text(json.dumps(values))


def labels(rows: list[Row]) -> list[str]:
    return [row.label for row in rows]


class TestRows:
    def test_means_and_deviations_over_seeds(self) -> None:
        values = [0.5, 0.625, 0.25]
        runs = {f"a{seed}": summary("erm", value, seed) for seed, value in enumerate(values)}
        runs["b"] = summary("mixup", 0.75)
        erm, mixup = collect(runs)
        assert (erm.label, erm.runs, erm.mean["top1"]) == ("erm", 3, statistics.fmean(values))
        assert erm.deviation["top1"] == pytest.approx(statistics.stdev(values))
        assert (erm.mean["few"], erm.minutes, erm.parameters) == (None, 1.5, 3)
        assert (mixup.runs, mixup.deviation["top1"]) == (1, None)

    def test_a_data_set_of_any_name(self) -> None:
        (row,) = collect({"my_set_ir50_erm_seed0": summary("erm")})
        assert (row.method, row.part["dataset"]) == ("erm", "my_set")
        assert row.heading == "my_set, imbalance ratio 50, exponential"

    def test_a_data_set_that_is_long_tailed_by_nature(self) -> None:
        values = summary("erm", profile="natural", imbalance_ratio=100.0) | {"class_counts": [1280, 64, 5]}
        lines = [{"method": "erm", "paper": "X", "imbalance_ratio": "256", "top1": "40"}]
        (row,) = collect({"a": values}, lines)
        assert (row.heading, row.published) == ("my_set, imbalance ratio 256, natural", {("X", ""): {"top1": 40.0}})
        for name in ("dataset", "imbalance_ratio", "profile"):  # of a recipe that has no such settings
            del values["settings"][name]
        (row,) = collect({"a": values})
        assert row.heading == "my_set_ir50, imbalance ratio 256"

    def test_a_ratio_that_is_not_the_one_asked_for(self) -> None:
        lines = [{"method": "erm", "paper": "X", "imbalance_ratio": "50", "top1": "40"}]
        (row,) = collect({"a": summary("erm") | {"class_counts": [114, 20, 2]}}, lines)
        assert row.heading == "my_set, imbalance ratio 57 (asked: 50), exponential"
        assert row.published == {("X", ""): {"top1": 40.0}}  # which are compared by what their authors asked for
        (row,) = collect({"a": summary("erm") | {"class_counts": [100, 20, 2]}})
        assert row.heading == "my_set, imbalance ratio 50, exponential"

    def test_folders_are_data_sets_by_their_names(self) -> None:
        runs = {
            name: summary("erm", dataset="folder", data_dir=f"data/{name}") | {"data": f"{name}_ir50"}
            for name in ("cats", "dogs")
        }
        assert [row.heading.partition(",")[0] for row in collect(runs)] == ["cats", "dogs"]

    def test_rows_are_told_apart_by_what_settings_differ_in(self) -> None:
        runs = {
            "a": summary("erm", lr=0.1),
            "b": summary("erm", lr=0.2),
            "c": summary("erm", lr=0.2, seed=1),
            "d": summary("mixup", set={"alpha": 0.4}),
            "e": summary("mixup"),
            "f": summary("bayias", threads=3, eval_every=1, data_dir="x"),
            "g": summary("bayias", seed=1),
        }
        assert labels(collect(runs)) == ["erm (lr 0.1)", "erm (lr 0.2)", "mixup", "mixup (alpha 0.4)", "bayias"]
        assert [row.runs for row in collect(runs) if row.method in ("erm", "bayias")] == [1, 2, 2]

    def test_a_protocol_stands_for_what_it_sets(self) -> None:
        runs = {
            "a": summary("erm", protocol="long", lr=0.05, epochs=9),
            "b": summary("erm", protocol="short", lr=0.1),
            "c": summary("erm", protocol="short", lr=0.2),
        }
        assert labels(collect(runs)) == [
            "erm (protocol long, lr 0.05)",
            "erm (protocol short, lr 0.1)",
            "erm (protocol short, lr 0.2)",
        ]
        del runs["c"]
        assert labels(collect(runs)) == ["erm (protocol long)", "erm (protocol short)"]

    def test_other_lengths_are_rows_of_their_own(self) -> None:
        rows = collect({"a": summary("erm"), "b": summary("erm", epochs=3)})
        assert [(row.label, row.epochs) for row in rows] == [("erm", 2), ("erm", 3)]

    def test_a_setting_that_came_later_does_not_split(self) -> None:
        (row,) = collect({"a": summary("erm", seed=1), "b": summary("erm", new=1)})
        assert row.runs == 2

    def test_second_stages_differ_by_their_first_ones(self) -> None:
        runs = {name: summary("erm", lr=lr) for name, lr in (("x", 0.1), ("y", 0.2))}
        runs |= {f"crt_{name}": summary("crt", from_run=f"runs/sweep/{name}") for name in ("x", "y")}
        rows = [row for row in collect(runs) if row.method == "crt"]
        assert labels(rows) == ["crt (first_stage.lr 0.1)", "crt (first_stage.lr 0.2)"]
        assert all(row.second_stage for row in rows)

    def test_what_a_row_averages_over(self) -> None:
        runs = {f"{seed}{fold}": summary("erm", seed=seed, test_fold=fold) for seed in (0, 1) for fold in (1, 2, 3)}
        assert [row.runs for row in collect(runs)] == [2, 2, 2]
        assert [row.runs for row in collect(runs, over=("seed", "test_fold"))] == [6]

    def test_data_sets_and_networks_are_parts(self) -> None:
        runs = {f"{name}{model}": summary("erm", dataset=name, model=model) for name in "ab" for model in "xy"}
        assert [row.heading.partition(", imb")[0] for row in collect(runs)] == ["a, x", "a, y", "b, x", "b, y"]

    def test_old_summaries_are_read_by_their_keys(self) -> None:
        old = {"name": "tau_norm", "dataset": "cifar100", "imbalance_ratio": 100.0, "profile": "exponential", "seed": 0}
        old |= {"epochs": 0, "final": {"top1": 0.4}, "wall_time_s": 60.0, "parameters": 1, "stage1": "erm"}
        runs = {f"cifar100_ir100_tau_norm_seed{seed}": {**old, "seed": seed} for seed in (0, 1)}
        published = [
            {"method": "tau_norm", "paper": "X", "dataset": "cifar100", "imbalance_ratio": "1e2", "top1": "43"}
        ]
        (row,) = collect(runs, published)
        assert (row.label, row.runs, row.epochs, row.second_stage) == ("tau_norm", 2, 0, True)
        assert row.published == {("X", ""): {"top1": 43.0}}
        assert row.heading == "cifar100, imbalance ratio 100, exponential"


class TestPublished:
    LINES = (
        "method,paper,dataset,imbalance_ratio,model,top1\n"
        "mixup,X,my_set,50,,50.5\nmixup,Y,,,,60\nmixup,Z,other,50,,1\nmixup,V,my_set,100,,2\nerm,W,my_set,50,r50,3\n"
    )

    def test_an_empty_cell_is_any_value(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text(self.LINES)
        lines = read_published(tmp_path / "published.csv")
        runs = {"a": summary("mixup"), "b": summary("erm"), "c": summary("erm", model="r50"), "d": summary("bayias")}
        found = {(row.method, row.part.get("model")): row.published for row in collect(runs, lines)}
        assert found == {
            ("mixup", None): {("X", ""): {"top1": 50.5}, ("Y", ""): {"top1": 60.0}},
            ("erm", None): {},
            ("erm", "r50"): {("W", ""): {"top1": 3.0}},
            ("bayias", None): {},
        }

    def test_a_changed_method_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text(self.LINES)
        (row,) = collect({"a": summary("mixup", set={"alpha": 2})}, read_published(tmp_path / "published.csv"))
        assert row.published == {}

    def test_their_order_is_that_of_the_rows(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text(self.LINES)
        runs = {method: summary(method) for method in ("mine", "bayias", "unimix", "erm", "mixup")}
        rows = collect(runs, read_published(tmp_path / "published.csv"))
        assert labels(rows) == ["mixup", "erm", "unimix", "bayias", "mine"]

    def test_bad_files(self, tmp_path: Path) -> None:
        path = tmp_path / "published.csv"
        path.write_text("method,top1\nerm,3\n")
        with pytest.raises(UserError, match="has no column paper"):
            read_published(path)
        path.write_text("method,paper,top1\nerm,X,3\nerm,Y,three\n")
        with pytest.raises(UserError, match="line 3: `top1` 'three' is no number"):
            read_published(path)

    def test_a_line_may_have_other_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "published.csv"
        path.write_text("method,paper,top1,ece\nerm,X,,3\nerm,Y,4,\n")
        assert [line["paper"] for line in read_published(path)] == ["X", "Y"]
        path.write_text("method,paper,top1,ece\nerm,X,,3\nerm,Y,,\n")
        with pytest.raises(UserError, match="line 3: there is no number"):
            read_published(path)
        path.write_text("method,paper,top1,ece\nerm,X,4,low\n")
        with pytest.raises(UserError, match="line 2: `ece` 'low' is no number"):
            read_published(path)

    OTHERS = (
        "method,paper,table,set,correction,test_set,epochs,top1,ece,note\n"
        "erm,X,1,,,,,40,,one seed\nerm,X,2,,,,,,8,one seed\nerm,X,3,,,,180,50,,\n"
        "erm,X,4,alpha=0,,,,1,,\nerm,X,5,,ic,,,45,,\nerm,X,6,,given,F50,,60,,\nerm,X,6,,,F50,,55,,\n"
    )

    def test_tables_of_a_paper_are_one(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text(self.OTHERS)
        lines = read_published(tmp_path / "published.csv")
        plain = {("X", "one seed"): {"top1": 40.0, "ece": 8.0}, ("X, 180 epochs", ""): {"top1": 50.0}}
        (row,) = collect({"a": summary("erm", epochs=7)}, lines)
        assert row.published == plain
        assert published_numbers(summary("erm"), lines) == plain

    def test_those_of_corrected_runs_and_shifted_sets(self, tmp_path: Path) -> None:
        (tmp_path / "published.csv").write_text(self.OTHERS)
        lines, run = read_published(tmp_path / "published.csv"), summary("erm")
        assert published_numbers(run, lines, "ic") == {("X", ""): {"top1": 45.0}}
        assert published_numbers(run, lines, "given", "F50") == {("X", ""): {"top1": 60.0}}
        assert published_numbers(run, lines, test_set="F50") == {("X", ""): {"top1": 55.0}}
        assert published_numbers(run, lines, test_set="F5") == {}
        assert published_numbers(summary("erm", set={"alpha": 1}), lines) == {}

    @pytest.mark.parametrize("recipe", ["cifar_lt", "esc50_lt", "imagenet_lt", "inaturalist"])
    def test_those_of_the_recipes(self, recipe: str, root: Path) -> None:
        lines = read_published(root / "recipes" / recipe / "published.csv")
        keys = [tuple(value for key, value in line.items() if key not in tables.PRINTED) for line in lines]
        assert len(set(keys)) == len(keys) > 15
        for line in lines:
            assert line["method"] in METHODS
            assert line["table"]
            assert line["note"]  # how many seeds, which epoch: whatever is known
            assert set(line["note"]) <= ASCII | {"±"}
            assert line.get("correction", "") in ("", "given", "ic", "pc_softmax")
            for name in ("top1", "top5"):
                assert not line.get(name) or 15 < float(line[name]) < 95


class TestFiles:
    def written(self, out: Path, **options: Any) -> str:
        return write_tables(collect(read_summaries(out)), out, **options)

    def test_markdown_csv_and_figure(self, tmp_path: Path) -> None:
        plant(tmp_path, a=summary("erm", 0.5), b=summary("erm", 0.25, seed=1), c=summary("crt", 0.75, from_run="a"))
        text = self.written(tmp_path)
        spread = 100 * statistics.stdev([0.5, 0.25])
        assert "**my_set, imbalance ratio 50, exponential, last epoch, in percent**, mean ± standard" in text
        assert "| method | top-1 | few | ECE15 | seeds | epochs | minutes |" in text
        assert f"| `erm` | 37.5 ± {spread:.1f} | – | 25.0 ± 0.0 | 2 | 2 | 1.5 |" in text
        assert "| `crt` | 75.0 | – | 25.0 | 1 | 2 | 1.5 |" in text
        assert "Epochs and minutes of a second stage are its own" in text
        assert text == (tmp_path / "table.md").read_text()
        with (tmp_path / "table.csv").open() as file:
            table = {row["method"]: row for row in csv.DictReader(file)}
        assert float(table["erm"]["top1_std"]) == pytest.approx(spread / 100)
        assert (table["crt"]["top1"], table["crt"]["top1_std"], table["crt"]["few"]) == ("0.75", "", "")
        assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")

    def test_errors(self, tmp_path: Path) -> None:
        plant(tmp_path, a=summary("erm", 0.625), b=summary("erm", 0.75, seed=1))
        text = self.written(tmp_path, errors=True, over=("seed", "test_fold"))
        assert "| method | top-1 error | few | ECE15 | runs |" in text
        assert "| `erm` | 31.2 ± 8.8 | – | 25.0 ± 0.0 | 2 |" in text

    def test_published_numbers_stand_beside(self, tmp_path: Path) -> None:
        plant(tmp_path, a=summary("erm"), b=summary("mixup"))
        lines = [{"method": "erm", "paper": "X", "top1": "50.5"}, {"method": "erm", "paper": "Y", "top1": "60"}]
        rows = collect(read_summaries(tmp_path), lines)
        text = write_tables(rows, tmp_path)
        assert "| published top-1 |" in text
        assert "Published numbers:" not in text
        assert "| 50.5 (X), 60 (Y) |" in text
        assert text.splitlines()[5].endswith("| – |")
        assert "| published top-1 error |" in write_tables(rows, tmp_path, errors=True)
        assert "| 49.5 (X), 40 (Y) |" in write_tables(rows, tmp_path, errors=True)

    def test_published_notes_are_footnotes(self, tmp_path: Path) -> None:
        plant(tmp_path, a=summary("erm"), b=summary("mixup"))
        lines = [
            {"method": "erm", "paper": "X", "top1": "50.5", "mce": "9", "note": "one seed"},
            {"method": "mixup", "paper": "X", "top1": "60", "note": "mean of 5"},
            {"method": "mixup", "paper": "Y", "top1": "", "ece": "7", "note": "one seed"},
        ]
        rows = collect(read_summaries(tmp_path), lines)
        text = write_tables(rows, tmp_path)
        assert "| 50.5 / MCE 9 (X [1]) |" in text
        assert "| 60 (X [2]), ECE15 7 (Y [1]) |" in text
        assert "Published numbers:\n\n- [1] one seed\n- [2] mean of 5\n" in text
        assert "| 49.5 / MCE 9 (X [1]) |" in write_tables(rows, tmp_path, errors=True)
        with (tmp_path / "table.csv").open() as file:
            assert [row["published"] for row in csv.DictReader(file)] == [
                "X 50.5 / MCE 9 (one seed)",
                "X 60 (mean of 5); Y ECE15 7 (one seed)",
            ]

    def test_top_5_is_shown_with_many_classes(self, tmp_path: Path) -> None:
        many = summary("erm")
        many["final"]["top5"] = 0.875
        plant(tmp_path / "few", a=many)
        plant(tmp_path / "many", a={**many, "class_names": list(map(str, range(100)))})
        assert "top-5" not in self.written(tmp_path / "few")
        assert "| 50.0 | 87.5 |" in self.written(tmp_path / "many")

    def test_damaged_summaries_are_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plant(tmp_path, good=summary("erm"), odd=summary("erm"))
        for name, text in {
            "torn": '{"final": {',
            "empty": "",
            "list": "[]",
            "odd": "{}",
            "types": '{"final": {}, "class_counts": [1, "a"], "settings": {"set": 3}}',
        }.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "summary.json").write_text(text)
        assert list(read_summaries(tmp_path)) == ["good"]
        said = capsys.readouterr().err
        for name in ("torn", "empty", "list", "odd", "types"):
            assert f"Left out of the table: {name} (" in said

    def test_a_metric_that_came_later_is_that_of_the_runs_that_have_it(self) -> None:
        old = summary("erm", 0.25)
        del old["final"]["ece"], old["wall_time_s"], old["parameters"]
        (row,) = collect({"a": old, "b": summary("erm", seed=1)})
        assert (row.mean["ece"], row.deviation["ece"], row.mean["top1"]) == (0.25, None, 0.375)
        assert not math.isnan(row.minutes)

    def test_the_figure_has_a_panel_a_part_and_rows_that_can_be_told_apart(self) -> None:
        pytest.importorskip("matplotlib")
        runs = {name: summary("erm", 0.1, dataset=name) for name in "abc"}
        runs |= {"d": summary("erm", 0.75, epochs=9, dataset="a"), "e": summary("mixup", 0.25, dataset="a")}
        figure = tables._figure(collect(runs, [{"method": "mixup", "paper": "X", "top1": "40"}]), errors=False)
        assert [axes.get_title().partition(",")[0] for axes in figure.axes] == ["a", "b", "c"]
        first, second, third = figure.axes
        assert [label.get_text() for label in first.get_yticklabels()] == ["erm, 2 epochs", "mixup", "erm, 9 epochs"]
        assert [line.get_xdata()[0] for line in first.lines if line.get_marker() == "x" and len(line.get_xdata())] == [
            40
        ]
        assert first.get_ylim() == (-0.6, 2.6)  # no dot lies on the frame
        figure.canvas.draw()
        boxes = [axes.get_position() for axes in (first, second, third)]
        assert boxes[0].x1 < boxes[1].x0  # two side by side, the third below
        assert boxes[2].y1 < boxes[0].y0

    def test_the_figure_of_a_thousand_rows_shows_the_best_and_the_worst(self) -> None:
        pytest.importorskip("matplotlib")
        rows = collect({str(k): summary("erm", k / 1000, lr=float(k)) for k in range(1000)})
        assert len(rows) == 1000
        figure = tables._figure(rows, errors=False)
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels == [f"erm (lr {k})" for k in (*range(25), *range(925, 1000))]
        assert figure.get_supxlabel().endswith("\nof more than 100 rows the best and the worst")
        assert figure.get_size_inches().max() < 40

    def test_without_matplotlib_there_is_no_figure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        plant(tmp_path, a=summary("erm"))
        assert "`erm`" in self.written(tmp_path)
        assert not (tmp_path / "table.png").exists()
        assert "pip install ltaug[plots]" in capsys.readouterr().err


class TestLabels:
    def plant(self, folder: Path, name: str = "erm", data: str = "x", **settings: Any) -> Path:
        run = RunFolder(folder, {"method": "erm", "out": str(folder), "threads": 1, **settings})
        run.write_json("summary.json", {"name": name, "data": data})
        return folder

    def test_the_fewest_settings_that_differ_and_paths_last(self, tmp_path: Path) -> None:
        runs = [
            self.plant(tmp_path / "a", seed=0, lr=0.1),
            self.plant(tmp_path / "b", seed=1, lr=0.1),
            self.plant(tmp_path / "c", seed=1, lr=0.2, threads=2),
            self.plant(tmp_path / "d", "mixup", seed=7),
        ]
        assert run_labels(runs) == ["erm (seed 0, lr 0.1)", "erm (seed 1, lr 0.1)", "erm (seed 1, lr 0.2)", "mixup"]
        assert run_labels(runs[:2]) == ["erm (seed 0)", "erm (seed 1)"]
        assert run_labels(runs[1:3]) == ["erm (lr 0.1)", "erm (lr 0.2)"]
        assert run_labels([*runs[:2], self.plant(tmp_path / "e", seed=1, lr=0.1)]) == [
            "erm (seed 0)",
            "erm (seed 1, b)",
            "erm (seed 1, e)",
        ]

    def test_data_and_changes_of_the_method(self, tmp_path: Path) -> None:
        of_data = [self.plant(tmp_path / name, data=name, data_dir=f"data/{name}") for name in ("cats", "dogs")]
        assert run_labels(of_data) == ["erm (data cats)", "erm (data dogs)"]
        changed = [self.plant(tmp_path / f"{k}", set=values) for k, values in enumerate((None, {"alpha": 0.5}))]
        assert run_labels(changed) == ["erm", "erm (alpha 0.5)"]
        long = [self.plant(tmp_path / f"long{k}", layers=["a"] * 50 + [k]) for k in range(2)]
        assert all(len(label) < 90 and label.endswith(f", long{k})") for k, label in enumerate(run_labels(long)))

    def test_damaged_files_count_as_missing(self, tmp_path: Path) -> None:
        a, b = (self.plant(tmp_path / name, seed=k) for k, name in enumerate("ab"))
        for text in ("{", "set: 3", "[1]"):
            (b / "config.yaml").write_text(text)
            assert run_labels([a, b]) == ["erm (a)", "erm (b)"]
        (b / "summary.json").write_text("{")
        assert run_labels([a, b]) == ["erm", "b"]

    @pytest.mark.parametrize(
        "changes", [{"class_counts": "many"}, {"class_counts": [3, 0]}, {"class_counts": [1, "a"]}, {"settings": 3}]
    )
    def test_odd_summaries_have_a_training_set(self, changes: dict[str, Any]) -> None:
        facts = {"dataset": "x", "imbalance_ratio": 50.0}
        assert training_set({**facts, **changes}) == "x, imbalance ratio 50"
