"""Report pages: what they show of a run, what they say of one that is not complete, and what they never load."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import sys
import warnings
import wave
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltaug import metrics, plots, report
from ltaug.longtail import exponential_counts
from ltaug.report import audio_html, figure_html, results_table, write_comparison, write_report
from ltaug.run import RunFolder

pytest.importorskip("matplotlib")

FIGURES = [
    "Learning curves",
    "Confidence during training",
    "Accuracy of every class",
    "Confusions",
    "Reliability",
    "Training samples",
]


class Page(HTMLParser):
    """A page as a browser reads it: tags, cells of tables, and the text below each heading."""

    VOID = ("meta", "img", "br", "link", "hr")

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
            self.cells[-1][-1] += data

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
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but not encoded, which takes most of the time."""
    monkeypatch.setattr(report, "_image", lambda figure, alt: f'<img src="data:," alt="{alt}">')


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
    run = RunFolder(path, {"loss": "bayias", "lr": 0.1, "decay_epochs": [3, 4], "seed": 0})
    for epoch in range(4):
        run.log(epoch=epoch, loss=4.0 - epoch, lr=0.1, **(final if epoch % 2 else {}))
    run.save_logits(logits, labels)
    run.save_per_class(names, counts, metrics.per_class_accuracy(logits.softmax(1), labels))
    values = {
        "name": "unimix_bayias",
        "final": final,
        "wall_time_s": 9312.4,
        "images_per_second": 2210.0,
        "parameters": 470292,
        "peak_memory_bytes": 3 * 2**29,
        "index_hash": "0a1b2c",
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
    assert page.row("decay_epochs")[1] == "[3, 4]"
    assert page.row("packages.numpy")[1] == np.__version__
    assert (path / "command.txt").read_text().strip() in page.sections["Command"]
    assert "0a1b2c" in page.sections["Training subset"]
    assert "name 9: 5" in page.sections["Training subset"]


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
    assert page.sections["Best"].startswith("classtraining samplesaccuracymost often taken forcow")


@pytest.mark.usefixtures("quick")
def test_an_empty_shot_group_is_a_dash(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", final={"top1": 0.5, "many": 0.5, "few": math.nan})
    page = Page(write_report(path))
    assert page.row("few-shot accuracy")[1] == "–"
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r'src="[^"]*"', "", page.source))


@pytest.mark.usefixtures("quick")
def test_speed_is_shown_of_clips_as_of_images(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {})
    run.write_json("summary.json", {"clips_per_second": 81.6})
    assert Page(write_report(run.path)).row("speed")[1] == "82 / s"


@pytest.mark.usefixtures("quick")
def test_text_from_the_run_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    path = make_run(tmp_path / "run", name=evil, index_hash=evil, class_names=[evil] * 10, seed=evil, dataset=evil)
    (path / "command.txt").write_text(evil)
    (path / "config.yaml").write_text(json.dumps({evil: evil}))
    (path / "environment.json").write_text(json.dumps({evil: {evil: evil}}))
    run = write_report(path)
    comparison = write_comparison([path, make_run(tmp_path / "b")], tmp_path / "all.html", title=evil)
    for page in (Page(run), Page(comparison)):
        assert_self_contained(page)
        assert "<script" not in page.source
        assert "&lt;script&gt;" in page.source


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


