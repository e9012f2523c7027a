"""Train several methods on synthetic sounds made long-tailed, and put them side by side.

    accelerate launch --config_file accelerate_config.yaml recipes/esc50_lt/quickstart.py

Needs no files; under three minutes on two CPU cores. A second call continues where the first one stopped.
"""

from pathlib import Path

from config import HERE, parse_config, plain_errors
from results import table
from train import main as train

from ltaug.sweeps import quickstart

METHODS = ("erm", "bc", "lob_bc", "bc_bayias")


def train_method(method: str, out: Path, epochs: int | None) -> None:
    """A run by its method's file and, behind it, that of the quick-start."""
    words = [word for name in (method, "quickstart") for word in ("--config", str(HERE / "configs" / f"{name}.yaml"))]
    words += ["--out", str(out), "--resume", "true", *(["--epochs", str(epochs)] if epochs else [])]
    train(parse_config(words))


if __name__ == "__main__":
    with plain_errors():
        quickstart(
            __doc__,
            train_method,
            table,
            methods=METHODS,
            out="runs/esc50_lt_quickstart",
            title="Long-tailed synthetic sounds, side by side",
        )
