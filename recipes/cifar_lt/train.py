"""Train ResNet-32 on long-tailed CIFAR, or on handwritten digits, with any method of `ltaug methods`.

    accelerate launch recipes/cifar_lt/train.py --method unimix_bayias --seed 1
    accelerate launch recipes/cifar_lt/train.py --method mislas --from_run runs/cifar100_ir100_mixup_seed0

CIFAR-100-LT, 200 epochs: 1 h 38 min on one CPU thread in bf16. README.md has the results. To train on something else,
change data.py and model.py: nothing in this file knows what a sample is.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from data import DataSettings, load_data
from model import ModelSettings, build_model

from ltaug import training
from ltaug.commandline import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from ltaug.training import Run, TrainSettings, predict


@dataclass
class Config(DataSettings, ModelSettings, TrainSettings):
    """The published protocol: 200 epochs of SGD in batches of 128; the rate falls by 0.01 at 80 % and 90 %."""

    epochs: NonNegativeInt = 200
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 0.1
    weight_decay: NonNegativeFloat = 2e-4
    schedule: Literal["steps", "cosine"] = "steps"
    warmup_epochs: NonNegativeFloat = 5.0
    decay_at: list[Share] | None = field(default_factory=lambda: [0.8, 0.9])
    decay_factor: PositiveFloat = 0.01


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
    train_loader = data.train_loader(cfg, plan.sampler, accelerator)

    # 2. Model and optimiser. A second stage starts from a finished run and trains only a new classifier.
    model = build_model(len(data.class_names), cfg, data)
    training.load_first_stage(model, cfg, data.class_names)
    model = training.arrange(plan.attach(model), cfg, accelerator)
    optimizer = training.make_optimizer(plan.parameter_groups(model), cfg)
    run = Run(cfg, accelerator, data, plan, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model

    # 3. Train. The learning rate is a function of the epoch, so that resuming cannot shift it.
    for epoch in range(run.begin(), cfg.epochs):
        began = time.perf_counter()
        lr = training.learning_rate(cfg, epoch)
        training.set_learning_rate(optimizer, lr)
        plan.set_epoch(epoch)
        train_loader.set_epoch(epoch)
        plan.train(model)
        batches = run.progress(train_loader, epoch)
        loss, samples = train_one_epoch(cfg, accelerator, forward, batches, plan, optimizer)
        metrics = {}
        if run.due(epoch, cfg.eval_every):
            logits, labels = predict(accelerator, model, data.eval_loader(cfg, "test", accelerator))
            metrics = training.evaluate(logits, labels, data.class_counts)
        run.end_epoch(epoch, loss, samples, began, lr=lr, **metrics)

    # 4. Results: logits, weights, summary and report, in the run folder.
    means = None
    if plan.method.classifier == "ncm":  # nearest class mean: computed from all training samples
        means = training.class_means(accelerator, model, data.eval_loader(cfg, "train", accelerator), plan)
    if plan.method.tune_tau:  # on samples that neither train nor test
        plan.tau = training.search_tau(accelerator, model, data.eval_loader(cfg, "held_out", accelerator), plan)
    model = plan.fold(accelerator.unwrap_model(model), means)
    results = {split: predict(accelerator, model, data.eval_loader(cfg, split, accelerator)) for split in data.splits}
    run.finish(model, results)


def train_one_epoch(cfg, accelerator, model, batches, plan, optimizer) -> tuple[float, int]:
    """One pass over the batches; returns the mean loss over all processes, and how many samples there were."""
    total, seen = torch.zeros((), device=accelerator.device), 0
    for batch in batches:
        inputs, targets = plan.mix(batch)
        size = min(cfg.batch_size, len(plan.sampler) - seen)
        # Processes average their gradients: this makes it the mean over the batch where their shares of it differ.
        loss = plan.criterion(model(inputs), targets) * (len(targets) * accelerator.num_processes / size)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach() * size
        seen += size
    return accelerator.reduce(total, "mean").item() / seen, seen


if __name__ == "__main__":
    training.launch(main, Config, __file__)
