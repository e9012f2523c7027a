"""The site and what is released: addresses, links, the gallery's order, the notebook; slowly, the pages and the wheel.

python -m pytest -m slow tests/test_site.py
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib")  # of Python 3.11

LINK = re.compile(r"\]\(([^)\s]+)\)")
NOTEBOOK = "docs/notebooks/correct_a_trained_model.ipynb"


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """What pyproject.toml says."""
    read: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())
    return read


@pytest.fixture(scope="module")
def publish(root: Path) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(root / "docs" / "publish.py")))


def on_pypi(text: str, project: dict[str, Any]) -> str:
    """The README as the build hook writes it."""
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links of a page that lead to no file."""
    links = (link.partition("#")[0] for link in LINK.findall(text) if not link.startswith(("http", "#", "/")))
    return [link for link in links if not (folder / link).exists()]


def test_the_readme_is_right_on_the_forge_and_on_pypi(root: Path, project: dict[str, Any]) -> None:
    text, source = (root / "README.md").read_text(), project["project"]["urls"]["Source"]
    assert broken_links(text, root) == []
    shown = on_pypi(text, project)
    links = LINK.findall(re.sub(r"```.*?```", "", shown, flags=re.DOTALL))
    assert len(links) >= 15
    raw = source.replace("github.com", "raw.githubusercontent.com")
    assert {link for link in links if not link.startswith((f"{source}/blob/v", f"{raw}/v", "https://"))} == set()
    assert f"]({source}/blob/v$HFPR_VERSION/docs/deploy.md)" in shown
    assert re.search(rf"!\[[^\]]*\]\({raw}/v\$HFPR_VERSION/docs/images/report.png\)", shown)
    assert re.findall(r"```.*?```", shown, re.DOTALL) == re.findall(r"```.*?```", text, re.DOTALL)  # code stays


def test_links_of_all_pages_lead_somewhere(root: Path) -> None:
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("recipes/**/*.md"), *root.glob("*/README.md")]
    pages = [page for page in pages if "_build" not in page.parts and "runs" not in page.parts]
    assert len(pages) > 30
    assert {str(page): faults for page in pages if (faults := broken_links(page.read_text(), page.parent))} == {}
    assert broken_links("[a](nowhere.md) [b](README.md#top) [c](https://x.y)", root) == ["nowhere.md"]


