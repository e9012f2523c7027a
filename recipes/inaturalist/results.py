"""What a run leaves behind: its summary, its table, and a report with test images of every shot group."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from accelerate import Accelerator
from config import Config
from data import Data
from loader import mean_and_std
from torch import Tensor

from ltaug import RunFolder, shot_groups
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
    "nll": "NLL",
}
EXAMPLES, SIDE = 8, 128
"""Test images a shot group in the report, and their side in pixels."""


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
    final, (mean, std) = save_test(run, data, logits, labels), mean_and_std(cfg)
    run.save_model(
        model_state,
        {
            "class_names": data.class_names,
            "class_counts": data.class_counts,
            "model": cfg.model,
            "image_size": cfg.image_size,
            "test_resize": cfg.test_resize,
            "mean": mean,
            "std": std,
            "logits_prior": logits_prior,
        },
    )
    speeds = sorted(row["images_per_second"] for row in rows) or [None]
    run.write_json(
        "summary.json",
        {
            "name": cfg.method,
            "dataset": cfg.dataset,
            "imbalance_ratio": float(data.class_counts.max() / data.class_counts.min()),
            "model": cfg.model,
            "seed": cfg.seed,
            "epochs": cfg.epochs,
            "final": final,
            "wall_time_s": sum(row["seconds"] for row in rows),
            "images_per_second": speeds[len(speeds) // 2],
            "parameters": parameters,
            "peak_memory_bytes": peak_memory_bytes(),
            "precision": accelerator.mixed_precision,
            "num_processes": accelerator.num_processes,
            "training_images": len(data.train),
            "unreadable_images": int(data.train.unreadable),
            "unreadable_test_images": data.test.unreadable,
            "index_hash": data.index_hash,
            "class_counts": data.class_counts,
            "class_names": data.class_names,
            **more,
        },
    )
    page = write_report(run.path, examples(data, logits, labels))
    print(f"\n{table({more.get('name', cfg.method): final})}\n\nReport: {page}")


def save_test(run: RunFolder, data: Data, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Logits, table of the classes, and the metrics."""
    probs = logits.softmax(1)
    run.save_logits(logits, labels)
    run.save_per_class(data.class_names, data.class_counts, per_class_accuracy(probs, labels, len(data.class_names)))
    return classification_report(probs, labels, data.class_counts)


def examples(data: Data, logits: Tensor, labels: Tensor) -> list[tuple[str, str]]:
    """Sections of the report: for every shot group the test images that are most surely taken for something else."""
    confidence, predicted = logits.softmax(1).max(1)
    sections, transform = [], data.test.transform
    data.test.transform = None
    for group, members in shot_groups(data.class_counts).items():
        wrong = (members[labels] & (predicted != labels)).nonzero()[:, 0]
        if not len(wrong):
            continue
        cards = []
        for k in wrong[confidence[wrong].argsort(descending=True)][:EXAMPLES].tolist():
            truth, said = data.class_names[int(labels[k])], data.class_names[int(predicted[k])]
            caption = f"{truth}, taken for {said} ({100 * float(confidence[k]):.0f} %)"
            cards.append(thumbnail(data.test[k][0], caption))
        share = f"{len(wrong)} of {int(members[labels].sum())} test images are wrong; the surest {len(cards)}."
        sections.append((f"Mistakes: {group}-shot", f"<p>{share}</p><div class=figures>{''.join(cards)}</div>"))
    data.test.transform = transform
    return sections


def thumbnail(image: Any, caption: str) -> str:
    """A card with a small picture that the page carries."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}" width="{SIDE}"><figcaption>{text}</figcaption></figure>'


def table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    """Markdown table of final metrics, a row a run."""
    return results_table(results, COLUMNS)
