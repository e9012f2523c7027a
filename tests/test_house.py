"""The house: what may stand where, how long it may be, and what must not stand twice.

Every guard has a negative twin that plants the fault in a folder of its own.
"""

from __future__ import annotations

import ast
import functools
import io
import itertools
import keyword
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ltaug

SOURCES = Path(ltaug.__file__).parent
RECIPES = SOURCES.parent / "recipes"

# --- the library trains nothing, and its parts know no recipe ---------------------------------------------------------

PARTS = (
    "analysis",
    "classifiers",
    "correction",
    "fusion",
    "labelshift",
    "longtail",
    "losses",
    "metrics",
    "mixers",
    "posthoc",
    "priors",
    "samplers",
    "stages",
)
COMMANDS = (
    *("__main__.py", "commandline.py", "commands/*", "hub/*", "scripts.py", "sweeps.py", "trained.py", "training.py"),
)
"""Modules that are about training scripts, and may know their flags and files."""
RECIPE_WORDS = ("train_stage2", "shifted.csv", "shifted.json", "recipes/", "train.py", "model.py", "data.py")

Guard = Callable[[ast.Module], Iterator[int]]


def trains(tree: ast.Module) -> Iterator[int]:
    """Lines that call ``backward``, or loop over epochs: the loop is the user's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward":
            yield node.lineno
        if isinstance(node, ast.For) and "epoch" in names_in(node.target) and "range" in names_in(node.iter):
            yield node.lineno


def names_in(node: ast.AST) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}


def names_a_recipe(tree: ast.Module) -> Iterator[int]:
    """Lines whose texts, but for docstrings, have a flag of a script or a file of a recipe."""
    described = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            flag = re.search(r"(?<![\w-])--[a-z]\w", node.value)
            if flag or any(word in node.value for word in RECIPE_WORDS):
                yield node.lineno


def imports_more_than_parts(tree: ast.Module) -> Iterator[int]:
    """Lines of a part that import more than parts, torch, numpy, scipy, safetensors and the standard library.

    But for `from_pretrained`, which reads a run folder or the hub.
    """
    allowed = {"torch", "numpy", "scipy", "safetensors", *sys.stdlib_module_names}
    readers = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "from_pretrained"]
    inside = {id(node) for reader in readers for node in ast.walk(reader)}
    for node in (node for node in ast.walk(tree) if id(node) not in inside):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"ltaug.{alias.name}" for alias in node.names] if node.module == "ltaug" else [node.module or "."]
        for name in names:
            first, _, rest = name.partition(".")
            if first not in allowed and not (
                first == "ltaug" and rest.partition(".")[0] in (*PARTS, "_arguments", "errors")
            ):
                yield node.lineno


def found(guard: Guard, folder: Path, files: Iterator[Path], allowed: tuple[str, ...] = ()) -> list[str]:
    """Where a guard finds something, as FILE:LINE."""
    paths = sorted(path for path in files if not any(path.relative_to(folder).match(name) for name in allowed))
    assert paths, f"no Python files in {folder}"
    return [f"{path.relative_to(folder).as_posix()}:{k}" for path in paths for k in guard(ast.parse(path.read_text()))]


def test_the_library_trains_nothing() -> None:
    # `analysis` goes through a sampler's epochs to count what it draws.
    assert found(trains, SOURCES, SOURCES.rglob("*.py"), ("analysis.py",)) == []


def test_parts_know_no_flag_and_no_file_of_a_recipe() -> None:
    # `process` asks git, by flags of git; `report` still reads the run folders of version 0.1.
    allowed = (*COMMANDS, "process.py", "report/_old.py")
    assert found(names_a_recipe, SOURCES, SOURCES.rglob("*.py"), allowed) == []


def test_parts_import_parts_only() -> None:
    files = (path for name in PARTS for path in (SOURCES.glob(f"{name}.py"), (SOURCES / name).rglob("*.py")))
    assert found(imports_more_than_parts, SOURCES, itertools.chain.from_iterable(files)) == []


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (trains, "loss.backward()"),
        (trains, "accelerator.backward(criterion(model(x), y))"),
        (trains, "for epoch in range(start, epochs): pass"),
        (trains, "for k, epoch in enumerate(range(9)): pass"),
        (names_a_recipe, "raise ValueError('pass `--profile natural`')"),
        (names_a_recipe, "raise ValueError(f'{name}: try --calibrate, or not')"),
        (names_a_recipe, "path = folder / 'shifted.csv'"),
        (names_a_recipe, "script = folder / 'train_stage2.py'"),
        (names_a_recipe, "text = 'see recipes/cifar_lt'"),
        (imports_more_than_parts, "import timm"),
        (imports_more_than_parts, "from ltaug.methods import METHODS"),
        (imports_more_than_parts, "from ltaug import training"),
        (imports_more_than_parts, "import ltaug.run"),
        (imports_more_than_parts, "from . import recipes"),
    ],
)
def test_a_planted_line_is_seen(guard: Guard, line: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(f"def function():\n    {line}\n")
    (tmp_path / "fine.py").write_text(
        '"""loss.backward() in a loop: `--epochs 5`, recipes/cifar_lt/train.py."""\n'
        "import torch\nfrom ltaug.priors import class_counts\nEND = 'a -- b'\n"
        "def backward(): return [epoch for epoch in range(3)]\n"
    )
    assert found(guard, tmp_path, tmp_path.rglob("*.py")) == ["planted.py:2"]


def test_an_allowed_module_is_passed_over(tmp_path: Path) -> None:
    for name in ("sweeps.py", "plots.py"):
        (tmp_path / name).write_text("FLAG = '--seed'\n")
    assert found(names_a_recipe, tmp_path, tmp_path.rglob("*.py"), COMMANDS) == ["plots.py:1"]


# --- recipes are short, and of few files ------------------------------------------------------------------------------

BUDGETS = {"train.py": 150, "data.py": 250, "model.py": 120, "README.md": 120}
OTHERS = ("protocols/*.yaml", "published.csv", "requirements.txt")
ALL_RECIPES = 3000


def tracked(folder: Path) -> list[Path]:
    """Files of a folder, without what running it leaves."""
    ignored = {"__pycache__", "runs"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and not ignored & set(path.parts))


def beyond_budget(recipes: Path) -> list[str]:
    """Files of recipes that are too long, missing, or none of a recipe's; and the sum of all lines of Python."""
    faults, total = [], 0
    folders = sorted(path for path in recipes.iterdir() if path.is_dir() and tracked(path))
    assert folders, f"no recipes in {recipes}"
    for folder in folders:
        for name in BUDGETS:
            if not (folder / name).is_file():
                faults.append(f"{folder.name}/{name} is missing")
        for path in tracked(folder):
            name = path.relative_to(folder).as_posix()
            lines = len(path.read_text(encoding="utf-8").splitlines())
            total += lines * (path.suffix == ".py")
            if name in BUDGETS:
                if lines > BUDGETS[name]:
                    faults.append(f"{folder.name}/{name} has {lines} lines, more than {BUDGETS[name]}")
            elif not any(path.relative_to(folder).match(pattern) for pattern in OTHERS):
                faults.append(f"{folder.name}/{name} is no file of a recipe")
    if total > ALL_RECIPES:
        faults.append(f"all recipes together have {total} lines of Python, more than {ALL_RECIPES}")
    return faults


