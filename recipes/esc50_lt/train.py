"""Train EnvNet, EnvNet-v2 or a timm network on long-tailed sound with any method of `configs/`.

    accelerate launch --config_file accelerate_config.yaml recipes/esc50_lt/train.py \
        --config recipes/esc50_lt/configs/lob_bc.yaml --dataset esc10 --data_dir FOLDER --seed 1

README.md has the results.
"""

import sys
import time

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from config import Config, parse_config, plain_errors
from data import describe, facts, load_data
from method import logits_prior, make_loss, make_mixer, make_sampler, mixes
from model import build_model, count_parameters
from results import save_results
from torch import nn
from tqdm.auto import tqdm

from ltaug import ResidentWaveformLoader, RunFolder
from ltaug.metrics import classification_report
from ltaug.run import autocast_type, finite_loss, reuse_freed_memory, set_threads

SHOWN = ("loss", "lr", "top1", "top5", "many", "medium", "few", "clips_per_second")  # of an epoch's row, in the log
# A bar that is written into a file comes twice a minute.
PROGRESS = {"unit": "clip", "unit_scale": True, "smoothing": 0.05, "mininterval": 0.1 if sys.stderr.isatty() else 30}
# What may change on resuming.
FREE = ("epochs", "out", "data_dir", "cache_dir", "resume", "threads", "eval_every", "checkpoint_every", "log_with")


def main(cfg: Config) -> None:
    if cfg.reuse_memory:
        reuse_freed_memory()
    set_threads(cfg.threads)
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision), log_with=cfg.log_with, project_dir=cfg.out)
    set_seed(cfg.seed, device_specific=True)

    # 1. Data: what is in the set, and in what order it is heard.
    with accelerator.main_process_first():  # which fills the cache of decoded clips
        data = load_data(cfg)
    num_classes, processes = len(data.class_counts), accelerator.num_processes
    shared = {
        "crop_length": cfg.crop_length,
        "device": accelerator.device,
        "num_processes": processes,
        "process_index": accelerator.process_index,
    }
    test_loader = ResidentWaveformLoader(
        data.test_waveforms, data.test_labels, batch_size=8 * processes, crops=cfg.test_crops, **shared
    )
    train_loader = ResidentWaveformLoader(
        data.train_waveforms,
        data.train_labels,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        max_scale=cfg.max_scale,
        min_last=min(cfg.batch_size, max(8, processes)),
        **shared,
    )

    def set_epoch(epoch: int) -> None:
        """The epoch's stream of clips, or of pairs; a pure function of the seed and the epoch."""
        train_loader.sampler = make_sampler(cfg, data.train_labels, epoch)
        train_loader.set_epoch(epoch)

    # 2. Method: how sounds are mixed, and what is minimised.
    mixer = make_mixer(cfg, data.class_counts)
    criterion = make_loss(cfg, data.class_counts).to(accelerator.device)
    set_epoch(cfg.epochs - 1)  # what is wrong with its settings shall be known now

    # 3. Model and optimiser.
    model = build_model(num_classes, cfg)
    parameters = count_parameters(model)
    accelerator.print(
        f"{cfg.method}: {describe(data)}, {cfg.model} of {parameters / 1e6:.1f} M parameters, {processes} process(es), "
        f"{accelerator.mixed_precision}"
    )
    if cfg.sync_bn and processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if cfg.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), cfg.lr, momentum=cfg.momentum, nesterov=cfg.momentum > 0, weight_decay=cfg.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
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
    clips = len(data.train_labels)
    with tqdm(
        total=cfg.epochs * clips, initial=first_epoch * clips, disable=not accelerator.is_main_process, **PROGRESS
    ) as progress:
        for epoch in range(first_epoch, cfg.epochs):
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr_at(epoch)
            set_epoch(epoch)
            mixing = mixer if mixes(cfg, epoch) else None
            model.train()
            loss, seen = train_one_epoch(cfg, accelerator, forward, train_loader, mixing, criterion, optimizer)
            row = {"epoch": epoch, "loss": finite_loss(loss, epoch), "lr": cfg.lr_at(epoch)}
            row["clips_per_second"] = seen / (time.perf_counter() - start)
            progress.update(clips)
            if (epoch + 1) % cfg.eval_every == 0 or epoch + 1 == cfg.epochs:
                logits, labels = evaluate(model, test_loader)
                row |= classification_report(logits.softmax(1), labels, data.class_counts)
            row["seconds"] = time.perf_counter() - start
            run.log(**row)
            accelerator.log(row, step=epoch)
            if accelerator.is_main_process and "top1" in row:
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
        save_results(
            run, cfg, data, logits, labels, state, logits_prior(cfg, data.class_counts, mixer), parameters, accelerator
        )
    # Leave together and let go of the process group's threads: gloo's abort an interpreter that closes under them.
    accelerator.wait_for_everyone()
    model, forward, optimizer = accelerator.free_memory(model, forward, optimizer)
    accelerator.end_training()


def train_one_epoch(cfg, accelerator, model, loader, mixer, criterion, optimizer) -> tuple[float, int]:
    """One pass over the loader; returns the mean loss over all samples, and how many there were."""
    total, seen = torch.zeros((), device=accelerator.device), 0
    for batch in loader:
        if mixer is None:
            inputs, targets = batch
        else:
            inputs, targets = mixer(*batch[0], *batch[1])
        if cfg.max_gain_db:
            decibels = cfg.max_gain_db * (2 * torch.rand(len(inputs), 1, device=inputs.device) - 1)
            inputs = inputs * 10 ** (decibels / 20)
        size = min(cfg.batch_size, len(loader.sampler) - seen)
        # Processes average their gradients: this makes it the mean over the batch where their shares of it differ.
        loss = criterion(model(inputs), targets) * (len(inputs) * accelerator.num_processes / size)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach() * size
        seen += size
    return accelerator.reduce(total, "mean").item() / seen, seen


@torch.no_grad()
def evaluate(model, loader) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithm of a clip's probabilities, averaged over its crops, and labels; everywhere, in the set's order."""
    model.eval()
    mine = []
    for inputs, labels in loader:
        size, crops, length = inputs.shape
        # Whoever has none of a last batch hears silence: all must run the model, whose buffers they share.
        inputs = inputs if size else inputs.new_zeros(1, crops, length)
        probs = model(inputs.flatten(0, 1)).float().softmax(1).unflatten(0, (-1, crops)).mean(1)[:size]
        mine.append((probs.clamp_min(1e-30).log().cpu(), labels.cpu()))
    # Each process has its share of every batch; gathered, they come process by process.
    parts = gather_object(mine)
    ordered = [parts[k] for batch in range(len(loader)) for k in range(batch, len(parts), len(loader))]
    return torch.cat([logits for logits, _ in ordered]), torch.cat([labels for _, labels in ordered])


if __name__ == "__main__":
    with plain_errors():
        main(parse_config())
