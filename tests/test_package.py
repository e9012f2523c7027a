"""The package as a whole: what importing it costs, what its docstrings promise, and what it must never contain.

Every guard has a negative twin that it must find something in.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

import ltaug
from ltaug.methods import METHODS

SOURCES = Path(ltaug.__file__).parent
MODULES = sorted(["ltaug", *(module.name for module in pkgutil.walk_packages(ltaug.__path__, "ltaug."))])
HEAVY = (
    "torchaudio",
    "timm",
    "torchvision",
    "matplotlib",
    "datasets",
    "accelerate",
    "PIL",
    "sklearn",
    "scipy",
    "pandas",
    "transformers",
    "lightning",
)
"""What only recipes, plots and tests need."""
FLAGS = doctest.ELLIPSIS


def test_all_modules_are_found() -> None:
    assert {"ltaug", "ltaug.mixers.functional", "ltaug.samplers.pair", "ltaug.run", "ltaug.posthoc"} <= set(MODULES)
    assert len(MODULES) == len(list(SOURCES.rglob("*.py")))


# What importing costs.


def imported_by(code: str, names: tuple[str, ...], root: Path, extra_path: Path | None = None) -> list[str]:
    """Which of the names are in sys.modules after the code has run in a fresh interpreter."""
    report = f"import sys; print(*(name for name in {names!r} if name in sys.modules))"
    paths = [str(path) for path in (extra_path, root) if path] + [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_library_imports_nothing_that_only_recipes_need(root: Path) -> None:
    names = ("torch", "ltaug.mixers", *HEAVY)
    draw = (  # one process for both: to start it is what takes time
        "import io, sys, ltaug, ltaug.metrics, ltaug.plots as plots\n"
        f"print(*(name for name in {names!r} if name in sys.modules), 'then')\n"
        "plots.class_counts([3, 2]).savefig(io.BytesIO(), format='png')"
    )
    assert imported_by(draw, ("matplotlib.figure", "matplotlib.pyplot"), root) == [
        "torch",
        "ltaug.mixers",
        "then",
        "matplotlib.figure",
    ]


def test_a_heavy_import_would_be_seen(root: Path, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("")
    (tmp_path / "light.py").write_text("import timm")
    assert imported_by("import light", HEAVY, root, tmp_path) == ["timm"]


# Public names.


def public_names(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name in getattr(module, "__all__", []):
        yield name, getattr(module, name, None)


def undocumented(module: ModuleType) -> list[str]:
    """Names of `__all__`, and public methods of its classes, that are missing or have no docstring of their own."""
    faults = []
    for name, value in public_names(module):
        if value is None or not inspect.getdoc(value):
            faults.append(name)
        elif inspect.isclass(value) and value.__module__.startswith(module.__name__.partition(".")[0]):
            if not value.__doc__:
                faults.append(name)
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_") and not inspect.getdoc(function):
                    faults.append(f"{name}.{method}")
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    names = list(getattr(module, "__all__", []))
    assert len(names) == len(set(names))
    assert undocumented(module) == []


def test_every_package_and_many_modules_list_their_names() -> None:
    listed = {name for name in MODULES if hasattr(importlib.import_module(name), "__all__")}
    assert {
        "ltaug",
        "ltaug.mixers",
        "ltaug.samplers",
        "ltaug.losses",
        "ltaug.posthoc",
        "ltaug.priors",
        "ltaug.longtail",
    } <= listed
    assert sum(1 for name in listed for _ in public_names(importlib.import_module(name))) > 50


def test_a_missing_or_bare_name_would_be_seen() -> None:
    class Bare:
        def method(self) -> None: ...

    class Documented:
        """One."""

        def method(self) -> None: ...

        def told(self) -> None:
            """Told."""

    module = ModuleType("planted")
    Bare.__module__ = Documented.__module__ = "planted"
    module.Bare, module.Documented, module.function = Bare, Documented, lambda: None  # type: ignore[attr-defined]
    module.__all__ = ["Bare", "Documented", "absent", "function"]  # type: ignore[attr-defined]
    assert undocumented(module) == ["Bare", "Documented.method", "absent", "function"]


def test_types_and_version_are_there() -> None:
    assert (SOURCES / "py.typed").is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", ltaug.__version__)


# Examples.


def examples_of(module: ModuleType) -> int:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return sum(len(test.examples) for test in finder.find(module))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.failed == 0
    assert result.attempted == examples_of(module)


def test_there_are_examples() -> None:
    counted = {name: examples_of(importlib.import_module(name)) for name in MODULES}
    assert sum(counted.values()) > 60
    for name in (
        "ltaug",
        "ltaug.priors",
        "ltaug.longtail",
        "ltaug.samplers.class_power",
        "ltaug.mixers.mixup",
        "ltaug.run",
    ):
        assert counted[name] > 0, name
    # every function and class of the numeric modules shows itself
    for name in (
        "ltaug.priors",
        "ltaug.longtail",
        "ltaug.losses.functional",
        "ltaug.mixers.functional",
        "ltaug.posthoc.shift",
    ):
        for public, value in public_names(importlib.import_module(name)):
            assert ">>>" in (inspect.getdoc(value) or ""), f"{name}.{public}"


def test_a_wrong_example_would_be_seen() -> None:
    module = ModuleType("planted", ">>> 1 + 1\n3\n")
    assert doctest.testmod(module, optionflags=FLAGS, report=False, verbose=False).failed == 1


def run_page(page: Path, scratch: Path) -> doctest.TestResults:
    """Run the examples of a Markdown page, in a folder of their own; a fence ends an example's output."""
    text = re.sub(r"^\s*```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    module = ModuleType(f"page_{page.stem}")  # a module, so that classes of the page can be pickled
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    test.globs = vars(module)
    before = Path.cwd()
    try:
        os.chdir(scratch)
        sys.modules[module.__name__] = module
        return doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False)
    finally:
        del sys.modules[module.__name__]
        os.chdir(before)