def test_recipes_keep_their_budgets() -> None:
    assert beyond_budget(RECIPES) == []


def test_a_recipe_beyond_its_budget_is_seen(tmp_path: Path) -> None:
    for name in ("fine", "bad"):
        (tmp_path / name / "protocols").mkdir(parents=True)
        for file, lines in BUDGETS.items():
            (tmp_path / name / file).write_text("x = 1\n" * lines)
        for file in ("published.csv", "requirements.txt", "protocols/paper.yaml"):
            (tmp_path / name / file).write_text("")
    (tmp_path / "README.md").write_text("Recipes.\n")
    assert beyond_budget(tmp_path) == []
    (tmp_path / "bad" / "train.py").write_text("x = 1\n" * 151)
    (tmp_path / "bad" / "method.py").write_text("x = 1\n" * 3000)
    (tmp_path / "bad" / "model.py").unlink()
    assert beyond_budget(tmp_path) == [
        "bad/model.py is missing",
        "bad/method.py is no file of a recipe",
        "bad/train.py has 151 lines, more than 150",
        "all recipes together have 3921 lines of Python, more than 3000",
    ]


# --- nothing stands twice ---------------------------------------------------------------------------------------------

LONGEST_COPY = 12

Lines = list[tuple[int, str]]


@functools.cache
def shapes(text: str) -> Lines:
    """Code lines of a text as (number, shape): names, numbers, texts are alike; no docstrings, imports or __all__."""
    skipped = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENCODING", "ENDMARKER"}
    alike = {"STRING": "''", "FSTRING_START": "''", "NUMBER": "0"}
    rows: dict[int, list[str]] = {}
    inside = 0  # f-strings are several tokens from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind not in skipped and not inside:
            plain = kind != "NAME" or keyword.iskeyword(token.string)
            rows.setdefault(token.start[0], []).append(alike.get(kind, token.string if plain else "name"))
        inside += (kind == "FSTRING_START") - (kind == "FSTRING_END")
    for node in ast.walk(ast.parse(text)):
        described = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        exported = isinstance(node, ast.Assign) and "__all__" in names_in(node.targets[0])
        if described or exported or isinstance(node, ast.Import | ast.ImportFrom):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                rows.pop(number, None)
    return [(number, " ".join(words)) for number, words in sorted(rows.items())]


