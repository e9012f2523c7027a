"""Networks of timm for long-tailed sets: made, checked, frozen; and the ResNet-10 of the long-tailed literature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import PretrainedCfg, load_model_config_from_hf
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ltaug.adapters import FreezeSettings, classifier_parts, freeze_and_adapt, freeze_backbone
from ltaug.commandline import Share
from ltaug.errors import UserError

__all__ = [
    "NetworkSettings",
    "build_timm_model",
    "check_image_size",
    "classifier_parts",
    "freeze_backbone",
    "make_network",
    "pixel_statistics",
    "short_name",
    "timm_files",
]


def build_timm_model(
    name: str, num_classes: int, *, image_size: int, pretrained: bool = False, drop_path: float = 0.0
) -> nn.Module:
    """Make a network of timm, from images [N, 3, H, W] to logits [N, C].

    Args:
        name: of timm, hf-hub:OWNER/NAME, local-dir:FOLDER, or resnet10 (one basic block in each of four stages: 5.4 M
            parameters for 1,000 classes).
        num_classes: C.
        image_size: pixels of a side.
        pretrained: start from the published weights, which are downloaded.
        drop_path: stochastic depth.

    Raises:
        UserError: the model is not known, or has no weights.
        ConnectionError: its weights cannot be downloaded.
    """
    if name == "resnet10":
        if pretrained:
            raise UserError("`model: resnet10` has no pretrained weights in timm. Set `pretrained: false`.")
        block: Any = BasicBlock
        small: Any = ResNet(block, (1, 1, 1, 1), num_classes=num_classes, drop_path_rate=drop_path)
        small.pretrained_cfg = {"architecture": "resnet18", "first_conv": "conv1", "classifier": "fc"}
        small._model_args = {"layers": [1, 1, 1, 1]}  # of that architecture
        return small  # type: ignore[no-any-return]
    known = _weights(name)
    if pretrained and known is not None and not known.has_weights:
        raise UserError(f"timm has no weights of `model` {name!r}. Set `pretrained: false`.")
    extra: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    # Vision transformers know their input's size; convolutional networks do not take one.
    if known is not None and known.fixed_input_size:
        extra["img_size"] = image_size
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **extra)
    except OSError as error:
        from ltaug.hub import hub_reason

        place = str(getattr(known, "hf_hub_id", None) or name.partition(":")[2] or name)
        told = hub_reason(error, place) or error
        raise ConnectionError(
            f"The weights of `model` {name!r} could not be loaded ({told}). Offline ways: a cache filled earlier "
            "(HF_HUB_OFFLINE=1), `model: local-dir:FOLDER` with timm's config.json and model.safetensors, or "
            "`pretrained: false`."
        ) from error
    return model


def _weights(name: str) -> PretrainedCfg | None:
    """What timm knows of a model's weights; None of some models."""
    source, _, place = name.partition(":")
    if source == "hf-hub":
        return PretrainedCfg(**load_model_config_from_hf(place)[0])
    if source == "local-dir":
        config = Path(place) / "config.json"
        if not config.is_file():
            raise UserError(f"`model` {name!r} must name a folder with timm's config.json and model.safetensors.")
        known = json.loads(config.read_text(encoding="utf-8"))["pretrained_cfg"]
        return PretrainedCfg(**known | {"file": place})
    if not timm.is_model(name.partition(".")[0]):
        close = timm.list_models(f"*{name[:6]}*")[:5]
        hint = f" Some are: {', '.join(close)}." if close else " timm.list_models() lists them."
        raise UserError(f"`model` {name!r} is no model of timm.{hint}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise UserError(f"`model` {name!r} is unknown to timm. It has {tags}.") from error


def short_name(name: str) -> str:
    """Network's name as folders have it: without where it comes from, and without that of its weights.

    >>> short_name("vit_base_patch16_clip_224.openai"), short_name("hf-hub:timm/resnet18.a1_in1k")
    ('vit_base_patch16_clip_224', 'resnet18')
    """
    return name.rpartition(":")[2].rstrip("/").rpartition("/")[2].partition(".")[0]


def timm_files(model: nn.Module, class_names: Sequence[str], preprocessing: Mapping[str, Any]) -> dict[str, str]:
    """Make config.json, by which timm opens a run folder: ``timm.create_model("local-dir:RUN", pretrained=True)``.

    Args:
        model: after its training.
        class_names: C names.
        preprocessing: ``image_size``, ``test_resize``, ``mean``, ``std``.

    Returns:
        The text by the file's name; none of a network that timm does not make as it is now, such as one with another
        kind of classifier, or of blocks of its own.
    """
    known, get = getattr(model, "pretrained_cfg", None), getattr(model, "get_classifier", None)
    if known is None or get is None:
        return {}
    classifier = get()
    if not isinstance(classifier, nn.Linear) or type(classifier).__module__.split(".")[0] not in ("torch", "timm"):
        return {}
    known = dict(known)
    made = getattr(model, "_model_args", {})  # of networks of the hub, too
    ignored = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "pretrained_model_args")
    plain = (bool, int, float, str, list, tuple)
    arguments = {name: value for name, value in made.items() if name not in ignored and isinstance(value, plain)}
    if known.get("fixed_input_size"):
        arguments["img_size"] = preprocessing["image_size"]
    size, whole = preprocessing["image_size"], preprocessing["test_resize"] == 1
    kept = ("first_conv", "classifier", "fixed_input_size", "min_input_size", "license")
    config = {
        "architecture": known["architecture"],
        "num_classes": len(class_names),
        "num_features": model.num_features,
        "label_names": list(class_names),
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            **{name: known[name] for name in kept if known.get(name) is not None},
            "custom_load": False,
            "input_size": [3, size, size],
            "interpolation": "bilinear",
            "crop_pct": preprocessing["test_resize"],
            "crop_mode": "squash" if whole else "center",
            "mean": list(preprocessing["mean"]),
            "std": list(preprocessing["std"]),
            "num_classes": len(class_names),
        },
    }
    return {"config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def pixel_statistics(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels in 0..1, per channel, that a model's published weights expect."""
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm's
    return list(config["mean"]), list(config["std"])


@torch.no_grad()
def check_image_size(model: nn.Module, name: str, image_size: int) -> None:
    """Refuse images of a size that the network cannot take, before a run begins with them."""
    model.eval()
    try:
        model(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"`model` {name!r} takes no images of `image_size`={image_size}: {error}") from error
    model.train()


@dataclass
class NetworkSettings(FreezeSettings):
    """What can be said of a network of timm."""

    model: str = "resnet50"
    """resnet10, any model of timm, hf-hub:OWNER/NAME, or local-dir:FOLDER."""
    pretrained: bool = False
    """Start from the published weights (downloads them)."""
    drop_path: Share = 0.0
    """Stochastic depth."""

    @property
    def model_name(self) -> str:
        """Name of the network in run folders."""
        return short_name(self.model)


def make_network(num_classes: int, cfg: Any) -> nn.Module:
    """Make the network of settings, with adapters and frozen if they say so.

    A second stage (``from_run``) gets the plain network, whose weights its first stage has kept.

    Args:
        num_classes: C.
        cfg: :class:`NetworkSettings` with ``image_size`` and ``from_run``.
    """
    if cfg.freeze and cfg.drop_path:
        raise UserError(f"`drop_path`={cfg.drop_path} drops nothing in a frozen network. Set it to 0.")
    pretrained, size = cfg.pretrained and cfg.from_run is None, cfg.image_size
    model = build_timm_model(cfg.model, num_classes, image_size=size, pretrained=pretrained, drop_path=cfg.drop_path)
    check_image_size(model, cfg.model, size)
    return freeze_and_adapt(model, cfg, torch.zeros(1, 3, size, size))
