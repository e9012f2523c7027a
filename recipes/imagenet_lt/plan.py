"""What a training will take on 1, 8 and 64 GPUs: memory of each, time, and cores that decode.

    python recipes/imagenet_lt/plan.py --images_per_second 2500 -- --model resnext50_32x4d --epochs 180

What stands behind `--` are settings of train.py. Memory is counted on the CPU, from a forward pass of few images; the
speed of one GPU is to be measured, by the first epoch of a run (metrics.jsonl) or `python -m benchmarks --only
resnet50_training`.
"""

import argparse

import torch
from config import Config, parse_config, plain_errors
from model import build_model
from torch import nn

from ltaug.commandline import one_process

GIB = 2**30
STATES = {"sgd": 1, "nesterov": 1, "momentum": 1}
"""Numbers that an optimiser keeps for each parameter; of the others, two."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="default: 1 8 64")
    parser.add_argument("--images_per_second", type=float, help="trained by one GPU, as measured")
    parser.add_argument("--decoded_per_second", type=float, default=340, help="by one core (default: %(default)s)")
    parser.add_argument("--images", type=int, default=115_846, help="of the training set (default: ImageNet-LT's)")
    parser.add_argument("--classes", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("settings", nargs="*", help="settings of train.py, behind --")
    arguments, unknown = parser.parse_known_args()
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}. Settings of train.py go behind --.")
    one_process()
    for name in ("images_per_second", "decoded_per_second", "images", "classes"):
        if (value := getattr(arguments, name)) is not None and not value > 0:
            raise ValueError(f"`--{name}` must be positive, but is {value}.")
    cfg = parse_config(arguments.settings)
    print(table(cfg, arguments))


def table(cfg: Config, arguments: argparse.Namespace) -> str:
    """Markdown: a row a number of GPUs."""
    cfg.pretrained = False  # weights change no memory
    model = build_model(arguments.classes, cfg)
    fixed, per_image = training_bytes(model, cfg)
    decoded = 2 if cfg.mixer != "none" and cfg.partner == "dataset" else 1
    lines = ["| GPUs | batch a GPU | memory a GPU, GiB | time | cores that decode |", "|---:|---:|---:|---:|---:|"]
    for gpus in arguments.gpus:
        if cfg.batch_size % (gpus * cfg.accumulate):
            lines.append(f"| {gpus} | cannot be split | – | – | – |")
            continue
        share = cfg.batch_size // gpus
        hours = cores = "–"
        if arguments.images_per_second:
            speed = arguments.images_per_second * gpus
            minutes = cfg.epochs * arguments.images / speed / 60
            hours = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.0f} min"
            cores = f"{speed * decoded / arguments.decoded_per_second:.0f}"
        memory = (fixed + per_image * share / cfg.accumulate) / GIB
        lines.append(f"| {gpus} | {share} | {memory:.1f} | {hours} | {cores} |")
    return "\n".join(lines)


def training_bytes(model: nn.Module, cfg: Config) -> tuple[float, float]:
    """What training holds whatever the batch, and for each image: the tensors that the backward pass needs."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    everything = sum(value.numel() for value in model.state_dict().values())
    # Weights in fp32 and their copies in bf16; gradients, their buckets between processes, and the optimiser's numbers.
    fixed = 4 * everything + 2 * everything + 4 * trained * (2 + STATES.get(cfg.optimizer, 2))
    fixed += 4 * everything if cfg.ema else 0
    few, more = (saved_bytes(model, cfg, images) for images in (2, 6))
    return fixed, (more - few) / 4


def saved_bytes(model: nn.Module, cfg: Config, images: int) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, each counted once."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = torch.zeros(images, 3, cfg.image_size, cfg.image_size)
    precise = cfg.precision == "fp32"
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            logits = model.train()(inputs)
        loss = logits.float().logsumexp(1).sum()  # the graph lives, and so do the addresses
    del loss
    return sum(kept.values())


if __name__ == "__main__":
    with plain_errors():
        main()
