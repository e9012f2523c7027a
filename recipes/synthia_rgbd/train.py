"""Train a segmentation network on pictures, or on depth, with any method of `ltaug methods` that fits pixels.

    accelerate launch recipes/synthia_rgbd/train.py --protocol rendered --modality rgb
    accelerate launch recipes/synthia_rgbd/train.py --protocol rendered --modality depth

Then `ltaug fuse` puts the two runs together. README.md has the results. To train on something else, change data.py and
model.py: nothing in this file knows what a sample is.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from data import DataSettings, load_data
from model import ModelSettings, build_model

from ltaug import training
from ltaug.commandline import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from ltaug.training import Run, TrainSettings
from ltaug.vision.dense import entropy_of, flat_results, save_segmented, segment


@dataclass
class Config(DataSettings, ModelSettings, TrainSettings):
    """The protocol of IC: Adam at a constant rate of 1e-5, about 100,000 steps of 2 scenes."""

    epochs: NonNegativeInt = 12
    batch_size: PositiveInt = 2
    optimizer: str = "adam"
    lr: PositiveFloat = 1e-5
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["steps", "cosine"] = "steps"
    decay_at: list[Share] | None = field(default_factory=list)
    eval_every: PositiveInt = 5


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
        position_counts=data.class_counts,  # of pixels
        ignore_index=data.ignore_index,
    )
    plan.to(accelerator.device)
    train_loader = data.train_loader(cfg, plan.sampler, accelerator)

    # 2. Model and optimiser.
    model = build_model(len(data.class_names), cfg, data)
    model = training.arrange(plan.attach(model), cfg, accelerator)
    optimizer = training.make_optimizer(plan.parameter_groups(model), cfg)
    run = Run(cfg, accelerator, data, plan, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    forward = torch.compile(model) if cfg.compile else model

    def segmented(condition):
        loader = data.eval_loader(cfg, condition, accelerator)
        return segment(accelerator, model, loader, len(data.class_names), cfg.keep_every)

    # 3. Train. The learning rate is a function of epoch and step, so that resuming cannot shift it.
    steps = len(train_loader)
    for epoch in range(run.begin(), cfg.epochs):
        began = time.perf_counter()
        plan.set_epoch(epoch)
        train_loader.set_epoch(epoch)
        plan.train(model)
        total = torch.zeros((), device=accelerator.device)
        for step, batch in enumerate(run.progress(train_loader, epoch)):
            lr = training.learning_rate(cfg, epoch, step / steps)
            training.set_learning_rate(optimizer, lr)
            inputs, targets = plan.mix(batch)
            loss = plan.criterion(forward(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
        loss = accelerator.reduce(total, "mean").item() / steps
        metrics = segmented("test").scores.compute() if run.due(epoch, cfg.eval_every) else {}
        run.end_epoch(epoch, loss, steps * cfg.batch_size, began, lr=lr, **metrics)

    # 4. Results: scores of all pixels, logits of some, weights, summary and report, in the run folder.
    results = {condition: segmented(condition) for condition in data.conditions}
    model_alone = plan.fold(accelerator.unwrap_model(model))
    entropy = entropy_of(accelerator, model, data.eval_loader(cfg, "train", accelerator), cfg.keep_every)
    save_segmented(run, model_alone, results, entropy)
    run.finish(model_alone, flat_results(results), metrics=results["test"].scores.compute())


if __name__ == "__main__":
    training.launch(main, Config, __file__)
