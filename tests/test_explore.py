"""The page to play with: what it carries, and that a browser computes from it what the library does."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from torch import Tensor

from ltaug.__main__ import main
from ltaug.correction import weighted_accuracy
from ltaug.errors import UserError
from ltaug.longtail import exponential_counts
from ltaug.metrics import balanced_accuracy, expected_calibration_error, shot_accuracy
from ltaug.posthoc import shift_logits
from ltaug.priors import class_prior
from ltaug.report import _explorer, write_explorer
from ltaug.run import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
browser = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium is on the PATH, and nothing else here runs the page's script"
)


def samples(counts: Tensor, per_class: int, seed: int = 0, scale: float = 1.3) -> tuple[Tensor, Tensor]:
    """Logits of a model that prefers frequent classes, and labels, in no order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    logits = scale * torch.randn(len(labels), len(counts), generator=generator) + class_prior(counts).log().float()
    logits[torch.arange(len(labels)), labels] += 2.0
    return logits, labels


def make_run(path: Path, counts: Tensor, logits: Tensor, labels: Tensor, /, **info: Any) -> Path:
    run = RunFolder(path, {"method": path.name})
    run.save_logits(logits, labels)
    names = [f"class {k}" for k in range(len(counts))]
    what = {"class_names": names, "class_counts": counts, "logits_prior": class_prior(counts), **info}
    run.write_json("ltaug.json", {key: value for key, value in what.items() if value is not ...})
    return path


