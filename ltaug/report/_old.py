"""Corrections in run folders of version 0.1, read as those of today."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltaug.run import read_json

SHIFTED = "shifted.csv"
"""Table of accuracies under label shift; now in corrected.json."""


def renamed(corrected: Mapping[str, Any]) -> dict[str, Any]:
    """A corrected.json with today's keys: "description" was "said"."""
    return {"description" if key == "said" else key: value for key, value in corrected.items()}


def read_shifted_csv(folder: Path) -> dict[str, Any]:
    """The content of shifted.csv and shifted.json as corrected.json has it under "shifted".

    Raises:
        ValueError: the table has no row.
        KeyError: it has no column "prior".
    """
    with (folder / SHIFTED).open(encoding="utf-8", errors="replace", newline="") as file:
        table = list(csv.DictReader(file, restval=""))
    if not table:
        raise ValueError("it has no row")
    found: dict[str, Any] = {}
    for row in table:
        name, logits = row.pop("prior"), row.pop("logits", "")
        row.pop(None, None)  # cells beyond the last column
        found[name] = row
        if logits != "as trained":
            found["calibration"] = logits
    with contextlib.suppress(OSError, ValueError):
        found["tuned_on"] = read_json(folder / "shifted.json").get("tuned_on")
    return found
