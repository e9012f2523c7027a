"""Evaluate a run folder again: metrics, per-class accuracy, logits and the report are made anew from its weights.

    python recipes/cifar_lt/evaluate.py runs/cifar100_ir100_unimix_bayias_seed0

On one process.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from config import autocast_type, one_process, parse_config, plain_errors, set_threads
from data import load_data
from method import put_classifier
from model import build_model
from results import table
from safetensors import SafetensorError
from safetensors.torch import load_file
from train import FREE, evaluate

from ltaug import ResidentLoader, RunFolder
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.report import write_report
from ltaug.run import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="run folder of train.py or train_stage2.py")
    parser.add_argument("--data_dir", help="folder of the data, if it has moved since the training")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), help="autocast type; default: the run's"
    )
    arguments = parser.parse_args()
    one_process()
    path = Path(arguments.run)
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{arguments.run!r} is no run folder: it has no config.yaml.")
    # A second stage keeps the settings of its network and data beside its own.
    second = (path / "stage1.yaml").is_file()
    # Without the tracker, which this machine may lack.
    settings = ["--config", str(path / ("stage1.yaml" if second else "config.yaml")), "--log_with", "null"]
    settings += ["--out", str(path), "--resume", "true"]
    for name in ("data_dir", "precision"):
        if getattr(arguments, name):
            settings += [f"--{name}", getattr(arguments, name)]
    cfg = parse_config(settings)
    own = read_config(path / "config.yaml") if second else cfg
    method = own["method"] if second else cfg.method
    run = RunFolder(path, own, resume=True, free_keys=(*FREE, "precision", "log_with"), write_config=False)

    weights, epochs = path / "model.safetensors", cfg.epochs
    if not weights.is_file():
        checkpoint = run.latest_checkpoint()
        if second or checkpoint is None:
            kind = "is a second stage without final weights" if second else "has neither final weights nor a checkpoint"
            raise ValueError(f"{arguments.run!r} {kind}. Train it first.")
        weights, epochs = checkpoint[0] / "model.safetensors", checkpoint[1]
        print(f"The run is not finished: its weights after {epochs} of {cfg.epochs} epochs.", file=sys.stderr)
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"`{weights}` is damaged ({error}). `train.py --resume true` writes it anew.") from error

    data = load_data(cfg)
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision))
    model = build_model(len(data.class_names), in_channels=data.test_images.shape[3])
    model = model if second else put_classifier(cfg, model)
    model.load_state_dict(state)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)
    loader = ResidentLoader(
        data.test_images, data.test_labels, batch_size=250, mean=data.mean, std=data.std, device=accelerator.device
    )
    logits, labels = evaluate(model, loader)
    probs = logits.softmax(1)
    final = classification_report(probs, labels, data.class_counts)
    print(table({method: final}))
    if epochs == cfg.epochs:
        run.save_logits(logits, labels)
        run.save_per_class(
            data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names))
        )
        if (path / "summary.json").is_file():
            run.write_json("summary.json", {**json.loads((path / "summary.json").read_text()), "final": final})
        print(f"\nReport: {write_report(path)}")


if __name__ == "__main__":
    with plain_errors():
        main()
