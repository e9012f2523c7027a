"""Train ResNet-32 on long-tailed CIFAR (or on handwritten digits) with any method of `configs/`.

    accelerate launch --config_file accelerate_config.yaml recipes/cifar_lt/train.py \
        --config recipes/cifar_lt/configs/unimix_bayias.yaml --seed 1

CIFAR-100-LT, 200 epochs: 1 h 38 min on one CPU thread beside other work, bf16. README.md has the results.
"""

import sys
import time

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from config import Config, parse_config, plain_errors
from data import facts, load_data
from method import logits_prior, make_loss, make_mixer, make_sampler, mixes, put_classifier, seen_prior
from model import build_model, count_parameters
from results import save_results
from torch import nn
from tqdm.auto import tqdm

from ltaug import ManifoldMixUp, ResidentLoader, RunFolder
from ltaug.metrics import classification_report
from ltaug.run import autocast_type, finite_loss, reuse_freed_memory, set_threads

SHOWN = ("loss", "lr", "top1", "many", "medium", "few", "ece", "images_per_second")  # of an epoch's row, in the log
# A bar that is written into a file comes twice a minute.
PROGRESS = {"unit": "img", "unit_scale": True, "smoothing": 0.05, "mininterval": 0.1 if sys.stderr.isatty() else 30}
# What may change on resuming.
FREE = ("epochs", "out", "data_dir", "resume", "threads", "eval_every", "checkpoint_every", "log_with")


