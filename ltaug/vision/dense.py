"""Segmentation of whole sets in constant memory, and what a run keeps of it: scores of all pixels, logits of some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ltaug.fusion import _entropy
from ltaug.metrics import StreamingSegmentation
from ltaug.vision.decoding import warn
from ltaug.vision.scenes import VOID

__all__ = ["Segmented", "entropy_of", "flat_results", "save_segmented", "segment"]


class Segmented(NamedTuple):
    """What :func:`segment` makes of a set."""

    scores: StreamingSegmentation
    """Of all pixels."""
    logits: Tensor
    """float16 [N, C, h, w], of pixels that lie evenly on a grid."""
    labels: Tensor
    """uint8 [N, h, w], of the same pixels; 255 where there is none."""


@torch.no_grad()
def segment(accelerator: Any, model: nn.Module, loader: Any, num_classes: int, keep_every: int) -> Segmented:
    """Segment a whole set, on every process and in the order of the set.

    Args:
        accelerator: accelerate's.
        model: gives logits [N, C, H, W]; it is in evaluation mode afterwards.
        loader: yields this process's rows of every global batch, images and labels [N, H, W].
        num_classes: C.
        keep_every: pixels between two whose logits are kept, in rows and in columns.
    """
    from accelerate.utils import gather_object

    from ltaug.training import for_evaluation

    model = for_evaluation(accelerator, model)
    scores = StreamingSegmentation(num_classes, ignore_index=VOID)
    grid = slice(keep_every // 2, None, keep_every)
    mine = []
    for inputs, labels in loader:
        with accelerator.autocast():
            logits = model(inputs).float()
        if len(labels):
            scores.update(logits, labels)
        mine.append((logits[..., grid, grid].half().cpu(), labels[..., grid, grid].to(torch.uint8).cpu()))
    scores.state = accelerator.reduce(
        {name: value.to(accelerator.device) for name, value in scores.state.items()}, "sum"
    )
    parts = gather_object(mine)  # process by process, each with its share of every batch
    ordered = [parts[k] for batch in range(len(mine)) for k in range(batch, len(parts), len(mine))]
    return Segmented(scores, torch.cat([z for z, _ in ordered]), torch.cat([y for _, y in ordered]))


@torch.no_grad()
def entropy_of(accelerator: Any, model: nn.Module, loader: Any, keep_every: int) -> tuple[float, float]:
    """Mean and standard deviation over the training scenes of their mean entropy, as UNO compares with.

    As :func:`ltaug.fusion.entropy_statistics` has them, of the pixels that :func:`segment` keeps; of each scene one
    number is held.

    Args:
        accelerator: accelerate's.
        model: gives logits [N, C, H, W]; it is in evaluation mode afterwards.
        loader: yields this process's rows of every global batch of the training scenes.
        keep_every: pixels between two that are kept, in rows and in columns.
    """
    from accelerate.utils import gather_object

    from ltaug.training import for_evaluation

    model = for_evaluation(accelerator, model)
    grid = slice(keep_every // 2, None, keep_every)
    mine: list[float] = []
    for inputs, labels in loader:
        if len(labels):
            with accelerator.autocast():
                logits = model(inputs).float()
            mine += _entropy(logits[..., grid, grid].half().float()).tolist()
    entropies = torch.tensor(gather_object(mine), dtype=torch.float64)
    return float(entropies.mean()), float(entropies.std(correction=0))


def flat_results(segmented: Mapping[str, Segmented]) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits [P, C] and labels [P] of "test" and "held_out", for ``Run.finish``: of kept pixels that have a label."""
    flat = {}
    for split in ("test", "held_out"):
        kept = segmented[split].labels != VOID
        flat[split] = (segmented[split].logits.movedim(1, -1)[kept].float(), segmented[split].labels[kept].long())
    return flat


@torch.no_grad()
def save_segmented(
    run: Any, model: nn.Module, segmented: Mapping[str, Segmented], entropy: tuple[float, float]
) -> None:
    """Keep what fusions of several runs need in ``dense.safetensors`` and ``dense.json``.

    Logits of the kept pixels of every condition and, for pictures, the first scene of each one whole; and the entropy
    of the training scenes.

    Args:
        run: a :class:`ltaug.training.Run`, whose ``data`` are a :class:`ltaug.vision.segmentation.SceneData`.
        model: without wrappers.
        segmented: by condition.
        entropy: of the training scenes, see :func:`entropy_of`.
    """
    if not run.main:
        return
    data, device = run.data, run.accelerator.device
    tensors: dict[str, Tensor] = {}
    for name, each in segmented.items():
        tensors |= {f"{name}.logits": each.logits, f"{name}.labels": each.labels}
        rgb, depth, labels = (torch.from_numpy(plane.copy()) for plane in data.sets[name].scene(0))
        inputs, _ = next(iter(data.eval_loader(run.cfg, name, _Alone(device))))
        logits = model(inputs[:1]).float().cpu()[0]
        tensors |= {f"{name}.rgb": rgb, f"{name}.depth": depth, f"{name}.truth": labels}
        tensors[f"{name}.example"] = logits.half()
        if name != "held_out":
            probs = logits.softmax(0)
            uncertain = -(probs * probs.clamp(min=1e-12).log()).sum(0)
            seen = {"prediction": logits.argmax(0), "uncertainty": uncertain}
            data.examples[name] = {"picture": rgb, "depth": depth, "truth": labels, **seen}
    scored = {name: each.scores for name, each in segmented.items() if bool(each.scores.state["confusion"].any())}
    for name in segmented.keys() - scored.keys():
        warn(f"no pixel of {name} has a class: there are no scores of it")
    info = {
        "modality": data.settings.modality,
        "conditions": list(segmented),
        "entropy": dict(zip(("mean", "std"), entropy, strict=True)),
        "keep_every": data.settings.keep_every,
        "ignore_index": VOID,
        "scores": {name: scores.compute() for name, scores in scored.items()},
        "class_scores": {
            name: {"iou": scores.scores().class_iou, "accuracy": scores.scores().class_accuracy}
            for name, scores in scored.items()
        },
    }
    run.save_dense(tensors, info)


class _Alone(NamedTuple):
    """The one process that writes."""

    device: torch.device
    num_processes: int = 1
    process_index: int = 0
