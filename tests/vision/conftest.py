"""Fixtures of the tests of images: caches in folders of their own, a hub that is out of reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTAUG_CACHE", str(tmp_path_factory.mktemp("ltaug")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("arrow"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True)
def _accelerate_anew() -> Iterator[None]:
    """The state that all accelerators of a process share, such as their precision, is a test's own."""
    state = pytest.importorskip("accelerate.state")
    threads = torch.get_num_threads()
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()
    yield
    torch.set_num_threads(threads)
