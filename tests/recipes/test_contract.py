"""What every recipe promises: protocols, imports, commands of its page. Each guard is shown a fault to catch."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from recipe_support import EMBEDDED, RECIPES, ROOT, Recipe, imported

from ltaug.__main__ import _parsers
from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.sweeps import check_runs, plan_runs, read_axes
from ltaug.training import settings_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Where a package is imported by another name than it is installed by.
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
PAGES = ("README.md", "recipes/README.md", *(f"recipes/{path.name}/README.md" for path in RECIPES))
DOCS = tuple(sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))


@pytest.fixture(params=RECIPES, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.name)
def recipe(request: pytest.FixtureRequest) -> Iterator[Recipe]:
    with imported(request.param) as recipe:
        yield recipe


@pytest.fixture
def first_stage(recipe: Recipe, tmp_path: Path) -> Path:
    """A folder that looks like a finished run, for settings that start from one."""
    return fake_run(recipe, tmp_path / "first")


def fake_run(recipe: Recipe, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(recipe.settings("erm"))))
    for name in ("ltaug.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


# The guards: each returns what is wrong.


def problem(recipe: Recipe, words: list[str]) -> str | None:
    """What settings_of says of some words."""
    try:
        settings_of(recipe.module.Config, str(recipe.script), words)
    except UserError as error:
        return " ".join(str(error).split())
    except SystemExit as end:  # --help, --print_config
        return None if end.code in (None, 0) else f"exit code {end.code}"
    return None


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


def commands(text: str, page: str = "") -> list[list[str]]:
    """Every command of a page that starts a recipe or `ltaug`: in blocks of code, or in a line.

    In a recipe's own page "... --setting value" is its train.py.
    """
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    own = f"{os.path.dirname(page)}/train.py"
    lines = [re.sub(r"^\.\.\. (?=--)", f"python {own} ", line) if page.count("/") == 2 else line for line in lines]
    starts = re.compile(r"\b(accelerate launch|python|torchrun)\b.* recipes/\S+\.py\b|^ltaug \w+")
    found = (part.split(" #")[0].strip() for line in lines for part in re.split(r"&&|;", line))
    return [shlex.split(part) for part in found if starts.search(part)]


def command_problems(text: str, folder: Path, page: str = "") -> list[str]:
    """Commands of a page that name files that do not exist, or words that the program does not take."""
    problems, words_of = [], {}
    for command in commands(text, page):
        line = shlex.join(command)
        command = [word for word in command if word != "..."]
        missing = [path for path in command if re.match(r"recipes/", path) and not (ROOT / path).exists()]
        problems += [f"{line}: there is no {path}" for path in missing]
        if missing:
            continue
        if command[0] == "ltaug":
            with contextlib.redirect_stderr(io.StringIO()):
                problems += [f"{line}: {said}" for said in ltaug_problem(command[1:], folder)]
            continue
        place = next(k for k, word in enumerate(command) if word.startswith("recipes/") and word.endswith(".py"))
        words_of.setdefault((ROOT / command[place]).parent, []).append((line, command[place + 1 :]))
    for path, items in words_of.items():
        with imported(path) as recipe:
            run = fake_run(recipe, folder / path.name)
            for line, words in items:
                named = [str(run) if words[k - 1 : k] == ["--from_run"] else word for k, word in enumerate(words)]
                if said := problem(recipe, [*named, "--out", str(folder / "out")]):
                    problems.append(f"{line}: {said}")
    return problems


def ltaug_problem(words: list[str], folder: Path) -> list[str]:
    """What the command `ltaug` says of some words, before it does anything."""
    behind = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    parser, known = _parsers()
    if len(words) == 1 and words[0] in known:  # its name in a sentence
        return []
    try:
        if words[0] == "push-data":  # whose settings may stand behind options
            known[words[0]].parse_intermixed_args(words[1:])
            return []
        arguments = parser.parse_args(words)
        if words[0] == "methods" and arguments.name not in (None, "NAME", *METHODS):
            return [f"there is no method {arguments.name}"]
        if words[0] == "sweep":
            script = ROOT / arguments.script
            check_runs(script, plan_runs(script, read_axes(arguments.axes), behind, folder / "sweep"))
    except SystemExit as end:
        return [] if end.code in (None, 0) else ["is refused"]
    except UserError as error:
        return [str(error)]
    return []


def dead_paths(text: str) -> list[str]:
    """Files of recipes that a text names and that do not exist."""
    named = re.findall(r"recipes/[\w/]+\.(?:py|yaml|md|txt|csv)\b", text)
    return sorted({path for path in named if not (ROOT / path).exists()})


def copied(recipe: Path, folder: Path) -> Path:
    """A copy to plant a fault in."""
    return Path(shutil.copytree(recipe, folder / "copy", ignore=shutil.ignore_patterns("__pycache__")))


def test_there_are_recipes() -> None:
    assert [path.name for path in RECIPES] == ["cifar_lt", "esc50_lt", "imagenet_lt", "inaturalist", "synthia_rgbd"]


def test_nothing_is_a_link(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


class TestProtocols:
    def test_second_stages_have_every_one(self, recipe: Recipe, first_stage: Path) -> None:
        """They name only settings that the recipe has, within their ranges, for whatever method is chosen."""
        protocols = sorted(path.stem for path in recipe.script.parent.glob("protocols/*.yaml"))
        assert len(protocols) >= 3
        for name in protocols:  # of first stages, below
            assert problem(recipe, ["--protocol", name, "--method", "mislas", "--from_run", str(first_stage)]) is None

    def test_each_changes_something(self, recipe: Recipe) -> None:
        plain = vars(settings_of(recipe.module.Config, str(recipe.script), []))
        for path in recipe.script.parent.glob("protocols/*.yaml"):
            values = yaml.safe_load(path.read_text())
            cfg = vars(settings_of(recipe.module.Config, str(recipe.script), ["--protocol", path.stem]))
            own = {name: value for name, value in values.items() if name != "second_stage"}
            assert {name: cfg[name] for name in own} == own
            changed = {name for name in plain if cfg[name] != plain[name]} - {"protocol", "out"}
            whole = {"epochs", "batch_size", "lr", "weight_decay", "schedule"} <= values.keys()  # the default, by name
            assert changed or values.get("second_stage") or whole, path

    def test_each_says_what_it_is_in_its_first_line(self, folder: Path) -> None:
        for path in folder.glob("protocols/*.yaml"):
            assert re.match(r"# [A-Z0-9].*\.", path.read_text().partition("\n")[0]), path

    def test_each_stands_in_its_recipe_s_page(self, folder: Path) -> None:
        page = (folder / "README.md").read_text()
        for path in folder.glob("protocols/*.yaml"):
            assert f"`{path.stem}`" in page or f"--protocol {path.stem}" in page, path.stem

    def test_the_embedded_data_have_the_one_that_is_named_after_them(self, recipe: Recipe) -> None:
        name = EMBEDDED[recipe.name]
        assert settings_of(recipe.module.Config, str(recipe.script), ["--protocol", name]).dataset == name

    @pytest.mark.parametrize(
        ("name", "protocol", "dataset"),
        [
            ("cifar_lt", "lade", "cifar10"),
            ("esc50_lt", "envnet_v2", "esc10"),
            ("imagenet_lt", "lade", "places_lt"),
            ("inaturalist", "vit", "folder"),
        ],
    )
    def test_protocol_method_and_data_are_independent(
        self, name: str, protocol: str, dataset: str, tmp_path: Path
    ) -> None:
        with imported(ROOT / "recipes" / name) as recipe:
            words = ["--method", "mislas", "--from_run", str(fake_run(recipe, tmp_path / "first"))]
            words += ["--protocol", protocol, "--dataset", dataset]
            cfg = settings_of(recipe.module.Config, str(recipe.script), words)
        assert (cfg.method, cfg.protocol, cfg.dataset) == ("mislas", protocol, dataset)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("epochz: 3\n", "there is no setting `epochz`, did you mean 'epochs'?"),
            ("epochs: three\n", "`epochs`"),
            ("second_stage:\n  epochz: 3\n", "there is no setting `epochz`, did you mean 'epochs'?"),
            ("second_stage:\n  lr: -1\n", "`lr`"),
            ("- 1\n", "must hold `setting: value` lines"),
        ],
    )
    def test_a_planted_fault_is_seen(self, text: str, message: str, tmp_path: Path) -> None:
        folder = copied(RECIPES[0], tmp_path)
        (folder / "protocols" / "planted.yaml").write_text(text)
        with imported(folder) as recipe:
            first = fake_run(recipe, tmp_path / "first")
            words = ["--protocol", "planted"]
            if "second_stage" in text:
                words += ["--method", "mislas", "--from_run", str(first)]
            found = problem(recipe, words)
        assert message in (found or "")


class TestImports:
    def test_keep_the_rule(self, folder: Path) -> None:
        assert import_problems(folder) == []

    @pytest.mark.parametrize(
        "line",
        [
            "import recipes.cifar_lt.data",
            "from recipes.esc50_lt import data",
            "from .train import Config",
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
    def test_a_breach_is_caught(self, folder: Path, line: str, tmp_path: Path) -> None:
        copy = copied(folder, tmp_path)
        (copy / "model.py").write_text(f"{(copy / 'model.py').read_text()}\n{line}\n")
        problems = import_problems(copy)
        assert problems
        assert all(each.startswith("model.py:") for each in problems)

    def test_recipes_are_no_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT)
        with pytest.raises(ModuleNotFoundError, match="folders to run and to copy"):
            importlib.import_module("recipes")


class TestPages:
    # Those of docs/papers.md are read as it is written, see test_papers_page.py.
    @pytest.mark.parametrize("page", [*PAGES, *(page for page in DOCS if page != "docs/papers.md")])
    def test_commands_work(self, page: str, tmp_path: Path) -> None:
        text = (ROOT / page).read_text()
        if page in PAGES:
            assert commands(text, page), f"{page} has no command that starts a recipe"
        assert command_problems(text, tmp_path, page) == []

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("```bash\npython recipes/cifar_lt/trian.py\n```", "there is no recipes/cifar_lt/trian.py"),
            (
                "```\naccelerate launch recipes/cifar_lt/train.py \\\n    --protocol lad\n```",
                "`protocol` 'lad' is not known, did you mean 'lade'?",
            ),
            ("```\naccelerate launch recipes/cifar_lt/train.py --imbalance 10\n```", "no setting `--imbalance`"),
            ("Run `torchrun --nproc-per-node 2 recipes/cifar_lt/train.py --epochs ten`.", "`epochs`"),
            ("| `pip install x && python recipes/cifar_lt/train.py ... --metod erm` |", "no setting `--metod`"),
            ("| `... --method mixpu` |", "`method` 'mixpu' is not known"),
            ("`python recipes/cifar_lt/train.py --method mislas --from_run runs/x --set.lr 3`", "`lr` is no setting"),
            ("`ltaug sweep recipes/cifar_lt/train.py methods=erm`", "`--methods`, did you mean 'method'?"),
            ("`ltaug sweep recipes/cifar_lt/train.py method=erm -- --epoch 3`", "`--epoch`"),
            ("`ltaug methods mislass`", "there is no method mislass"),
            ("`ltaug corect RUN`", "is refused"),
            ("`ltaug correct RUN --target uniform`", "is refused"),
        ],
    )
    def test_a_wrong_command_is_caught(self, text: str, problem: str, tmp_path: Path) -> None:
        problems = command_problems(f"# Page\n\n{text}\n", tmp_path, "recipes/cifar_lt/README.md")
        assert problems
        assert any(problem in one for one in problems), problems

    def test_every_file_named_exists(self) -> None:
        pages = [ROOT / name for name in (*PAGES, *DOCS, "Makefile", "CONTRIBUTING.md", "pyproject.toml", ".ci/run")]
        pages += [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "recipes").rglob("*.yaml")]
        assert {page: dead_paths(page.read_text()) for page in pages if dead_paths(page.read_text())} == {}
        assert dead_paths("see recipes/cifar_lt/trian.py and recipes/cifar_lt/train.py") == [
            "recipes/cifar_lt/trian.py"
        ]

    def test_every_recipe_stands_in_the_table(self) -> None:
        page = (ROOT / "recipes" / "README.md").read_text()
        for recipe in RECIPES:
            assert f"| [{recipe.name}]({recipe.name}) |" in page

    @pytest.mark.parametrize("page", PAGES)
    def test_links_lead_somewhere(self, page: str) -> None:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text()):
            if not link.startswith("docs/images/"):  # pictures are made by a run
                assert os.path.exists((ROOT / page).parent / link), f"{page}: {link}"


def test_a_method_of_one_s_own(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """As recipes/README.md has it: one line in train.py."""
    monkeypatch.setitem(METHODS, "mine", METHODS["mixup"].replace(alpha=0.4))
    cfg = settings_of(recipe.module.Config, str(recipe.script), ["--method", "mine", "--set.partner", "batch"])
    assert cfg.chosen_method() == METHODS["mixup"].replace(alpha=0.4, partner="batch")
    assert SimpleNamespace(**vars(cfg)).method == "mine"