def copies(first: list[Path], second: list[Path], allowed: int = LONGEST_COPY) -> list[str]:
    """Places where two files have more equally shaped lines in a row than allowed: the first of each pair of files."""
    faults = []
    for a, b in itertools.product(first, second):
        x, y = (shapes(path.read_text(encoding="utf-8")) for path in (a, b))
        runs = {tuple(shape for _, shape in y[k : k + allowed + 1]): k for k in range(len(y) - allowed, -1, -1)}
        for k in range(len(x) - allowed):
            place = runs.get(tuple(shape for _, shape in x[k : k + allowed + 1]))
            if place is not None:
                same = itertools.takewhile(lambda pair: pair[0][1] == pair[1][1], zip(x[k:], y[place:], strict=False))
                where = f"{a.parent.name}/{a.name}:{x[k][0]} and {b.parent.name}/{b.name}:{y[place][0]}"
                faults.append(f"{where}: {len(list(same))} lines")
                break
    return faults


def copies_between_recipes(recipes: Path) -> list[str]:
    """Copies between any two recipes, but for the loop in their train.py."""
    folders = sorted({path.parent for path in recipes.glob("*/*.py")})
    faults = []
    for a, b in itertools.combinations(folders, 2):
        mine, theirs = ([path for path in tracked(each) if path.suffix == ".py"] for each in (a, b))
        loops, others = ([p for p in theirs if p.name == "train.py"], [p for p in theirs if p.name != "train.py"])
        for path in mine:
            faults += copies([path], others if path.name == "train.py" else others + loops)
    return faults


def test_recipes_copy_nothing_but_the_loop() -> None:
    assert copies_between_recipes(RECIPES) == []


def test_vision_and_audio_copy_nothing() -> None:
    assert copies(tracked_python("vision"), tracked_python("audio")) == []


def tracked_python(name: str) -> list[Path]:
    files = sorted((SOURCES / name).rglob("*.py"))
    assert files
    return files


BLOCK = """def read(path, names):
    table = open(path)
    rows = []
    for line in table:
        words = line.split(",")
        if len(words) != 2:
            raise ValueError(f"{path}: {line} has {len(words)} words")
        if words[1] not in names:
            continue
        rows.append((words[0], names.index(words[1])))
    if not rows:
        raise ValueError("no rows in " + path)
    return sorted(rows)
"""
RENAMED = (
    BLOCK.replace("words", "parts").replace("rows", "lines").replace("2", "3").replace('"no rows in "', "'nothing: '")
)


@pytest.mark.parametrize("copy", [BLOCK, RENAMED], ids=["equal", "equally shaped"])
def test_a_copy_is_seen(copy: str, tmp_path: Path) -> None:
    for name, text in (("a", BLOCK), ("b", f"import os\n\n\n{copy}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.py").write_text(text)
        (tmp_path / name / "train.py").write_text("x = 1\n" * 40)  # the loop is equal in all recipes
    assert copies_between_recipes(tmp_path) == ["a/data.py:1 and b/data.py:4: 13 lines"]
    assert copies([tmp_path / "a" / "data.py"], [tmp_path / "b" / "data.py"], allowed=13) == []


def test_a_loop_in_another_file_and_twelve_lines(tmp_path: Path) -> None:
    shorter = BLOCK.replace("    table = open(path)\n", "")
    for name, files in (("a", {"data.py": shorter, "train.py": BLOCK}), ("b", {"data.py": shorter, "train.py": BLOCK})):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert copies_between_recipes(tmp_path) == []
    (tmp_path / "b" / "model.py").write_text(BLOCK)
    assert copies_between_recipes(tmp_path) == ["a/train.py:1 and b/model.py:1: 13 lines"]


def test_texts_comments_and_imports_are_no_code(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(
        '"""Text.\n\nMore."""\nimport os\nfrom a import (\n    b,\n)\n__all__ = [\n    "b",\n]\n\n# Comment.\n'
        'x: int = 3  # why\n"""Meaning."""\n'
        'if x and f"{x} {3}" != "y":\n    print(\n        x,\n    )\n'
    )
    assert shapes((tmp_path / "file.py").read_text()) == [
        (13, "name : name = 0"),
        (15, "if name and '' != '' :"),
        (16, "name ("),
        (17, "name ,"),
        (18, ")"),
    ]
