"""Sphinx: pages in Markdown, the reference from docstrings."""

project = "ltaug"
author = "The ltaug developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_enable_extensions = ["dollarmath"]
napoleon_use_ivar = True
