"""Evaluate a run folder again, from its weights: metrics, logits, report; and correct it for another class mix.

    python recipes/imagenet_lt/evaluate.py runs/imagenet_lt_resnet50_erm_seed0 --target_prior uniform

On one process. With `--target_prior uniform` this is PC Softmax; `--strength` makes it IC. `--strength auto` and
`--calibrate` are tuned on the validation images, which ImageNet-LT and Places-LT have.
"""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from classifier import load_weights, plain_network
from config import parse_config, plain_errors
from data import facts, load_data
from loader import test_loader, test_transform
from model import build_model
from results import examples, save_test, table
from train import evaluate

from ltaug import RunFolder
from ltaug.commandline import one_process
from ltaug.correction import Correction, add_correction_options
from ltaug.metrics import classification_report
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
    arguments = parser.parse_args()
    one_process()
    path = Path(arguments.run)
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{arguments.run!r} is no run folder: it has no config.yaml.")
    # A second stage keeps the settings of its network and data beside its own.
    second = (path / "stage1.yaml").is_file()
    if not (path / "model.safetensors").is_file():
        script = "train_stage2.py" if second else "train.py"
        raise ValueError(f"{arguments.run!r} has no final weights. Finish it: `{script} --resume true`.")
    # Without the tracker, which this machine may lack.
    settings = ["--config", str(path / ("stage1.yaml" if second else "config.yaml")), "--log_with", "null"]
    settings += ["--out", str(path), "--resume", "true"]
    for name in ("data_dir", "precision"):
        if getattr(arguments, name):
            settings += [f"--{name}", getattr(arguments, name)]
    cfg = parse_config(settings)
    own = read_config(path / "config.yaml")
    method, run = own["method"], RunFolder(path, own, resume=True, write_config=False)

    words = (arguments.target_prior, arguments.strength, arguments.calibrate)
    correcting = arguments.target_prior or arguments.strength or arguments.calibrate != "none"
    correction = Correction.of_run(path, *words) if correcting else None
    tuning = bool(correction and correction.tunes)
    data = load_data(cfg)
    if tuning and data.val is None:
        raise ValueError(
            "`--calibrate` and `--strength auto` tune, which needs validation images, but this data set has none."
        )
    run.check_data(facts(data))
    model = build_model(len(data.class_names), plain_network(cfg))
    load_weights(model, path, data.class_names)
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision))
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)

    def logits_of(images) -> tuple[torch.Tensor, torch.Tensor]:
        images.transform = test_transform(cfg)
        return evaluate(accelerator, model, test_loader(cfg, images, 1, 0, accelerator.device))

    logits, labels = logits_of(data.test)
    # Results of another precision than the run's are looked at only.
    keep = not arguments.precision
    final = classification_report(logits.softmax(1), labels, data.class_counts)
    if keep:
        save_test(run, data, logits, labels)
    if keep and (path / "summary.json").is_file():
        run.write_json("summary.json", {**json.loads((path / "summary.json").read_text()), "final": final})
    print(table({method: final}))
    print()

    # The same logits for another class mix.
    tuned_on = f"{len(data.val)} validation images" if tuning else None
    if tuning:
        print(f"Tuned on {tuned_on}.")
        correction.tune(*logits_of(data.val))
    if correcting:
        corrected = correction.evaluate(logits, labels, final, tuned_on)
        if keep:
            run.write_json("corrected.json", corrected)
        print(f"{table(correction.table_rows(method, corrected))}\n{correction.on_target(corrected)}\n")
    print(f"Report: {write_report(path, examples(data, logits, labels))}")


if __name__ == "__main__":
    with plain_errors():
        main()
