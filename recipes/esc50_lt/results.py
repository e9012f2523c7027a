"""What a run leaves behind: its summary, its table, and a report in which the mistakes can be heard."""

from collections.abc import Mapping
from html import escape
from typing import Any

from accelerate import Accelerator
from config import Config
from data import Data
from torch import Tensor

from ltaug import RunFolder
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.plots import spectrogram
from ltaug.report import audio_html, figure_html, results_table, write_report
from ltaug.run import peak_memory_bytes

ERRORS = {"top1": "top-1 error", "top5": "top-5 error", "many": "many", "medium": "medium", "few": "few"}
OTHERS = {"ece": "ECE15", "nll": "NLL"}
MISTAKES = 8
"""Clips that the report lets hear."""
SECONDS = 2.5
"""Of each of them, from its beginning: a page carries its sounds."""


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
) -> None:
    """Write everything of the run folder that exists only once the last epoch is done. Called on the main process."""
    rows = run.rows()
    final = save_test(run, data, logits, labels)
    run.save_model(
        model_state,
        {
            "class_names": data.class_names,
            "class_counts": data.class_counts,
            "sample_rate": cfg.sample_rate,
            "crop_length": cfg.crop_length,
            "logits_prior": logits_prior,
        },
    )
    speeds = sorted(row["clips_per_second"] for row in rows) or [None]
    run.write_json(
        "summary.json",
        {
            "name": cfg.method,
            "dataset": cfg.dataset,
            "profile": cfg.profile,
            "imbalance_ratio": cfg.imbalance_ratio,
            "test_fold": cfg.test_fold,
            "model": cfg.model,
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "final": final,
            "wall_time_s": sum(row["seconds"] for row in rows),
            "clips_per_second": speeds[len(speeds) // 2],
            "parameters": parameters,
            "peak_memory_bytes": peak_memory_bytes(),
            "precision": accelerator.mixed_precision,
            "num_processes": accelerator.num_processes,
            "training_clips": len(data.train_labels),
            "unreadable_clips": data.left_out,
            "index_hash": data.index_hash,
            "class_counts": data.class_counts,
            "class_names": data.class_names,
        },
    )
    memory = f", peak memory {peak / 2**30:.1f} GiB" if (peak := peak_memory_bytes()) else ""
    page = write_report(run.path, mistakes(cfg, data, logits, labels))
    print(f"\n{table({cfg.method: final})}\n\n{len(labels)} test clips{memory}. Report: {page}")


def save_test(run: RunFolder, data: Data, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Logits, table of the classes, and the metrics."""
    probs = logits.softmax(1)
    run.save_logits(logits, labels)
    run.save_per_class(data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names)))
    return classification_report(probs, labels, data.class_counts)


def mistakes(cfg: Config, data: Data, logits: Tensor, labels: Tensor) -> list[tuple[str, str]]:
    """A section of the report: the wrongly classified test clips of the highest confidence, to see and to hear."""
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    if not len(wrong):
        return [("Mistakes", "<p>There are none: every test clip is recognised.</p>")]
    cards = []
    for k in wrong[confidence[wrong].argsort(descending=True)][:MISTAKES].tolist():
        clip = data.test_waveforms[k][: int(SECONDS * cfg.sample_rate)]
        truth, said = data.class_names[int(labels[k])], data.class_names[int(predicted[k])]
        cards.append(
            figure_html(
                spectrogram(clip, cfg.sample_rate),
                alt=f"Spectrogram of {data.test_names[k]}.",
                caption=f"{truth}, taken for {said} with a confidence of {100 * float(confidence[k]):.0f} %.",
                html=audio_html(clip, cfg.sample_rate, data.test_names[k]),
            )
        )
    lead = (
        f"{len(wrong)} of {len(labels)} test clips are wrongly classified; the surest {len(cards)}, the first "
        f"{SECONDS:g} s of each."
    )
    return [("Mistakes to hear", f"<p>{escape(lead)}</p><div class=figures>{''.join(cards)}</div>")]


def table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """Markdown table of final metrics, a row a run: errors and ECE in percent."""
    return results_table(results, ERRORS | OTHERS, errors=ERRORS)
