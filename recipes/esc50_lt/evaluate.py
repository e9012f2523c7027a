"""Evaluate a run folder again, from its weights: metrics, logits, report; and correct it for another class mix.

    python recipes/esc50_lt/evaluate.py runs/esc10_ir10_envnet_lob_bc_seed0 --data_dir FOLDER
    python recipes/esc50_lt/evaluate.py runs/esc10_ir10_envnet_erm_seed0 --data_dir FOLDER --target_prior uniform

On one process.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from config import parse_config, plain_errors
from data import facts, load_data
from model import build_model
from results import mistakes, save_test, table
from safetensors import SafetensorError
from safetensors.torch import load_file
from train import evaluate

from ltaug import ResidentWaveformLoader, RunFolder
from ltaug.commandline import one_process
from ltaug.correction import Correction, add_correction_options
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
    add_correction_options(parser, tuning=False)
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

    weights, epochs = path / "model.safetensors", cfg.epochs
    if not weights.is_file():
        checkpoint = run.latest_checkpoint()
        if checkpoint is None:
            raise ValueError(f"{arguments.run!r} has neither final weights nor a checkpoint. Train it first.")
        weights, epochs = checkpoint[0] / "model.safetensors", checkpoint[1]
        print(f"The run is not finished: its weights after {epochs} of {cfg.epochs} epochs.", file=sys.stderr)
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"`{weights}` is damaged ({error}). `train.py --resume true` writes it anew.") from error
    words = (arguments.target_prior, arguments.strength)
    correction = Correction.of_run(path, *words) if any(words) else None
    if correction and correction.tunes:
        raise ValueError("`--strength auto` is searched on held-out clips, which this recipe does not keep. Give one.")

    data = load_data(cfg)
    run.check_data(facts(data))
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision))
    model = build_model(len(data.class_names), cfg)
    model.load_state_dict(state)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = accelerator.prepare(model)
    loader = ResidentWaveformLoader(
        data.test_waveforms,
        data.test_labels,
        batch_size=8,
        crops=cfg.test_crops,
        crop_length=cfg.crop_length,
        device=accelerator.device,
    )
    logits, labels = evaluate(model, loader)
    final = classification_report(logits.softmax(1), labels, data.class_counts)
    # Results of an unfinished run, or of another precision than the run's, are looked at only.
    keep = epochs == cfg.epochs and not arguments.precision
    if keep:
        save_test(run, data, logits, labels)
        if (path / "summary.json").is_file():
            run.write_json("summary.json", {**json.loads((path / "summary.json").read_text()), "final": final})
    if correction:
        corrected = correction.evaluate(logits, labels, final)
        if keep:
            run.write_json("corrected.json", corrected)
        print(f"{table(correction.table_rows(cfg.method, corrected))}\n{correction.on_target(corrected)}")
    else:
        print(table({cfg.method: final}))
    if keep:
        print(f"\nReport: {write_report(path, mistakes(cfg, data, logits, labels))}")


if __name__ == "__main__":
    with plain_errors():
        main()
