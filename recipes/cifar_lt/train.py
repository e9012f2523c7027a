"""Train ResNet-32 on long-tailed CIFAR (or on handwritten digits) with any method of `configs/`.

    accelerate launch --config_file accelerate_config.yaml recipes/cifar_lt/train.py \
        --config recipes/cifar_lt/configs/unimix_bayias.yaml --seed 1

CIFAR-100-LT, 200 epochs: about 40 minutes on two CPU cores with bf16. README.md has the results.
"""

import time

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from config import Config, parse_config
from data import load_data
from model import build_model, count_parameters
from torch import nn
from tqdm.auto import tqdm

from ltaug import BayiasLoss, ClassPowerSampler, MixUp, PairSampler, ResidentLoader, RunFolder, UniMix, class_prior
from ltaug.metrics import classification_report, per_class_accuracy
from ltaug.report import write_report
from ltaug.run import peak_memory_bytes, reuse_freed_memory


def main(cfg: Config) -> None:
    if cfg.reuse_memory:
        reuse_freed_memory()
    accelerator = Accelerator(mixed_precision=autocast_type(cfg.precision), log_with=cfg.log_with, project_dir=cfg.out)
    set_seed(cfg.seed, device_specific=True)

    # 1. Data: what is in the set, and in what order it is seen.
    data = load_data(cfg)
    num_classes = len(data.class_counts)
    run = RunFolder(cfg.out, cfg, main=accelerator.is_main_process, resume=cfg.resume, free_keys=("resume", "epochs", "out", "data_dir"))
    shared = {
        "mean": data.mean, "std": data.std, "device": accelerator.device,
        "num_processes": accelerator.num_processes, "process_index": accelerator.process_index,
    }  # fmt: skip
    test_loader = ResidentLoader(data.test_images, data.test_labels, batch_size=250 * accelerator.num_processes, **shared)

    def train_loader(epoch: int) -> ResidentLoader:
        """An epoch's stream of samples, or of pairs; a pure function of the seed and the epoch."""
        rebalanced = epoch >= cfg.rebalance_epoch
        sampler = class_sampler(cfg.first_tau if rebalanced else 1.0)
        if mixes(cfg, epoch) and cfg.partner == "dataset":
            sampler = PairSampler(sampler, class_sampler(cfg.partner_tau if rebalanced else 1.0))
        loader = ResidentLoader(
            data.train_images, data.train_labels, batch_size=cfg.batch_size, sampler=sampler, crop_padding=cfg.crop_padding,
            flip=cfg.flip, drop_last=True, seed=cfg.seed, **shared,
        )  # fmt: skip
        loader.set_epoch(epoch)
        return loader

    def class_sampler(tau: float) -> ClassPowerSampler:
        return ClassPowerSampler(data.train_labels, tau, replacement=tau != 1.0, seed=cfg.seed)

    # 2. Method: how samples are mixed, and what is minimised.
    in_batch_tau = cfg.partner_tau if cfg.partner == "batch" else None
    mixer = {
        "none": None,
        "mixup": MixUp(num_classes, cfg.alpha),
        "unimix": UniMix(data.class_counts, cfg.alpha, in_batch_tau=in_batch_tau),
    }[cfg.mixer]
    criterion = {"ce": nn.CrossEntropyLoss(), "bayias": BayiasLoss(data.class_counts, tau=cfg.loss_tau)}[cfg.loss]
    criterion = criterion.to(accelerator.device)

    # 3. Model and optimiser.
    model = build_model(num_classes, in_channels=data.train_images.shape[3])
    parameters = count_parameters(model)
    accelerator.print(f"{cfg.method}: {len(data.train_labels)} samples, {num_classes} classes of {data.class_counts.max()} to "
                      f"{data.class_counts.min()} (subset {data.index_hash[:12]}), {parameters / 1e6:.2f} M parameters, "
                      f"{accelerator.num_processes} process(es), {accelerator.mixed_precision}")  # fmt: skip
    if cfg.sync_bn and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if cfg.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model

    # 4. Resume from the last complete checkpoint.
    first_epoch, seconds = 0, 0.0
    checkpoint = run.latest_checkpoint() if cfg.resume else None
    if checkpoint:
        folder, first_epoch = checkpoint
        accelerator.load_state(str(folder))
        seconds = sum(row["seconds"] for row in run.rows() if row["epoch"] < first_epoch)
        accelerator.print(f"Resumed after epoch {first_epoch} of {cfg.epochs}.")
    accelerator.init_trackers("ltaug", config=vars(cfg))

    # 5. Train.
    steps = len(train_loader(0)) * cfg.batch_size
    with tqdm(total=cfg.epochs * steps, initial=first_epoch * steps, unit="img", unit_scale=True, smoothing=0.05,
              disable=not accelerator.is_main_process) as progress:  # fmt: skip
        for epoch in range(first_epoch, cfg.epochs):
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr_at(epoch)
            mixing = mixer if mixes(cfg, epoch) else None
            loss = train_one_epoch(accelerator, forward, train_loader(epoch), mixing, criterion, optimizer, progress)
            train_seconds = time.perf_counter() - start
            metrics = {}
            if (epoch + 1) % cfg.eval_every == 0 or epoch + 1 == cfg.epochs:
                logits, labels = evaluate(model, test_loader)
                metrics = classification_report(logits.softmax(1), labels, data.class_counts)
            row = {"epoch": epoch, "loss": loss, "lr": cfg.lr_at(epoch), **metrics, "images_per_second": steps / train_seconds,
                   "seconds": time.perf_counter() - start}  # fmt: skip
            run.log(**row)
            accelerator.log(row, step=epoch)
            progress.write(" ".join([f"epoch {epoch + 1}/{cfg.epochs}", *(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")]))
            if (epoch + 1) % cfg.checkpoint_every == 0 or epoch + 1 == cfg.epochs:
                with run.checkpoint(epoch + 1, accelerator.wait_for_everyone) as folder:
                    accelerator.save_state(str(folder))

    # 6. What came out.
    logits, labels = evaluate(model, test_loader)
    if accelerator.is_main_process:
        rows = run.rows()
        wall_time = sum(row["seconds"] for row in rows)
        prior = logits_prior(cfg, data.class_counts, mixer)
        run.save_logits(logits, labels)
        run.save_per_class(data.class_names, data.class_counts, per_class_accuracy(logits.softmax(1), labels, num_classes))
        run.save_model(accelerator.get_state_dict(model), {
            "class_names": data.class_names, "class_counts": data.class_counts, "logits_prior": prior, "in_channels": data.train_images.shape[3],
        })  # fmt: skip
        run.write_json("summary.json", {
            "name": cfg.method, "dataset": cfg.dataset, "imbalance_ratio": cfg.imbalance_ratio, "seed": cfg.seed, "epochs": cfg.epochs,
            "final": classification_report(logits.softmax(1), labels, data.class_counts), "wall_time_s": wall_time,
            "images_per_second": sorted(row["images_per_second"] for row in rows)[len(rows) // 2], "parameters": parameters,
            "peak_memory_bytes": peak_memory_bytes(), "precision": accelerator.mixed_precision, "num_processes": accelerator.num_processes,
            "index_hash": data.index_hash, "class_counts": data.class_counts, "class_names": data.class_names,
        })  # fmt: skip
        accelerator.print(f"Report: {write_report(run.path)}")
    accelerator.end_training()


def train_one_epoch(accelerator, model, loader, mixer, criterion, optimizer, progress) -> float:
    """One pass over the loader; returns the mean loss over all processes."""
    model.train()
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


def mixes(cfg: Config, epoch: int) -> bool:
    """Whether this epoch mixes pairs."""
    return cfg.mixer != "none" and (cfg.mix_stop_epoch is None or epoch < cfg.mix_stop_epoch)


def autocast_type(precision: str) -> str:
    """accelerate's word for the precision; auto is bf16 where the hardware computes in it."""
    if precision != "auto":
        return "no" if precision == "fp32" else precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no"


def logits_prior(cfg: Config, class_counts: torch.Tensor, mixer) -> torch.Tensor:
    """The class prior that the trained model's logits are under: the label distribution it saw over the one its loss corrects."""
    prior = class_prior(class_counts)
    first, partner = (power / power.sum() for power in (prior**cfg.first_tau, prior**cfg.partner_tau))
    seen = first
    if mixer is not None:
        # By simulation: it holds for any mixer, and one part in a thousand is enough here.
        generator = torch.Generator().manual_seed(0)
        seen = torch.zeros_like(first)
        with torch.random.fork_rng(devices=[]):
            for _ in range(200):
                pair = [torch.multinomial(p, 10_000, replacement=True, generator=generator) for p in (first, partner)]
                blank = torch.zeros(10_000, 1)
                seen += mixer(blank, pair[0], blank, pair[1])[1].double().mean(0)
    corrected = prior**cfg.loss_tau if cfg.loss == "bayias" else torch.ones_like(prior)
    return (seen / corrected) / (seen / corrected).sum()


if __name__ == "__main__":
    main(parse_config())
