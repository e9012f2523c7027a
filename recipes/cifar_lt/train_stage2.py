"""Learn the classifier of a finished run anew, on class-balanced samples and its frozen network: cRT, LWS, MiSLAS, ...

    accelerate launch --config_file accelerate_config.yaml recipes/cifar_lt/train_stage2.py \
        --config recipes/cifar_lt/configs/mislas.yaml --from_run runs/cifar100_ir100_mixup_seed0

The run folder is one like train.py's: evaluate.py reads it, and its classifier is a plain linear layer again.
"""

import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from config import Config, Stage2Config, parse_config, plain_errors
from data import facts, load_data
from model import build_model, count_parameters
from results import save_results
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm
from train import PROGRESS, SHOWN, evaluate, train_one_epoch

from ltaug import (
    ClassAwareSampler,
    ClassPowerSampler,
    GeneralizedClassifier,
    LabelAwareSmoothingLoss,
    LearnableWeightScaling,
    NearestClassMeanClassifier,
    ResidentLoader,
    RunFolder,
    tau_normalize,
)
from ltaug.metrics import classification_report
from ltaug.run import autocast_type, finite_loss, reuse_freed_memory, set_threads
from ltaug.stages import freeze, reinitialize, set_batch_norm_mode, unfreeze

FREE = ("out", "from_run", "data_dir", "resume", "threads")  # what may change on resuming


