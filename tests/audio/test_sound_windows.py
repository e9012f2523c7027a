"""Recordings of any length, evaluated in windows with a hop: what is covered, how it is put together, on processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sound_support import RATE, TinyNetwork, encoded, noise
from torch import Tensor, nn

from ltaug.audio import ResidentWaveformLoader, SoundNetwork
from ltaug.methods import METHODS
from ltaug.testing import check_data
from ltaug.training import arrange

CROP = 800


class Detector(SoundNetwork):
    """Is sure of a tone of 1 kHz, class 1, in windows that have it, else rather of class 0; sees a few at once."""

    windows_at_once = 7

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.fc.weight.data, self.fc.bias.data = torch.tensor([[0.0, 2.0], [40.0, 0.0]]), torch.zeros(2)
        self.seen: list[int] = []

    def logits(self, waveforms: Tensor) -> Tensor:
        self.seen.append(len(waveforms))
        power = torch.fft.rfft(waveforms * torch.hann_window(waveforms.shape[1])).abs().square()
        place = 1000 * waveforms.shape[1] // RATE
        share = power[:, place - 1 : place + 2].sum(1) / (power.sum(1) + 1e-9)
        return self.fc(torch.stack([share, 1 - share], 1))


def windows(clip: np.ndarray, hop: int) -> np.ndarray:
    """By the definition, one after the other."""
    padded = np.pad(clip.astype(np.float32) / 32768, CROP // 2)
    count = 1 + max(0, -(-(len(padded) - CROP) // hop))
    padded = np.pad(padded, (0, max(0, (count - 1) * hop + CROP - len(padded))))
    return np.stack([padded[k * hop : k * hop + CROP] for k in range(count)])


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Noise of a minute, with an event of 0.3 s in second 41; then shorter and shorter than a crop, without one."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 300, size) for size in (60 * RATE, 5 * RATE, 3, CROP, 2501)]
    place = np.arange(int(41.2 * RATE), int(41.5 * RATE))
    clips[0][place] += 8000 * np.sin(2 * np.pi * 1000 * place / RATE)
    return [np.rint(clip).astype(np.int16) for clip in clips]


def loader(clips: list[np.ndarray], processes: int = 1, rank: int = 0, **settings: Any) -> ResidentWaveformLoader:
    settings = {"hop": CROP // 2, "batch_size": processes} | settings
    labels = torch.tensor([1, 0, 0, 0, 0])
    share = {"num_processes": processes, "process_index": rank}
    return ResidentWaveformLoader(clips, labels, crop_length=CROP, **share, **settings)


class TestWindows:
    @pytest.mark.parametrize("hop", [CROP, 333, 1])
    def test_every_sample_is_in_one(self, recordings: list[np.ndarray], hop: int) -> None:
        clips = recordings if hop > 1 else recordings[1:]
        made = ResidentWaveformLoader(clips, [0] * len(clips), batch_size=1, crop_length=CROP, hop=hop)
        for (inputs, _), clip in zip(made, clips, strict=True):
            assert inputs.untyped_storage().nbytes() <= 4 * (len(clip) + 2 * CROP + hop)  # they overlap in memory
            if hop > 1:
                assert np.array_equal(inputs[0].numpy(), windows(clip, hop))
            middle = inputs[0, :, CROP // 2]  # of window i, sample i * hop
            assert np.array_equal(middle[: -(-len(clip) // hop)].numpy(), clip[::hop].astype(np.float32) / 32768)

    def test_an_event_that_ten_crops_miss(self, recordings: list[np.ndarray]) -> None:
        """Of a minute they see a second, and a mean over 600 windows buries it."""
        network = Detector().eval()

        def heard(aggregate: str, **settings: Any) -> list[int]:
            network.aggregate = aggregate  # type: ignore[assignment]
            return torch.cat([network(inputs).argmax(1) for inputs, _ in loader(recordings, **settings)]).tolist()

        assert heard("max") == [1, 0, 0, 0, 0]
        assert heard("mean") == [0] * 5
        assert heard("max", hop=None, batch_size=4, crops=10) == [0] * 5
        assert max(network.seen) == 7  # whatever there is

    @pytest.mark.parametrize("several", [False, True])
    @pytest.mark.parametrize("aggregate", ["mean", "max"])
    def test_probabilities_are_put_together(self, recordings: list[np.ndarray], several: bool, aggregate: str) -> None:
        network = Detector().eval()
        network.aggregate, network.several_labels = aggregate, several  # type: ignore[assignment]
        for (inputs, _), clip in zip(loader(recordings[::-1]), recordings[:0:-1], strict=False):
            logits = network.logits(torch.from_numpy(windows(clip, CROP // 2))).double()
            probs = logits.sigmoid() if several else logits.softmax(1)
            wanted = probs.mean(0) if aggregate == "mean" else probs.amax(0)
            found = network(inputs)[0].double()
            if several:
                torch.testing.assert_close(found.sigmoid(), wanted, rtol=0, atol=1e-6)
            else:
                torch.testing.assert_close(found.softmax(0), wanted / wanted.sum(), rtol=0, atol=1e-6)

    def test_processes_together_hear_what_one_hears(self, recordings: list[np.ndarray]) -> None:
        network = Detector().eval()
        clips = [recordings[0][: 9 * RATE], *recordings[1:]]
        alone = torch.cat([network(inputs) for inputs, _ in loader(clips)])
        parts = [[network(inputs) for inputs, _ in loader(clips, 2, rank)] for rank in (0, 1)]
        together = torch.cat([part for batch in zip(*parts, strict=True) for part in batch])
        assert together.equal(alone)  # the second process has nothing of the last batch

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"hop": CROP + 1}, r"`hop` must lie in 1\.\.800, the `crop_length`, but is 801"),
            ({"hop": 0}, "`hop` must lie in"),
            ({"crops": 10}, "`hop`=400 covers a clip with windows, without randomness, but `crops` is 10"),
            ({"batch_size": 4}, r"takes one at a time, but `batch_size` is 4\. Set it to 1"),
        ],
    )
    def test_faults(self, recordings: list[np.ndarray], settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            loader(recordings, **settings)


def test_a_plan_says_whether_labels_exclude_each_other() -> None:
    rows = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    crops = torch.randn(2, 4, 900)
    network = METHODS["erm"].plan(rows, epochs=1, batch_size=2).attach(TinyNetwork(3)).eval()
    one_by_one = torch.stack([network.logits(clip).sigmoid().mean(0) for clip in crops])
    torch.testing.assert_close(network(crops).sigmoid(), one_by_one)
    METHODS["erm"].plan(torch.tensor([0, 1, 2]), epochs=1, batch_size=2).attach(network)
    torch.testing.assert_close(network(crops).exp().sum(1), torch.ones(2))


def test_a_network_that_puts_nothing_together() -> None:
    cfg = SimpleNamespace(aggregate="max", sync_bn=False, channels_last=False)
    accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no")
    assert arrange(TinyNetwork(3), cfg, accelerator).aggregate == "max"
    with pytest.raises(ValueError, match="`aggregate` is max, but Linear has no attribute `aggregate`"):
        arrange(nn.Linear(2, 2), cfg, accelerator)


def speech(root: Path) -> Path:
    """Recordings at 8 kHz of any lengths; of a third of the test ones, the word is in second 3 only."""
    rng = np.random.default_rng(0)
    lines = ["file,label,split"]
    for k in range(48):
        label, split = k % 3, "test" if k >= 36 else "train"
        samples = rng.normal(0, 0.01, RATE // 4 if split == "train" else RATE * (1 + k % 4))
        place = np.arange(RATE // 4) + (3 * RATE if len(samples) > 3 * RATE else 0)
        samples[place] += 0.3 * np.sin(2 * np.pi * (300, 900, 2000)[label] * place / RATE)
        (root / f"{k}.wav").write_bytes(encoded(samples))
        lines.append(f"{k}.wav,{('no', 'stop', 'yes')[label]},{split}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def test_runs(train: Callable[..., Path], tmp_path: Path) -> None:
    """Trained on short recordings of speech at 8 kHz, tested on long ones; a second stage averages features of all."""
    (tmp_path / "commands").mkdir()
    settings = {"dataset": "folder", "data_dir": speech(tmp_path / "commands"), "profile": "natural"}
    settings |= {"sample_rate": RATE, "cache_dir": "none", "batch_size": 12, "epochs": 12, "eval_every": 12}
    settings |= {"test_hop": 0.05, "aggregate": "max", "lr": 0.01}
    first = train("--method", "erm", out="first", **settings)
    for run in (first, train("--method", "ncm", "--from_run", first, out="second", **settings)):
        recorded = json.loads((run / "ltaug.json").read_text())["preprocessing"]
        assert (recorded["test_hop"], recorded["aggregate"], recorded["sample_rate"]) == (0.05, "max", RATE)
        kept = load_file(run / "logits.safetensors")
        assert len(kept["labels"]) == 12
        assert (kept["logits"].argmax(1) == kept["labels"]).float().mean() > 0.7


def test_the_data_keep_their_contract(load: Callable[..., Any], recipe: SimpleNamespace, tmp_path: Path) -> None:
    settings = {"data_dir": speech(tmp_path), "profile": "natural", "sample_rate": RATE, "crop_length": 900}
    data = load(**settings, test_hop=0.1)
    cfg = recipe.train.Config(dataset="folder", batch_size=12, test_hop=0.1, **settings | {"data_dir": str(tmp_path)})
    check_data(data, cfg, batches=None)
    for hop in (1.0, 1e-6):
        with pytest.raises(ValueError, match=r"`test_hop` is in seconds and must not exceed a crop, 0\.113 s"):
            load(**settings, test_hop=hop)


def test_long_recordings_are_trained_on_by_random_crops() -> None:
    """All of a minute is seen in time, and its label is that of the whole."""
    clip = np.rint(noise(0, 60 * 100) * 30000).astype(np.int16)
    made = ResidentWaveformLoader([clip], [1], batch_size=1, crop_length=200, seed=1)
    starts = []
    for epoch in range(200):
        made.set_epoch(epoch)
        ((inputs, labels),) = made
        assert labels.tolist() == [1]
        middle = round(float(inputs[0, 100]) * 32768)
        starts.append(int(np.flatnonzero(clip == middle)[0]))
    assert np.histogram(starts, bins=6, range=(0, len(clip)))[0].min() > 15
