"""Sphinx: pages in Markdown, the reference from docstrings, tables from the library itself, examples as a gallery."""

import importlib
import inspect
import os
import posixpath
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tomllib
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]  # the tree that the pages are of, and gallery.py

import ltaug  # noqa: E402

SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]

project = "ltaug"
author = "The ltaug developers"
copyright = author
release = ltaug.__version__
version = os.environ.get("DOCS_VERSION") or release  # "dev", or "0.1" of a release: also its folder on the site
REF = f"v{release}" if os.environ.get("DOCS_VERSION", "dev") != "dev" else "main"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "jupyter_execute"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
autodoc_typehints = "description"
autosummary_generate = False
default_role = "code"  # docstrings and examples have single backticks, as Markdown
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Where the inventories of others cannot be fetched, an empty one takes their place: their names are then no links.
EMPTY = DOCS / "_build" / "empty.inv"
EMPTY.parent.mkdir(exist_ok=True)
EMPTY.write_bytes(
    b"# Sphinx inventory version 2\n# Project: none\n# Version: 0\n"
    b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(b"")
)
intersphinx_timeout = 5
intersphinx_mapping = {
    name: (address, (None, str(EMPTY)))
    for name, address in {
        "python": "https://docs.python.org/3",
        "numpy": "https://numpy.org/doc/stable",
        "torch": "https://docs.pytorch.org/docs/stable",
        "sklearn": "https://scikit-learn.org/stable",
    }.items()
}

# Notebooks are kept without outputs and run here, once for each change of them.
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

# Names, not functions: what cannot be written to a file makes every build a new one.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/(?!sweep_figures)\w+\.py$",  # that one needs runs
    "within_subsection_order": "gallery.place",
    "image_scrapers": ("gallery.figures",),
    "reset_argv": "gallery.arguments",
    "reset_modules": (),
    "capture_repr": ("_repr_html_",),
    "notebook_extensions": set(),  # the scripts read a command line
    "download_all_examples": False,
    "doc_module": ("ltaug",),
    "abort_on_example_error": True,
    "write_computation_times": False,
    "default_thumb_file": str(DOCS / "images" / "sweep.png"),
    "show_memory": False,
    "plot_gallery": True,
}

