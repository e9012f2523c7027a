"""What each process sees, written down: samples, predictions and class means, of loaders and plans of the library.

Started by test_processes.py on one process and on two. The labels name the samples: they are 0, 1, 2, ...
"""

import json
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, gather_object, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ltaug import ClassPowerSampler, PairDataset, PairSampler, ResidentLoader
from ltaug.methods import METHODS
from ltaug.training import class_means, predict

SIZE, BATCH, EPOCHS = 203, 20, 3
CLASSES = [0] * 120 + [1] * 60 + [2] * 20 + [3] * 3
PLANS = ("unimix_bayias", "lob_mixup_deferred", "mislas", "unimix_bayias_official")


def pairs() -> PairSampler:
    """UniMix's: instance-balanced and reversed."""
    first = ClassPowerSampler(CLASSES, tau=1.0, replacement=False, seed=5)
    return PairSampler(first, ClassPowerSampler(CLASSES, tau=-1.0, seed=5))


def flat(batch) -> list:
    """The samples of a batch: a list of numbers, or of pairs."""
    if isinstance(batch[0], torch.Tensor):
        return batch[1].tolist()
    return torch.stack([batch[0][1], batch[1][1]], dim=1).tolist()


def resident(accelerator: Accelerator, sampler, epoch: int) -> list:
    """An epoch of ltaug's loader, and the sum of the pixels of each image, which its crop and flip decide."""
    loader = resident_loader(accelerator, sampler)
    loader.set_epoch(epoch)
    return seen_in(loader)


def resident_loader(accelerator: Accelerator, sampler) -> ResidentLoader:
    """ltaug's loader, sharded by itself."""
    images = (torch.arange(SIZE * 6 * 6 * 3).view(SIZE, 6, 6, 3) * 37 % 251).to(torch.uint8)
    return ResidentLoader(
        images,
        torch.arange(SIZE),
        batch_size=BATCH,
        sampler=sampler,
        mean=[0.0] * 3,
        std=[1 / 255] * 3,
        crop_padding=2,
        flip=True,
        drop_last=True,
        seed=5,
        device=accelerator.device,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
    )


def seen_in(loader) -> list:
    """The next epoch of ltaug's loader."""
    weights = torch.arange(6.0) + 1
    seen = []
    for batch in loader:
        inputs = batch[0] if isinstance(batch[0], torch.Tensor) else batch[0][0]
        seen.append([flat(batch), (inputs * weights).sum((1, 2, 3)).tolist()])
    return seen


def prepared(accelerator: Accelerator, epoch: int | None) -> object:
    """A torch loader of pairs, sharded by accelerate, at the start of an epoch; None: that it chooses by itself."""
    dataset = PairDataset(TensorDataset(torch.zeros(SIZE), torch.arange(SIZE)))
    batch_size = BATCH if accelerator.split_batches else BATCH // accelerator.num_processes
    loader = accelerator.prepare(DataLoader(dataset, batch_size, sampler=pairs(), drop_last=True))
    if epoch is not None:
        loader.set_epoch(epoch)
    return loader


def planned(accelerator: Accelerator, name: str, epoch: int) -> list:
    """An epoch of a method's plan."""
    plan = METHODS[name].plan(CLASSES, epochs=EPOCHS, batch_size=BATCH, num_processes=accelerator.num_processes, seed=5)
    plan.set_epoch(epoch)
    return resident(accelerator, plan.sampler, epoch)


class Net(nn.Module):
    """A classifier whose logits and features tell the samples apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
        self.fc = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


def evaluated(accelerator: Accelerator) -> dict:
    """Predictions and class means of sets whose last batches some processes have no rows of."""
    torch.manual_seed(1)
    net = Net()
    net.body[
        1
    ].running_mean += accelerator.process_index  # each process has statistics of its own; the main one's count
    x, labels = torch.randn(SIZE, 3), torch.tensor(CLASSES)
    plan = METHODS["ncm"].plan(CLASSES, epochs=0)
    plan.attach(net)
    found = {}
    for size in (203, 202, 7, 1):
        loader = ResidentLoader(
            x[-size:],
            labels[-size:],
            batch_size=2 * 3,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )
        logits, seen = predict(accelerator, net, loader)
        means = class_means(accelerator, net, loader, plan)
        found[str(size)] = [logits.tolist(), seen.tolist(), means.means.tolist(), means.counts.tolist()]
    return found


def main() -> None:
    accelerator = Accelerator()
    splitting = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    set_seed(3, device_specific=True)  # the global generators of the processes differ, as in a training
    seen = {"num_processes": accelerator.num_processes, "evaluated": evaluated(accelerator)}
    for name, sampler in {"alone": pairs().first, "pairs": pairs()}.items():
        for epoch in range(EPOCHS):
            seen[f"resident, {name}, {epoch}"] = resident(accelerator, sampler, epoch)
    seen["resident, pairs, resumed at 2"] = resident(accelerator, pairs(), 2)
    by_itself = resident_loader(accelerator, pairs())
    for epoch in range(EPOCHS):
        seen[f"resident, pairs, {epoch} by itself"] = seen_in(by_itself)
    for name in PLANS:
        for epoch in range(EPOCHS):
            seen[f"plan, {name}, {epoch}"] = planned(accelerator, name, epoch)
    for name, kind in {"torch": accelerator, "split": splitting}.items():
        loader = prepared(kind, 0)
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            seen[f"{name}, {epoch}"] = [[flat(batch), []] for batch in loader]
        by_itself = prepared(kind, None)
        for epoch in range(EPOCHS):
            seen[f"{name}, {epoch} by itself"] = [[flat(batch), []] for batch in by_itself]
        rest = kind.skip_first_batches(prepared(kind, 2), 4)
        seen[f"{name}, resumed at 2 after 4 batches"] = [[flat(batch), []] for batch in rest]

    everyone = gather_object([seen])
    if accelerator.is_main_process:
        with open(sys.argv[1], "w") as file:
            json.dump(everyone, file)
    accelerator.end_training()


if __name__ == "__main__":
    main()
