"""The global generators of Python, NumPy and torch, for the code of others that draws from them.

Nothing of the library draws from them here. What a user names as `augment` does, and must give the same on any number
of processes: they are seeded for each of its calls, and put back as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_generators_restored() -> Iterator[None]:
    """Leave the global generators as they are, whatever is drawn inside."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def seed_global_generators(sequence: np.random.SeedSequence) -> None:
    """Seed the global generators; those of GPUs keep their state."""
    python, numpy, torchs = sequence.generate_state(3).tolist()
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002, TID251
    torch.default_generator.manual_seed(torchs)