html_theme = "furo"
html_title = "ltaug"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_js_files = ["versions.js"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {
    "source_repository": SOURCE,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
html_show_sphinx = False


class Module(SphinxDirective):
    """A module of the reference: what it is, a table of its names, and each of them in full."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the directives of autodoc and autosummary for the names that the module lists in ``__all__``."""
        module = importlib.import_module(self.arguments[0])
        names = [name for name in getattr(module, "__all__", []) if belongs(getattr(module, name), module)]
        kinds = {name: kind_of(getattr(module, name)) for name in names}
        lines = [
            f".. automodule:: {module.__name__}",
            "   :no-members:",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
        ]
        other = {name: getattr(getattr(module, name), "__name__", name) for name in names}  # of two names for one class
        lines += [*(f"   {name}" for name, kind in kinds.items() if kind != "data" and other[name] == name), ""]
        lines += [
            f"- :class:`{name} <{module.__name__}.{name}>` is another name of :class:`{own} <{module.__name__}.{own}>`."
            for name, own in other.items()
            if own != name and kinds[name] == "class"
        ]
        lines.append("")
        for name, kind in kinds.items():
            # scikit-learn makes a method of each class of its own, whose text refers to scikit-learn's pages.
            hidden = [each for each in dir(getattr(module, name)) if re.fullmatch(r"set_\w+_request", each)]
            members = ["   :members:", "   :member-order: bysource", f"   :exclude-members: {', '.join(hidden)}"]
            options = {"class": members, "data": ["   :no-value:"]}.get(kind, [])
            place = home(module, name) if kind == "data" else module.__name__
            lines += [f".. auto{kind}:: {place}.{name}", *options, ""]
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(lines, source=module.__name__), self.content_offset, section)
        return section.children


def belongs(value: Any, module: ModuleType) -> bool:
    """Whether a value is described on the page of this module: not if another one of the library defines it."""
    place = str(getattr(value, "__module__", ""))
    return not inspect.ismodule(value) and (place.startswith(module.__name__) or not place.startswith("ltaug"))


def kind_of(value: Any) -> str:
    """What autodoc calls a value of this kind."""
    return "class" if inspect.isclass(value) else "function" if inspect.isfunction(value) else "data"


def home(package: ModuleType, name: str) -> str:
    """The module that defines a value, where its comment is."""
    for module in vars(package).values():
        inside = inspect.ismodule(module) and module.__name__.startswith(package.__name__)
        if inside and name in getattr(module, "__all__", []):
            return home(module, name)
    return package.__name__


class Table(SphinxDirective):
    """A table of values of the library: ``methods``, ``published`` or ``rules MIXER_RULES``."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table in Markdown."""
        rows = list(ROWS[self.arguments[0]](*self.arguments[1:]))
        rows.insert(1, ["---"] * len(rows[0]))
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        return self.parse_text_to_nodes(text)


def methods() -> Iterator[list[str]]:
    """The methods of the literature."""
    from ltaug.methods import METHODS

    yield ["method", "settings, beside those of plain training", "published"]
    for name, method in METHODS.items():
        yield [f"`{name}`", shown(method.changes()), method.paper]


def published() -> Iterator[list[str]]:
    """What papers set for single data sets."""
    from ltaug.methods import PUBLISHED

    yield ["methods", "data sets", "imbalance ratio", "settings"]
    for names, datasets, ratio, settings in PUBLISHED:
        yield [", ".join(f"`{name}`" for name in names), ", ".join(datasets), f"{ratio or 'any'}", shown(settings)]


def rules(name: str) -> Iterator[list[str]]:
    """The rules of a contract."""
    from ltaug import testing

    yield ["rule", "expected", "usual fix"]
    for rule, (expected, fix) in getattr(testing, name).items():
        yield [rule, expected, fix]


def shown(settings: dict[str, Any]) -> str:
    """Settings as text."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "none"


ROWS = {"methods": methods, "published": published, "rules": rules}


def link_outside(app: Sphinx, document: str, source: list[str]) -> None:
    """Make links to files of the repository that are no page here: examples in the gallery, all else at the source."""
    folder = posixpath.join("docs", posixpath.dirname(document))

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        if path.startswith(("docs", "..")):
            return found[0]
        example = re.fullmatch(r"examples/(\w+)\.(py|md)", path)
        if example:
            page = "index" if example[1] == "README" else example[1]
            return f"](/gallery/{page}.rst)"
        return f"]({SOURCE}/blob/{REF}/{path})"

    if not document.startswith("gallery/"):
        source[0] = re.sub(r"\]\((\.\./[\w./-]+)\)", link, source[0])


def link_from_readme(app: Sphinx, path: Path, document: str, source: list[str]) -> None:
    """Make links of README's parts, which pages include, those of the page."""
    source[0] = re.sub(r"\]\((?!https?:|#)([\w./-]+)", r"](../\1", source[0]).replace("](../docs/", "](")
    link_outside(app, document, source)


def edit_examples(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Pages of the gallery are made from `examples/`: what one views and edits is there."""
    if page.startswith("gallery/"):
        file = re.sub("^index.py$", "GALLERY_HEADER.txt", page.removeprefix("gallery/") + ".py")
        for verb, kind in (("view", "blob"), ("edit", "edit")):
            context[f"theme_source_{verb}_link"] = f"{SOURCE}/{kind}/main/examples/{file}"


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("library-module", Module)
    app.add_directive("library-table", Table)
    app.connect("source-read", link_outside)
    app.connect("include-read", link_from_readme)
    app.connect("html-page-context", edit_examples)
