"""The sound recipe: EnvNet's training at B = 64, what comes before a network's first weights, and decoding."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.loop import Loop, elsewhere, has_bf16, precision, race
from benchmarks.timing import Bar, Benchmark, Options, Result, Times, threads
from ltaug import BetweenClass, ClassPowerSampler, PairSampler, ResidentWaveformLoader
from ltaug.audio import AddNoise, EnvNet, LogMel, MelNetwork, Reverb, SoundNetwork, SpecAugment, read_clips, read_table

ESC10 = Path(__file__).parent.parent.parent / "shared" / "data" / "esc10"
BATCH, LENGTH, RATE, CLASSES = 64, 24_014, 16_000, 50
CLIPS = 600
"""About what ESC-50-LT has."""


def pair_loader(max_scale: float = 1.0, batch: int = BATCH, length: int = LENGTH) -> ResidentWaveformLoader:
    """Label-occurrence-balanced pairs of noise, five seconds each."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(-3000, 3000, (CLIPS, 5 * RATE), generator=generator, dtype=torch.int16)
    labels = torch.arange(CLIPS) % CLASSES
    sampler = PairSampler(ClassPowerSampler(labels), ClassPowerSampler(labels))
    return ResidentWaveformLoader(
        clips, labels, batch_size=batch, crop_length=length, sampler=sampler, max_scale=max_scale, drop_last=True
    )


class EnvNetLoop(Loop):
    """What both loops share: the network, and pairs from memory that are mixed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.manual_seed(0)
        self.model = EnvNet(CLASSES).to(device)
        self.loader = pair_loader()
        self.mixer = BetweenClass(CLASSES, RATE)
        self.bf16 = False

    def batches(self) -> Iterator[tuple]:
        return iter(self.loader)

    def loss(self, batch: tuple) -> Tensor:
        first, partner = batch
        inputs, targets = self.mixer(*first, *partner)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return F.cross_entropy(self.model(inputs), targets)


class OurEnvNet(EnvNetLoop):
    """As the recipe has it: bf16 and channels_last where the hardware has it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.bf16 = has_bf16(device)
        if self.bf16 or device.type != "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)


def result(times: Times, steps: int, note: str) -> Result:
    """Ratio and clips a second."""
    ours, plain = (steps * BATCH / statistics.median(taken) for taken in (times.ours, times.reference))
    return Result(times.speedup, f"{ours:.1f} clip/s", f"{plain:.1f} clip/s", times.spread(), note)


def in_one_process(_: Options) -> Result:
    """Both in this process, whose allocator is as it comes."""
    device = torch.device("cpu")
    with threads(2):
        times = race(OurEnvNet(device), EnvNetLoop(device), blocks=3, steps=2)
    return result(times, 2, f"{precision(device)}, in one process, without reuse_freed_memory()")


def as_launched(_: Options) -> Result:
    """As the recipe runs it, with `reuse_freed_memory`; each loop in a process of its own."""
    with elsewhere(OurEnvNet, reuse_memory=True) as ours, elsewhere(EnvNetLoop, reuse_memory=False) as plain:
        times = race(ours, plain, blocks=3, steps=2)
    return result(times, 2, f"{precision(torch.device('cpu'))}, ours with reuse_freed_memory(), a process each")


def share(max_scale: float) -> Callable[[Options], Result]:
    """Processor time of cropping and mixing a batch, in percent of that of a whole training step."""

    def run(_: Options) -> Result:
        device = torch.device("cpu")
        with threads(1):
            loop = OurEnvNet(device)
            loop.loader = pair_loader(max_scale)
            before, steps = [], []
            stream = loop.batches()
            optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01)
            for _step in range(5):
                start = time.thread_time()
                first, partner = next(stream)
                loop.mixer(*first, *partner)
                before.append(time.thread_time() - start)
                start = time.thread_time()
                loop.loss((first, partner)).backward()
                optimizer.step()
                optimizer.zero_grad()
                steps.append(time.thread_time() - start)
        ours, step = statistics.median(before), statistics.median(steps)
        return Result(100 * ours / step, f"{1e3 * ours:.0f} ms", f"{step:.2f} s", note=precision(device))

    return run


def envnet() -> SoundNetwork:
    """EnvNet behind reverberation and noise, for half of the sounds each."""
    network = EnvNet(CLASSES)
    network.augmentation = nn.Sequential(Reverb(RATE, 0.5), AddNoise(RATE, 0.5))
    return network


