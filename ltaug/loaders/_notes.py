"""Warnings of readers to whoever started the training."""

from __future__ import annotations

import os
import sys


def warn(text: str) -> None:
    """Write a warning to the terminal at once; of several processes only the main one does."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"Warning: {text}\n")
        sys.stderr.flush()