@pytest.mark.parametrize("num_classes", [2, 8142])
def test_few_and_many_classes_stay_below_two_megabytes(tmp_path: Path, num_classes: int) -> None:
    run = RunFolder(tmp_path / "run", {})
    counts = exponential_counts(500, num_classes, 100)
    labels = torch.randint(num_classes, (500,), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(500, num_classes, generator=torch.Generator().manual_seed(1))
    run.save_logits(logits, labels)
    run.log(epoch=0, loss=1.0, top1=0.5, confidence=0.6)
    run.write_json(
        "summary.json",
        {"class_counts": counts, "class_names": [f"a long species name {i}" for i in range(num_classes)]},
    )
    written = write_report(run.path)
    assert len(Page(written).images) == len(FIGURES)
    assert written.stat().st_size < 2_000_000


# Corrections after the training

TESTS = ("forward 50", "uniform", "backward 50")


def correct(path: Path, **changes: Any) -> None:
    """What evaluate.py of a recipe leaves in a run folder."""
    final = json.loads((path / "summary.json").read_text())["final"]
    corrected = {"said": "to <uniform>, strength 1", "tuned_on": "9 samples", "uncorrected": final}
    corrected |= {"final": {**final, "top1": 0.625, "few": None}}
    (path / "corrected.json").write_text(json.dumps(corrected | changes))
    rows = [["prior", "logits", *TESTS], ["none", "as trained", 0.5, 0.4, 0.3], ["given", "vector", 0.7, 0.45, 0.6]]
    rows.append(['"given, kept"', "vector", 1.25, "", 0.9])
    (path / "shifted.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def test_a_correction_is_shown_before_and_after(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert "Corrected for another class mix" not in write_report(path).read_text()
    correct(path)
    page = Page(write_report(path))
    assert_self_contained(page)
    top1 = json.loads((path / "summary.json").read_text())["final"]["top1"]
    rows = [row for row in page.cells if row[0] == "top-1 accuracy"]
    assert rows == [["top-1 accuracy", f"{100 * top1:.1f} %", "62.5 %"]]
    assert [row[2] for row in page.cells if row[0] == "few-shot accuracy"] == ["–"]
    assert "metricas trainedcorrectedto <uniform>, strength 1" in page.sections["Corrected for another class mix"]
    assert "Tuned on 9 samples." in page.sections["Corrected for another class mix"]
    assert "Weighted" not in page.sections["Corrected for another class mix"]
    correct(path, target_prior=[0.5, 0.5], top1_on_target={"uncorrected": 0.3, "corrected": 0.75})
    said = "Weighted to the class mix that is corrected for, top-1 is 75.0 %, and 30.0 % without."
    assert said in Page(write_report(path)).sections["Corrected for another class mix"]
    assert ["class mix", "logits", *TESTS] in page.cells
    assert page.row("nonenothing is known")[1:] == ["as trained", "50.0 %", "40.0 %", "30.0 %"]
    assert page.row("given, kept")[1:] == ["vector", "125.0 %", "–", "90.0 %"]
    assert len(page.images) == len(FIGURES) + 1


def test_the_figure_of_a_correction_has_its_accuracies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr(plots, "shifted_test_accuracy", drawn.append)
    path = make_run(tmp_path / "run")
    correct(path)
    write_report(path)
    values = {"none": (0.5, 0.4, 0.3), "given": (0.7, 0.45, 0.6)}
    assert drawn == [{name: dict(zip(TESTS, numbers, strict=True)) for name, numbers in values.items()}]


@pytest.mark.parametrize("name", ["corrected.json", "shifted.csv"])
@pytest.mark.parametrize("content", ["", "3", "[1, 2", "prior\n", "x,y\n1,2\n"])
@pytest.mark.usefixtures("quick")
def test_a_damaged_correction_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = make_run(tmp_path / "run")
    correct(path)
    (path / name).write_text(content)
    page = Page(write_report(path))
    assert f"{name} could not be read" in page.sections["Corrected for another class mix"]


@pytest.mark.parametrize("content", ["prior,sideways 3\nnone,0.1\n", "prior,uniform\n<b>,<b>,3,4\n", "prior\nnone\n"])
@pytest.mark.usefixtures("quick")
def test_an_odd_correction_makes_a_page(tmp_path: Path, content: str) -> None:
    path = make_run(tmp_path / "run")
    correct(path, uncorrected=None, final={"top1": "<i>", "other": 3}, said=None)
    (path / "shifted.csv").write_text(content)
    assert_self_contained(page := Page(write_report(path)))
    assert "<b>" not in page.source
    assert "<i>" not in page.source


# Sections of a recipe's own


@pytest.mark.usefixtures("quick")
def test_own_sections_stand_after_the_figures_and_only_if_they_are_passed(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    card = figure_html(plots.class_counts([9, 1]), alt="Two bars.", caption="a < b", html="<p>between</p>")
    assert card == '<figure><img src="data:," alt="Two bars."><p>between</p><figcaption>a &lt; b</figcaption></figure>'
    page = Page(write_report(path, sections=[("Sounds & clips", card), ("More", "<p>words</p>")]))
    assert_self_contained(page)
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings[:5] == ["Metrics", "Figures", "Sounds &amp; clips", "More", "Worst and best classes"]
    assert page.sections["Sounds & clips"].strip() == "betweena < b"
    assert "Sounds" not in write_report(path).read_text()


@pytest.mark.parametrize("kind", ["float32", "float64", "int16"])
def test_a_player_carries_the_samples_of_its_sound(kind: str) -> None:
    samples = np.array([0, 1, -1, 12345, 2**15 - 1, -(2**15)], dtype=np.int16)
    waveform = samples if kind == "int16" else torch.from_numpy(samples / 2**15).to(getattr(torch, kind))
    html = audio_html(waveform, 22050, 'a "dog" & more')
    (encoded,) = re.findall(r'src="data:audio/wav;base64,([^"]*)"', html)
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(6), dtype="<i2"), samples)
    assert html.count("a &quot;dog&quot; &amp; more") == 2


def test_a_sound_beyond_full_scale_keeps_its_shape() -> None:
    """Clipped, its two peaks would be equal."""
    (encoded,) = re.findall(r"base64,([^\"]*)", audio_html(torch.tensor([2.0, -4.0, 1.0]), 8000, ""))
    samples = np.frombuffer(base64.b64decode(encoded)[44:], dtype="<i2")
    np.testing.assert_array_equal(samples, [2**14, -(2**15), 2**13])


@pytest.mark.parametrize(
    ("waveform", "sample_rate", "message"),
    [
        (torch.zeros(2, 100), 8000, r"`waveform` must be one channel .* shape \[2, 100\]. Take one channel"),
        (torch.zeros(0), 8000, r"`waveform` must be one channel of at least one sample"),
        (torch.zeros(10, dtype=torch.int32), 8000, "`waveform` must be int16 or fractions .* is int32"),
        (torch.tensor([0.0, math.nan]), 8000, "`waveform` must be finite"),
        (torch.zeros(80_001), 8000, "`waveform` must last at most 10 s, .* lasts 10.0 s. Cut it"),
        (torch.zeros(10), 0, "`sample_rate` must be a positive whole number"),
        (torch.zeros(10), 44.1, "`sample_rate` must be a positive whole number .* is 44.1"),
    ],
)
def test_sounds_that_cannot_be_carried_are_refused(waveform: torch.Tensor, sample_rate: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audio_html(waveform, sample_rate, "")


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


def test_a_run_in_progress_shows_its_last_evaluated_epoch(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    for name in ("summary.json", "logits.safetensors", "per_class.csv"):
        (path / name).unlink()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "loss": 1.0}\n{"epoch": 5, "lo')  # being written
    page = Page(write_report(path))
    assert len(page.images) == 2  # learning curves, confidence
    assert "In progress or broken off" in page.source
    assert "after 4 epochs" in page.source
    top1 = json.loads((path / "metrics.jsonl").read_text().splitlines()[3])["top1"]
    assert page.row("top-1 accuracy")[1] == f"{100 * top1:.1f} %"


@pytest.mark.usefixtures("quick")
def test_without_logits_the_table_of_classes_is_enough_for_accuracy(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "logits.safetensors").unlink()
    page = Page(write_report(path))
    assert len(page.images) == 4
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
@pytest.mark.usefixtures("quick")
def test_odd_summaries_make_a_page(tmp_path: Path, summary: dict[str, Any]) -> None:
    assert_self_contained(Page(write_report(make_run(tmp_path / "run", **summary))))


def test_a_model_that_diverged_makes_a_page(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    run = RunFolder(tmp_path / "other", {})
    run.save_logits(torch.full((4, 10), math.nan), torch.tensor([0, 1, 2, 3]))
    (run.path / "logits.safetensors").replace(path / "logits.safetensors")
    page = Page(write_report(path))
    assert "Not drawn. `probs` must be finite" in page.sections["Reliability"]
    assert len(page.images) == len(FIGURES) - 1


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
    assert len(page.images) == 2
    assert page.links == ["../runs/a%20run/report.html"]  # b has no report yet
    (heads,) = (row for row in page.cells if row[0] == "run")
    assert heads == ["run", "top-1", "many-shot", "few-shot", "ECE", "epochs", "seed", "time", "parameters"]
    assert page.row("UniMix") == ["UniMix", "45.0 %", "60.0 %", "20.0 %", "5.0 %", "4", "7", "2 h 35 min", "0.47 M"]
    strong = re.findall(r"<strong>(.*?)</strong>", page.source)
    assert strong == ["45.0 %", "20.0 %", "5.0 %", "70.0 %"]


@pytest.mark.usefixtures("quick")
def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    page = Page(write_comparison([make_run(tmp_path / f"seed{i}") for i in range(2)], tmp_path / "all.html"))
    assert page.row("unimix_bayias (seed0)")
    assert page.row("unimix_bayias (seed1)")
    assert "All settings are the same." in page.source


@pytest.mark.usefixtures("quick")
def test_settings_that_differ_are_listed_and_no_others(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "config.yaml").write_text("loss: ce\nlr: 0.1\ndecay_epochs: [3, 4]\nseed: 0\nmixer: mixup\n")
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert page.row("loss") == ["loss", "bayias", "ce"]
    assert page.row("mixer") == ["mixer", "–", "mixup"]
    assert not [row for row in page.cells if row[0] == "lr"]


@pytest.mark.usefixtures("quick")
def test_different_training_subsets_are_pointed_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", index_hash="one")
    same, other = make_run(tmp_path / "b", index_hash="one"), make_run(tmp_path / "c", index_hash="two")
    assert "different training subsets" not in write_comparison([a, same], tmp_path / "x.html").read_text()
    assert "2 different training subsets" in write_comparison([a, other], tmp_path / "x.html").read_text()


def test_curves_are_only_drawn_over_the_same_class_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []
    original = plots.compare_per_class_accuracy
    monkeypatch.setattr(
        plots, "compare_per_class_accuracy", lambda runs, counts: drawn.append([*runs]) or original(runs, counts)
    )
    a, b = make_run(tmp_path / "a", name="A"), make_run(tmp_path / "b", num_classes=5, name="B")
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert drawn == [["A"]]
    assert (
        "Not shown, for want of test logits or because of other class counts: B."
        in page.sections["Accuracy of every class"]
    )


def test_corrections_are_compared(tmp_path: Path) -> None:
    final = {"top1": 0.45, "ece": 0.05}
    a, b = (make_run(tmp_path / name, name=name, final=final) for name in ("one", "two"))
    assert "Corrected for another class mix" not in write_comparison([a, b], tmp_path / "all.html").read_text()
    correct(b)
    page = Page(write_comparison([a, b], tmp_path / "all.html"))
    assert_self_contained(page)
    assert [row for row in page.cells if "to <uniform>, strength 1" in row] == [
        ["two", "to <uniform>, strength 1", "45.0 %", "62.5 %", "5.0 %", "5.0 %"]
    ]
    assert page.row("given") == ["given", "70.0 %", "45.0 %", "60.0 %"]
    assert not [row for row in page.cells if row[0].endswith("kept")]


def test_a_run_in_progress_can_be_compared(tmp_path: Path) -> None:
    a, b, c = (make_run(tmp_path / name, name=name) for name in "abc")
    for name in ("summary.json", "logits.safetensors", "per_class.csv"):
        (b / name).unlink()
        (c / name).unlink()
    (c / "metrics.jsonl").unlink()
    page = Page(write_comparison([a, b, c], tmp_path / "all.html"))
    assert page.row("bin progress, after 4 epochs")[1].endswith(" %")
    assert page.row("cno result yet")[1] == "–"
    assert len(page.images) == 2


def test_results_table() -> None:
    nan = float("nan")
    final = {"top1": 0.4, "few": nan, "classwise_ece": 0.0123456, "nll": 2.5, "ece": 0.0049}
    columns = {"top1": "top-1", "few": "few", "classwise_ece": "cw", "nll": "NLL", "ece": "ECE15", "brier": "Brier"}
    lines = results_table({"erm": final, "a longer name": {"top1": 1.0}}, columns).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["", *columns.values()],
        ["---"] + ["---:"] * 6,
        ["erm", "40.0", "–", "0.01235", "2.500", "0.5", "–"],
        ["a longer name", "100.0", "–", "–", "–", "–", "–"],
    ]
    errors = results_table({"erm": final}, columns, errors=["top1", "few"]).splitlines()[2]
    assert [cell.strip() for cell in errors.strip("|").split("|")][:3] == ["erm", "60.0", "–"]
