"""Recipes are folders to run and to copy, not a package: start `recipes/<name>/train.py` with `accelerate launch`."""

raise ModuleNotFoundError(__doc__)
