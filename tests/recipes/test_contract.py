"""What every recipe promises: files, configs, commands, imports. Each guard is shown a fault that it must catch."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from recipe_support import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = sorted(path.parent for path in (ROOT / "recipes").glob("*/train.py"))
ENTRIES = ("README.md", "train.py", "evaluate.py", "config.py", "data.py", "model.py", "configs", "requirements.txt")
LONGEST_TRAIN = 180  # lines: "about 150" that a reader follows from top to bottom
LAUNCH = "accelerate launch --config_file accelerate_config.yaml"
# Where a package is imported by another name than it is installed by.
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}

# Reads lists of arguments, answers with each one's error, or with null: one process for all, in a recipe's own folder.
PARSE = """
import contextlib, io, json, os, sys
recipe, where, lists = json.load(sys.stdin)
sys.path[0] = recipe
os.chdir(where)
import config
answers = []
for stage2, arguments in lists:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            config.parse_config(arguments, config.Stage2Config if stage2 else config.Config)
            answers.append(None)
        except SystemExit:
            answers.append(said.getvalue())
print(json.dumps(answers))
"""


def is_second_stage(config: Path) -> bool:
    """Whether a config is one of train_stage2.py."""
    return re.search(r"^stage1: ", config.read_text(), flags=re.MULTILINE) is not None


def parse(recipe: Path, lists: list[tuple[bool, list[str]]], env: Mapping[str, str]) -> list[str | None]:
    """What the recipe's parse_config says to lists of arguments, from the top of the repository.

    Each stands behind whether it is of a second stage.
    """
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps([str(recipe), str(ROOT), lists]),
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The guards: each returns what is wrong.


def missing_entries(recipe: Path) -> list[str]:
    """What a recipe's folder lacks."""
    missing = [entry for entry in ENTRIES if not (recipe / entry).exists()]
    return missing if list((recipe / "configs").rglob("*.yaml")) else [*missing, "configs/*.yaml"]


def header_problem(config: Path) -> str | None:
    """What is wrong with the first line of a config, which is its exact command."""
    path = config.relative_to(ROOT).as_posix()
    folder = "/".join(path.split("/")[:2])
    wanted = f"# {LAUNCH} {folder}/train.py --config {path}"
    if stage1 := re.search(r"^stage1: (\w+)$", config.read_text(), flags=re.MULTILINE):
        if folder == "recipes/imagenet_lt":
            data = "places_lt_resnet152" if config.stem.endswith("_places") else "imagenet_lt_resnet50"
        elif folder == "recipes/inaturalist":
            data = "inaturalist2018_resnet50"
        else:
            ratio = found[1] if (found := re.search(r"_ir(\d+)$", config.stem)) else "100"
            data = f"cifar10_ir{ratio}" if "_cifar10_" in f"{config.stem}_" else f"cifar100_ir{ratio}"
        run = f"runs/{data}_{stage1[1]}_seed0"
        wanted = f"# {LAUNCH} {folder}/train_stage2.py --config {path} --from_run {run}"
    first = config.read_text().partition("\n")[0]
    return None if first == wanted else f"{path} must open with {wanted!r}, but does with {first!r}"


def allowed_imports(recipe: Path) -> set[str]:
    """The standard library, ltaug, the recipe's own modules, and what its requirements.txt installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"ltaug\[([\w,]+)\]", (recipe / "requirements.txt").read_text())
    wanted = project["dependencies"] + [
        requirement for extra in ",".join(extras).split(",") for requirement in project["optional-dependencies"][extra]
    ]
    names = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted}
    third = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    return third | {"ltaug"} | {path.stem for path in recipe.glob("*.py")} | set(sys.stdlib_module_names)


def import_problems(recipe: Path) -> list[str]:
    """Imports of a recipe that would break it elsewhere."""
    problems, allowed = [], allowed_imports(recipe)
    for file in sorted(recipe.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = ["." * node.level + (node.module or "")]
                names += [f"sys.{alias.name}" for alias in node.names if node.module == "sys" and alias.name == "path"]
            elif isinstance(node, ast.Attribute):
                names = [name for name in ("sys.path", "importlib.import_module") if ast.unparse(node) == name]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "__import__":
                names = ["__import__"]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "../" in node.value:
                names = ["../"]
            for name in names:
                tricks = ("sys.path", "importlib.import_module", "__import__", "../")
                if name in tricks or name.split(".")[0] not in allowed:
                    problems.append(f"{file.name}:{node.lineno}: {name}")
    return problems


def commands(text: str) -> list[list[str]]:
    """Every command of a page that starts a script of a recipe: in blocks of code, or in a line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    starts = re.compile(r"\b(accelerate launch|python|torchrun)\b.* recipes/\S+\.py\b")
    return [shlex.split(part) for line in lines for part in re.split(r"&&|;", line) if starts.search(part)]


