"""Report pages: what they show of a run, what they say of one that is not complete, and what they never load."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2 import UndefinedError

from ltaug import metrics, plots
from ltaug.longtail import exponential_counts
from ltaug.report import _figures, _format, _pages, figure_html, results_table, write_comparison, write_report
from ltaug.run import RunFolder

pytest.importorskip("matplotlib")

FIGURES = [
    "Learning curves",
    "Confidence during training",
    "Accuracy of every class",
    "Confusions",
    "Reliability",
    "Logits of every class",
    "Probability of every class",
    "Training samples",
]


class Page(HTMLParser):
    """A page as a browser reads it: tags, cells of tables, and the text below each heading."""

    VOID = ("meta", "img", "br", "link", "hr", "wbr")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.sections: dict[str, str] = {}
        self.cells: list[list[str]] = []
        self.heading = ""
        self.feed(self.source)
        assert self.stack == [], f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.heading = ""
        elif tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("h1", "h2", "h3"):
            self.heading += data
        elif "style" not in self.stack:
            self.sections[self.heading] = self.sections.get(self.heading, "") + data
        if "td" in self.stack or "th" in self.stack:
            self.cells[-1][-1] += data.replace("\N{NON-BREAKING HYPHEN}", "-")

    def text(self, heading: str) -> str:
        """What stands below a heading, its lines joined."""
        return " ".join(self.sections[heading].split())

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    @property
    def links(self) -> list[str | None]:
        return [attributes.get("href") for tag, attributes in self.tags if tag == "a"]

    def row(self, start: str) -> list[str]:
        (row,) = [row for row in self.cells if row and row[0].startswith(start)]
        return row


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but not encoded, which takes most of the time."""
    monkeypatch.setattr(_figures, "encode", lambda figure: _figures.Picture("data:,", 520, 320))


def draw_only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def draw(function: Any, *data: Any, missing: str = "", **options: Any) -> _figures.Picture:
        if any(function in (getattr(plots, name, None), getattr(_pages, name, None)) for name in names):
            return _figures.draw(function, *data, missing=missing, **options)
        return _figures.draw(lambda *arguments: None, *data, missing=missing)

    monkeypatch.setattr(_pages, "draw", draw)


