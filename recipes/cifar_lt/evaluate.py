"""Evaluate a run folder again, and correct it for another class mix: metrics, logits, report, from its weights.

    python recipes/cifar_lt/evaluate.py runs/cifar100_ir100_unimix_bayias_seed0
    python recipes/cifar_lt/evaluate.py runs/cifar100_ir100_erm_seed0 --target_prior uniform --calibrate bias_corrected
    python recipes/cifar_lt/evaluate.py runs/cifar100_ir100_erm_seed0 --shifted

On one process.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from config import parse_config, plain_errors
from data import facts, held_out_note, load_data
from method import put_classifier
from model import build_model
from results import table
from safetensors import SafetensorError
from safetensors.torch import load_file
from shifted import shifted_accuracy, shifted_csv, shifted_markdown
from train import evaluate

from ltaug import ResidentLoader, RunFolder
from ltaug.commandline import one_process
from ltaug.correction import Correction, add_correction_options
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.plots import shifted_test_accuracy
from ltaug.report import write_report
from ltaug.run import autocast_type, read_config, set_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="run folder of train.py or train_stage2.py")
    parser.add_argument("--data_dir", help="folder of the data, if it has moved since the training")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), help="autocast type; default: the run's"
    )
    add_correction_options(parser)
    parser.add_argument(
        "--shifted", action="store_true", help="LADE's eleven test sets: prior unknown, given, estimated; strength 1"
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
    own = read_config(path / "config.yaml")
    method = own["method"]
    run = RunFolder(path, own, resume=True, write_config=False)

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

    words = (arguments.target_prior, arguments.strength, arguments.calibrate)
    correcting = arguments.target_prior or arguments.strength or arguments.calibrate != "none"
    correction = Correction.of_run(path, *words) if correcting or arguments.shifted else None
    tuning = bool(correction and correction.tunes)
    data = load_data(cfg, train_images=False, held_out=tuning)
    if tuning and not len(data.held_out_labels):
        raise ValueError(
            "There is nothing to tune on: the training subset takes the whole training split. Train with "
            "`--held_out_per_class`."
        )
    run.check_data(facts(data))
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision))
    model = build_model(len(data.class_names), in_channels=data.test_images.shape[3])
    model = model if second else put_classifier(cfg, model)
    model.load_state_dict(state)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)

    def logits_of(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shared = {"mean": data.mean, "std": data.std, "device": accelerator.device}
        return evaluate(model, ResidentLoader(images, labels, batch_size=250, **shared))

    logits, labels = logits_of(data.test_images, data.test_labels)
    probs = logits.softmax(1)
    final = classification_report(probs, labels, data.class_counts)
    print(table({method: final}))
    kept = epochs == cfg.epochs and not arguments.precision  # of another precision they are looked at only
    if kept:
        run.save_logits(logits, labels)
        run.save_per_class(
            data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names))
        )
        if (path / "summary.json").is_file():
            run.write_json("summary.json", {**json.loads((path / "summary.json").read_text()), "final": final})
    print()

    # The same logits for another class mix.
    tuned_on = held_out_note(data, cfg.held_out_per_class) if tuning else None
    if tuning:
        print(f"Tuned on {tuned_on}.")
        correction.tune(*logits_of(data.held_out_images, data.held_out_labels))
    if correcting:
        corrected = correction.evaluate(logits, labels, final, tuned_on)
        if kept:
            run.write_json("corrected.json", corrected)
        print(f"{table(correction.table_rows(method, corrected))}\n{correction.on_target(corrected)}\n")
    if arguments.shifted:
        calibrated = correction.calibrate(logits) if arguments.calibrate != "none" else None
        shifted = shifted_accuracy(data, logits, calibrated, correction.logits_prior)
        print(f"{shifted_markdown(shifted, arguments.calibrate)}\n")
        run.write("shifted.csv", shifted_csv(shifted, arguments.calibrate))
        run.write_json(
            "shifted.json",
            {"calibration": arguments.calibrate, "tuned_on": tuned_on if arguments.calibrate != "none" else None},
        )
        figure = shifted_test_accuracy({row: values for row, values in shifted.items() if "kept" not in row})
        figure.savefig(path / "shifted.png", dpi=120)
        print(f"Written: {path / 'shifted.csv'}, {path / 'shifted.png'}")
    if kept:
        print(f"Report: {write_report(path)}")


if __name__ == "__main__":
    with plain_errors():
        main()
