"""Trainings of a few samples are fast without threads, and without a search for garbage among so many modules."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _small() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def _rank(function: Callable[..., None], environment: dict[str, str], *arguments: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if "accelerate" in sys.modules:  # a forked process has the state of this one's trainings
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    function(*arguments)


@pytest.fixture
def on_two_ranks() -> Callable[..., None]:
    """Run a function of a module in two processes, in the environment that torchrun makes.

    They are forked where nothing speaks against it: to import a framework again takes longer than to train in it.
    """

    def run(function: Callable[..., None], *arguments: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "ACCELERATE_USE_CPU": "true"}
        forks = sys.platform == "linux" and not torch.cuda.is_available()
        context = multiprocessing.get_context("fork" if forks else "spawn")
        ranks = []
        for rank in ("0", "1"):
            environment = shared | {"RANK": rank, "LOCAL_RANK": rank}
            ranks.append(context.Process(target=_rank, args=(function, environment, *arguments)))
            ranks[-1].start()
        for each in ranks:
            each.join(240)
            each.kill()
            each.join()
        assert [each.exitcode for each in ranks] == [0, 0]  # what went wrong they have said on the terminal

    return run