COUNTS = exponential_counts(600, 8, 60)
GROUPS = (COUNTS > 100, (COUNTS <= 100) & (COUNTS >= 20), COUNTS < 20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs tested on the same samples; the second one is under the uniform prior."""
    folder = tmp_path_factory.mktemp("runs")
    logits, labels = samples(COUNTS, 60)
    others = 2 * logits - class_prior(COUNTS).log().float()
    reason = "the loss took it out"
    uniform = {"logits_prior": [1 / 8] * 8, "logits_prior_reason": reason}
    return [
        make_run(folder / "erm", COUNTS, logits, labels),
        make_run(folder / "bayias", COUNTS, others, labels, **uniform),
    ]


def distances(run: dict[str, Any], num_classes: int) -> Tensor:
    """How far each logit is below the largest one of its row, as the page carries it."""
    levels = np.frombuffer(base64.b64decode(run["logits"]), dtype="<u2").reshape(-1, num_classes)
    return torch.from_numpy(run["step"] * levels.astype(np.float64))


def carried(page: Path) -> dict[str, Any]:
    """What a page carries, as a browser reads it."""
    (text,) = re.findall('<script type="application/json" id=data>(.*?)</script>', page.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


# --- what the page carries --------------------------------------------------------------------------------------------


def test_the_page_holds_the_logits_to_half_a_step_class_after_class(runs: list[Path], tmp_path: Path) -> None:
    data = carried(write_explorer(runs, tmp_path / "page.html"))
    logits, labels = RunFolder.open(runs[0]).load_logits()
    order = labels.argsort(stable=True)
    assert data["tested"] == data["test"] == [60] * 8
    assert [run["name"] for run in data["runs"]] == ["erm", "bayias"]
    exact = (logits.amax(1, keepdim=True) - logits).double()[order]
    step = data["runs"][0]["step"]
    assert step == pytest.approx(float(exact.max()) / 65535)
    assert float((distances(data["runs"][0], 8) - exact).abs().max()) <= step * 0.5000001
    assert torch.tensor(data["runs"][0]["prior"]).sum() == pytest.approx(1.0)
    assert data["runs"][1]["expects"] == "every class alike: the loss took it out"


def test_a_mask_far_away_does_not_coarsen_the_steps() -> None:
    logits = torch.tensor([[2.0, 1.5, -1e4], [0.0, 3.0, 1.0]])
    found = _explorer.quantised(logits)
    assert found["step"] == pytest.approx(100 / 65535)
    assert distances(found, 3)[0].tolist() == pytest.approx([0.0, 0.5, 100.0], abs=found["step"])


def test_equal_logits_stay_equal() -> None:
    assert distances(_explorer.quantised(torch.full((2, 3), 7.0)), 3).tolist() == [[0.0] * 3] * 2


def test_groups_without_classes_are_left_out(runs: list[Path]) -> None:
    data = _explorer.explorer_data(runs)
    found = {name: [data["train"][k] for k in members] for name, members in data["groups"].items()}
    assert list(found) == ["many", "medium", "few"]
    assert min(found["many"]) > 100 >= max(found["medium"])
    many_only = {"train": [500, 400]}
    counts = torch.tensor(many_only["train"])
    assert list(_explorer.explorer_data([make_run(runs[0].parent / "b", counts, *samples(counts, 5))])["groups"]) == [
        "many"
    ]


def test_of_many_samples_it_carries_an_even_share_of_each_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = torch.tensor([300, 30, 3])
    logits = torch.randn(611, 3)
    labels = torch.tensor([0] * 400 + [1] * 210 + [2])
    run = make_run(tmp_path / "run", counts, logits, labels)
    monkeypatch.setattr(_explorer, "MOST_SAMPLES", 61)
    page = write_explorer([run], tmp_path / "page.html")
    data = carried(page)
    assert data["test"] == [400, 210, 1]
    assert data["tested"] == [39, 20, 1]  # 61 / 611 of each, rounded down, and one of the last class
    assert "60 test samples of 611" in " ".join(page.read_text().split())
    kept = distances(data["runs"][0], 3)
    exact = (logits.amax(1, keepdim=True) - logits).double()
    nearest = torch.cdist(kept, exact).argmin(1)
    assert labels[nearest].tolist() == [0] * 39 + [1] * 20 + [2]
    assert len(set(nearest.tolist())) == 60
    monkeypatch.setattr(_explorer, "MOST_LOGITS", 8)
    with pytest.raises(UserError, match="at most 8 logits a run, which of 3 classes is less than a sample each"):
        _explorer.explorer_data([run])


def test_names_are_text_and_the_page_loads_nothing(tmp_path: Path) -> None:
    names = ["</script><b>&amp;", "<!--", "名 é", "d"]
    counts = torch.tensor([40, 30, 20, 10])
    run = make_run(tmp_path / "run", counts, *samples(counts, 3), class_names=names)
    page = write_explorer([run], tmp_path / "page.html", title="<i>mix</i>")
    assert carried(page)["classes"] == names

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found.append((tag, dict(attrs)))

    parser = Tags()
    parser.feed(page.read_text())
    assert not {"b", "i", "img", "link", "iframe", "a"} & {tag for tag, _ in parser.found}
    assert not any({"src", "href", "onclick"} & set(attributes) for _, attributes in parser.found)
    (policy,) = (attributes["content"] for tag, attributes in parser.found if "http-equiv" in attributes)
    assert (
        policy
        == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    )
    assert "http://" not in page.read_text()
    assert "https://" not in page.read_text()


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(run_dirs: Sequence[Path]) -> str:
    with pytest.raises(UserError) as error:
        _explorer.explorer_data(list(run_dirs))
    return str(error.value)


def test_no_runs() -> None:
    assert refused([]) == "`run_dirs` is empty. Pass at least one run folder."


def test_several_labels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, torch.randn(4, 8), torch.eye(8)[:4].bool())
    assert "has several labels a sample" in refused([run])


@pytest.mark.parametrize("key", ["class_names", "class_counts"])
def test_without_names_or_counts(key: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, *samples(COUNTS, 2), **dict.fromkeys([key]))
    assert f"logits of 8 classes, but no `{key}` of as many" in refused([run])


def test_counts_that_are_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, *samples(COUNTS, 2), class_counts=[-1] * 8)
    assert "`class_counts`" in refused([run])


def test_counts_may_be_in_the_summary(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, *samples(COUNTS, 2), class_counts=...)
    RunFolder.open(run).write_json("summary.json", {"class_counts": COUNTS})
    assert _explorer.explorer_data([run])["train"] == COUNTS.tolist()


@pytest.mark.parametrize("counts", [["3"] * 8, [None] * 8, [10**30] * 8, [0.5] * 8])
def test_counts_of_a_damaged_file(counts: list[Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, *samples(COUNTS, 2), class_counts=counts)
    assert f"`{run}` must have numbers of training samples as `class_counts`" in refused([run])


@pytest.mark.parametrize(
    "prior", [[0.5, 0.5], [0.0] + [1 / 7] * 7, [None] * 8, 0.5, {"a": 1}, [1e308] * 8, [10**400] * 8]
)
def test_a_prior_that_is_none(prior: list[Any], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", COUNTS, *samples(COUNTS, 2), logits_prior=prior)
    wanted = (
        f"`{run}` must have a positive number, of a sum that is finite, for each of its 8 classes as `logits_prior`"
    )
    assert wanted in refused([run])


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    logits, labels = samples(COUNTS, 2)
    logits[3, 2] = torch.nan
    assert "row 3 has NaN" in refused([make_run(tmp_path / "run", COUNTS, logits, labels)])


def test_runs_of_other_samples_or_counts(runs: list[Path], tmp_path: Path) -> None:
    logits, labels = samples(COUNTS, 60, seed=1)
    other = make_run(tmp_path / "other", COUNTS, logits, labels)
    assert "have different test samples, so that one page cannot have both" in refused([runs[0], other])
    logits, labels = RunFolder.open(runs[0]).load_logits()
    other = make_run(tmp_path / "counts", COUNTS + 1, logits, labels)
    assert "have different class counts" in refused([runs[0], other])


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "page.html"
    main(["explore", *map(str, runs), "--out", str(page), "--title", "Ours"])
    assert (
        capsys.readouterr().out
        == f"Open {page} in a browser ({page.stat().st_size / 1e3:.0f} kB, all that it needs).\n"
    )
    assert "<h1>Ours</h1>" in page.read_text()
    with pytest.raises(SystemExit):
        main(["explore", *map(str, runs), "--out", str(page.parent)])
    assert f"must be a file, such as {page.parent / 'explore.html'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["explore", str(tmp_path / "absent")])
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no run folder" in line


def test_size_of_a_hundred_classes(tmp_path: Path) -> None:
    counts = exponential_counts(500, 100, 100)
    run = make_run(tmp_path / "run", counts, *samples(counts, 100))
    assert write_explorer([run], tmp_path / "page.html").stat().st_size < 3e6


# --- what a browser computes ------------------------------------------------------------------------------------------


class Numbers(HTMLParser):
    """What a page shows, from its document: numbers by run, state and metric."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: dict[tuple[int, str, str], float] = {}
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.attributes[values.get("id") or tag] = values
        if "data-metric" in values:
            key = int(values["data-run"] or ""), str(values["data-state"]), str(values["data-metric"])
            self.numbers[key] = float(values["data-value"] or "nan")


def opened(page: Path, state: str = "", act: str = "") -> Numbers:
    """A page in a browser, at an address that holds a state, after something was done on it."""
    acted = page.with_name("acted.html")
    acted.write_text(page.read_text().replace("</body>", f"<script>{act}</script></body>"))
    profile = f"--user-data-dir={page.parent / 'profile'}"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", profile, "--virtual-time-budget=2000", "--dump-dom"]
    command = [CHROMIUM, *options, f"{acted.as_uri()}#{state}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = Numbers(done.stdout)
    assert found.numbers, done.stderr[-2000:]
    return found


def expected(run: Path, mix: Tensor, source: Tensor, strength: float, temperature: float = 1.0) -> dict[str, float]:
    """The library's numbers of a run under a class mix, in float64."""
    logits, labels = RunFolder.open(run).load_logits()
    moved = shift_logits(logits.double() / temperature, source, mix, strength)
    counts = torch.bincount(labels, minlength=len(mix)).double()
    weights = (mix / counts)[labels]
    right = moved.argmax(1) == labels
    p = (torch.bincount(labels[right], minlength=len(mix)) + 1) / (counts + 2)
    top = moved.softmax(1).amax(1)
    edges = torch.arange(16, dtype=torch.float64) / 15
    ece = sum(
        abs(float((weights * (right.double() - top))[(low < top) & (top <= high)].sum()))
        for low, high in itertools.pairwise(edges)
    )
    return {
        "top1": weighted_accuracy(moved, labels, mix),
        "noise": float((mix**2 * p * (1 - p) / counts).sum().sqrt()),
        "balanced": balanced_accuracy(moved.softmax(1), labels),
        **shot_accuracy(moved.softmax(1), labels, COUNTS),
        "ece": ece,
    }


def agree(found: Numbers, run: int, numbers: dict[str, float], state: str = "now", tolerance: float = 1e-3) -> None:
    for metric, value in numbers.items():
        assert found.numbers[run, state, metric] == pytest.approx(value, abs=tolerance), (run, state, metric)


@browser
def test_a_browser_gives_the_numbers_of_the_library(runs: list[Path], tmp_path: Path) -> None:
    page = write_explorer(runs, tmp_path / "page.html")
    mix = torch.tensor([5, 1, 1, 2, 3, 1, 4, 8], dtype=torch.float64) / 25
    shares = ",".join(f"{share:.4g}" for share in mix.tolist())
    found = opened(page, f"mix={shares}&strength=1.3&temperature=1.5")
    uniform, prior = torch.full((8,), 0.125, dtype=torch.float64), class_prior(COUNTS)
    for k, source in enumerate((prior, uniform)):
        before, after = expected(runs[k], mix, source, 0.0), expected(runs[k], mix, source, 1.3, 1.5)
        agree(found, k, before, "then")
        agree(found, k, after)
        assert found.numbers[k, "now", "gain"] == pytest.approx(after["top1"] - before["top1"], abs=1e-3)
        assert abs(after["top1"] - before["top1"]) > 0.02
    # The gain of single samples, 1, 0 or -1: its standard error within classes.
    logits, labels = RunFolder.open(runs[0]).load_logits()
    won = (shift_logits(logits, prior, mix, 1.3 * 1.5).argmax(1) == labels).double()
    gain = won - (logits.argmax(1) == labels).double()
    variances = torch.stack([gain[labels == y].var(correction=0) / 60 for y in range(8)])
    noise = float((mix**2 * variances).sum().sqrt())
    assert found.numbers[0, "now", "gain_noise"] == pytest.approx(noise, abs=1e-3)


@browser
def test_what_is_moved_on_the_page_counts(runs: list[Path], tmp_path: Path) -> None:
    page = write_explorer(runs, tmp_path / "page.html")
    logits, labels = RunFolder.open(runs[1]).load_logits()
    # The few-shot classes get 70 %, the strength 0.5, and the logits count as under the training prior.
    act = """
      const move = (id, value, event) => {
        const found = document.getElementById(id);
        found.value = value;
        found.dispatchEvent(new Event(event));
      };
      move("slider2", 70, "input");
      move("from", "train", "change");
      move("strength", 0.5, "input");
      setTimeout(() => { document.body.dataset.address = location.hash; }, 1000);
    """
    found = opened(page, "mix=uniform", act)
    few = COUNTS < 20
    mix = torch.where(few, 0.7 / few.sum(), 0.3 / (~few).sum()).double()
    agree(found, 1, expected(runs[1], mix, class_prior(COUNTS), 0.5))
    address = parse_qs(str(found.attributes["body"]["data-address"]).removeprefix("#"))  # keeps what was chosen
    assert address["strength"] == ["0.5"]
    assert address["from"] == ["train"]
    assert [float(share) for share in address["mix"][0].split(",")] == pytest.approx(mix.tolist(), rel=1e-3)
    assert expected_calibration_error(logits.softmax(1), labels) != pytest.approx(
        found.numbers[1, "then", "ece"], abs=0.01
    )


@browser
def test_a_list_is_taken_by_name_and_a_run_without_prior_stays(runs: list[Path], tmp_path: Path) -> None:
    unknown = make_run(tmp_path / "unknown", COUNTS, *RunFolder.open(runs[0]).load_logits(), logits_prior=...)
    page = write_explorer([runs[0], unknown], tmp_path / "page.html")
    mix = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7], dtype=torch.float64) / 28
    lines = ["class, count", *(f"class {k}, {k}" for k in range(7, 0, -1))]
    quoted = chr(10).join(f'"class {k}","{k}"' for k in range(8))
    act = f"""
      const list = document.getElementById("list"), take = document.getElementById("take"), taken = [];
      for (const text of [{json.dumps(quoted)}, "count\\n0\\n1\\n2\\n3\\n4\\n5\\n6\\n7"]) {{
        list.value = text;
        take.click();
        const slider = document.getElementById("slider2");
        for (const share of [0, slider.value]) {{  // to its end and back: the mix within the group is that of before
          slider.value = share;
          slider.dispatchEvent(new Event("input"));
        }}
        document.getElementById("correct").dispatchEvent(new Event("change"));  // at once
        taken.push([...document.querySelectorAll("#sliders output")].map((each) => each.textContent).join());
      }}
      document.body.dataset.taken = [...new Set(taken)].join(" ");
      list.value = {json.dumps(chr(10).join(lines))};
      take.click();
      const faults = [document.getElementById("fault").textContent];
      for (const text of ["class 1, 2\\nclass 9, 3", "1 2 3", "class 1 2\\nclass 1 3", "class 1, -2", "class", "",
          "class 1;0,5\\nclass 2;0,5", "class 0, three\\nclass 1, 2", "count\\n0x10\\n2", "1,5;2;3;4;5;6;7"]) {{
        list.value = text;
        take.click();
        faults.push(document.getElementById("fault").textContent);
      }}
      document.body.dataset.faults = JSON.stringify(faults);
    """
    found = opened(page, "mix=backward50", act)
    agree(found, 0, {"top1": expected(runs[0], mix.clamp(min=1e-12), class_prior(COUNTS), 1.0)["top1"]})
    assert found.numbers[1, "now", "top1"] == found.numbers[1, "then", "top1"] == found.numbers[0, "then", "top1"]
    assert "unknown</strong>: not recorded, so that it is not corrected" in page.read_text()
    shown = [*(mix[group].sum() for group in GROUPS), *mix]
    taken = [float(share.strip("% ")) for share in str(found.attributes["body"]["data-taken"]).split(",")]
    assert taken == pytest.approx([100 * float(share) for share in shown], abs=0.11)  # the slider's steps
    assert json.loads(found.attributes["body"]["data-faults"] or "") == [
        "Taken. The class “class 0” does not occur there.",
        "Line 2: there is no class “class 9”. One is “class 0”.",
        "The list has 3 numbers, but there are 8 classes.",
        "“class 1” is there twice.",
        "Shares must be numbers from 0 that are not all 0.",
        "Line 1, “class”, is no name and number.",
        "Shares must be numbers from 0 that are not all 0.",
        "Line 1, “class 1;0,5”: Write decimals with a point, such as 0.5.",
        "Line 1, “class 0, three”, is no name and number.",
        "Line 2, “0x10”, is no name and number.",
        "Write decimals with a point, such as 0.5.",
    ]


@browser
def test_a_million_logits_follow_a_slider(tmp_path: Path) -> None:
    counts = exponential_counts(500, 100, 100)
    page = write_explorer([make_run(tmp_path / "run", counts, *samples(counts, 100))], tmp_path / "page.html")
    act = """
      const slider = document.getElementById("strength"), times = [];
      for (let k = 0; k < 9; k++) {
        slider.value = 0.2 * k;
        slider.dispatchEvent(new Event("input"));
        document.getElementById("correct").dispatchEvent(new Event("change"));
        times.push(Number(document.body.dataset.milliseconds));
      }
      document.body.dataset.times = JSON.stringify(times.sort((a, b) => a - b));
    """
    times = json.loads(opened(page, "mix=backward10", act).attributes["body"]["data-times"] or "")
    assert times[2] < 100, times  # with others at work some wait