@pytest.fixture
def quick(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not even drawn; what is missing for them is still said."""
    draw_only(monkeypatch)


@pytest.fixture
def corrections_drawn(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, but for those of a correction: the others do not depend on it."""
    draw_only(monkeypatch, "_strength_figure", "shifted_test_accuracy")


def results(counts: torch.Tensor, per_class: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model that prefers frequent classes."""
    labels = torch.arange(len(counts)).repeat_interleave(per_class)
    logits = torch.randn(len(labels), len(counts), generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(labels)), labels] += 2.5
    return logits + counts.log() * 0.7, labels


def make_run(path: Path, num_classes: int = 10, **summary: Any) -> Path:
    counts = exponential_counts(500, num_classes, 100)
    logits, labels = results(counts)
    final = metrics.classification_report(logits.softmax(1), labels, counts)
    names = [f"name {i}" for i in range(num_classes)]
    config = {"loss": "bayias", "lr": 0.1, "decay_at": [0.6, 0.8], "set": {"alpha": 0.5}, "seed": 0}
    run = RunFolder(path, config, data={"class_counts": counts, "training_indices": "0a1b2c", "test_labels": "5e8e"})
    for epoch in range(4):
        run.log(epoch=epoch, loss=4.0 - epoch, lr=0.1, **(final if epoch % 2 else {}))
    run.save_logits(logits, labels)
    run.save_per_class(names, counts, metrics.per_class_accuracy(logits.softmax(1), labels))
    values = {
        "name": "unimix_bayias",
        "final": final,
        "wall_time_s": 9312.4,
        "samples_per_second": 2210.0,
        "parameters": 470292,
        "peak_memory_bytes": 3 * 2**29,
        "class_counts": counts,
        "class_names": names,
        "epochs": 4,
        "seed": 7,
    }
    run.write_json("summary.json", values | summary)
    return path


def assert_self_contained(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name in ("src", "srcset", "href", "data", "poster", "action"):
                assert value is not None
                assert not re.match(r"(?i)\s*([a-z]+:)?//|\s*(https?|file|javascript):", value), value[:80]
            assert not name.startswith("on")
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


# A complete run


def test_a_complete_run_has_every_figure_and_headline(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    written = write_report(path)
    assert written == path / "report.html"
    page = Page(written)
    assert_self_contained(page)
    assert len(page.images) == len(FIGURES)
    assert all(image["src"].startswith("data:image/") and len(image["alt"]) > 20 for image in page.images)
    assert page.source.count("<figcaption>") == len(FIGURES)
    assert set(FIGURES) <= set(page.sections)
    assert "Not drawn" not in page.source

    final = json.loads((path / "summary.json").read_text())["final"]
    for key, label in {"top1": "top-1 accuracy", "few": "few-shot", "ece": "ECE", "mce": "MCE"}.items():
        assert page.row(label)[1] == f"{100 * final[key]:.1f} %"
    assert page.row("NLL")[1] == f"{final['nll']:.3f}"
    assert page.row("class-wise ECE")[1] == f"{final['classwise_ece']:.5f}"
    assert page.row("parameters")[1] == "470,292"
    assert page.row("training time")[1] == "2 h 35 min"
    assert page.row("speed")[1] == "2,210 / s"
    assert page.row("peak memory")[1] == "1.50 GiB"
    assert page.row("decay_at")[1] == "[0.6, 0.8]"
    assert page.row("set.alpha")[1] == "0.5"
    assert page.row("packages.numpy")[1] == np.__version__
    assert (path / "command.txt").read_text().strip() in page.sections["Command"]
    assert page.row("training_indices")[1] == "0a1b2c"
    assert "name 9: 5" in page.sections["Data"]
    assert "Trained on 1,236 samples of 10 classes" in page.text("Data")
    assert "the largest 100 times the smallest" in page.text("Data")
    assert "Numbers of the last epoch · imbalance ratio 100 · epochs 4 · seed 7 · trained in 2 h 35 min" in page.source


@pytest.mark.usefixtures("quick")
def test_worst_classes_are_worst_and_name_what_they_are_taken_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {})
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    predictions = torch.tensor([0, 0, 0, 2, 2, 2, 0, 0, 2, 2, 2, 2])
    predictions[4] = 0  # class 1: never right, taken for 0 three times and for 2 once
    run.save_logits(torch.nn.functional.one_hot(predictions, 3) * 5.0, labels)
    run.write_json("summary.json", {"class_counts": [10, 20, 30], "class_names": ["ant", "bee", "cow"]})
    page = Page(write_report(run.path))
    assert page.row("bee") == ["bee", "20", "0.0 %", "ant (75.0 %)"]
    assert page.row("cow") == ["cow", "30", "100.0 %", "–"]
    assert [row[0] for row in page.cells if row[0] in ("ant", "bee", "cow")] == ["bee", "ant", "cow"]
    assert page.sections["Best"].strip().startswith("classtraining samplesaccuracymost often taken forcow")


@pytest.mark.usefixtures("quick")
def test_an_empty_shot_group_is_a_dash(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", final={"top1": 0.5, "many": 0.5, "few": math.nan})
    page = Page(write_report(path))
    assert page.row("few-shot accuracy")[1] == "–"
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r'src="[^"]*"', "", page.source))


@pytest.mark.parametrize("key", ["samples_per_second", "images_per_second", "clips_per_second"])
@pytest.mark.usefixtures("quick")
def test_speed_is_shown_under_its_old_names_too(tmp_path: Path, key: str) -> None:
    run = RunFolder(tmp_path / "run", {})
    run.write_json("summary.json", {key: 81.6})
    assert Page(write_report(run.path)).row("speed")[1] == "82 / s"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"data": "x_ir100", "dataset": "x", "imbalance_ratio": 100, "model": "a"}, "x, imbalance ratio 100 · model a"),
        ({"data": "my_set", "model": "", "imbalance_ratio": None}, "my_set, imbalance ratio 100"),
        # What was asked for is not what came of it.
        ({"data": "x_ir90", "dataset": "x", "imbalance_ratio": 90.0}, "x, imbalance ratio 100 (asked: 90)"),
        (
            {"data": "cats", "dataset": "folder", "imbalance_ratio": 5, "profile": "natural"},
            "cats, imbalance ratio 100",
        ),
    ],
)
@pytest.mark.usefixtures("quick")
def test_the_line_below_the_name_says_what_kind_of_run_it_was(
    tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    run = make_run(tmp_path / "run", first_stage="mixup", **facts)
    page = write_report(run).read_text()
    assert f"Numbers of the last epoch · {words} · first stage mixup · epochs 4 · seed 7 · trained in" in page
    other = make_run(tmp_path / "other", **{**facts, "data": "other", "dataset": "other"})
    data = words.partition(" · ")[0]
    assert (
        f"2 runs · {data} · other, {data.partition(', ')[2]} · every"
        in write_comparison([run, other], tmp_path / "all.html").read_text()
    )


@pytest.mark.usefixtures("quick")
def test_a_long_setting_is_cut(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {"short": [1, 2], "long": list(range(10_000))})
    page = Page(write_report(run.path))
    assert page.row("short")[1] == "[1, 2]"
    assert page.row("long")[1].startswith("[0, 1, 2")
    assert page.row("long")[1].endswith(" …")
    assert len(page.row("long")[1]) == _format.MAX_LETTERS + 2


@pytest.mark.usefixtures("quick")
def test_text_from_the_run_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    path = make_run(tmp_path / "run", name=evil, class_names=[evil] * 10, seed=evil, dataset=evil)
    (path / "command.txt").write_text(evil)
    (path / "config.yaml").write_text(json.dumps({evil: evil}))
    (path / "environment.json").write_text(json.dumps({evil: {evil: evil}}))
    (path / "data.json").write_text(json.dumps({evil: evil}))
    cells = {evil: {evil: 0.5, "uniform": evil}, "none": {"uniform": 0.1}, "calibration": evil, "tuned_on": evil}
    corrected = {"description": evil, "tuned_on": evil, "from_prior_reason": evil, "uncorrected": {"top1": 0.5}}
    (path / "corrected.json").write_text(json.dumps(corrected | {"shifted": cells}))
    run = write_report(path)
    comparison = write_comparison([path, make_run(tmp_path / "b")], tmp_path / "all.html", title=evil)
    for page in (Page(run), Page(comparison)):
        assert_self_contained(page)
        assert "<script" not in page.source
        assert "&lt;script&gt;" in page.source


@pytest.mark.usefixtures("drawn")
def test_the_same_run_gives_the_same_figures_in_one_replaced_file(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "report.html").write_text("old")
    before = set(path.iterdir())
    assert len(Page(write_report(path)).images) == len(FIGURES)
    assert set(path.iterdir()) == before


@pytest.mark.usefixtures("quick")
def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(tmp_path / "run")
    (path / "report.html").write_text("old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(path)
    assert (path / "report.html").read_text() == "old"


def many_classes(path: Path, num_classes: int, seed: int = 0) -> Path:
    """A run with everything that grows with the classes."""
    counts = exponential_counts(1000, num_classes, 500)
    labels = torch.randint(num_classes, (1000,), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(1000, num_classes, generator=torch.Generator().manual_seed(seed))
    names = [f"Kingdom Phylum Class Order Family a long species name {i}" for i in range(num_classes)]
    config = {"counts": counts, "seed": seed}
    run = RunFolder(path, config, data={"class_names": names, "class_counts": counts, "hash": f"{seed}"})
    run.save_logits(logits, labels)
    row = {"loss": 1.0, "top1": 0.5, "confidence": 0.6, "few": 0.1, "many": 0.9, "medium": 0.4}
    run.write("metrics.jsonl", "".join(f"{json.dumps({'epoch': epoch, **row})}\n" for epoch in range(200)))
    final = {"top1": 0.5, "few": 0.1}
    run.write_json(
        "summary.json", {"class_counts": counts, "class_names": names, "final": final, "name": f"run {seed}"}
    )
    shifted = {row: dict.fromkeys(TESTS, 0.5) for row in ("none", "given")}
    corrected = {"uncorrected": final, "final": final, "target_prior": counts, "class_names": names}
    run.write_json("corrected.json", corrected | {"top1_on_target": {"uncorrected": 0.5}, "shifted": shifted})
    return run.path


@pytest.mark.parametrize("num_classes", [2, 10_000])
def test_few_and_many_classes_stay_below_three_megabytes(tmp_path: Path, num_classes: int) -> None:
    path = many_classes(tmp_path / "run", num_classes)
    written = write_report(path)
    assert len(Page(written).images) == len(FIGURES) + 1
    assert "Not drawn" not in written.read_text()
    assert written.stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_comparison_of_many_classes_stays_below_three_megabytes(tmp_path: Path) -> None:
    runs = [many_classes(tmp_path / f"{seed}", 10_000, seed) for seed in range(2)]
    written = write_comparison(runs, tmp_path / "all.html")
    assert len(Page(written).images) == 6
    assert "Not drawn" not in written.read_text()
    assert written.stat().st_size < 3_000_000


# What is inside the network


def network(seed: int, *, mean: float = 0.0) -> dict[str, torch.Tensor]:
    """A state dict: another matrix, batch norm, and the last layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden.weight": torch.ones(12, 5),
        "bn.running_mean": torch.full((12,), mean),
        "bn.running_var": torch.ones(12),
        "fc.weight": torch.randn(10, 12, generator=generator),
        "fc.bias": torch.zeros(10),
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What a page draws: the arguments, by the function's name."""
    found: dict[str, tuple[Any, ...]] = {}

    def draw(function: Any, *data: Any, missing: str = "", **options: Any) -> _figures.Picture:
        found[function.__name__] = data
        return _figures.draw(lambda *arguments, **options: None, *data, missing=missing)

    monkeypatch.setattr(_pages, "draw", draw)
    monkeypatch.setattr(_figures, "encode", lambda figure: _figures.Picture("data:,", 520, 320))
    return found


def second_stage(folder: Path, **after: Any) -> Path:
    """A second stage beside its first one."""
    first, second = make_run(folder / "mixup_seed0", name="mixup"), make_run(folder / "mislas_seed0", name="mislas")
    RunFolder.open(first).write("config.yaml", "seed: 0")
    RunFolder.open(second).write("config.yaml", "from_run: elsewhere/mixup_seed0")  # the folders were moved
    for path, state in ((first, network(0)), (second, {**network(1, mean=0.5), **after})):
        RunFolder.open(path).save_model(state, {})
    return second


def test_norms_and_batch_norm_of_both_stages_are_drawn(tmp_path: Path, asked: dict[str, tuple[Any, ...]]) -> None:
    page = Page(write_report(second_stage(tmp_path)))
    norms, counts = asked["classifier_weight_norms"]
    assert list(norms) == ["first stage, mixup", "mislas"]
    for weight, seed in zip(norms.values(), (0, 1), strict=True):
        assert torch.equal(weight, network(seed)["fc.weight"])
    assert len(counts) == 10
    before, after = asked["batch_norm_statistics"]
    assert (before["bn.running_mean"][0], after["bn.running_mean"][0]) == (0.0, 0.5)
    assert {"Weights of the classifier", "Batch norm before and after"} <= set(page.sections)
    assert len(page.images) == len(FIGURES) + 2


def test_batch_norm_that_did_not_move_is_not_drawn(tmp_path: Path, asked: dict[str, tuple[Any, ...]]) -> None:
    page = Page(write_report(second_stage(tmp_path, **{"bn.running_mean": torch.zeros(12)})))
    assert "batch_norm_statistics" not in asked
    assert "Weights of the classifier" in page.sections


def test_a_first_stage_that_is_gone_leaves_the_norms_of_the_run(
    tmp_path: Path, asked: dict[str, tuple[Any, ...]]
) -> None:
    path = second_stage(tmp_path)
    (tmp_path / "mixup_seed0").rename(tmp_path / "gone")
    write_report(path)
    assert list(asked["classifier_weight_norms"][0]) == ["mislas"]
    assert "batch_norm_statistics" not in asked


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_without_weights_there_is_no_card_for_them(
    tmp_path: Path, asked: dict[str, tuple[Any, ...]], content: bytes | None
) -> None:
    path = make_run(tmp_path / "run")
    if content is not None:
        (path / "model.safetensors").write_bytes(content)
    page = Page(write_report(path))
    assert "classifier_weight_norms" not in asked
    assert "Weights of the classifier" not in page.sections


def test_of_several_matrices_with_a_row_a_class_none_is_taken_for_the_last_layer(
    tmp_path: Path, asked: dict[str, tuple[Any, ...]]
) -> None:
    write_report(second_stage(tmp_path, **{"hidden.weight": torch.ones(10, 5)}))
    assert list(asked["classifier_weight_norms"][0]) == ["first stage, mixup"]


def test_mean_probabilities_are_those_of_the_test_logits(tmp_path: Path, asked: dict[str, tuple[Any, ...]]) -> None:
    path = make_run(tmp_path / "run")
    write_report(path)
    probs, labels, counts = asked["mean_class_probability"]
    logits, expected = RunFolder.open(path).load_logits()
    assert torch.equal(probs["unimix_bayias"], logits.softmax(1))
    assert torch.equal(labels, expected)
    assert counts.tolist() == exponential_counts(500, 10, 100).tolist()


def test_a_comparison_has_norms_and_mean_probabilities(tmp_path: Path, asked: dict[str, tuple[Any, ...]]) -> None:
    second = second_stage(tmp_path)
    page = Page(write_comparison([second.parent / "mixup_seed0", second], tmp_path / "all.html"))
    assert list(asked["classifier_weight_norms"][0]) == ["mixup", "mislas"]
    assert list(asked["mean_class_probability"][0]) == ["mixup", "mislas"]
    assert list(asked["probability_violins"][0]) == ["mixup", "mislas"]
    assert {"Weights of the classifier", "Probability of every class", "Confidence by shot group"} <= set(page.sections)


# Corrections after the training

TESTS = ("forward 50", "uniform", "backward 50")
SHIFTED = {
    "none": dict(zip(TESTS, (0.5, 0.4, 0.3), strict=True)),
    "given": dict(zip(TESTS, (0.7, 0.45, 0.6), strict=True)),
    "given, kept": dict(zip(TESTS, (1.25, None, 0.9), strict=True)),
}
HOW = {"calibration": "vector", "tuned_on": "9 samples", "from_prior": [0.5, 0.5], "from_prior_reason": "given"}


def correct(path: Path, **changes: Any) -> None:
    """What `ltaug correct` leaves in a run folder."""
    final = json.loads((path / "summary.json").read_text())["final"]
    corrected = {"description": "to <uniform>, strength 1", "tuned_on": "9 samples", "uncorrected": final}
    corrected |= {"final": {**final, "top1": 0.625, "few": None}, "calibration": "none", "shifted": SHIFTED | HOW}
    (path / "corrected.json").write_text(json.dumps(corrected | changes))


def correct_as_in_0_1(path: Path) -> None:
    """The same as version 0.1 left it."""
    correct(path)
    corrected = json.loads((path / "corrected.json").read_text())
    del corrected["shifted"]
    corrected["said"] = corrected.pop("description")
    (path / "corrected.json").write_text(json.dumps(corrected | {"tuned_on": "1 sample, not that of shifted.csv"}))
    lines = [",".join(["prior", "logits", *TESTS])]
    for name, cells in SHIFTED.items():
        values = ("" if value is None else f"{value:.6f}" for value in cells.values())
        lines.append(",".join([f'"{name}"', "as trained" if name == "none" else "vector", *values]))
    (path / "shifted.csv").write_text("\r\n".join(lines))
    (path / "shifted.json").write_text(json.dumps({"calibration": "vector", "tuned_on": "9 samples"}))


@pytest.mark.parametrize("write", [correct, correct_as_in_0_1])
@pytest.mark.usefixtures("quick")
def test_a_correction_is_shown_before_and_after(tmp_path: Path, write: Any) -> None:
    path = make_run(tmp_path / "run")
    assert "Corrected for another class mix" not in write_report(path).read_text()
    write(path)
    page = Page(write_report(path))
    assert_self_contained(page)
    top1 = json.loads((path / "summary.json").read_text())["final"]["top1"]
    rows = [row for row in page.cells if row[0] == "top-1 accuracy"]
    assert rows == [["top-1 accuracy", f"{100 * top1:.1f} %", "62.5 %"]]
    assert [row[2] for row in page.cells if row[0] == "few-shot accuracy"] == ["–"]
    text = page.text("Corrected for another class mix")
    assert "metricas trainedcorrectedto <uniform>, strength 1" in text
    assert "Weighted" not in text
    assert ["class mix", *TESTS] in page.cells
    assert [row for row in page.cells if row[0] == "none"] == [["none", "50.0", "40.0", "30.0"]]
    assert page.row("given, kept")[1:] == ["125.0", "–", "90.0"]
    assert "Top-1 accuracy in percent" in text
    assert "All rows but “none” start from logits calibrated by vector, fitted on 9 samples." in text
    assert "none: nothing is known of the test set's class mix" in text
    assert "kept: share of what the given mix gains" in text
    assert "trend:" not in text  # there is no such row
    assert len(page.images) == len(FIGURES) + 1


@pytest.mark.usefixtures("quick")
def test_a_correction_says_what_it_was_tuned_on_and_gains_on_its_own_class_mix(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    correct(path, target_prior=[0.5, 0.5], top1_on_target={"uncorrected": 0.3, "corrected": 0.75}, shifted=None)
    text = Page(write_report(path)).text("Corrected for another class mix")
    assert "Tuned on 9 samples." in text
    assert "Weighted to the class mix that is corrected for, top-1 is 75.0 %, and 30.0 % without." in text
    assert "class mixes, all drawn" not in text
    # An estimate is not scored against itself, as version 0.1 did.
    correct(path, target_prior=[0.5, 0.5], top1_on_target={"corrected": 0.9}, description="to estimate, strength 1")
    text = Page(write_report(path)).text("Corrected for another class mix")
    top1 = json.loads((path / "summary.json").read_text())["final"]["top1"]
    assert f"whose class mix was estimated, top-1 is 62.5 %, and {100 * top1:.1f} % without." in text
    assert "Weighted" not in text
    correct(path, shifted=SHIFTED | HOW | {"calibration": "none"}, from_prior_reason="<mixing> with even classes")
    page = write_report(path).read_text()
    assert "calibrated by" not in page
    assert "Prior of the logits: &lt;mixing&gt; with even classes." in page


@pytest.mark.usefixtures("corrections_drawn")
def test_the_strength_of_a_correction_has_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple] = []
    original = plots.accuracy_against_lambda
    monkeypatch.setattr(plots, "accuracy_against_lambda", lambda *words: drawn.append(words) or original(*words))
    path = make_run(tmp_path / "run")
    correct(path, strength=0.5, strength_curve={"strengths": [0, 0.5, 1], "accuracy": [0.3, 0.5, 0.4]}, shifted=None)
    assert len(Page(write_report(path)).images) == len(FIGURES) + 1
    assert drawn == [({"held-out accuracy": [0.3, 0.5, 0.4]}, [0, 0.5, 1], 0.5)]
    correct(path, strength=0.5, strength_curve={"strengths": [0, 0.5, 1]}, shifted=None)
    assert "Not drawn" in Page(write_report(path)).text("Accuracy by the strength of the correction")


@pytest.mark.parametrize("write", [correct, correct_as_in_0_1])
@pytest.mark.usefixtures("corrections_drawn")
def test_the_figure_of_a_correction_has_its_accuracies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr(plots, "shifted_test_accuracy", drawn.append)
    path = make_run(tmp_path / "run")
    write(path)
    write_report(path)
    assert drawn == [{name: SHIFTED[name] for name in ("none", "given")}]


@pytest.mark.parametrize("name", ["corrected.json", "shifted.csv"])
@pytest.mark.parametrize("content", ["", "3", "[1, 2", "prior\n", "x,y\n1,2\n"])
@pytest.mark.usefixtures("quick")
def test_a_damaged_correction_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = make_run(tmp_path / "run")
    correct_as_in_0_1(path)
    (path / name).write_text(content)
    page = Page(write_report(path))
    assert f"{name} could not be read" in page.sections["Corrected for another class mix"]


@pytest.mark.parametrize("content", ["prior,sideways 3\nnone,0.1\n", "prior,uniform\n<b>,<b>,3,4\n", "prior\nnone\n"])
@pytest.mark.usefixtures("corrections_drawn")
def test_an_odd_correction_of_0_1_makes_a_page(tmp_path: Path, content: str) -> None:
    path = make_run(tmp_path / "run")
    correct(path, uncorrected=None, final={"top1": "<i>", "other": 3}, description=None, shifted=None)
    (path / "shifted.csv").write_text(content)
    assert_self_contained(page := Page(write_report(path)))
    assert "<b>" not in page.source
    assert "<i>" not in page.source


@pytest.mark.parametrize(
    "changes",
    [
        {"shifted": 3},
        {"shifted": {}},
        {"shifted": {"none": 3}},
        {"shifted": {"none": {}}},
        {"shifted": {"none": {"sideways 3": 0.1}, "given": {"uniform": "<i>"}}},
        {"shifted": {"none": {"uniform": 0.1}, "calibration": "temperature", "tuned_on": "4 samples"}},
        {"strength_curve": {}},
        {"strength_curve": 3, "top1_on_target": {}, "target_prior": [1]},
        {"uncorrected": None, "final": None},
    ],
)
@pytest.mark.usefixtures("corrections_drawn")
def test_an_odd_correction_makes_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = make_run(tmp_path / "run")
    correct(path, **changes)
    assert_self_contained(page := Page(write_report(path)))
    assert "<i>" not in page.source
    assert "Settings" in page.sections
    assert_self_contained(Page(write_comparison([path], tmp_path / "all.html")))


# Sections of a recipe's own


@pytest.mark.usefixtures("quick")
def test_own_sections_stand_after_the_figures_and_are_kept_for_later_calls(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    card = figure_html(plots.class_counts([9, 1]), alt="Two bars.", caption="a < b", html="<p>between</p>")
    image = '<img src="data:," alt="Two bars." width="520" height="320">'
    assert card == f"<figure>{image}<p>between</p><figcaption>a &lt; b</figcaption></figure>"
    page = Page(write_report(path, sections=[("Sounds & clips", card), ("More", "<p>words</p>")]))
    assert_self_contained(page)
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings[:5] == ["Metrics", "Figures", "Sounds &amp; clips", "More", "Worst and best classes"]
    assert page.sections["Sounds & clips"].strip() == "betweena < b"
    assert write_report(path).read_text() == page.source  # as `ltaug correct` writes it again
    replaced = Page(write_report(path, sections=[("Other", "<p>words</p>")]))
    assert "Other" in replaced.sections
    assert "More" not in replaced.sections


# Several labels a sample


def several_labels(path: Path, num_labels: int = 6) -> Path:
    counts = exponential_counts(300, num_labels, 60)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, num_labels, generator=generator) * 2 - 2
    labels = torch.rand(200, num_labels, generator=generator) < logits.sigmoid()
    labels[:, -1] = False  # a label without positives
    final = metrics.multilabel_report(logits.sigmoid(), labels, counts)
    run = RunFolder(path, {"loss": "prior_corrected"}, data={"class_counts": counts})
    for epoch in range(3):
        run.log(epoch=epoch, loss=1.0 - epoch / 4, lr=0.1, **final)
    run.save_logits(logits, labels)
    names = [f"finding {i}" for i in range(num_labels)]
    precisions = metrics.average_precision(logits.sigmoid(), labels)
    run.save_per_class(names, counts, precisions, "test_average_precision")
    summary = {"name": "bayias", "final": final, "class_counts": counts, "class_names": names, "epochs": 3}
    run.write_json("summary.json", summary)
    return path


@pytest.mark.usefixtures("drawn")
def test_a_run_of_several_labels_has_figures_of_its_own(
    tmp_path: Path, asked: dict[str, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = several_labels(tmp_path / "run")
    page = Page(write_report(path))
    assert_self_contained(page)
    assert {"Average precision of every label", "Reliability of every label", "Training samples"} <= set(page.sections)
    assert not {"Confusions", "Logits of every class", "Confidence during training"} & set(page.sections)
    assert (len(page.images), "Not drawn" in page.source) == (4, False)
    logits, labels = RunFolder.open(path).load_logits()
    probs, rows, counts = asked["labelwise_reliability"]
    assert torch.equal(probs, logits.sigmoid())
    assert torch.equal(rows, labels)
    precision = metrics.average_precision(logits.sigmoid(), labels)
    torch.testing.assert_close(asked["per_label_precision"][0], precision, equal_nan=True)
    assert page.row("finding 0") == ["finding 0", "300", f"{100 * precision[0]:.1f} %"]
    assert page.row("few-shot mAP")[1].endswith(" %")
    assert page.row("unscored labels")[1] == "1"
    assert "1 label without positives is left out" in page.text("Worst and best labels")
    assert f"have 6 labels, {int(counts.sum()):,} times in all" in page.text("Data")
    # From the table alone, and beside a run of classes, of which it has no figure.
    (path / "logits.safetensors").unlink()
    page = Page(write_report(path))
    torch.testing.assert_close(asked["per_label_precision"][0], precision, atol=1e-5, rtol=0, equal_nan=True)
    assert "logits.safetensors is not there" in page.sections["Reliability of every label"]
    both = [several_labels(tmp_path / "again"), make_run(tmp_path / "classes", 6)]
    assert "finding" not in write_comparison(both, tmp_path / "all.html").read_text().split("<h2>Settings")[0]


# Runs that are not complete


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert page.images == []
    assert "No result yet" in page.source
    for name in (
        "summary.json",
        "metrics.jsonl",
        "config.yaml",
        "environment.json",
        "command.txt",
        "logits.safetensors",
    ):
        assert f"<code>{name}</code> is not there." in page.source


@pytest.mark.usefixtures("drawn")
def test_a_run_in_progress_shows_its_last_evaluated_epoch(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    for name in ("summary.json", "logits.safetensors", "per_class.csv"):
        (path / name).unlink()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "loss": 1.0}\n{"epoch": 5, "lo')  # being written
    page = Page(write_report(path))
    assert len(page.images) == 2  # learning curves, confidence
    assert "In progress or broken off" in page.source
    assert "Numbers are those after 4 epochs." in " ".join(page.source.split())
    top1 = json.loads((path / "metrics.jsonl").read_text().splitlines()[3])["top1"]
    assert page.row("top-1 accuracy")[1] == f"{100 * top1:.1f} %"


@pytest.mark.usefixtures("quick")
def test_without_logits_the_table_of_classes_is_enough_for_accuracy(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "logits.safetensors").unlink()
    page = Page(write_report(path))
    assert len(page.images) == 4
    assert "logits.safetensors is not there" in page.sections["Logits of every class"]
    assert "logits.safetensors is not there" in page.sections["Reliability"]
    assert page.row("name 0")[3] == "–"
    assert "is not known: logits.safetensors is not there." in page.sections["Worst and best classes"]


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "environment.json", "logits.safetensors"])
@pytest.mark.parametrize("content", ["", "[1, 2", "3"])
@pytest.mark.usefixtures("quick")
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = make_run(tmp_path / "run")
    (path / name).write_text(content)
    assert f"<code>{name}</code> could not be read" in Page(write_report(path)).source


@pytest.mark.parametrize(
    "summary",
    [
        {"class_counts": [5, 4]},
        {"class_counts": "many"},
        {"class_counts": [0] * 10},
        {"class_names": ["too few"]},
        {"final": {}},
        {"final": None, "wall_time_s": "long", "parameters": None},
    ],
)
@pytest.mark.usefixtures("drawn")
def test_odd_summaries_make_a_page(tmp_path: Path, summary: dict[str, Any]) -> None:
    assert_self_contained(Page(write_report(make_run(tmp_path / "run", **summary))))


@pytest.mark.usefixtures("drawn")
def test_a_model_that_diverged_makes_a_page(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    run = RunFolder(tmp_path / "other", {})
    run.save_logits(torch.full((4, 10), math.nan), torch.tensor([0, 1, 2, 3]))
    (run.path / "logits.safetensors").replace(path / "logits.safetensors")
    page = Page(write_report(path))
    assert "Not drawn. `probs` must be finite" in page.sections["Reliability"]
    assert len(page.images) == len(FIGURES) - 3  # nor are its logits and mean probabilities drawn


def test_without_matplotlib_the_page_has_no_figure_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = Page(write_report(path))
    assert page.images == []
    assert "needs matplotlib" in page.sections["Learning curves"]
    assert page.row("top-1 accuracy")[1].endswith(" %")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        write_comparison([tmp_path / "nothing"], tmp_path / "all.html")
    with pytest.raises(ValueError, match="`run_dirs` is empty"):
        write_comparison([], tmp_path / "all.html")


# Comparisons


@pytest.mark.usefixtures("quick")
def test_a_comparison_marks_the_best_and_links_the_reports(tmp_path: Path) -> None:
    good = {"top1": 0.45, "many": 0.6, "few": 0.2, "ece": 0.05}
    bad = {"top1": 0.38, "many": 0.7, "few": 0.05, "ece": 0.20}
    a = make_run(tmp_path / "runs" / "a run", name="UniMix", final=good)
    b = make_run(tmp_path / "runs" / "b", name="plain", final=bad)
    write_report(a)
    (tmp_path / "pages").mkdir()
    page = Page(write_comparison([a, b], tmp_path / "pages" / "all.html", title="Two runs"))
    assert_self_contained(page)
    assert len(page.images) == 6
    assert page.links == ["../runs/a%20run/report.html"]  # b has no report yet
    (heads,) = (row for row in page.cells if row[0] == "run")
    assert heads == ["run", "top-1 %", "many %", "few %", "ECE15 %", "epochs", "seed", "time", "parameters"]
    assert page.row("UniMix") == ["UniMix", "45.0", "60.0", "20.0", "5.0", "4", "7", "2 h 35 min", "0.47 M"]
    strong = re.findall(r"<strong>(.*?)</strong>", page.source)
    assert strong == ["45.0", "20.0", "5.0", "70.0"]


@pytest.mark.usefixtures("quick")
def test_runs_of_one_name_and_equal_settings_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    page = Page(write_comparison([make_run(tmp_path / f"seed{i}") for i in range(2)], tmp_path / "all.html"))
    assert page.row("unimix_bayias (seed0)")
    assert page.row("unimix_bayias (seed1)")
    assert "All settings are the same." in page.source
    deeper = [make_run(tmp_path / parent / "seed0") for parent in ("one", "two")]
    page = Page(write_comparison([*deeper, deeper[0], make_run(tmp_path / "x", name="other")], tmp_path / "all.html"))
    assert page.row("unimix_bayias (two/seed0)")
    assert page.row("other")
    whole = "/".join((tmp_path / "one" / "seed0").resolve().parts[1:])
    assert page.row(f"unimix_bayias ({whole}) #1")  # one folder, twice
    assert page.row(f"unimix_bayias ({whole}) #2")


@pytest.mark.parametrize("content", [b"", b'[["a"', b"\xff\x00", b"3", b"[[1, 2]]", b'{"a": 1}', b"[" * 99_999])
def test_damaged_sections_are_named(tmp_path: Path, content: bytes, quick: None) -> None:
    path = make_run(tmp_path / "run")
    write_report(path, [("Mine", "<p>here</p>")])
    (path / "sections.json").write_bytes(content)
    assert Page(write_report(path)).text("Sections of the data").startswith("sections.json could not be read (")


@pytest.mark.parametrize("name", ["config.yaml", "logits.safetensors", "data.json", "metrics.jsonl", "per_class.csv"])
def test_a_comparison_names_damaged_files(tmp_path: Path, name: str, quick: None) -> None:
    a, b = make_run(tmp_path / "a", name="one"), make_run(tmp_path / "b", name="two")
    assert "is damaged" not in write_comparison([a, b], tmp_path / "all.html").read_text()
    (b / name).unlink()
    (b / name).mkdir()
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert f"two is damaged: {name} could not be read (" in page.text("Results")


@pytest.fixture
def three_hundred(tmp_path: Path) -> list[Path]:
    """Runs of ten methods that differ in seed and learning rate, of top-1 accuracy 0.001 to 0.3."""
    runs = [make_run(tmp_path / "000", seed=0)]
    for k in range(300):
        path = tmp_path / f"{k:03d}"
        path.mkdir(exist_ok=True)
        final = {"top1": (k + 1) / 1000, "many": 0.5, "ece": 0.1}
        values = json.loads((runs[0] / "summary.json").read_text()) | {"name": f"method{k % 10}", "final": final}
        (path / "summary.json").write_text(json.dumps(values))
        (path / "config.yaml").write_text(f"seed: {k % 100 // 10}\nlr: {0.1 * (k // 100 + 1):g}\nout: {k}\n")
        if k:
            for name in ("logits.safetensors", "metrics.jsonl", "per_class.csv"):
                os.link(runs[0] / name, path / name)
            runs.append(path)
    return runs


def test_a_comparison_of_hundreds_of_runs_can_be_read(
    three_hundred: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    for name in ("compare_shot_accuracy", "compare_per_class_accuracy"):
        original = getattr(plots, name)
        monkeypatch.setattr(
            plots,
            name,
            lambda runs, *more, original=original, **words: (drawn.append(list(runs)), original(runs, *more, **words))[
                1
            ],
        )
    begin = time.process_time()
    page = Page(write_comparison(three_hundred, tmp_path / "all.html"))
    assert time.process_time() - begin < 20
    assert (tmp_path / "all.html").stat().st_size < 1_000_000
    best, worst = range(299, 291, -1), range(3, -1, -1)
    names = [f"method{k % 10} (seed {k % 100 // 10}, lr {0.1 * (k // 100 + 1):g})" for k in (*best, *worst)]
    assert drawn == [names, names]
    assert (
        "figure: these show the 8 best and the 4 worst by top-1 accuracy, the tables above and below all 300 runs"
        in (page.text("Figures"))
    )
    (head,) = [k for k, row in enumerate(page.cells) if row == ["run", "seed", "lr"]]
    assert sum(row[0].startswith("method") for row in page.cells[:head]) == 300  # the results
    assert page.cells[head + 1 :] == [
        [
            f"method{k % 10} (seed {k % 100 // 10}, lr {0.1 * (k // 100 + 1):g})",
            str(k % 100 // 10),
            f"{0.1 * (k // 100 + 1):g}",
        ]
        for k in range(300)
    ]


def test_a_comparison_of_28_runs_draws_all(three_hundred: list[Path], tmp_path: Path, quick: None) -> None:
    page = Page(write_comparison(three_hundred[:28], tmp_path / "all.html"))
    assert "best and the" not in page.text("Figures")
    assert ["setting", *(f"method{k % 10} (seed {k // 10})" for k in range(28))] in page.cells


@pytest.mark.usefixtures("quick")
def test_settings_that_differ_are_listed_and_no_others(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "config.yaml").write_text(
        "loss: ce\nlr: 0.1\ndecay_at: [0.6, 0.8]\nset: {alpha: 0.9}\nseed: 0\nmixer: mixup\nmethod: b\nout: b\n"
    )
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert page.row("loss") == ["loss", "bayias", "ce"]
    assert page.row("mixer") == ["mixer", "–", "mixup"]
    assert page.row("set.alpha") == ["set.alpha", "0.5", "0.9"]
    assert not [row for row in page.cells if row[0] in ("lr", "method", "out")]
    for name, text in (("a", "lr: 0.1\nhub_id: null\n"), ("b", "lr: 0.2\n")):  # not set is as good as not there
        (tmp_path / name / "config.yaml").write_text(text)
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert ["setting", "unimix_bayias (lr 0.1)", "unimix_bayias (lr 0.2)"] in page.cells
    assert not [row for row in page.cells if row[0] == "hub_id"]


@pytest.mark.usefixtures("quick")
def test_runs_on_different_data_are_pointed_out(tmp_path: Path) -> None:
    a, same, other = (make_run(tmp_path / name) for name in ("a", "b", "c"))
    facts = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(facts | {"training_indices": "other"}))
    warning = "did not all see the same data"
    assert warning not in write_comparison([a, same], tmp_path / "x.html").read_text()
    page = " ".join(write_comparison([a, other], tmp_path / "x.html").read_text().split())
    assert warning in page
    assert "different fingerprints for training_indices.</p>" in page


@pytest.mark.usefixtures("quick")
def test_a_fingerprint_of_0_1_is_that_of_the_training_indices(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, index_hash=name) for name in ("one", "two")]
    for run in runs:
        (run / "data.json").unlink()
    assert "different fingerprints\nfor index_hash." in write_comparison(runs, tmp_path / "x.html").read_text()
    assert Page(write_report(runs[0])).row("index_hash")[1] == "one"


@pytest.mark.usefixtures("drawn")
def test_curves_are_only_drawn_over_the_same_class_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []
    original = plots.compare_per_class_accuracy
    monkeypatch.setattr(
        plots,
        "compare_per_class_accuracy",
        lambda runs, counts, **options: drawn.append([*runs]) or original(runs, counts, **options),
    )
    a, b = make_run(tmp_path / "a", name="A"), make_run(tmp_path / "b", num_classes=5, name="B")
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert drawn == [["A"]]
    assert "Not shown (no test logits, or different class counts): B." in page.sections["Accuracy of every class"]


@pytest.mark.usefixtures("quick")
def test_corrections_are_compared(tmp_path: Path) -> None:
    final = {"top1": 0.45, "ece": 0.05}
    a, b = (make_run(tmp_path / name, name=name, final=final) for name in ("one", "two"))
    assert "Corrected for another class mix" not in write_comparison([a, b], tmp_path / "all.html").read_text()
    correct(b)
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert_self_contained(page)
    assert [row for row in page.cells if "to <uniform>, strength 1" in row] == [
        ["two", "to <uniform>, strength 1", "45.0", "62.5", "5.0", "5.0"]
    ]
    assert page.row("given") == ["given", "70.0", "45.0", "60.0"]
    assert not [row for row in page.cells if row[0].endswith("kept")]


@pytest.mark.usefixtures("drawn")
def test_a_run_in_progress_can_be_compared(tmp_path: Path) -> None:
    a, b, c = (make_run(tmp_path / name, name=name) for name in "abc")
    for name in ("summary.json", "logits.safetensors", "per_class.csv"):
        (b / name).unlink()
        (c / name).unlink()
    (c / "metrics.jsonl").unlink()
    page = Page(write_comparison([a, b, c], tmp_path / "all.html"))
    top1 = json.loads((b / "metrics.jsonl").read_text().splitlines()[3])["top1"]
    assert page.row("bin progress, after 4 epochs")[1] == f"{100 * top1:.1f}"
    assert page.row("cno result yet")[1] == "–"
    assert len(page.images) == 2


def drawn_side_by_side(monkeypatch: pytest.MonkeyPatch, runs: list[Path], page: Path) -> list[list[str]]:
    names: list[list[str]] = []
    original = plots.compare_reliability_diagrams
    with monkeypatch.context() as patch:
        patch.setattr(
            plots,
            "compare_reliability_diagrams",
            lambda probs, labels: names.append([*probs]) or original(probs, labels),
        )
        write_comparison(runs, page)
    return names


@pytest.mark.usefixtures("drawn")
def test_few_runs_with_the_same_test_samples_are_drawn_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / name, name=name) for name in "abcdefg"]
    page = tmp_path / "all.html"
    assert drawn_side_by_side(monkeypatch, runs[:6], page) == [list("abcdef")]
    assert drawn_side_by_side(monkeypatch, runs, page) == []  # the panels would be too small
    assert drawn_side_by_side(monkeypatch, runs[:1], page) == []
    logits, labels = RunFolder.open(runs[1]).load_logits()
    RunFolder.open(runs[1]).save_logits(logits, labels.flip(0))
    (runs[2] / "logits.safetensors").unlink()
    assert drawn_side_by_side(monkeypatch, runs[:4], page) == [["a", "d"]]
    monkeypatch.setattr(_pages, "SIDE_BY_SIDE_BYTES", 1000)
    assert drawn_side_by_side(monkeypatch, runs[:4], page) == []
    assert "Violins" not in page.read_text()


def test_results_table() -> None:
    nan = float("nan")
    final = {"top1": 0.4, "few": nan, "classwise_ece": 0.0123456, "nll": 2.5, "ece": 0.0049}
    columns = {"top1": "top-1", "few": "few", "classwise_ece": "cw", "nll": "NLL", "ece": "ECE15", "brier": "Brier"}
    lines = results_table({"erm": final, "a longer name": {"top1": 1.0}}, columns).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["", "top-1 %", "few %", "cw", "NLL", "ECE15 %", "Brier"],
        ["---"] + ["---:"] * 6,
        ["erm", "40.0", "–", "0.01235", "2.500", "0.5", "–"],
        ["a longer name", "100.0", "–", "–", "–", "–", "–"],
    ]
    errors = results_table({"erm": final}, columns, errors=["top1", "few"]).splitlines()[2]
    assert [cell.strip() for cell in errors.strip("|").split("|")][:3] == ["erm", "60.0", "–"]


# The package


CARDS = ("card.md.j2", "data_card.md.j2")
"""Cards of the hub: they are read there by strangers, whom they tell the commands."""


def test_templates_and_style_are_beside_the_code_and_name_no_undefined_value(tmp_path: Path) -> None:
    """A wheel holds all files below ltaug; a value that a template asks for and does not get is an error."""
    folder = Path(_pages.__file__).parent / "templates"
    names = {path.name for path in folder.iterdir()}
    pages = {"base.html.j2", "comparison.html.j2", "fusion.html.j2", "page.html.j2", "pieces.html.j2", "style.css"}
    assert names == {*pages, "explorer.css", "explorer.html.j2", "explorer.js", *CARDS}
    with pytest.raises(UndefinedError, match="'nothing' is undefined"):
        _pages._templates().from_string("{{ nothing }}").render()
    assert _pages._templates().from_string("{{ text }}").render(text="<b>") == "&lt;b&gt;"


KNOWN_ONLY_TO_RECIPES = re.compile(
    r"data_dir|--\w|held_out_per_class|clips_per_second|images_per_second|shifted\.(csv|json|png)"
)


def test_pages_know_no_setting_of_a_recipe_and_old_names_stand_in_one_place() -> None:
    folder = Path(_pages.__file__).parent
    found = {
        path.name: sorted({match[0] for match in KNOWN_ONLY_TO_RECIPES.finditer(path.read_text())})
        for path in folder.rglob("*")
        if path.suffix in (".py", ".j2") and path.name not in ("_card.py", *CARDS)
    }
    assert {name: words for name, words in found.items() if words} == {"_old.py": ["shifted.csv", "shifted.json"]}
    assert KNOWN_ONLY_TO_RECIPES.search("Train with `--held_out 5`.")  # negative twin
