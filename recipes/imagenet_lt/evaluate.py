"""Evaluate a run folder again, from its weights: metrics, logits, report; and correct it for another class mix.

    python recipes/imagenet_lt/evaluate.py runs/imagenet_lt_resnet50_erm_seed0 --target_prior uniform

On one process. With `--target_prior uniform` this is PC Softmax; `--strength` makes it IC, and `auto` searches it on
the validation images, which only ImageNet-LT has.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from config import parse_config, plain_errors
from data import load_data
from loader import test_loader, test_transform
from model import build_model
from results import examples, save_test, table
from safetensors import SafetensorError
from safetensors.torch import load_file
from train import evaluate

from ltaug import RunFolder, search_strength, shift_logits
from ltaug.commandline import one_process
from ltaug.metrics import classification_report
from ltaug.report import write_report
from ltaug.run import autocast_type, read_config, set_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="run folder of train.py")
    parser.add_argument("--data_dir", help="folder of the data, if it has moved since the training")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), help="autocast type; default: the run's"
    )
    parser.add_argument(
        "--target_prior", choices=("uniform", "train"), help="also with the logits shifted from their prior to this one"
    )
    parser.add_argument("--strength", default="1", help="of that shift: a number, or auto (default: %(default)s)")
    arguments = parser.parse_args()
    one_process()
    path = Path(arguments.run)
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{arguments.run!r} is no run folder: it has no config.yaml.")
    # Without the tracker, which this machine may lack.
    settings = ["--config", str(path / "config.yaml"), "--log_with", "null", "--out", str(path), "--resume", "true"]
    for name in ("data_dir", "precision"):
        if getattr(arguments, name):
            settings += [f"--{name}", getattr(arguments, name)]
    cfg = parse_config(settings)
    run = RunFolder(path, read_config(path / "config.yaml"), resume=True, write_config=False)
    weights, info = path / "model.safetensors", path / "ltaug.json"
    if not weights.is_file():
        raise ValueError(f"{arguments.run!r} has no final weights. Finish it: `train.py --resume true`.")
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"`{weights}` is damaged ({error}). `train.py --resume true` writes it anew.") from error

    data = load_data(cfg)
    classes = len(json.loads(info.read_text())["class_names"])
    if classes != len(data.class_names):
        raise ValueError(f"{arguments.run!r} knows {classes} classes, but the data have {len(data.class_names)}.")
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision))
    model = build_model(classes, cfg)
    model.load_state_dict(state)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)

    def logits_of(images) -> tuple[torch.Tensor, torch.Tensor]:
        images.transform = test_transform(cfg)
        return evaluate(accelerator, model, test_loader(cfg, images, 1, 0))

    logits, labels = logits_of(data.test)
    results = {cfg.method: classification_report(logits.softmax(1), labels, data.class_counts)}
    if arguments.target_prior:
        source = torch.tensor(json.loads(info.read_text())["logits_prior"], dtype=torch.float64)
        target = torch.ones_like(source) if arguments.target_prior == "uniform" else data.class_counts.double()
        target = target / target.sum()
        strength = tuned_strength(logits_of, data, source, target) if arguments.strength == "auto" else None
        strength = read_strength(arguments.strength) if strength is None else strength
        shifted = shift_logits(logits, source, target, strength).softmax(1)
        name = f"{cfg.method} (to {arguments.target_prior}, strength {strength:g})"
        results[name] = classification_report(shifted, labels, data.class_counts)
    print(table(results))
    final = save_test(run, data, logits, labels)
    if (path / "summary.json").is_file():
        run.write_json("summary.json", {**json.loads((path / "summary.json").read_text()), "final": final})
    print(f"\nReport: {write_report(path, examples(data, logits, labels))}")


def tuned_strength(logits_of, data, source: torch.Tensor, target: torch.Tensor) -> float:
    """IC's strength of the best mean accuracy over classes on the validation images."""
    if data.val is None:
        raise ValueError("`--strength auto` needs validation images, which this data set lacks. Give a number.")
    logits, labels = logits_of(data.val)
    strength = search_strength(
        lambda value: float((shift_logits(logits, source, target, value).argmax(1) == labels).double().mean())
    )
    print(f"Strength {strength:g}, searched on the {len(labels)} validation images.", file=sys.stderr)
    return strength


def read_strength(word: str) -> float:
    """A number, or what is wrong with it."""
    try:
        strength = float(word)
    except ValueError:
        strength = -1.0
    if not 0.0 <= strength < float("inf"):
        raise ValueError(f"`--strength` must be auto or a number from 0, but is {word!r}.")
    return strength


if __name__ == "__main__":
    with plain_errors():
        main()
