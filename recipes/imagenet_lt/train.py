"""Train a timm network on a large long-tailed image set with any method of `ltaug methods`.

    accelerate launch recipes/imagenet_lt/train.py --method unimix_bayias --data_dir IMAGENET
    accelerate launch recipes/imagenet_lt/train.py --method mislas --from_run runs/imagenet_lt_resnet50_mixup_seed0

README.md has results and times. To train on something else, change data.py and model.py: nothing in this file knows
what a sample is.
"""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from data import DataSettings, load_data
from model import ModelSettings, build_model
from timm.utils import ModelEmaV3

from ltaug import training
from ltaug.commandline import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from ltaug.errors import UserError
from ltaug.training import Run, TrainSettings, predict
from ltaug.vision.adapters import plain_state
from ltaug.vision.optimization import scale_learning_rates


@dataclass
class Config(DataSettings, ModelSettings, TrainSettings):
    """The published protocol of ImageNet-LT: 90 epochs of SGD in batches of 256, a cosine from 0.1 down to 0."""

    epochs: NonNegativeInt = 90
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.1
    weight_decay: NonNegativeFloat = 5e-4
    schedule: Literal["steps", "cosine"] = "cosine"
    warmup_epochs: NonNegativeFloat = 0.0
    eval_every: PositiveInt = 5
    accumulate: PositiveInt = 1
    """Parts that a process splits its share of a batch into, to fit into memory."""
    head_lr_factor: PositiveFloat = 1.0
    """Learning rate of the classifier over `lr`."""
    layer_decay: PositiveFloat | None = None
    """Learning rate of a layer over that of the next one, as timm has it."""
    ema: Share = 0.0
    """Decay of the moving average of the weights that is tested and saved, e.g. 0.9998; 0 is none."""
    clip_norm: NonNegativeFloat = 0.0
    """Largest norm of the gradient; 0 is none."""
    checkpoint_steps: NonNegativeInt = 0
    """Steps between two checkpoints inside an epoch; 0 is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > 1 and self.chosen_method().mixer == "manifold_mixup":
            raise UserError("Manifold mixup mixes whole batches inside the network. Set `accumulate: 1`.")


def main(cfg: Config) -> None:
    accelerator = training.start(cfg)

    # 1. Data and method: what is in the set, in which order it is seen, how it is mixed, what is minimised.
    with accelerator.main_process_first():  # which downloads, and fills caches
        data = load_data(cfg)
    plan = cfg.chosen_method().plan(
        data.train_labels,
        len(data.class_names),
        epochs=cfg.epochs,
        batch_size=cfg.batch_size,
        num_processes=accelerator.num_processes,
        seed=cfg.seed,
        sample_rate=getattr(data, "sample_rate", None),  # of sounds
    )
    plan.to(accelerator.device)

    # 2. Model and optimiser. A second stage starts from a finished run and trains only a new classifier.
    model = build_model(len(data.class_names), cfg, data)
    training.load_first_stage(model, cfg, data.class_names)
    model = training.arrange(plan.attach(model), cfg, accelerator)
    rates = {"layer_decay": cfg.layer_decay, "head_lr_factor": cfg.head_lr_factor, "weight_decay": cfg.weight_decay}
    groups = scale_learning_rates(plan.parameter_groups(model), model, **rates)
    optimizer = training.make_optimizer(groups, cfg)
    train_loader = data.train_loader(cfg, plan.sampler, accelerator)
    steps = len(train_loader)
    run = Run(cfg, accelerator, data, plan, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model
    ema = ModelEmaV3(accelerator.unwrap_model(model), decay=cfg.ema, use_warmup=True) if cfg.ema else None
    run.moving_average = ema
    tested = ema.module if ema else model

    # 3. Train. The learning rate is a function of epoch and step, so that resuming cannot shift it.
    for epoch in range(run.begin(), cfg.epochs):
        began, first = time.perf_counter() - run.first_seconds, run.first_step
        plan.set_epoch(epoch)
        train_loader.set_epoch(epoch, first)
        plan.train(model)
        total = torch.full((), run.first_loss, device=accelerator.device)
        for step, batch in enumerate(run.progress(train_loader, epoch), first):
            lr = training.learning_rate(cfg, epoch, step / steps)
            training.set_learning_rate(optimizer, lr)
            total += train_step(cfg, accelerator, forward, batch, plan, optimizer)
            if ema:
                ema.update(accelerator.unwrap_model(model), step=epoch * steps + step)
            if cfg.checkpoint_steps and (step + 1) % cfg.checkpoint_steps == 0 and step + 1 < steps:
                run.save(epoch, step + 1, total.item(), began)
        counted = steps - run.uncounted
        loss = accelerator.reduce(total, "mean").item() / counted
        metrics = {}
        if run.due(epoch, cfg.eval_every):
            logits, labels = predict(accelerator, tested, data.eval_loader(cfg, "test", accelerator))
            metrics = training.evaluate(logits, labels, data.class_counts)
        run.end_epoch(epoch, loss, counted * cfg.batch_size, began, lr=lr, **metrics)

    # 4. Results: logits, weights, summary and report, in the run folder.
    means = None
    if plan.method.classifier == "ncm":  # nearest class mean: computed from all training samples
        means = training.class_means(accelerator, tested, data.eval_loader(cfg, "train", accelerator), plan)
    if plan.method.tune_tau:  # on samples that neither train nor test
        plan.tau = training.search_tau(accelerator, tested, data.eval_loader(cfg, "held_out", accelerator), plan)
    model = plan.fold(accelerator.unwrap_model(tested), means)
    results = {split: predict(accelerator, model, data.eval_loader(cfg, split, accelerator)) for split in data.splits}
    run.finish(model, results, plain_state(model))


def train_step(cfg, accelerator, model, batch, plan, optimizer) -> torch.Tensor:
    """One step on this process's share of a global batch, in `accumulate` parts; returns its mean loss."""
    inputs, targets = plan.mix(batch)
    total = torch.zeros((), device=accelerator.device)
    size, each = -(-len(targets) // cfg.accumulate), len(inputs) // len(targets)  # BBN has two inputs a target
    parts = list(zip(inputs.split(size * each), targets.split(size), strict=True))
    for k, (part_inputs, part_targets) in enumerate(parts):
        with accelerator.no_sync(model) if k + 1 < len(parts) else torch.enable_grad():
            loss = plan.criterion(model(part_inputs), part_targets) * (len(part_targets) / len(targets))
            accelerator.backward(loss)
        total += loss.detach()
    if cfg.clip_norm:
        accelerator.clip_grad_norm_(model.parameters(), cfg.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total


if __name__ == "__main__":
    training.launch(main, Config, __file__)
