"""docs/my_sounds.md: everything on it is run, from top to bottom, in a folder outside of the repository.

python -m pytest -m slow tests/audio/test_sound_page.py
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
            run_script(words[1], [*words[2:], *(() if "runs/bayias" in words else ("--report", "false"))])


def put_into(file: Path, text: str) -> None:
    """Replace the function of a file that a block defines, and import what the page says it needs."""
    (function,) = ast.parse(text).body
    source = file.read_text()
    (old,) = [node for node in ast.parse(source).body if getattr(node, "name", "") == function.name]
    lines = source.splitlines(keepends=True)
    lines[old.lineno - 1 : old.end_lineno] = [text]
    head = "import torch\nfrom ltaug.audio import SoundPart\n"
    place = next(k for k, line in enumerate(lines) if line.startswith("from dataclasses"))
    file.write_text("".join([*lines[:place], head, *lines[place:]]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_page(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "torchaudio", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    said, kinds = io.StringIO(), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in which such small networks are fastest
    monkeypatch.setattr(training, "set_threads", lambda threads: None)
    for kind, text in blocks(root / "docs" / "my_sounds.md"):
        kinds.append(kind)
        with contextlib.redirect_stdout(said):
            if kind == "bash":
                run_commands(text)
            elif kind == "yaml":
                (tmp_path / "my_sounds" / "protocols" / "commands.yaml").write_text(text)
            elif text.startswith("# my_sounds/data.py\n"):
                put_into(tmp_path / "my_sounds" / "data.py", text)
            elif kind == "python":
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    exec(compile(text, "my_sounds.md", "exec"), shared)
        if kind == "text":
            assert doctest.OutputChecker().check_output(text, said.getvalue(), doctest.ELLIPSIS)
    torch.set_num_threads(threads)
    assert {kind: kinds.count(kind) for kind in kinds} == {"python": 4, "bash": 5, "yaml": 1, "text": 1}
    finals = {}
    for name in ("erm", "bayias", "crt", "again"):
        run = tmp_path / "runs" / name
        finals[name] = json.loads((run / "summary.json").read_text())["final"]["top1"]
    assert max(finals.values()) > 0.35, finals  # of twelve commands: chance is 0.08
    pages = [tmp_path / "comparison.html", tmp_path / "runs" / "bayias" / "report.html"]
    assert all(page.stat().st_size > 50_000 for page in pages)
    corrected = json.loads((tmp_path / "runs" / "bayias" / "corrected.json").read_text())
    assert corrected
    settings = [(tmp_path / "runs" / name / "config.yaml").read_text() for name in ("bayias", "crt")]
    assert all("sample_rate: 8000" in text for text in settings)  # the second stage has taken it over
