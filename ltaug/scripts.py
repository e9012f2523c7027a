"""Training scripts of the recipes: find them, copy them, and run them in this process."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import yaml

from ltaug.errors import UserError, did_you_mean
from ltaug.run import read_json

__all__ = ["check_trains", "copy_recipe", "find_recipe", "loaded_script", "run_script"]

PLACES = (Path(__file__).parent / "_recipes", Path(__file__).parents[1] / "recipes")
"""Where recipes are: in an installed package, and beside it in the repository."""


README = """# {name}

Started from the recipe {recipe} of ltaug {version}. Make it yours, then let this page say what the data are and what
came out, each number with its command.

1. **data.py**: {data}
2. **model.py**: {model}
   Settings of the old network stand at the end of the files of `protocols`: delete those that yours does not have.
3. Try it: `python {folder}/train.py --method mixup_bayias --epochs 1 --out runs/try`. A mistake in settings or data
   ends it with one line; `PYTHONDEVMODE=1` in front shows the traceback. All that train.py asks of the data,
   `ltaug.testing.check_data(load_data(cfg), cfg)` checks.

train.py stays as it is: nothing in it knows what a sample is.

| to | command |
|---|---|
| train a method | `accelerate launch {folder}/train.py --method unimix_bayias` |
| see the methods | `ltaug methods`, `ltaug methods unimix_bayias` |
| take the samples as they are | `... --profile natural` |
| run a second stage | `... --method crt --from_run RUN`, where RUN was trained with `erm` |
| continue a run | the same command with `--resume true` |
| train many, with a table | `ltaug sweep {folder}/train.py method=erm,mixup,bayias seed=0,1,2` |
| correct a run for another class mix | `ltaug correct RUN --target_prior uniform` |
| see every setting | `python {folder}/train.py --help` |

## Protocols

`--protocol NAME` takes the settings of a file of `protocols`. These came with {recipe}: keep what fits your data.

| NAME | what it is |
|---|---|
{protocols}

## Published numbers

A sweep prints those of `published.csv` beside its own, if there is one: columns `method`, `paper`, `top1` in percent,
and any settings, such as `dataset`.
"""
"""README of a copy: what to change, and what there is. That of the original is about its data and its results."""


def find_recipe(name: str) -> Path:
    """Folder of a recipe that comes with ltaug.

    Args:
        name: of the recipe, or a folder of your own that has a train.py.

    Raises:
        UserError: there is none of this name.
    """
    known = {path.parent.name: path.parent for place in PLACES for path in sorted(place.glob("*/train.py"))}
    if name in known:
        return known[name]
    if (Path(name) / "train.py").is_file():
        return Path(name)
    there = f"There are: {', '.join(known)}." if known else "This installation of ltaug has none."
    raise UserError(f"there is no recipe {name!r}{did_you_mean(name, known) or '.'} {there}")


def copy_recipe(name: str, folder: str | Path) -> Path:
    """Copy a recipe to a new folder, as a start for data of one's own.

    The copy of a recipe that comes with ltaug gets a README that begins with what to change, and no published numbers:
    those are of other people's data.

    Args:
        name: see :func:`find_recipe`.
        folder: is created; it may exist if it is empty.

    Raises:
        UserError: there is no such recipe, or the folder has files in it.
    """
    source, target = find_recipe(name), Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"`{target}` exists already. Choose another folder.")
    if source.resolve() in target.resolve().parents:
        raise UserError(f"`{target}` lies inside the recipe that it would be a copy of. Choose another folder.")
    ours = source.parent in PLACES
    own = ("README.md", "published.csv") if ours else ()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "runs", *own)
    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    if ours:
        (target / "README.md").write_text(_readme(source, target), encoding="utf-8")
    return target


def _readme(recipe: Path, copy: Path) -> str:
    from ltaug import __version__

    protocols = {file.stem: _comment(file) for file in sorted(recipe.glob("protocols/*.yaml"))}
    return README.format(
        name=copy.resolve().name,
        folder=copy.as_posix(),
        recipe=recipe.name,
        version=__version__,
        data=_advice(recipe / "data.py", "To train on something else"),
        model=_advice(recipe / "model.py", "Replace it by your own"),
        protocols="\n".join(f"| `{name}` | {text} |" for name, text in protocols.items()),
    )


def _advice(file: Path, begin: str) -> str:
    """What the docstrings of a file say from some words on, up to the end of the docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")
    documented: list[ast.Module | ast.FunctionDef] = [
        tree,
        *(node for node in tree.body if isinstance(node, ast.FunctionDef)),
    ]
    texts = (" ".join((ast.get_docstring(node) or "").split()) for node in documented)
    return next((text[text.index(begin) :] for text in texts if begin in text), "").replace(":class:", "")


def _comment(file: Path) -> str:
    """The comment at the top of a file of settings."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x.startswith("#"), lines))


def check_trains(folder: str | Path) -> tuple[str, float]:
    """Train a recipe for one epoch on the data that it brings along, in a temporary run folder.

    These are the data of the protocol that is named after its data set.

    Args:
        folder: of the recipe.

    Returns:
        The data set's name, and the top-1 accuracy.

    Raises:
        UserError: no protocol has the name of its data set.
    """
    for file in sorted(Path(folder).glob("protocols/*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("dataset") == file.stem:
            break
    else:
        raise UserError(f"`{folder}` brings no data along: no file of protocols/ is named after its `dataset`.")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        words = ["--protocol", file.stem, "--epochs", "1", "--out", str(out), "--report", "false"]
        run_script(Path(folder) / "train.py", words)
        return file.stem, float(read_json(out / "summary.json")["final"]["top1"])


@contextmanager
def loaded_script(script: str | Path) -> Iterator[ModuleType]:
    """Import a training script and the modules beside it, without leaving traces in this process.

    Scripts of several recipes have modules of the same names, such as ``data``: inside the block these are the
    script's, afterwards those that were there before.

    Args:
        script: path of a train.py.

    Yields:
        The module.
    """
    path = Path(script).resolve()
    if not path.is_file():
        raise UserError(f"`{script}` is no file: a training script is needed, such as recipes/cifar_lt/train.py.")
    beside = {file.stem for file in path.parent.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in beside if name in sys.modules}
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise UserError(f"`{script}` is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # where dataclasses look for the types of their fields
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))
        sys.dont_write_bytecode = writes_bytecode
        for name in beside:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def run_script(script: str | Path, words: Sequence[str]) -> None:
    """Run a training script's ``main`` with the settings of a command line, in this process.

    Args:
        script: path of a train.py with ``Config`` and ``main``.
        words: its command line.
    """
    from ltaug.training import launch

    argv = sys.argv
    with loaded_script(script) as module:
        sys.argv = [str(script), *words]  # what a run folder records
        try:
            launch(module.main, module.Config, str(script), words)
        finally:
            sys.argv = argv