def command_problems(text: str, env: Mapping[str, str]) -> list[str]:
    """Commands of a page that name files that do not exist, or settings that train.py does not take."""
    problems, lists = [], {}
    for command in commands(text):
        line = shlex.join(command)
        for path in (word for word in command if re.match(r"(recipes/|accelerate_config)", word)):
            if not (ROOT / path).exists():
                problems.append(f"{line}: there is no {path}")
        place = next(k for k, word in enumerate(command) if word.startswith("recipes/") and word.endswith(".py"))
        # "--config ..." leaves the choice to the reader.
        arguments = re.sub(r"\S+ \.\.\.", "", shlex.join(command[place + 1 :]))
        script = ROOT / command[place]
        if script.name in ("train.py", "train_stage2.py") and script.exists():
            arguments = (script.name == "train_stage2.py", shlex.split(arguments))
            lists.setdefault(script.parent, []).append((line, arguments))
    for recipe, items in lists.items():
        answers = parse(recipe, [arguments for _, arguments in items], env)
        problems += [f"{line}: {answer}" for (line, _), answer in zip(items, answers, strict=True) if answer]
    return problems


def dead_paths(text: str) -> list[str]:
    """Files of recipes that a text names and that do not exist."""
    named = re.findall(r"recipes/[\w/]+\.(?:py|yaml|md|txt)\b", text)
    return sorted({path for path in named if not (ROOT / path).exists()})


@pytest.fixture(params=RECIPES, ids=lambda path: path.name)
def recipe(request: pytest.FixtureRequest) -> Path:
    return request.param


def copied(recipe: Path, folder: Path) -> Path:
    """A copy to plant a fault in."""
    return Path(shutil.copytree(recipe, folder / "copy", ignore=shutil.ignore_patterns("__pycache__")))


def test_there_are_recipes() -> None:
    assert {"cifar_lt", "esc50_lt"} <= {path.name for path in RECIPES}


class TestEntries:
    def test_are_complete(self, recipe: Path) -> None:
        assert missing_entries(recipe) == []

    @pytest.mark.parametrize("entry", ENTRIES)
    def test_a_missing_one_is_caught(self, recipe: Path, entry: str, tmp_path: Path) -> None:
        copy = copied(recipe, tmp_path)
        (shutil.rmtree if (copy / entry).is_dir() else Path.unlink)(copy / entry)
        assert entry in missing_entries(copy)

    def test_no_config_is_caught(self, recipe: Path, tmp_path: Path) -> None:
        copy = copied(recipe, tmp_path)
        for config in copy.glob("configs/*.yaml"):
            config.unlink()
        assert missing_entries(copy) == ["configs/*.yaml"]

    def test_train_is_short(self, recipe: Path) -> None:
        assert len((recipe / "train.py").read_text().splitlines()) <= LONGEST_TRAIN

    def test_nothing_is_a_link(self, recipe: Path) -> None:
        assert not [path for path in recipe.rglob("*") if path.is_symlink()]


class TestConfigs:
    def test_parse(self, recipe: Path, env: Mapping[str, str], tmp_path: Path) -> None:
        # The planted ones go the same way: a guard that lets them pass would let anything pass.
        faults = {
            "unknown.yaml": "epochz: 3\n",
            "type.yaml": "epochs: three\n",
            "value.yaml": "imbalance_ratio: 0.01\n",
        }
        for name, text in faults.items():
            (tmp_path / name).write_text(text)
        configs = sorted(recipe.rglob("*.yaml"))
        assert len(configs) >= 10
        files = [*configs, *(tmp_path / name for name in faults)]
        lists = [(is_second_stage(file), ["--config", str(file)]) for file in files]
        answers = parse(recipe, lists, env)
        assert answers[: len(configs)] == [None] * len(configs)
        said = dict(zip(faults, answers[len(configs) :], strict=True))
        assert "epochz" in said["unknown.yaml"]
        assert "epochs" in said["type.yaml"]
        assert "imbalance_ratio" in said["value.yaml"]

    def test_open_with_their_command(self, recipe: Path) -> None:
        problems = [header_problem(config) for config in sorted(recipe.rglob("*.yaml"))]
        assert problems
        assert not any(problems), problems

    @pytest.mark.parametrize("change", [("--config ", "--confg "), ("erm.yaml", "bayias.yaml"), ("# accel", "#accel")])
    def test_another_first_line_is_caught(self, change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        config = ROOT / "recipes" / "cifar_lt" / "configs" / "erm.yaml"
        text = config.read_text()
        assert header_problem(config) is None
        monkeypatch.setattr(Path, "read_text", lambda self: text.replace(*change, 1) if self == config else "")
        assert "must open with" in header_problem(config)

    def test_a_method_is_named_as_its_file(self, recipe: Path) -> None:
        configs = recipe / "configs"
        for config in configs.glob("*.yaml"):
            if stage1 := re.search(r"^stage1: (\w+)$", config.read_text(), flags=re.MULTILINE):
                assert (configs / f"{stage1[1]}.yaml").is_file(), config
            method = re.search(r"^method: (\w+)$", config.read_text(), flags=re.MULTILINE)
            assert (method is None) == (config.stem == "quickstart"), config  # which follows another one
            assert method is None or config.stem.startswith(method[1])


class TestImports:
    def test_keep_the_rule(self, recipe: Path) -> None:
        assert import_problems(recipe) == []

    @pytest.mark.parametrize(
        "line",
        [
            "import recipes.cifar_lt.data",
            "from recipes.esc50_lt import data",
            "from .config import Config",
            "from .. import data",
            "import hypothesis",  # of another extra
            "def f():\n    import pandas",
            "import sys\nsys.path.insert(0, 'x')",
            "from sys import path",
            "import importlib\nimportlib.import_module('x')",
            "data = __import__('data')",
            "open('../cifar_lt/data.py')",
        ],
    )
    def test_a_breach_is_caught(self, recipe: Path, line: str, tmp_path: Path) -> None:
        copy = copied(recipe, tmp_path)
        (copy / "model.py").write_text(f"{(copy / 'model.py').read_text()}\n{line}\n")
        problems = import_problems(copy)
        assert problems
        assert all(problem.startswith("model.py:") for problem in problems)

    def test_recipes_are_no_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT)
        with pytest.raises(ModuleNotFoundError, match="folders to run and to copy"):
            importlib.import_module("recipes")


