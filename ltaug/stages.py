"""Two-stage training: what is frozen in the second stage, and what batch norm does there.

A second stage on a network with ``features`` and a last layer ``fc``::

    freeze(model)
    model.fc = GeneralizedClassifier(model.fc)
    for epoch in range(epochs):
        model.train()
        set_batch_norm_mode(model, "shift")  # after every `train()`, which would undo it
        ...
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ltaug._arguments import checked

__all__ = ["freeze", "reinitialize", "set_batch_norm_mode", "unfreeze"]

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """Stop the parameters of a module from learning, and delete their gradients.

    Batch norm's running statistics are not parameters and still move in training mode:
    :func:`set_batch_norm_mode` decides about them.

    Args:
        module: changed in place.

    Returns:
        The module.

    >>> freeze(nn.Linear(2, 2)).weight.requires_grad
    False
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        # An optimiser steps on any gradient it finds, also on one of the first stage.
        parameter.grad = None
    return module


def unfreeze(module: Module) -> Module:
    """Let the parameters of a module learn again.

    Args:
        module: changed in place.

    Returns:
        The module.

    >>> unfreeze(freeze(nn.Linear(2, 2))).weight.requires_grad
    True
    """
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def reinitialize(module: Module) -> Module:
    """Draw the parameters of a layer anew.

    This is how classifier retraining starts (cRT, Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217).

    Args:
        module: a layer with ``reset_parameters``, such as ``nn.Linear``, changed in place.

    Returns:
        The module; frozen parameters stay frozen.

    Raises:
        ValueError: the module has no ``reset_parameters``.

    >>> linear = nn.Linear(2, 2)
    >>> before = linear.weight.clone()
    >>> bool((reinitialize(linear).weight == before).all())
    False
    """
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise ValueError(
            f"`module` must be a layer with `reset_parameters`, but is a {type(module).__name__}. Pass the classifier, "
            "such as `model.fc`, or build a new one."
        )
    reset()
    return module


@checked
def set_batch_norm_mode(model: nn.Module, mode: str) -> int:
    """Choose whether the batch norm layers of a model follow the data and learn, which ``freeze`` leaves open.

    ======== ================ ================== =================
    mode     normalises by    running statistics weight and bias
    ======== ================ ================== =================
    "fixed"  running ones     stay               frozen
    "shift"  the batch's own  move               frozen
    "train"  the batch's own  move               learn
    ======== ================ ================== =================

    "fixed" keeps the backbone of the first stage as it is. "shift" is the shift learning of MiSLAS (Zhong et al., CVPR
    2021, section 3.3, https://arxiv.org/abs/2104.00466): the statistics of a class-balanced stream replace those of the
    instance-balanced one. It is also what a frozen backbone in ``train()`` mode does, and so what the released code of
    cRT and LWS does. The released MiSLAS code has it off for CIFAR-10-LT.

    Call it after every ``model.train()``, which sets all layers to training; the first time before the optimiser and
    ``DistributedDataParallel`` are made. ``model.eval()`` needs no call.

    Args:
        model: changed in place; ``BatchNorm1d`` to ``3d``, ``SyncBatchNorm`` and layers derived from them.
        mode: see above.

    Returns:
        Number of batch norm layers, 0 for a model without.

    Raises:
        ValueError: the mode is unknown, or a layer without running statistics cannot be "fixed" or "shift".

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> set_batch_norm_mode(model.train(), "fixed")
    1
    >>> model.training, model[1].training
    (True, False)
    """
    if mode not in ("fixed", "shift", "train"):
        raise ValueError(f'`mode` must be "fixed", "shift" or "train", but is {mode!r}.')
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    for name, layer in layers:
        if mode != "train" and layer.running_mean is None:
            raise ValueError(
                f'`mode` {mode!r} needs running statistics, but layer "{name}" has none '
                '(`track_running_stats=False`). Use "train".'
            )
    for _, layer in layers:
        layer.train(mode != "fixed")
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(mode == "train")
            if mode != "train":
                parameter.grad = None  # see `freeze`
    return len(layers)
