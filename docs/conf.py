"""Sphinx: pages in Markdown, the reference from docstrings, tables from the library itself."""

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

project = "ltaug"
author = "The ltaug developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autosummary_generate = False
myst_enable_extensions = ["dollarmath"]
napoleon_use_ivar = True


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
        lines += [*(f"   {name}" for name, kind in kinds.items() if kind != "data"), ""]
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


def name_pages_elsewhere(app: Sphinx, document: str, source: list[str]) -> None:
    """Turn links to pages of the repository that are not built here into their paths."""
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./((?!docs/)[^)]+\.md)\)", r"`\2`", source[0])


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("library-module", Module)
    app.add_directive("library-table", Table)
    app.connect("source-read", name_pages_elsewhere)