def test_examples_of_the_readme(root: Path, tmp_path: Path) -> None:
    result = run_page(root / "README.md", tmp_path)
    assert result.failed == 0
    assert result.attempted > 0


def test_examples_of_the_page_on_deployment(root: Path, tmp_path: Path) -> None:
    for name in ("timm", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    result = run_page(root / "docs" / "deploy.md", tmp_path)
    assert result.failed == 0
    assert result.attempted > 40
    assert run_page(root / "docs" / "use_a_run.md", tmp_path) == (0, 10)


def test_examples_of_the_page_on_other_frameworks(root: Path, tmp_path: Path) -> None:
    for name in ("transformers", "datasets", "lightning"):
        pytest.importorskip(name)
    result = run_page(root / "docs" / "integrations.md", tmp_path)
    assert result.failed == 0
    assert result.attempted > 30


@pytest.mark.parametrize("name", ["extend", "methods", "coming_from", "multilabel"])
def test_examples_of_the_pages_on_methods_and_own_parts(name: str, root: Path, tmp_path: Path) -> None:
    with patch.dict(METHODS):  # a page registers a method of its own
        result = run_page(root / "docs" / f"{name}.md", tmp_path)
    assert result.failed == 0
    assert result.attempted > 10
    text = (root / "docs" / f"{name}.md").read_text()
    assert name != "extend" or all(f"\n>>> check_{kind}(" in text for kind in ("mixer", "sampler", "loss", "data"))


def test_a_wrong_example_in_a_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\n>>> 1 + 1\n2\n```\n\n```python\n>>> 1 + 2\n4\n```\n")
    assert run_page(page, tmp_path) == (1, 2)


# The reference.


def in_the_reference(pages: Path) -> set[str]:
    """Modules that the pages of the reference describe."""
    texts = (page.read_text(encoding="utf-8") for page in sorted(pages.glob("*.md")))
    return {name for text in texts for name in re.findall(r"^\.\. library-module:: ([\w.]+)$", text, re.MULTILINE)}


def missing_in_the_reference(modules: list[str], pages: Path) -> set[str]:
    """Public names that no page of the reference describes; what a package does not export is its own matter."""
    described = {
        id(value) for name in in_the_reference(pages) for _, value in public_names(importlib.import_module(name))
    }
    found = set()
    for name in modules:
        package = name.rpartition(".")[0]
        inside = package != "ltaug" and hasattr(importlib.import_module(package or "ltaug"), "__all__")
        if package and not inside and not any(part.startswith("_") for part in name.split(".")):
            module = importlib.import_module(name)
            found |= {f"{name}.{public}" for public, value in public_names(module) if id(value) not in described}
    return found


def test_the_reference_describes_every_public_name(root: Path) -> None:
    pages = root / "docs" / "reference"
    assert missing_in_the_reference(MODULES, pages) == set()
    listed = (pages / "index.md").read_text()
    assert all(f"\n{page.stem}\n" in listed for page in pages.glob("*.md") if page.name != "index.md")


def test_a_module_that_is_missing_in_the_reference_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "losses.md").write_text("```{eval-rst}\n.. library-module:: ltaug.losses\n```\n")
    assert missing_in_the_reference(["ltaug", "ltaug.losses", "ltaug.losses.weights"], tmp_path) == set()
    assert missing_in_the_reference(["ltaug.losses", "ltaug.stages"], tmp_path) == {
        f"ltaug.stages.{name}" for name in ("freeze", "reinitialize", "set_batch_norm_mode", "unfreeze")
    }


# What the library must never contain.


def imports_recipes(tree: ast.AST) -> Iterator[int]:
    """Lines that import from a recipe, in any spelling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [str(node.args[0].value)] if function in ("import_module", "__import__", "run_path") else []
        else:
            continue
        if any("recipes" in re.split(r"[./]", name) for name in names):
            yield node.lineno


def calls_cuda(tree: ast.AST) -> Iterator[int]:
    """Lines with `x.cuda(...)`; asking `torch.cuda.is_available()` is fine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            yield node.lineno


def draws_from_a_global_generator(tree: ast.AST) -> Iterator[int]:
    """Lines with `np.random.shuffle`, `random.random` and the like; making a generator of one's own is fine."""
    allowed = {"default_rng", "SeedSequence", "RandomState", "Generator"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) in ("random", "np.random", "numpy.random") and node.attr not in allowed:
                yield node.lineno
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module in ("random", "numpy.random")
            and any(alias.name not in {"Random", *allowed} for alias in node.names)
        ):
            yield node.lineno


def asserts_or_prints(tree: ast.AST) -> Iterator[int]:
    """Lines that check with `assert`, which `python -O` leaves out, or that print."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ):
            yield node.lineno


Guard = Callable[[ast.AST], Iterator[int]]


EXCEPTIONS = {
    # They seed the global generators, to see who draws from them and for the code of others, and restore their states.
    draws_from_a_global_generator: {"loaders/_generators.py", "testing/_base.py"},
    # What a training script says on the terminal: its results, and images that cannot be decoded.
    asserts_or_prints: {"training.py", "vision/decoding.py"},
}


@functools.cache
def parsed(file: Path) -> ast.AST:
    return ast.parse(file.read_text())


def violations(guard: Guard, folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.py"))
    assert files, f"no Python files in {folder}"
    return [
        f"{name}:{line}"
        for name in (file.relative_to(folder).as_posix() for file in files)
        if name not in EXCEPTIONS.get(guard, ())
        for line in guard(parsed(folder / name))
    ]


@pytest.mark.parametrize("guard", [imports_recipes, calls_cuda, draws_from_a_global_generator, asserts_or_prints])
def test_guard(guard: Guard) -> None:
    assert violations(guard, SOURCES) == []


@pytest.mark.parametrize(
    ("guard", "line"),
    [
        (imports_recipes, "import recipes.cifar_lt.model"),
        (imports_recipes, "import os, recipes as r"),
        (imports_recipes, "from recipes import cifar_lt"),
        (imports_recipes, "from recipes.cifar_lt.data import load_data"),
        (imports_recipes, "from .. import recipes"),
        (imports_recipes, "from ...recipes.cifar_lt import model"),
        (imports_recipes, "model = importlib.import_module('recipes.cifar_lt.model')"),
        (imports_recipes, "__import__('recipes')"),
        (imports_recipes, "runpy.run_path('recipes/cifar_lt/model.py')"),
        (calls_cuda, "x = torch.zeros(3).cuda()"),
        (calls_cuda, "self.weights.cuda(device)"),
        (draws_from_a_global_generator, "np.random.shuffle(x)"),
        (draws_from_a_global_generator, "numpy.random.seed(0)"),
        (draws_from_a_global_generator, "x = random.random()"),
        (draws_from_a_global_generator, "from random import shuffle"),
        (asserts_or_prints, "assert x > 0"),
        (asserts_or_prints, "print(x)"),
    ],
)
def test_a_planted_line_would_be_seen(guard: Guard, line: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "planted.py").write_text(f"def function():\n    {line}\n")
    (tmp_path / "fine.py").write_text(
        "import torch\nfrom ltaug.priors import recipes_note\nx = torch.cuda.is_available(), np.random.default_rng(0)\n"
    )
    assert violations(guard, tmp_path) == ["folder/planted.py:2"]


# Names in prose.

NAMED = re.compile(r"(?<![\w./@\-])ltaug((?:\.[A-Za-z_]\w*)+)")
IMPORTED = re.compile(r"from (ltaug[\w.]*) import (\([^)]*\)|[^\n]+)")


def names_that_do_not_exist(text: str) -> set[str]:
    """Of what a text calls ``ltaug.X``, or imports from it."""
    faults = set()
    named = [f"ltaug{path}" for path in NAMED.findall(text) if path != ".json"]  # the file beside a run's model
    for module, names in IMPORTED.findall(text):
        names = re.sub(r"#[^\n]*|[()\\]|>>>|\.\.\.", " ", names)
        named += [f"{module}.{name.split()[0]}" for name in names.split(",") if name.strip()]
    for name in named:
        value: object = ltaug
        for place, part in enumerate(parts := name.split(".")[1:]):
            try:
                value = getattr(value, part) if hasattr(value, part) else importlib.import_module(f"{name}")
            except ImportError:
                faults.add(".".join(["ltaug", *parts[: place + 1]]))
                break
    return faults


def test_names_in_docstrings_and_pages_exist(root: Path) -> None:
    pages = [path for folder in ("docs", "recipes", "examples", "ltaug") for path in (root / folder).rglob("*")]
    faults = {
        f"{page.relative_to(root)}: {name}"
        for page in [root / "README.md", *pages]
        if page.suffix in (".md", ".py") and "_build" not in page.parts
        for name in names_that_do_not_exist(page.read_text(encoding="utf-8"))
    }
    assert faults == set()


def test_a_name_that_does_not_exist_would_be_seen() -> None:
    text = (
        "`ltaug.estimate_prior` and :class:`ltaug.NoLoss`, :mod:`ltaug.posthoc.shift`, `ltaug.posthoc.no_shift(x)`, "
        "github.com/someone/ltaug.git\nfrom ltaug import BayiasLoss, MixDown\n"
        ">>> from ltaug.losses import (\n...     no_loss,\n...     FocalLoss,  # and a word\n... )\n"
    )
    assert names_that_do_not_exist(text) == {
        "ltaug.NoLoss",
        "ltaug.posthoc.no_shift",
        "ltaug.MixDown",
        "ltaug.losses.no_loss",
    }
