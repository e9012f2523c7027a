"""Pages that begin with `ltaug new`: all of each is run, from top to bottom, in a folder outside of the repository.

python -m pytest -m slow tests/test_pages.py
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ltaug import training
from ltaug.__main__ import main as ltaug_command
from ltaug.scripts import run_script


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def run_commands(text: str) -> None:
    """What a shell would do with the lines of a block, in this process."""
    for line in text.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        if program == "ltaug":
            with contextlib.suppress(SystemExit):
                # That a copy trains is seen below.
                ltaug_command([*words, *(["--no_check"] if words[0] == "new" else [])])
        else:
            assert (program, words[0]) == ("accelerate", "launch"), line
            # One report is enough, and the page shows it.
            shown = {"runs/bayias", "runs/mixup_bayias"} & set(words)
            run_script(words[1], [*words[2:], *(() if shown else ("--report", "false"))])


def put_into(file: Path, text: str, imports: str = "") -> None:
    """Replace the functions and classes of a file that a block defines, and import what the page says it needs."""
    blocks, new = text.splitlines(keepends=True), {node.name: node for node in ast.parse(text).body}  # type: ignore[attr-defined]
    source = file.read_text()
    lines = source.splitlines(keepends=True)
    for old in reversed(ast.parse(source).body):
        node = new.pop(getattr(old, "name", ""), None)
        if node is not None:
            lines[first_line(old) : old.end_lineno] = blocks[first_line(node) : node.end_lineno]
    assert not new, f"{file} has no {', '.join(new)}"
    place = next(k for k, line in enumerate(lines) if line.startswith("from dataclasses"))
    file.write_text("".join([*lines[:place], imports, *lines[place:]]))


def first_line(node: Any) -> int:
    """Of a definition with its decorators, from 0."""
    return min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1


def run_page(page: Path, scratch: Path, protocol: str, imports: str = "") -> dict[str, int]:
    """Run all blocks, and compare what Python ones print with what the page says; how many there are of each kind."""
    shared: dict[str, object] = {}
    said, kinds = io.StringIO(), []
    for kind, text in blocks(page):
        kinds.append(kind)
        target = re.match(r"# (\w+/\w+\.py)(, all of it)?", text)
        with contextlib.redirect_stdout(said):
            if kind == "bash":
                run_commands(text)
            elif kind == "yaml":
                (scratch / protocol).write_text(text)
            elif target and target[2]:
                (scratch / target[1]).write_text(text)
            elif target:
                put_into(scratch / target[1], text, imports)
            elif kind == "python":
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    exec(compile(text, page.name, "exec"), shared)
        if kind == "text":
            assert doctest.OutputChecker().check_output(text, said.getvalue(), doctest.ELLIPSIS), said.getvalue()
    return {kind: kinds.count(kind) for kind in kinds}


def top1(runs: Path) -> dict[str, float]:
    """Of every finished run, by name."""
    return {
        path.parent.name: json.loads(path.read_text())["final"]["top1"] for path in sorted(runs.glob("*/summary.json"))
    }


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """In which such small networks are fastest; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(training, "set_threads", lambda threads: None)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("one_thread")
def test_the_page_of_sounds(root: Path, tmp_path: Path) -> None:
    for name in ("timm", "torchaudio", "matplotlib"):
        pytest.importorskip(name)
    imports = "import torch\nfrom ltaug.audio import SoundPart\n"
    kinds = run_page(root / "docs" / "my_sounds.md", tmp_path, "my_sounds/protocols/commands.yaml", imports)
    assert kinds == {"python": 4, "bash": 5, "yaml": 1, "text": 1}
    finals = top1(tmp_path / "runs")
    assert list(finals) == ["again", "bayias", "crt", "erm"]
    assert max(finals.values()) > 0.35, finals  # of twelve commands: chance is 0.08
    pages = [tmp_path / "comparison.html", tmp_path / "runs" / "bayias" / "report.html"]
    assert all(page.stat().st_size > 50_000 for page in pages)
    corrected = json.loads((tmp_path / "runs" / "bayias" / "corrected.json").read_text())
    assert corrected
    settings = [(tmp_path / "runs" / name / "config.yaml").read_text() for name in ("bayias", "crt")]
    assert all("sample_rate: 8000" in text for text in settings)  # the second stage has taken it over


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("one_thread")
def test_the_page_of_a_modality_of_ones_own(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kinds = run_page(root / "docs" / "my_modality.md", tmp_path, "my_signals/protocols/signals.yaml")
    assert kinds == {"bash": 4, "python": 4, "yaml": 1, "text": 1}
    finals = top1(tmp_path / "runs")
    assert list(finals) == ["crt", "erm", "mixup_bayias", "try"]
    assert min(finals["mixup_bayias"], finals["crt"]) > finals["erm"] + 0.02, finals
    assert all((tmp_path / "runs" / name / "corrected.json").is_file() for name in ("erm", "mixup_bayias"))
    assert (tmp_path / "comparison.html").stat().st_size > 50_000