def mel_network() -> SoundNetwork:
    """ResNet-18 on 64 bands of 500 frames, one every 10 ms, masked; behind reverberation and noise."""
    network = MelNetwork(CLASSES, RATE)
    network.mel = LogMel(RATE, hop_length=RATE // 100, masks=SpecAugment(2, 48, 2, 12))
    network.augmentation = nn.Sequential(Reverb(RATE, 0.5), AddNoise(RATE, 0.5))
    return network


def timed(module: nn.Module, seconds: list[float]) -> nn.Module:
    """Keep the processor time of every call of a module."""
    forward = module.forward

    def call(inputs: Tensor) -> Tensor:
        start = time.thread_time()
        outputs = forward(inputs)
        seconds.append(time.thread_time() - start)
        return outputs

    module.forward = call
    return module


def augmented(
    make: Callable[[], SoundNetwork], batch: int, length: int, only: bool = False, level: str = "a_weighted"
) -> Callable[[Options], Result]:
    """Processor time of crops, mixing, augmentation and spectrograms, in percent of that of a whole training step.

    Or, with ``only``, that of augmentation (masks, reverberation, noise) in percent of the step without it.
    """

    def run(_: Options) -> Result:
        torch.manual_seed(0)
        extra: list[float] = []
        front: list[float] = []
        batches: list[float] = []
        steps: list[float] = []
        with threads(1):
            model, mixer = make().train(), BetweenClass(CLASSES, RATE, level=level)
            timed(model.augmentation, extra)
            if isinstance(model, MelNetwork):
                timed(model.mel.masks, extra)
                timed(model.mel, front)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            stream = iter(pair_loader(batch=batch, length=length))
            for _step in range(4):
                start = time.thread_time()
                first, partner = next(stream)
                inputs, targets = mixer(*first, *partner)
                batches.append(time.thread_time() - start)
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
                optimizer.zero_grad()
                steps.append(time.thread_time() - start)
        calls = len(extra) // 4
        added = [sum(extra[k : k + calls]) for k in range(0, len(extra), calls)]
        masks = extra[1::2] if front else [0.0] * 4  # within the front end, and counted once
        before = [sum(times) for times in zip(batches, added, front or [0.0] * 4, strict=True)]
        before = [total - mask for total, mask in zip(before, masks, strict=True)]
        ours, step = (statistics.median(times[1:]) for times in (added if only else before, steps))
        rest = step - ours if only else step
        return Result(100 * ours / rest, f"{1e3 * ours:.0f} ms", f"{rest:.2f} s", note=f"fp32, batches of {batch}")

    return run


def decoding(_: Options) -> Result:
    """Clips a second of ESC-10, 44.1 kHz Ogg Vorbis to 16 kHz, into an empty cache; the note has the second time."""
    if not ESC10.is_dir():
        return Result(None, note="not measured: ESC-10 is not at hand")
    part = read_table("ashraq/esc50", str(ESC10), label_column="target").train
    sounds = [(name, part.sound(k)) for k, name in enumerate(part.names)]
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _time in range(2):
            start = time.perf_counter()
            read_clips(sounds, RATE, cache_dir=cache)
            seconds.append(time.perf_counter() - start)
    return Result(
        len(sounds) / seconds[0], f"{seconds[0]:.2f} s", note=f"{len(sounds)} clips; from the cache {seconds[1]:.2f} s"
    )


BENCHMARKS = [
    Benchmark("envnet_training", "2", Bar(2.5), in_one_process),
    Benchmark("envnet_training_as_launched", "2", Bar(2.5), as_launched),
    Benchmark("sound_share", "1", Bar(3, at_least=False, unit="%"), share(1.0)),
    Benchmark("sound_share_strong", "1", Bar(3, at_least=False, unit="%"), share(1.25)),
    Benchmark("sound_share_augmented", "1", Bar(5, at_least=False, unit="%"), augmented(envnet, BATCH, LENGTH)),
    Benchmark(
        "sound_share_loudness",
        "1",
        Bar(5, at_least=False, unit="%"),
        augmented(lambda: EnvNet(CLASSES), BATCH, LENGTH, level="loudness"),
    ),
    Benchmark("sound_augmentation", "1", Bar(3, at_least=False, unit="%"), augmented(envnet, BATCH, LENGTH, True)),
    Benchmark("mel_share_augmented", "1", Bar(15, at_least=False, unit="%"), augmented(mel_network, 16, 79_999)),
    Benchmark(
        "mel_augmentation", "1", Bar(3, at_least=False, unit="%"), augmented(mel_network, 16, 5 * RATE - 1, True)
    ),
    Benchmark("sound_decoding", "2", Bar(250, unit=" clip/s"), decoding),
]
