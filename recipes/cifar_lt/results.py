"""What a run leaves behind: its summary and its table."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from config import Config
from data import Data
from torch import Tensor

from ltaug import RunFolder
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.report import results_table, write_report
from ltaug.run import peak_memory_bytes

COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "ece": "ECE15",
    "mce": "MCE",
    "classwise_ece": "class-wise ECE",
    "brier": "Brier",
    "nll": "NLL",
}


def save_results(
    run: RunFolder,
    cfg: Config,
    data: Data,
    logits: Tensor,
    labels: Tensor,
    model_state: Mapping[str, Tensor],
    logits_prior: Tensor | None,
    parameters: int,
    accelerator: Accelerator,
    **more: Any,
) -> None:
    """Write everything of the run folder that exists only once the last epoch is done. Called on the main process.

    `more` goes into the summary, over what the config says.
    """
    rows = run.rows()
    probs = logits.softmax(1)
    final = classification_report(probs, labels, data.class_counts)
    run.save_logits(logits, labels)
    run.save_per_class(data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names)))
    run.save_model(
        model_state,
        {
            "class_names": data.class_names,
            "class_counts": data.class_counts,
            "in_channels": data.train_images.shape[3],
            "logits_prior": logits_prior,
        },
    )
    speeds = sorted(row["images_per_second"] for row in rows) or [None]
    run.write_json(
        "summary.json",
        {
            "name": cfg.method,
            "dataset": cfg.dataset,
            "profile": cfg.profile,
            "imbalance_ratio": cfg.imbalance_ratio,
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "final": final,
            "wall_time_s": sum(row["seconds"] for row in rows),
            "images_per_second": speeds[len(speeds) // 2],
            "parameters": parameters,
            "peak_memory_bytes": peak_memory_bytes(),
            "precision": accelerator.mixed_precision,
            "num_processes": accelerator.num_processes,
            "index_hash": data.index_hash,
            "class_counts": data.class_counts,
            "class_names": data.class_names,
            **more,
        },
    )
    print(f"\n{table({more.get('name', cfg.method): final})}\n\nReport: {write_report(run.path)}")


def table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """Markdown table of final metrics, a row a run."""
    return results_table(results, COLUMNS)
