"""Train several methods on scikit-learn's handwritten digits made long-tailed, and put them side by side.

    accelerate launch --config_file accelerate_config.yaml recipes/cifar_lt/quickstart.py

Needs no files; under three minutes on two CPU cores. A second call continues where the first one stopped.
"""

from pathlib import Path

from config import HERE, parse_config, plain_errors
from results import table
from train import main as train

from ltaug.sweeps import quickstart

METHODS = ("erm", "class_balanced", "bayias", "mixup_bayias", "unimix_bayias")


def train_method(method: str, out: Path, epochs: int | None) -> None:
    """A run, its schedule stretched."""
    config = ["--config", str(HERE / "configs" / f"{method}.yaml")]
    words = [*config, "--config", str(HERE / "configs" / "quickstart.yaml"), "--out", str(out), "--resume", "true"]
    train(parse_config(words + parse_config(config).stretched(epochs or parse_config(words).epochs)))


if __name__ == "__main__":
    with plain_errors():
        quickstart(
            __doc__,
            train_method,
            table,
            methods=METHODS,
            out="runs/quickstart",
            title="Long-tailed digits, side by side",
        )
