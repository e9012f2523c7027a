"""Train a timm network on iNaturalist 2018 or another set of its kind with any method of `configs/`.

    accelerate launch --config_file accelerate_config.yaml recipes/inaturalist/train.py \
        --config recipes/inaturalist/configs/unimix_bayias.yaml --data_dir INATURALIST
"""

import json
import sys
import time

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from adapters import plain_state
from config import FREE, Config, parse_config, plain_errors
from data import describe, facts, load_data
from loader import TrainLoader, steps_of_an_epoch, test_loader, test_transform, train_transform
from method import logits_prior, make_loss, make_mixer, make_sampler, mixes, seen_prior
from model import build_model, count_parameters
from optimizer import make_optimizer
from results import save_results
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from ltaug import RunFolder
from ltaug.metrics import classification_report
from ltaug.run import autocast_type, finite_loss, reuse_freed_memory, set_threads

SHOWN = ("loss", "lr", "top1", "top5", "many", "medium", "few", "ece", "images_per_second")  # of a row, unless NaN
# A bar that is written into a file comes twice a minute.
PROGRESS = {"unit": "img", "unit_scale": True, "smoothing": 0.05, "mininterval": 0.1 if sys.stderr.isatty() else 30}


def main(cfg: Config) -> None:
    if cfg.reuse_memory:
        reuse_freed_memory()
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision), log_with=cfg.log_with, project_dir=cfg.out)
    set_seed(cfg.seed, device_specific=True)
    processes, process, device = accelerator.num_processes, accelerator.process_index, accelerator.device

    # 1. Data.
    with accelerator.main_process_first():  # which downloads
        data = load_data(cfg)
    data.train.transform, data.test.transform = train_transform(cfg), test_transform(cfg)
    steps = steps_of_an_epoch(cfg, data.train, processes)
    trains = TrainLoader(cfg, data.train, processes, process, device)
    tests = test_loader(cfg, data.test, processes, process, device)

    # 2. Method: how samples are mixed, and what is minimised.
    mixer = make_mixer(cfg, data.class_counts)

    def criterion(epoch: int) -> nn.Module:
        seen = seen_prior(cfg, data.class_counts, mixer, epoch, processes)
        return make_loss(cfg, data.class_counts, epoch, seen).to(device)

    criterion(cfg.epochs - 1)  # what is wrong with its settings shall be known now

    # 3. Model and optimiser.
    model = build_model(len(data.class_names), cfg)
    parameters = count_parameters(model)
    accelerator.print(
        f"{cfg.method}: {describe(data)}, {cfg.model} of {parameters / 1e6:.2f} M trained parameters, "
        f"{processes} process(es), {accelerator.mixed_precision}"
    )
    if cfg.sync_bn and processes > 1:
        model = convert_sync_batchnorm(model)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(cfg, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model
    ema = ModelEmaV3(accelerator.unwrap_model(model), decay=cfg.ema, use_warmup=True) if cfg.ema else None
    if ema:
        accelerator.register_for_checkpointing(ema)
    tested = ema.module if ema else model

    # 4. The run folder, made only now that everything fits together; resume from the last complete checkpoint.
    run = RunFolder(cfg.out, cfg, main=accelerator.is_main_process, resume=cfg.resume, free_keys=FREE, data=facts(data))
    first_epoch = first_step = 0
    if cfg.resume and (checkpoint := run.latest_checkpoint()):
        folder, first_epoch = checkpoint
        accelerator.load_state(str(folder))
        first_step = json.loads((folder / "progress.json").read_text())["step"]
        accelerator.print(f"Resumed after epoch {first_epoch} of {cfg.epochs}, step {first_step} of {steps}.")
    accelerator.init_trackers("ltaug", config={key: str(value) for key, value in vars(cfg).items()})

    def save(epochs_done: int, step: int) -> None:
        finite_loss(total.item(), epochs_done)
        with run.checkpoint(epochs_done, accelerator.wait_for_everyone) as folder:
            accelerator.save_state(str(folder))
            if accelerator.is_main_process:
                (folder / "progress.json").write_text(json.dumps({"step": step}))

    # 5. Train.
    images = steps * cfg.batch_size
    with tqdm(
        total=cfg.epochs * images,
        initial=first_epoch * images + first_step * cfg.batch_size,
        disable=not accelerator.is_main_process,
        **PROGRESS,
    ) as progress:
        for epoch in range(first_epoch, cfg.epochs):
            start, begin = time.perf_counter(), first_step if epoch == first_epoch else 0
            batches = trains.epoch(make_sampler(cfg, data.train.labels, epoch), epoch, begin)
            mixing, loss_function = mixer if mixes(cfg, epoch) else None, criterion(epoch)
            model.train()
            total = torch.zeros((), device=device)
            for step, batch in enumerate(batches, begin):
                for group in optimizer.param_groups:
                    group["lr"] = cfg.lr_at(epoch + step / steps) * group.get("lr_scale", 1.0)
                total += train_step(cfg, accelerator, forward, batch, mixing, loss_function, optimizer)
                if ema:
                    ema.update(accelerator.unwrap_model(model), step=epoch * steps + step)
                progress.update(cfg.batch_size)
                if cfg.checkpoint_steps and (step + 1) % cfg.checkpoint_steps == 0 and step + 1 < steps:
                    save(epoch, step + 1)
            loss = finite_loss(accelerator.reduce(total, "mean").item() / (steps - begin), epoch)
            row = {"epoch": epoch, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
            row["images_per_second"] = (steps - begin) * cfg.batch_size / (time.perf_counter() - start)
            if (epoch + 1) % cfg.eval_every == 0 or epoch + 1 == cfg.epochs:
                logits, labels = evaluate(accelerator, tested, tests)
                row |= classification_report(logits.softmax(1), labels, data.class_counts)
            row["seconds"] = time.perf_counter() - start
            run.log(**row)
            accelerator.log(row, step=epoch)
            if accelerator.is_main_process:
                shown = "  ".join(f"{key} {row[key]:.4g}" for key in SHOWN if row.get(key, -1) >= 0)
                progress.write(f"epoch {epoch + 1}/{cfg.epochs}  {shown}")
            if (epoch + 1) % cfg.checkpoint_every == 0 or epoch + 1 == cfg.epochs:
                save(epoch + 1, 0)
    # 6. What came out.
    if first_epoch == cfg.epochs:  # resumed when all was done
        logits, labels = evaluate(accelerator, tested, tests)
    if accelerator.is_main_process:
        state = plain_state(tested if ema else accelerator.unwrap_model(model))
        prior = logits_prior(cfg, data.class_counts, mixer, processes)
        save_results(run, cfg, data, logits, labels, state, prior, parameters, accelerator)
    # Leave together and let go of the process group's threads: gloo's abort an interpreter that closes under them.
    accelerator.wait_for_everyone()
    model, forward, optimizer = accelerator.free_memory(model, forward, optimizer)
    accelerator.end_training()


def train_step(cfg, accelerator, model, batch, mixer, criterion, optimizer) -> torch.Tensor:
    """One step on this process's share of a global batch, in `accumulate` parts; returns its mean loss."""
    (inputs, targets), partner = (batch[0], batch[1]) if isinstance(batch[0], (list, tuple)) else (batch, ())
    format = torch.channels_last if cfg.channels_last else torch.contiguous_format
    inputs = inputs.to(accelerator.device, non_blocking=True, memory_format=format)
    targets, *partner = (each.to(accelerator.device, non_blocking=True) for each in (targets, *partner))
    if mixer is not None:
        inputs, targets = mixer(inputs, targets, *partner)
    total = torch.zeros((), device=accelerator.device)
    parts = list(zip(inputs.chunk(cfg.accumulate), targets.chunk(cfg.accumulate), strict=True))
    for k, (part_inputs, part_targets) in enumerate(parts):
        with accelerator.no_sync(model) if k + 1 < len(parts) else torch.enable_grad():
            loss = criterion(model(part_inputs), part_targets) / cfg.accumulate
            accelerator.backward(loss)
        total += loss.detach()
    if cfg.clip_norm:
        accelerator.clip_grad_norm_(model.parameters(), cfg.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total


@torch.no_grad()
def evaluate(accelerator, model, loader) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the whole set, on every process, in the order of the set."""
    model.eval()
    mine = []
    for inputs, labels in loader:
        with accelerator.autocast():
            mine.append((model(inputs.to(accelerator.device, non_blocking=True)).float().cpu(), labels))
    parts = gather_object(mine)
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])


if __name__ == "__main__":
    with plain_errors():
        main(parse_config())
