"""Learn the classifier of a finished run anew, on class-balanced images and its frozen network: cRT, LWS, MiSLAS, ...

    accelerate launch --config_file accelerate_config.yaml recipes/inaturalist/train_stage2.py \
        --config recipes/inaturalist/configs/mislas.yaml --from_run runs/inaturalist2018_resnet50_mixup_seed0

The run folder is one like train.py's: evaluate.py reads it, and its classifier is a plain linear layer again.
"""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from classifier import class_means, find_classifier, folded, load_weights, new_classifier, plain_network
from config import PLACES, Config, Stage2Config, parse_config, plain_errors
from data import facts, load_data
from loader import TrainLoader, steps_of_an_epoch, test_loader, test_transform, train_transform
from model import build_model, count_parameters
from results import save_results
from timm.layers import convert_sync_batchnorm
from torch import nn
from tqdm.auto import tqdm
from train import PROGRESS, SHOWN, evaluate, train_step

from ltaug import ClassAwareSampler, ClassPowerSampler, LabelAwareSmoothingLoss, RunFolder
from ltaug.metrics import classification_report
from ltaug.run import autocast_type, finite_loss, reuse_freed_memory, set_threads
from ltaug.stages import freeze, set_batch_norm_mode, unfreeze

# What may change on resuming.
FREE = ("out", "from_run", *PLACES, "resume", "threads", "workers", "checkpoint_every", "checkpoint_steps")


