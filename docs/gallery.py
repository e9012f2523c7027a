"""What the gallery of examples asks for, by name: their order, their arguments, and the figures they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

ORDER = (
    "which_method",
    "multilabel",
    "label_distributions",
    "unimix_two_discs",
    "two_moons",
    "prior_estimation",
    "running_prior",
    "logits_prior",
    "sweep_figures",
)
QUICK = {
    "which_method": ["--seeds", "1", "--epochs", "30"],
    "multilabel": ["--seeds", "1", "--epochs", "5"],
    "unimix_two_discs": ["--worlds", "3"],
    "two_moons": ["--draws", "1"],
    "prior_estimation": ["--draws", "1", "--classes", "50", "--samples", "3000", "--steps", "300"],
    "running_prior": ["--streams", "1"],
}
"""Fewer seeds and epochs than the tables of examples/README.md have."""
SHOWN: WeakSet[Figure] = WeakSet()


def place(name: str) -> int:
    """Place of an example in the gallery."""
    return ORDER.index(Path(name).stem)


def arguments(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Command line of an example."""
    return QUICK.get(Path(script_vars["src_file"]).stem, [])


def figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures that a cell has left in variables: those of this library know nothing of pyplot."""
    paths = []
    for left in list(block_vars["example_globals"].values()):
        for value in left.values() if isinstance(left, dict) else (left,):
            if isinstance(value, Figure) and value not in SHOWN:
                SHOWN.add(value)
                paths.append(next(block_vars["image_path_iterator"]))
                value.savefig(paths[-1], dpi=130)
    return figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