def main(cfg: Config) -> None:
    if cfg.reuse_memory:
        reuse_freed_memory()
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision), log_with=cfg.log_with, project_dir=cfg.out)
    set_seed(cfg.seed, device_specific=True)

    # 1. Data: what is in the set, and in what order it is seen.
    data = load_data(cfg)
    num_classes, processes = len(data.class_counts), accelerator.num_processes
    shared = {
        "mean": data.mean,
        "std": data.std,
        "device": accelerator.device,
        "num_processes": processes,
        "process_index": accelerator.process_index,
    }
    test_loader = ResidentLoader(data.test_images, data.test_labels, batch_size=250 * processes, **shared)

    def train_loader(epoch: int) -> ResidentLoader:
        """An epoch's stream of samples, or of pairs; a pure function of the seed and the epoch."""
        loader = ResidentLoader(
            data.train_images,
            data.train_labels,
            batch_size=cfg.batch_size,
            drop_last=True,
            seed=cfg.seed,
            sampler=make_sampler(cfg, data.train_labels, epoch),
            crop_padding=cfg.crop_padding,
            flip=cfg.flip,
            **shared,
        )
        loader.set_epoch(epoch)
        return loader

    images = len(train_loader(0)) * cfg.batch_size

    # 2. Method: how samples are mixed, and what is minimised.
    mixer = make_mixer(cfg, data.class_counts)

    def criterion(epoch: int) -> nn.Module:
        seen = seen_prior(cfg, data.class_counts, mixer, epoch, processes)
        return make_loss(cfg, data.class_counts, epoch, seen).to(accelerator.device)

    criterion(cfg.epochs - 1)  # what is wrong with its settings shall be known now

    # 3. Model and optimiser.
    model = put_classifier(cfg, build_model(num_classes, in_channels=data.train_images.shape[3]))
    parameters = count_parameters(model)
    accelerator.print(
        f"{cfg.method}: {len(data.train_labels)} samples, {num_classes} classes of {data.class_counts.max()} to "
        f"{data.class_counts.min()} (subset {data.index_hash[:12]}), {parameters / 1e6:.2f} M parameters, "
        f"{processes} process(es), {accelerator.mixed_precision}"
    )
    if late := cfg.beyond_the_end():
        accelerator.print(f"Note: without effect, beyond the last of {cfg.epochs} epochs: {', '.join(late)}.")
    if cfg.sync_bn and processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if isinstance(mixer, ManifoldMixUp):
        mixer.attach(model)
    optimizer = torch.optim.SGD(model.parameters(), cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model

    # 4. The run folder, made only now that everything fits together; resume from the last complete checkpoint.
    run = RunFolder(cfg.out, cfg, main=accelerator.is_main_process, resume=cfg.resume, free_keys=FREE, data=facts(data))
    first_epoch = 0
    if cfg.resume and (checkpoint := run.latest_checkpoint()):
        folder, first_epoch = checkpoint
        accelerator.load_state(str(folder))
        accelerator.print(f"Resumed after epoch {first_epoch} of {cfg.epochs}.")
    accelerator.init_trackers("ltaug", config={key: str(value) for key, value in vars(cfg).items()})

    # 5. Train.
    with tqdm(
        total=cfg.epochs * images, initial=first_epoch * images, disable=not accelerator.is_main_process, **PROGRESS
    ) as progress:
        for epoch in range(first_epoch, cfg.epochs):
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr_at(epoch)
            mixing = mixer if mixes(cfg, epoch) else None
            model.train()
            loss = train_one_epoch(
                accelerator, forward, train_loader(epoch), mixing, criterion(epoch), optimizer, progress
            )
            row = {"epoch": epoch, "loss": finite_loss(loss, epoch), "lr": cfg.lr_at(epoch)}
            row["images_per_second"] = images / (time.perf_counter() - start)
            if (epoch + 1) % cfg.eval_every == 0 or epoch + 1 == cfg.epochs:
                logits, labels = evaluate(model, test_loader)
                row |= classification_report(logits.softmax(1), labels, data.class_counts)
            row["seconds"] = time.perf_counter() - start
            run.log(**row)
            accelerator.log(row, step=epoch)
            if accelerator.is_main_process:
                shown = "  ".join(f"{key} {row[key]:.4g}" for key in SHOWN if row.get(key, -1) >= 0)
                progress.write(f"epoch {epoch + 1}/{cfg.epochs}  {shown}")
            if (epoch + 1) % cfg.checkpoint_every == 0 or epoch + 1 == cfg.epochs:
                with run.checkpoint(epoch + 1, accelerator.wait_for_everyone) as folder:
                    accelerator.save_state(str(folder))

    # 6. What came out.
    if first_epoch == cfg.epochs:  # resumed when all was done
        logits, labels = evaluate(model, test_loader)
    if accelerator.is_main_process:
        state = accelerator.get_state_dict(model)
        prior = logits_prior(cfg, data.class_counts, mixer, processes)
        save_results(run, cfg, data, logits, labels, state, prior, parameters, accelerator)
    # Leave together and let go of the process group's threads: gloo's abort an interpreter that closes under them.
    accelerator.wait_for_everyone()
    model, forward, optimizer = accelerator.free_memory(model, forward, optimizer)
    accelerator.end_training()


def train_one_epoch(accelerator, model, loader, mixer, criterion, optimizer, progress) -> float:
    """One pass over the loader; returns the mean loss over all processes."""
    total = torch.zeros((), device=accelerator.device)
    for batch in loader:
        if mixer is None:
            inputs, targets = batch
        elif isinstance(batch[0], tuple):
            inputs, targets = mixer(*batch[0], *batch[1])
        else:
            inputs, targets = mixer(*batch)
        loss = criterion(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach()
        progress.update(loader.batch_size)
    return accelerator.reduce(total, "mean").item() / len(loader)


@torch.no_grad()
def evaluate(model, loader) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the whole set, on every process, in the order of the set."""
    model.eval()
    mine = [(model(inputs).float().cpu(), labels.cpu()) for inputs, labels in loader]
    # Each process has its share of every batch; gathered, they come process by process.
    parts = gather_object(mine)
    ordered = [parts[k] for batch in range(len(loader)) for k in range(batch, len(parts), len(loader))]
    return torch.cat([logits for logits, _ in ordered]), torch.cat([labels for _, labels in ordered])


if __name__ == "__main__":
    with plain_errors():
        main(parse_config())