def main(cfg: Stage2Config) -> None:
    # 1. The first stage: its settings, with this stage's in the place of those of its loop, and its data.
    first = read_first_stage(cfg)
    own = {name: getattr(cfg, name) for name in ("seed", "threads", "workers") if getattr(cfg, name) is not None}
    both = replace(
        first, method=cfg.method, out=None, batch_size=cfg.batch_size, accumulate=cfg.accumulate, clip_norm=0.0, **own
    )
    cfg.seed = both.seed
    cfg.out = cfg.out or str(Path(cfg.from_run).parent / Path(both.out).name)
    if both.reuse_memory:
        reuse_freed_memory()
    set_threads(both.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(both.precision))
    set_seed(cfg.seed, device_specific=True)
    processes, process, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    with accelerator.main_process_first():  # which downloads
        data = load_data(both)
    data.train.transform, data.test.transform = train_transform(both), test_transform(both)
    steps = steps_of_an_epoch(both, data.train, processes) if cfg.epochs else 0
    tests = test_loader(both, data.test, processes, process, device)
    if cfg.sampler == "class_aware":
        sampler = ClassAwareSampler(data.train.labels, cfg.samples_per_class, seed=cfg.seed)
    else:
        sampler = ClassPowerSampler(data.train.labels, tau=0.0, seed=cfg.seed)
    if cfg.loss == "ce":
        criterion = nn.CrossEntropyLoss()
    else:
        criterion = LabelAwareSmoothingLoss(data.class_counts, cfg.smoothing_head, cfg.smoothing_tail, mode=cfg.mode)
    criterion = criterion.to(device)

    # 2. The frozen network and its new classifier.
    model = build_model(len(data.class_names), plain_network(first))
    load_weights(model, Path(cfg.from_run), data.class_names)
    place, linear = find_classifier(model)
    freeze(model)
    classifier = new_classifier(cfg, linear)
    model.set_submodule(place, classifier)
    if not set_batch_norm_mode(model, cfg.batch_norm) and cfg.batch_norm == "shift":
        raise ValueError(f"`batch_norm: shift` needs batch norm, but {both.model} has none. Set it to fixed.")
    parameters = count_parameters(model)
    accelerator.print(
        f"{cfg.method} on {cfg.from_run}: {parameters} parameters to train, {processes} process(es), "
        f"{accelerator.mixed_precision}"
    )
    if both.sync_bn and processes > 1:
        model = convert_sync_batchnorm(model)
    if both.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if cfg.classifier == "mislas":
        groups = classifier.parameter_groups(cfg.lr, cfg.delta_lr_ratio)
    else:
        groups = [{"params": [each for each in model.parameters() if each.requires_grad], "lr": cfg.lr}]
    rates = [group["lr"] for group in groups]

    # 3. The run folder; resume from the last complete checkpoint.
    run = RunFolder(cfg.out, cfg, main=accelerator.is_main_process, resume=cfg.resume, free_keys=FREE, data=facts(data))
    run.write("stage1.yaml", (Path(cfg.from_run) / "config.yaml").read_text(encoding="utf-8"))

    def save(epochs_done: int, step: int) -> None:
        with run.checkpoint(epochs_done, accelerator.wait_for_everyone) as folder:
            accelerator.save_state(str(folder))
            if accelerator.is_main_process:
                (folder / "progress.json").write_text(json.dumps({"step": step}))

    # 4. Train; or compute, where there is nothing to train.
    if cfg.epochs:
        optimizer = torch.optim.SGD(groups, cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        model, optimizer = accelerator.prepare(model, optimizer)
        forward = torch.compile(model) if both.compile else model
        loader = TrainLoader(both, data.train, processes, process, device)
        images, first_epoch, first_step = steps * cfg.batch_size, 0, 0
        if cfg.resume and (checkpoint := run.latest_checkpoint()):
            folder, first_epoch = checkpoint
            accelerator.load_state(str(folder))
            first_step = json.loads((folder / "progress.json").read_text())["step"]
            accelerator.print(f"Resumed after epoch {first_epoch} of {cfg.epochs}, step {first_step} of {steps}.")
        with tqdm(
            total=cfg.epochs * images,
            initial=first_epoch * images + first_step * cfg.batch_size,
            disable=not accelerator.is_main_process,
            **PROGRESS,
        ) as progress:
            for epoch in range(first_epoch, cfg.epochs):
                start, begin = time.perf_counter(), first_step if epoch == first_epoch else 0
                sampler.set_epoch(epoch)
                model.eval()  # what is frozen drops nothing out, either
                set_batch_norm_mode(model, cfg.batch_norm)
                total = torch.zeros((), device=device)
                for step, batch in enumerate(loader.epoch(sampler, epoch, begin), begin):
                    for group, lr in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = lr * cfg.lr_factor(epoch + step / steps)
                    total += train_step(both, accelerator, forward, batch, None, criterion, optimizer)
                    progress.update(cfg.batch_size)
                    if cfg.checkpoint_steps and (step + 1) % cfg.checkpoint_steps == 0 and step + 1 < steps:
                        save(epoch, step + 1)
                loss = finite_loss(accelerator.reduce(total, "mean").item() / (steps - begin), epoch)
                row = {"epoch": epoch, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
                row["images_per_second"] = (steps - begin) * cfg.batch_size / (time.perf_counter() - start)
                if epoch + 1 == cfg.epochs:
                    logits, labels = evaluate(accelerator, model, tests)
                    row |= classification_report(logits.softmax(1), labels, data.class_counts)
                row["seconds"] = time.perf_counter() - start
                run.log(**row)
                if accelerator.is_main_process:
                    shown = "  ".join(
                        f"{key} {row[key]:.4g}" for key in SHOWN if not math.isnan(row.get(key, math.nan))
                    )
                    progress.write(f"epoch {epoch + 1}/{cfg.epochs}  {shown}")
                if (epoch + 1) % cfg.checkpoint_every == 0 or epoch + 1 == cfg.epochs:
                    save(epoch + 1, 0)
    else:
        start = time.perf_counter()
        model = accelerator.prepare_model(model, evaluation_mode=True)
        if cfg.classifier == "ncm":
            data.train.transform = data.test.transform
            means = class_means(accelerator, model, test_loader(both, data.train, processes, process, device), linear)
            accelerator.unwrap_model(model).set_submodule(place, means.fold())
        run.log(epoch=0, loss=None, images_per_second=None, seconds=time.perf_counter() - start)

    # 5. What came out, with a plain linear classifier: the network is again the one that model.py builds.
    plain = accelerator.unwrap_model(model)
    plain.set_submodule(place, folded(plain.get_submodule(place)))
    logits, labels = evaluate(accelerator, plain, tests)
    if accelerator.is_main_process:
        # Class-balanced images leave the logits under a uniform prior; computed classifiers are under none.
        prior = torch.ones(len(data.class_names)) / len(data.class_names) if cfg.epochs else None
        save_results(
            run,
            both,
            data,
            logits,
            labels,
            plain.state_dict(),
            prior,
            count_parameters(unfreeze(plain)),
            accelerator,
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
    for name in PLACES:
        if getattr(cfg, name):
            settings += [f"--{name}", getattr(cfg, name)]
    return parse_config(settings)


if __name__ == "__main__":
    with plain_errors():
        main(parse_config(kind=Stage2Config))