def main(cfg: Stage2Config) -> None:
    # 1. The first stage: its settings, data and weights.
    first = read_first_stage(cfg)
    cfg.seed = first.seed if cfg.seed is None else cfg.seed
    if cfg.out is None:
        name = f"{first.dataset}_ir{first.imbalance_ratio:g}_{cfg.method}_seed{cfg.seed}"
        cfg.out = str(Path(cfg.from_run).parent / name)
    if first.reuse_memory:
        reuse_freed_memory()
    set_threads(cfg.threads or first.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(first.precision))
    set_seed(cfg.seed, device_specific=True)
    data = load_data(first)
    processes = accelerator.num_processes
    shared = {
        "mean": data.mean,
        "std": data.std,
        "device": accelerator.device,
        "num_processes": processes,
        "process_index": accelerator.process_index,
    }
    test_loader = ResidentLoader(data.test_images, data.test_labels, batch_size=250 * processes, **shared)

    def train_loader(epoch: int) -> ResidentLoader:
        """An epoch of class-balanced samples."""
        if cfg.sampler == "class_aware":
            sampler = ClassAwareSampler(data.train_labels, cfg.samples_per_class, seed=cfg.seed)
        else:
            sampler = ClassPowerSampler(data.train_labels, tau=0.0, seed=cfg.seed)
        loader = ResidentLoader(
            data.train_images,
            data.train_labels,
            batch_size=cfg.batch_size,
            sampler=sampler,
            drop_last=True,
            crop_padding=first.crop_padding,
            flip=first.flip,
            seed=cfg.seed,
            **shared,
        )
        loader.set_epoch(epoch)
        return loader

    images = len(train_loader(0)) * cfg.batch_size
    if cfg.loss == "ce":
        criterion = nn.CrossEntropyLoss()
    else:
        criterion = LabelAwareSmoothingLoss(
            data.class_counts, cfg.smoothing_head, cfg.smoothing_tail, mode=cfg.mode
        ).to(accelerator.device)

    # 2. The frozen network and its new classifier.
    model = build_model(len(data.class_names), in_channels=data.train_images.shape[3])
    load_weights(model, Path(cfg.from_run) / "model.safetensors")
    freeze(model)
    if cfg.classifier == "tau_norm":
        model.fc = tau_normalize(model.fc, cfg.tau)
    elif cfg.classifier == "ncm":
        model.fc = nn.Identity()
    else:
        model.fc = trained_classifier(cfg, model.fc)
    parameters = count_parameters(model)
    accelerator.print(
        f"{cfg.method} on {cfg.from_run}: {parameters} parameters to train, {processes} process(es), "
        f"{accelerator.mixed_precision}"
    )
    if first.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if cfg.classifier == "mislas":
        groups = model.fc.parameter_groups(cfg.lr, cfg.delta_lr_ratio)
    else:
        groups = [{"params": [each for each in model.parameters() if each.requires_grad], "lr": cfg.lr}]
    rates = [group["lr"] for group in groups]

    # 3. The run folder; resume from the last complete checkpoint.
    run = RunFolder(cfg.out, cfg, main=accelerator.is_main_process, resume=cfg.resume, free_keys=FREE, data=facts(data))
    run.write("stage1.yaml", (Path(cfg.from_run) / "config.yaml").read_text(encoding="utf-8"))

    # 4. Train; or compute, where there is nothing to train.
    if cfg.epochs:
        optimizer = torch.optim.SGD(groups, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        model, optimizer = accelerator.prepare(model, optimizer)
        first_epoch = 0
        if cfg.resume and (checkpoint := run.latest_checkpoint()):
            folder, first_epoch = checkpoint
            accelerator.load_state(str(folder))
            accelerator.print(f"Resumed after epoch {first_epoch} of {cfg.epochs}.")
        with tqdm(
            total=cfg.epochs * images, initial=first_epoch * images, disable=not accelerator.is_main_process, **PROGRESS
        ) as progress:
            for epoch in range(first_epoch, cfg.epochs):
                start = time.perf_counter()
                for group, lr in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = lr * cfg.lr_factor(epoch)
                model.train()
                set_batch_norm_mode(model, cfg.batch_norm)
                loss = train_one_epoch(accelerator, model, train_loader(epoch), None, criterion, optimizer, progress)
                row = {"epoch": epoch, "loss": finite_loss(loss, epoch), "lr": optimizer.param_groups[0]["lr"]}
                row["images_per_second"] = images / (time.perf_counter() - start)
                if epoch + 1 == cfg.epochs:
                    logits, labels = evaluate(model, test_loader)
                    row |= classification_report(logits.softmax(1), labels, data.class_counts)
                row["seconds"] = time.perf_counter() - start
                run.log(**row)
                if accelerator.is_main_process:
                    shown = "  ".join(
                        f"{key} {row[key]:.4g}" for key in SHOWN if not math.isnan(row.get(key, math.nan))
                    )
                    progress.write(f"epoch {epoch + 1}/{cfg.epochs}  {shown}")
                if (epoch + 1) % cfg.checkpoint_every == 0 or epoch + 1 == cfg.epochs:
                    with run.checkpoint(epoch + 1, accelerator.wait_for_everyone) as folder:
                        accelerator.save_state(str(folder))
    else:
        start = time.perf_counter()
        model = accelerator.prepare_model(model, evaluation_mode=True)
        if cfg.classifier == "ncm":
            whole = ResidentLoader(data.train_images, data.train_labels, batch_size=250 * processes, **shared)
            features, labels = evaluate(model, whole)
            means = NearestClassMeanClassifier(features.shape[1], len(data.class_names))
            means.fit(features, labels)
            accelerator.unwrap_model(model).fc = means.fold().to(accelerator.device)
        run.log(epoch=0, loss=None, images_per_second=None, seconds=time.perf_counter() - start)

    # 5. What came out, with a plain linear classifier: the network is again the one that model.py builds.
    plain = accelerator.unwrap_model(model)
    plain.fc = plain.fc.fold() if hasattr(plain.fc, "fold") else plain.fc
    if plain.fc.bias is None:  # tau_norm has dropped it
        plain.fc.bias = nn.Parameter(torch.zeros_like(plain.fc.weight[:, 0]))
    logits, labels = evaluate(model, test_loader)
    if accelerator.is_main_process:
        # Class-balanced samples leave the logits under a uniform prior; computed classifiers are under none.
        prior = torch.ones(len(data.class_names)) / len(data.class_names) if cfg.epochs else None
        save_results(
            run,
            first,
            data,
            logits,
            labels,
            plain.state_dict(),
            prior,
            count_parameters(unfreeze(plain)),
            accelerator,
            name=cfg.method,
            seed=cfg.seed,
            epochs=cfg.epochs,
            stage1=first.method,
        )
    accelerator.wait_for_everyone()
    del model
    accelerator.free_memory()
    accelerator.end_training()


def read_first_stage(cfg: Stage2Config) -> Config:
    """The settings of the run that this one starts from, or what is wrong with it."""
    if cfg.from_run is None:
        raise ValueError(
            f"`from_run` must name the run folder of the first stage, trained with configs/{cfg.stage1}.yaml: "
            "`--from_run runs/...`."
        )
    path = Path(cfg.from_run)
    for name in ("config.yaml", "model.safetensors"):
        if not (path / name).is_file():
            raise ValueError(f"`from_run` {cfg.from_run!r} is no finished run: it has no {name}. Train it first.")
    if (path / "stage1.yaml").is_file():
        raise ValueError(f"`from_run` {cfg.from_run!r} is itself a second stage. Name the run of its first stage.")
    settings = ["--config", str(path / "config.yaml"), "--log_with", "null"]
    first = parse_config(settings + (["--data_dir", cfg.data_dir] if cfg.data_dir else []))
    if first.classifier != "linear":
        raise ValueError(
            f"`from_run` {cfg.from_run!r} has `classifier: {first.classifier}`, but a second stage needs a linear one."
        )
    return first


def load_weights(model: nn.Module, path: Path) -> None:
    """Read the weights of a finished run."""
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"`{path}` is damaged ({error}). Run evaluate.py or train.py again.") from error


def trained_classifier(cfg: Stage2Config, linear: nn.Linear) -> nn.Module:
    """The classifier that this stage trains."""
    if cfg.classifier == "lws":
        return LearnableWeightScaling(linear)
    if cfg.classifier == "mislas":
        return GeneralizedClassifier(linear, mode=cfg.mode)
    return unfreeze(reinitialize(linear))


if __name__ == "__main__":
    with plain_errors():
        main(parse_config(kind=Stage2Config))