class TestPages:
    PAGES = ("README.md", "recipes/README.md", *(f"recipes/{path.name}/README.md" for path in RECIPES))

    def test_commands_work(self, env: Mapping[str, str]) -> None:
        texts = {page: (ROOT / page).read_text() for page in self.PAGES}
        for page, text in texts.items():
            assert commands(text), f"{page} has no command that starts a recipe"
        assert command_problems("\n\n".join(texts.values()), env) == []

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("```bash\npython recipes/cifar_lt/trian.py\n```", "there is no recipes/cifar_lt/trian.py"),
            (
                f"```\n{LAUNCH} recipes/cifar_lt/train.py \\\n    --config recipes/cifar_lt/configs/erm.yml\n```",
                "erm.yml' is no file",
            ),
            (f"```\n{LAUNCH} recipes/cifar_lt/train.py --imbalance 10\n```", "unrecognized arguments: --imbalance 10"),
            ("Run `torchrun --nproc-per-node 2 recipes/cifar_lt/train.py --epochs ten`.", "Got value: ten"),
            (
                "| `pip install x && python recipes/cifar_lt/train.py --config ... --los ce` |",
                "unrecognized arguments: --los ce",
            ),
            ("```\naccelerate launch --config_file accelerate_config.yml recipes/cifar_lt/evaluate.py\n```", ".yml"),
        ],
    )
    def test_a_wrong_command_is_caught(self, text: str, problem: str, env: Mapping[str, str]) -> None:
        problems = command_problems(f"# Page\n\n{text}\n", env)
        assert problems
        assert any(problem in one for one in problems), problems

    def test_every_file_named_exists(self) -> None:
        pages = [ROOT / name for name in (*self.PAGES, "Makefile", "CONTRIBUTING.md", "pyproject.toml", ".ci/run")]
        pages += [*(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").rglob("*.py"), *(ROOT / "recipes").rglob("*.yaml")]
        assert {page: dead_paths(page.read_text()) for page in pages if dead_paths(page.read_text())} == {}
        assert dead_paths("see recipes/cifar_lt/trian.py and recipes/cifar_lt/train.py") == [
            "recipes/cifar_lt/trian.py"
        ]

    def test_every_recipe_stands_in_the_table(self) -> None:
        page = (ROOT / "recipes" / "README.md").read_text()
        for recipe in RECIPES:
            assert f"| [{recipe.name}]({recipe.name}) |" in page

    def test_every_config_stands_in_its_recipes_page(self, recipe: Path) -> None:
        page = (recipe / "README.md").read_text()
        for config in recipe.glob("configs/*.yaml"):
            assert f"`{config.stem}`" in page, config.stem

    def test_links_lead_somewhere(self) -> None:
        for name in self.PAGES:
            links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / name).read_text())
            for link in links:
                if not link.startswith("docs/images/"):  # pictures are made by a run
                    assert os.path.exists((ROOT / name).parent / link), f"{name}: {link}"


@pytest.mark.parametrize("name", ["adapters.py", "classifier.py", "optimizer.py"])
def test_what_two_recipes_have_alike_stays_alike(name: str) -> None:
    """A folder is copied whole, so it carries its own; a repair of one must reach the other."""
    assert (ROOT / "recipes" / "imagenet_lt" / name).read_text() == (
        ROOT / "recipes" / "inaturalist" / name
    ).read_text()
