"""Segmentation: what scores and fusion take of an evaluation, their memory, and the renderer's scenes a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.timing import Bar, Benchmark, Options, Result, show_seconds, threads
from ltaug.fusion import uno_ic
from ltaug.metrics import StreamingSegmentation
from ltaug.vision.scenes import render_scenes

CLASSES, HEIGHT, WIDTH, KEPT = 13, 384, 768, 8
"""Of SYNTHIA under IC's protocol, and every how many pixels a run keeps one."""
SCENES = 200


def evaluation(_: Options) -> Result:
    """Share that scores of all pixels and UNO-IC of the kept ones have of evaluating two ResNet-101s, a scene."""
    import segmentation_models_pytorch as smp

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (1, HEIGHT, WIDTH), generator=generator)
    logits = [3 * torch.randn(1, CLASSES, HEIGHT, WIDTH, generator=generator) for _ in range(2)]
    counts = torch.logspace(6, 2, CLASSES)
    network = smp.DeepLabV3Plus("tu-resnet101", encoder_weights=None, classes=CLASSES).eval()
    network = network.to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    scores, fused = (StreamingSegmentation(CLASSES, ignore_index=255, logits=kind) for kind in (True, False))

    def ours() -> None:
        for z in logits:
            scores.update(z, labels)
        kept = [z[..., ::KEPT, ::KEPT] for z in logits]
        probs = uno_ic(kept, [(0.04, 0.02)] * 2, counts, torch.ones(CLASSES), 0.4)
        fused.update(probs, labels[..., ::KEPT, ::KEPT])

    with threads(1), torch.no_grad():
        own, one = fastest(ours, 5), fastest(lambda: network(image), 2)  # seconds each: of two there are twice as many
    return Result(100 * own / (own + 2 * one), show_seconds(own), show_seconds(2 * one))


def fastest(work: Callable[[], object], calls: int) -> float:
    """Processor seconds of the fastest of some calls, after one to warm up."""
    work()
    taken = []
    for _ in range(calls):
        start = time.thread_time()
        work()
        taken.append(time.thread_time() - start)
    return min(taken)


def memory(_: Options) -> Result:
    """Numbers that the scores of 10 times as many scenes keep, over those of one."""
    sizes = []
    for scenes in (1, 10):
        scores = StreamingSegmentation(CLASSES)
        for _scene in range(scenes):
            scores.update(torch.randn(1, CLASSES, 96, 128), torch.randint(CLASSES, (1, 96, 128)))
        sizes.append(sum(value.numel() for value in scores.state.values()))
    return Result(sizes[1] / sizes[0], f"{sizes[1]} numbers", f"{sizes[0]} numbers")


def renderer(_: Options) -> Result:
    """Scenes of 96x128 a second of a core."""
    render_scenes(range(10))
    start = time.thread_time()
    render_scenes(range(SCENES))
    taken = time.thread_time() - start
    return Result(SCENES / taken, show_seconds(taken / SCENES))


BENCHMARKS = [
    Benchmark("segmentation_scores", "1", Bar(3.0, at_least=False, unit=" %"), evaluation),
    Benchmark("segmentation_memory", "1", Bar(1.0, at_least=False), memory),
    Benchmark("rendered_scenes", "1", Bar(200.0, unit="/s"), renderer),
]