def test_addresses_stand_in_one_place(root: Path, project: dict[str, Any]) -> None:
    urls = project["project"]["urls"]
    source = urls["Source"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= set(urls)
    assert (urls["Issues"], urls["Changelog"]) == (f"{source}/issues", f"{source}/blob/main/CHANGELOG.md")
    owner, name = source.removeprefix("https://github.com/").split("/")
    notebook = (root / NOTEBOOK).read_text()
    assert f"https://colab.research.google.com/github/{owner}/{name}/blob/main/{NOTEBOOK}" in notebook
    assert f'ltaug[plots] @ git+{source}\\"' in notebook  # what the badge opens, and no older release
    readme = (root / "README.md").read_text()
    assert f"git clone {source} && cd {name}\n" in readme
    assert f"]({urls['Documentation']})" in "\n".join(readme.splitlines()[:6])
    for path in (root / "examples").glob("*.py"):
        assert set(re.findall(r"https://github.com/[\w-]+/[\w-]+", path.read_text())) <= {source}
    assert f'repository-code: "{source}"' in (root / "CITATION.cff").read_text()
    assert not any("License ::" in each for each in project["project"]["classifiers"])  # beside `license`: PEP 639


def test_the_notebook_is_kept_without_outputs(root: Path) -> None:
    cells = [cell for cell in json.loads((root / NOTEBOOK).read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 8
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert [cell for cell in cells if "%pip" in "".join(cell["source"])] == cells[:1]
    assert cells[0]["metadata"]["tags"] == ["skip-execution"]


def test_each_example_is_a_page_of_the_gallery(root: Path) -> None:
    tree = ast.parse((root / "docs" / "gallery.py").read_text())
    (order,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER"  # type: ignore[attr-defined]
    )
    scripts = {path.stem: path.read_text() for path in (root / "examples").glob("*.py")}
    assert set(order) == set(scripts)
    table = (root / "examples" / "README.md").read_text()
    for name, text in scripts.items():
        title, line = (ast.get_docstring(ast.parse(text)) or "").splitlines()[:2]
        assert line == "=" * len(title), f"{name}: its docstring begins with a title, underlined"
        assert text.count("\n# %%\n# ") >= 2, f"{name}: texts between its parts"
        assert f"`python examples/{name}.py" in table


def test_pages_are_put_beside_those_of_other_versions(publish: SimpleNamespace, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()

    def put(version: str) -> list[str]:
        (tmp_path / "html").mkdir(exist_ok=True)
        (tmp_path / "html" / "index.html").write_text(version)
        names: list[str] = publish.publish(tmp_path / "html", version, site)
        return names

    assert put("dev") == ["dev"]
    assert "url=dev/" in (site / "index.html").read_text()
    put("0.9")
    assert put("0.10") == ["stable", "dev", "0.10", "0.9"]
    assert put("0.9") == json.loads((site / "versions.json").read_text())  # a late fix of an old release
    read = {name: (site / name / "index.html").read_text() for name in ("stable", "dev", "0.10", "0.9")}
    assert read == {"stable": "0.10", "dev": "dev", "0.10": "0.10", "0.9": "0.9"}
    assert "url=stable/" in (site / "index.html").read_text()
    for version, message in (("main", "must be dev or X.Y"), ("../x", "must be dev or X.Y")):
        with pytest.raises(SystemExit, match=message):
            put(version)
    with pytest.raises(SystemExit, match="build the pages first"):
        publish.publish(tmp_path / "none", "dev", site)


def run(*words: str, root: Path) -> str:
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-m", *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_notebook_runs(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbmake")
    assert "1 passed" in run("pytest", "-n", "0", "--no-header", "-v", "--nbmake", NOTEBOOK, root=root)


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(root: Path, tmp_path: Path) -> None:
    for name in ("furo", "myst_nb", "sphinx_gallery", "sphinx_design", "sphinx_copybutton"):
        pytest.importorskip(name)
    words = ("sphinx", "-W", "--keep-going", "-q", "-b", "html")
    assert "WARNING: " not in run(*words, "-d", str(tmp_path / "doctrees"), "docs", str(tmp_path / "html"), root=root)
    page = (tmp_path / "html" / "notebooks" / "correct_a_trained_model.html").read_text()
    assert page.count("data:image/png") + page.count("../_images/") >= 2
    assert len(list((tmp_path / "html" / "_images").glob("sphx_glr_*_001.png"))) == 8  # one is not run


@pytest.mark.slow
def test_what_is_in_the_wheel(root: Path, tmp_path: Path, project: dict[str, Any]) -> None:
    for name in ("build", "twine"):
        pytest.importorskip(name)
    run("build", "--wheel", "--outdir", str(tmp_path), root=root)
    (wheel,) = tmp_path.glob("*.whl")
    assert "PASSED" in run("twine", "check", "--strict", str(wheel), root=root)
    assert wheel.stat().st_size < 2e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    inside = {name for name in names if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "ltaug", "recipes"], cwd=root, capture_output=True, text=True)
    expected = {re.sub("^recipes/", "ltaug/_recipes/", name) for name in tracked.stdout.split()}
    assert inside == expected
    assert {"ltaug/py.typed", "ltaug/report/templates/style.css", "ltaug/_recipes/cifar_lt/train.py"} <= inside
    assert f"Documentation, {project['project']['urls']['Documentation']}" in metadata
    assert "$HFPR_VERSION" not in metadata
