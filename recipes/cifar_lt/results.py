"""What a run leaves behind: its summary, its table, and the prior that its logits are under."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from config import Config
from data import Data
from torch import Tensor

from ltaug import RunFolder, class_prior
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.report import write_report
from ltaug.run import peak_memory_bytes

COLUMNS = {
    "top1": "top-1", "top5": "top-5", "many": "many", "medium": "medium", "few": "few", "ece": "ECE15", "mce": "MCE",
    "classwise_ece": "class-wise ECE", "brier": "Brier", "nll": "NLL",
}  # fmt: skip
PERCENT = ("top1", "top5", "many", "medium", "few", "ece", "mce")


def save_results(
    run: RunFolder, cfg: Config, data: Data, logits: Tensor, labels: Tensor, model_state: Mapping[str, Tensor],
    mixer: Any, parameters: int, accelerator: Accelerator,
) -> None:  # fmt: skip
    """Write everything of the run folder that exists only once the last epoch is done. Called on the main process."""
    rows = run.rows()
    probs = logits.softmax(1)
    final = classification_report(probs, labels, data.class_counts)
    run.save_logits(logits, labels)
    run.save_per_class(data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names)))
    run.save_model(model_state, {
        "class_names": data.class_names, "class_counts": data.class_counts, "in_channels": data.train_images.shape[3],
        "logits_prior": logits_prior(cfg, data.class_counts, mixer),
    })  # fmt: skip
    run.write_json("summary.json", {
        "name": cfg.method, "dataset": cfg.dataset, "profile": cfg.profile, "imbalance_ratio": cfg.imbalance_ratio,
        "seed": cfg.seed, "epochs": cfg.epochs, "final": final, "wall_time_s": sum(row["seconds"] for row in rows),
        "images_per_second": sorted(row["images_per_second"] for row in rows)[len(rows) // 2], "parameters": parameters,
        "peak_memory_bytes": peak_memory_bytes(), "precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "index_hash": data.index_hash, "class_counts": data.class_counts, "class_names": data.class_names,
    })  # fmt: skip
    print(f"\n{table({cfg.method: final})}\n\nReport: {write_report(run.path)}")


def table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """Markdown table of final metrics, a row a run; accuracies and the first two calibration errors in percent."""
    lines = [["", *COLUMNS.values()], ["---"] + ["---:"] * len(COLUMNS)]
    for name, metrics in results.items():
        row = [name]
        for key in COLUMNS:
            value = metrics.get(key)
            if value is None or value != value:
                row.append("–")  # an empty shot group
            else:
                digits = 1 if key in PERCENT else 5 if key == "classwise_ece" else 3
                row.append(f"{100 * value if key in PERCENT else value:.{digits}f}")
        lines.append(row)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def logits_prior(cfg: Config, class_counts: Tensor, mixer: Any) -> Tensor:
    """The class prior that the model's logits are under: the label distribution it saw over the one its loss corrects.

    That is the phase that mixes and rebalances; a few last epochs without mixing are left out of account.
    """
    prior = class_prior(class_counts)
    first, partner = (power / power.sum() for power in (prior**cfg.first_tau, prior**cfg.partner_tau))
    if cfg.rebalance_epoch >= cfg.epochs:
        first = partner = prior
    if mixer is None or (cfg.mix_stop_epoch is not None and cfg.mix_stop_epoch <= 0):
        seen = first
    else:
        # By simulation, which holds for any mixer: two million pairs leave an error below a thousandth of the mass.
        if cfg.partner == "batch":
            partner = first if cfg.mixer == "mixup" else partner
        seen = torch.zeros_like(first)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in range(200):
                labels, partner_labels = (torch.multinomial(p, 10_000, replacement=True) for p in (first, partner))
                blank = torch.zeros(10_000, 1)
                seen += mixer(blank, labels, blank, partner_labels)[1].double().mean(0)
    corrected = prior**cfg.loss_tau if cfg.loss == "bayias" else torch.ones_like(prior)
    return (seen / corrected) / (seen / corrected).sum()
