"""What stands around the loop of a training script: its settings, schedule, evaluation, run folder and end."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("accelerate")
pytest.importorskip("jsonargparse")

import jsonargparse
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

import ltaug.run
from ltaug import commandline, training
from ltaug.audio import EnvNet
from ltaug.commandline import NonNegativeFloat, NonNegativeInt, PositiveFloat, Share
from ltaug.errors import UserError
from ltaug.methods import METHODS
from ltaug.process import autocast_reason
from ltaug.training import (
    SECOND_STAGE,
    Run,
    TrainSettings,
    arrange,
    class_means,
    launch,
    learning_rate,
    load_first_stage,
    make_optimizer,
    predict,
    search_tau,
    set_learning_rate,
    settings_of,
    start,
)


@dataclass
class DataSettings:
    dataset: Literal["small", "cifar10", "cifar100"] = "small"
    """Which."""
    data_dir: str | None = None
    """Where."""
    imbalance_ratio: float = 50.0
    """How much."""
    profile: Literal["exponential", "natural"] = "exponential"
    """How."""

    @property
    def data_name(self) -> str:
        return f"{self.dataset}_ir{self.imbalance_ratio:g}"


@dataclass
class ModelSettings:
    width: int = 8
    """Of the network."""

    @property
    def model_name(self) -> str:
        return "" if self.width == 8 else f"net{self.width}"


@dataclass
class Config(DataSettings, ModelSettings, TrainSettings):
    """Ours."""

    epochs: NonNegativeInt = 20
    lr: PositiveFloat = 0.2
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["steps", "cosine"] = "steps"
    decay_at: list[Share] | None = field(default_factory=lambda: [0.5])


PROTOCOLS = {
    "short": "epochs: 3\nlr: 0.3\nimbalance_ratio: 20\n",
    "paper": (
        "epochs: 90\nlr: 0.4\nwarmup_epochs: 7\nweight_decay: 5e-4\nbatch_size: 64\n"
        "second_stage:\n  epochs: 30\n  lr: 0.01\n  lws:\n    epochs: 5\n"
    ),
    "broken": "epochz: 3\n",
}
COUNTS = torch.tensor([12, 6, 3])


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A training script with protocols beside it."""
    (tmp_path / "recipe" / "protocols").mkdir(parents=True)
    for name, text in PROTOCOLS.items():
        (tmp_path / "recipe" / "protocols" / f"{name}.yaml").write_text(text)
    return str(tmp_path / "recipe" / "train.py")


class Net(nn.Module):
    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder of a finished first stage."""
    run = tmp_path / "runs" / "small_ir30_mixup_seed5"
    run.mkdir(parents=True)
    values = {"method": "mixup", "dataset": "small", "imbalance_ratio": 30.0, "width": 16, "seed": 5, "epochs": 200}
    values |= {"batch_size": 32, "lr": 0.7, "precision": "fp32", "weight_decay": 0.3, "gone": "setting"}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    (run / "ltaug.json").write_text(json.dumps({"class_names": ["a", "b", "c"]}))
    save_file(Net(width=16).state_dict(), run / "model.safetensors")
    return run


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """One process on the CPU, in fp32."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    monkeypatch.delenv("RANK", raising=False)
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)


def read(script: str, *words: object) -> Config:
    return settings_of(Config, script, list(map(str, words)))


@pytest.fixture(autouse=True)
def _no_texts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Parsing settings takes half as long without reading the sources for the texts of --help."""
    shown = "line_of_meaning" in request.node.name
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=shown)
    monkeypatch.setattr(commandline, "set_parsing_settings", lambda **_: None)


class TestSettings:
    def test_later_ones_win(self, script: str, tmp_path: Path) -> None:
        """Defaults, the protocol, the files of --config in their order, the words wherever they stand."""
        cfg = read(script)
        assert (cfg.epochs, cfg.lr, cfg.imbalance_ratio, cfg.batch_size) == (20, 0.2, 50.0, 128)
        cfg = read(script, "--protocol", "short")
        assert (cfg.epochs, cfg.lr, cfg.imbalance_ratio) == (3, 0.3, 20.0)
        one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
        one.write_text("lr: 0.5\nepochs: 4\n")
        two.write_text("lr: 0.6\n")
        cfg = read(script, "--config", one, "--protocol", "short", f"--config={two}")
        assert (cfg.epochs, cfg.lr, cfg.imbalance_ratio) == (4, 0.6, 20.0)
        cfg = read(script, "--lr", 0.7, "--config", one, "--protocol=short", "--config", two)
        assert (cfg.epochs, cfg.lr, cfg.imbalance_ratio) == (4, 0.7, 20.0)
        three = tmp_path / "three.yaml"
        three.write_text("protocol: short\nmethod: mixup\n")
        cfg = read(script, "--config", three)
        assert (cfg.epochs, cfg.method, cfg.protocol) == (3, "mixup", "short")

    def test_of_a_second_stage(self, script: str, first: Path, tmp_path: Path) -> None:
        """Data, network and a few others of its first stage, a schedule of its own, then as always."""
        cfg = read(script, "--method", "mislas", "--from_run", first)
        assert (cfg.dataset, cfg.imbalance_ratio, cfg.width) == ("small", 30.0, 16)
        assert (cfg.seed, cfg.batch_size, cfg.precision) == (5, 32, "fp32")
        assert {name: getattr(cfg, name) for name in SECOND_STAGE} == SECOND_STAGE
        assert cfg.weight_decay == 1e-4  # the script's: that of the first stage was for all of the network
        assert cfg.decay_at == [0.5]
        # A protocol's schedule is that of first stages; it may have one for second stages.
        cfg = read(script, "--method", "mislas", "--from_run", first, "--protocol", "short")
        assert (cfg.epochs, cfg.lr, cfg.imbalance_ratio) == (10, 0.1, 20.0)
        words = ("--method", "mislas", "--from_run", first, "--protocol", "paper")
        cfg = read(script, *words)
        assert (cfg.epochs, cfg.lr, cfg.warmup_epochs) == (30, 0.01, 0.0)
        assert (cfg.weight_decay, cfg.batch_size) == (5e-4, 64)
        (tmp_path / "more.yaml").write_text("lr: 0.05\nepochs: 4\n")
        cfg = read(script, *words, "--config", tmp_path / "more.yaml", "--epochs", 2, "--seed", 9, "--width", 8)
        assert (cfg.epochs, cfg.lr, cfg.seed, cfg.width, cfg.imbalance_ratio) == (2, 0.05, 9, 8, 30.0)
        # The mapping may say more of one method.
        cfg = read(script, "--method", "lws", "--from_run", first, "--protocol", "paper")
        assert (cfg.epochs, cfg.lr) == (5, 0.01)
        # Of a first stage the mapping says nothing.
        cfg = read(script, "--protocol", "paper")
        assert (cfg.epochs, cfg.lr, cfg.warmup_epochs, cfg.batch_size) == (90, 0.4, 7.0, 64)

    def test_method_and_first_stage_may_stand_in_a_file(self, script: str, first: Path, tmp_path: Path) -> None:
        path = tmp_path / "stage2.yaml"
        path.write_text(f"method: crt\nfrom_run: {first}\n")
        cfg = read(script, "--config", path)
        assert (cfg.method, cfg.epochs, cfg.width) == ("crt", 10, 16)

    def test_its_saved_config_starts_the_same_run_again(self, script: str, first: Path, tmp_path: Path) -> None:
        """Even where all that it was made from is gone."""
        second = ("--method", "mislas", "--from_run", first, "--protocol", "paper")
        for words in (("--set.alpha", 0.3), ("--protocol", "paper"), second):
            cfg = read(script, *words)
            path = tmp_path / "config.yaml"
            path.write_text(yaml.safe_dump(vars(cfg)))
            assert read(script, "--config", path) == cfg

    def test_changes_of_the_method(self, script: str) -> None:
        cfg = read(script, "--method", "mixup", "--set.alpha", 0.3, "--set.partner", "batch")
        assert cfg.chosen_method() == METHODS["mixup"].replace(alpha=0.3, partner="batch")
        assert cfg.label == "mixup_alpha0.3_partnerbatch"
        words = ("--method", "bayias", "--set.target_prior", str([0.001] * 1000))
        assert re.fullmatch("bayias_target_prior[0-9a-f]{8}", read(script, *words).label)  # no name is that long
        assert read(script, "--method", "mixup", "--set", "{alpha: 0.3}").chosen_method().alpha == 0.3
        assert read(script).chosen_method() == METHODS["erm"]

    def test_what_is_published_for_a_data_set_is_found_and_gives_way(self, script: str) -> None:
        words = ("--method", "unimix_bayias", "--dataset", "cifar10")
        assert read(script, *words).chosen_method().partner_tau == -1.0
        assert read(script, *words, "--set.partner_tau", 0.5).chosen_method().partner_tau == 0.5
        assert read(script, "--method", "unimix_bayias").chosen_method().partner_tau == 0.0
        lade = ("--method", "lade", "--dataset", "cifar100", "--imbalance_ratio", 50)
        assert read(script, *lade).chosen_method().lade_alpha == 0.01
        # A set that is long-tailed by nature has no ratio that was chosen.
        assert read(script, *lade, "--profile", "natural").chosen_method().lade_alpha == 0.1

    def test_the_folder_says_what_is_in_it(self, script: str, first: Path) -> None:
        assert read(script).out == str(Path("runs") / "small_ir50_erm_seed0")
        cfg = read(script, "--method", "mixup", "--set.alpha", 0.3, "--width", 4, "--seed", 2)
        assert cfg.out == str(Path("runs") / "small_ir50_net4_mixup_alpha0.3_seed2")
        cfg = read(script, "--method", "crt", "--from_run", first)
        # Beside its first stage, which is not the one of cRT's paper.
        assert cfg.out == str(first.parent / "small_ir30_net16_crt_on_mixup_seed5")
        cfg = read(script, "--method", "mislas", "--from_run", first)
        assert cfg.out == str(first.parent / "small_ir30_net16_mislas_seed5")
        assert read(script, "--out", "here").out == "here"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--method unimix_bayas", "`method` 'unimix_bayas' is not known, did you mean 'unimix_bayias'? There are:"),
            ("--method xyzzy", "`method` 'xyzzy' is not known. There are: erm, label_smoothing, "),
            (
                "--protocol shrt",
                "`protocol` 'shrt' is not known, did you mean 'short'? There are: broken, paper, short",
            ),
            ("--protocol xyzzy", "`protocol` 'xyzzy' is not known. There are: broken, paper, short."),
            ("--protocol broken", "there is no setting `epochz`, did you mean 'epochs'?"),
            ("--imbalance_ratoi 10", "there is no setting `--imbalance_ratoi`, did you mean 'imbalance_ratio'?"),
            ("--imbalance 10", "there is no setting `--imbalance`, did you mean 'imbalance_ratio'?"),
            ("--set.alhpa 0.3 --method mixup", "`set`: `alhpa` is no setting of a method, did you mean 'alpha'?"),
            ("--set.mixer mixpu", "`set`: `mixer` must be one of none, mixup,"),
            ("--set.alpha half --method mixup", "`set`: `alpha` must be of type float, but is 'half'"),
            ("--method ldam --set.classifier linear", "`set`: `loss: ldam` needs cosines"),
            ("--dataset smal", "did you mean 'small'?"),
            ("--epochs ten", "epochs"),
            ("--epochs 0", "`epochs` must be at least 1, but is 0."),
            ("--epochs -1", "epochs"),
            ("--batch_size 0", "batch_size"),
            ("--lr 0", "lr"),
            ("--seed -1", "seed"),
            ("--threads 0", "threads"),
            ("--decay_at [160]", "decay_at"),
            ("--decay_at null", "`schedule: steps` needs `decay_at`"),
            ("--log_with tensorbord", "`log_with` is 'tensorbord', but the trackers installed here are: "),
            ("--method manifold_mixup --compile true", "changes the graph in every step. Set `compile: false`."),
            (
                "--method mislas",
                "is a second stage: `from_run` must name the run folder of its first stage, trained with",
            ),
            ("--method mislas", "`--method mixup`"),
            (
                "--method crt --from_run nowhere",
                "`from_run` 'nowhere' is no finished run: it has no config.yaml. Train",
            ),
            ("--method erm --from_run nowhere", "`from_run` is where a second stage starts, but `method` erm trains a"),
        ],
    )
    def test_a_mistake_is_named(self, script: str, words: str, message: str) -> None:
        with pytest.raises(UserError) as caught:
            read(script, *words.split())
        assert message in " ".join(str(caught.value).split())

    @pytest.mark.parametrize("missing", ["config.yaml", "ltaug.json", "model.safetensors"])
    def test_an_unfinished_first_stage(self, script: str, first: Path, missing: str) -> None:
        (first / missing).unlink()
        with pytest.raises(UserError, match=f"is no finished run: it has no {missing}. Train it first"):
            read(script, "--method", "crt", "--from_run", first)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"method": "crt", "from_run": "x"}, "is itself a second stage. Name the run of its first stage"),
            ({"method": "crt", "stage1": "erm"}, "is itself a second stage"),  # of versions before 0.2
            ({"method": "ldam"}, "has the classifier cosine, but a second stage needs a linear one"),
            ({"method": "erm", "set": {"classifier": "causal_norm"}}, "has the classifier causal_norm"),
        ],
    )
    def test_a_first_stage_that_is_none(self, script: str, first: Path, values: dict[str, Any], message: str) -> None:
        (first / "config.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=message):
            read(script, "--method", "crt", "--from_run", first)

    def test_a_damaged_first_stage(self, script: str, first: Path) -> None:
        (first / "config.yaml").write_text("- 1")
        with pytest.raises(UserError, match=r"config\.yaml` must hold `key: value` lines"):
            read(script, "--method", "crt", "--from_run", first)

    def test_what_is_computed_has_no_epochs(self, script: str, first: Path) -> None:
        for name in ("tau_norm", "ncm"):
            assert read(script, "--method", name, "--from_run", first).epochs == 0
            assert read(script, "--method", name, "--from_run", first, "--epochs", 3).epochs == 0

    def test_every_setting_has_a_line_of_meaning(self, script: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            read(script, "--help")
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for name in ("method", "from_run", "decay_at", "warmup_factor", "checkpoint_every"):
            assert f"--{name}" in text
        assert "Share of the learning rate during the warm-up" in text


class TestFirstStage:
    def config(self, first: Path) -> Config:
        return Config(method="crt", from_run=str(first), width=16)

    def test_its_weights_are_loaded(self, first: Path) -> None:
        net = Net(width=16)
        load_first_stage(net, self.config(first), ["a", "b", "c"])
        saved = load_file(first / "model.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())
        before = {name: value.clone() for name, value in net.state_dict().items()}
        load_first_stage(net, Config(), ["x"])  # does nothing
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def test_of_other_classes_or_another_network(self, first: Path) -> None:
        cfg = self.config(first)
        with pytest.raises(UserError, match=r"knows 3 classes \(a, b, c, ...\), but the data have 2 \(a, b, ...\)"):
            load_first_stage(Net(width=16), cfg, ["a", "b"])
        with pytest.raises(
            UserError,
            match=r"model\.safetensors` does not fit the network that model\.py builds: size mis.*differences",
        ):
            load_first_stage(Net(width=4), cfg, ["a", "b", "c"])

    def test_damaged(self, first: Path) -> None:
        (first / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(UserError, match=r"model\.safetensors` is damaged .* `--resume true` on its run writes it"):
            load_first_stage(Net(width=16), self.config(first), ["a", "b", "c"])


# --- schedule and optimiser -------------------------------------------------------------------------------------------

SHARES = st.lists(st.floats(0.01, 1), max_size=4).map(sorted)


class TestLearningRate:
    def test_of_the_published_cifar_schedule(self) -> None:
        """0.1 after five epochs of warm-up, by 0.01 after epochs 160 and 180."""
        cfg = TrainSettings(lr=0.1, epochs=200, schedule="steps", decay_at=[0.8, 0.9], decay_factor=0.01)
        cfg.warmup_epochs = 5
        found = [learning_rate(cfg, epoch) for epoch in range(200)]
        assert found[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
        assert found[5:160] == [0.1] * 155
        assert found[160:180] == pytest.approx([1e-3] * 20)
        assert found[180:] == pytest.approx([1e-5] * 20)

    def test_of_the_published_envnet_schedule(self) -> None:
        """EnvNet-v2: ten epochs at a tenth, then by 0.1 at 0.3, 0.6 and 0.9."""
        cfg = TrainSettings(lr=0.1, epochs=1000, schedule="steps", decay_at=[0.3, 0.6, 0.9], warmup_factor=0.1)
        cfg.warmup_epochs = 10
        found = [learning_rate(cfg, epoch) for epoch in (0, 9, 10, 299, 300, 599, 600, 899, 900, 999)]
        wanted = [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]
        assert found == pytest.approx(wanted)

    @given(
        lr=st.floats(1e-4, 10), epochs=st.integers(1, 300), shares=SHARES, factor=st.floats(0.01, 0.9), data=st.data()
    )
    def test_steps(self, lr: float, epochs: int, shares: list[float], factor: float, data: st.DataObject) -> None:
        cfg = TrainSettings(lr=lr, epochs=epochs, schedule="steps", decay_at=shares, decay_factor=factor)
        epoch = data.draw(st.integers(0, epochs - 1))
        done = len([share for share in shares if epoch >= round(share * epochs)])
        assert learning_rate(cfg, epoch) == pytest.approx(lr * factor**done)
        assert learning_rate(cfg, epoch, within=0.999) == pytest.approx(lr * factor**done)

    @given(lr=st.floats(1e-4, 10), epochs=st.integers(1, 300), within=st.none() | st.floats(0, 1), data=st.data())
    def test_cosine(self, lr: float, epochs: int, within: float | None, data: st.DataObject) -> None:
        cfg = TrainSettings(lr=lr, epochs=epochs, schedule="cosine")
        epoch = data.draw(st.integers(0, epochs - 1))
        place = (epoch + (within or 0)) / epochs
        # Half angles instead of the cosine itself; absolute, since the end is 0.
        assert learning_rate(cfg, epoch, within) == pytest.approx(
            lr * math.cos(math.pi * place / 2) ** 2, abs=1e-9 * lr
        )

    @given(lr=st.floats(1e-4, 10), warmup=st.floats(0.1, 20), within=st.floats(0, 0.999), data=st.data())
    def test_warm_up(self, lr: float, warmup: float, within: float, data: st.DataObject) -> None:
        cfg = TrainSettings(lr=lr, epochs=1000, schedule="steps", decay_at=[], warmup_epochs=warmup)
        epoch = data.draw(st.integers(0, math.ceil(warmup)))
        assert learning_rate(cfg, epoch) == pytest.approx(lr * min(1.0, (epoch + 1) / warmup))
        assert learning_rate(cfg, epoch, within) == pytest.approx(lr * min(1.0, (epoch + within) / warmup))
        cfg.warmup_factor = 0.1
        assert learning_rate(cfg, epoch) == pytest.approx(lr * (0.1 if epoch < warmup else 1.0))
        assert learning_rate(cfg, epoch, within) == pytest.approx(lr * (0.1 if epoch + within < warmup else 1.0))

    def test_every_run_ends_its_warm_up_at_the_peak(self) -> None:
        for warmup in (1.0, 2.0, 2.5, 3.0, 0.5):
            cfg = TrainSettings(lr=1.0, epochs=10, schedule="steps", decay_at=[], warmup_epochs=warmup)
            rates = [learning_rate(cfg, epoch) for epoch in range(10)]
            assert max(rates) == rates[math.ceil(warmup) - 1] == 1.0
            assert rates == sorted(rates)

    def test_every_group_keeps_its_share(self) -> None:
        layer = nn.Linear(2, 2)
        groups = [{"params": [layer.weight], "lr_scale": 1.0}, {"params": [layer.bias], "lr_scale": 0.2}]
        optimizer = make_optimizer(groups, TrainSettings(lr=0.5))
        set_learning_rate(optimizer, 0.3)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.06])


class TestOptimizer:
    def made(self, **settings: Any) -> torch.optim.Optimizer:
        layer = nn.Linear(2, 2)
        return make_optimizer([{"params": layer.parameters()}], TrainSettings(lr=0.5, **settings))

    def test_of_the_settings(self) -> None:
        optimizer = self.made(momentum=0.8, weight_decay=0.01)
        assert type(optimizer) is torch.optim.SGD
        (group,) = optimizer.param_groups
        names = ("lr", "momentum", "weight_decay", "nesterov", "lr_scale")
        assert [group[name] for name in names] == [0.5, 0.8, 0.01, False, 1.0]
        assert self.made(optimizer="nesterov").param_groups[0]["nesterov"]
        assert not self.made(optimizer="nesterov", momentum=0.0).param_groups[0]["nesterov"]
        adamw = self.made(optimizer="adamw", weight_decay=0.05)
        assert type(adamw) is torch.optim.AdamW
        assert (adamw.param_groups[0]["weight_decay"], adamw.param_groups[0]["lr_scale"]) == (0.05, 1.0)

    def test_of_timm(self) -> None:
        pytest.importorskip("timm")
        for name in ("lamb", "lion", "lookahead_adam"):
            (group,) = self.made(optimizer=name).param_groups
            assert (group["lr"], group["lr_scale"]) == (0.5, 1.0)
        with pytest.raises(
            UserError, match="must be sgd, nesterov or one of timm's, but is 'lambb', did you mean 'lamb'"
        ):
            self.made(optimizer="lambb")
        with pytest.raises(UserError, match=r"but is 'xyzzyx'\. There are: sgd, nesterov, "):
            self.made(optimizer="xyzzyx")


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No shell replaces it behind ``--out=`` or in YAML; a folder called ~ is removed with all that is at home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TrainSettings(out="~/run").out == str(tmp_path / "run")
    assert ltaug.run.RunFolder("~/run", {}).path == tmp_path / "run"
    assert ltaug.run.RunFolder.open("~/run").path == tmp_path / "run"


class TestArrange:
    def test_layout(self, accelerator: Accelerator) -> None:
        net = nn.Conv2d(3, 4, 3)
        assert arrange(net, TrainSettings(), accelerator).weight.is_contiguous(memory_format=torch.channels_last)
        assert arrange(nn.Conv2d(3, 4, 3), TrainSettings(channels_last=False), accelerator).weight.is_contiguous()

    @pytest.mark.parametrize(
        ("precision", "device", "asked", "layout"),
        [
            ("no", "cpu", None, torch.contiguous_format),  # half the speed in the other one
            ("no", "cpu", True, torch.channels_last),
            ("bf16", "cpu", None, torch.channels_last),
            ("no", "cuda", None, torch.channels_last),
        ],
    )
    def test_layout_of_filters_over_time(self, precision: str, device: str, asked: bool | None, layout: Any) -> None:
        place = SimpleNamespace(num_processes=1, device=torch.device(device), mixed_precision=precision)
        net = arrange(EnvNet(3), TrainSettings(channels_last=asked), place)
        assert net.filters[1][0].weight.is_contiguous(memory_format=layout)

    def test_batch_norm_over_processes(self) -> None:
        for sync, processes, kind in ((True, 2, "SyncBatchNorm"), (True, 1, "BatchNorm1d"), (False, 2, "BatchNorm1d")):
            cfg = TrainSettings(sync_bn=sync)
            gpus = SimpleNamespace(num_processes=processes, device=torch.device("cuda"))
            net = arrange(Net(), cfg, gpus)
            assert type(net.body[1]).__name__ == kind
        cpus = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
        with pytest.raises(UserError, match="`sync_bn` shares statistics between GPUs"):
            arrange(Net(), TrainSettings(sync_bn=True), cpus)

    def test_start(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        AcceleratorState._reset_state(reset_partial_state=True)
        threads = torch.get_num_threads()
        try:
            cfg = Config(method="unimix_bayias", dataset="cifar10", threads=1, seed=7, precision="fp32")
            accelerator = start(cfg)
            assert (accelerator.mixed_precision, accelerator.num_processes) == ("no", 1)
            assert torch.get_num_threads() == 1
            assert capsys.readouterr().out == "unimix_bayias: partner_tau -1.0, as published for this data set.\n"
            drawn = torch.rand(1)
            start(Config(method="unimix_bayias", dataset="cifar10", threads=1, seed=7, set={"partner_tau": 0.0}))
            assert torch.equal(torch.rand(1), drawn)
            assert capsys.readouterr().out == f"{autocast_reason('auto')}\n"
        finally:
            torch.set_num_threads(threads)
            AcceleratorState._reset_state(reset_partial_state=True)


# --- evaluation -------------------------------------------------------------------------------------------------------

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(23) % 3


def shares(process: int, processes: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    """A process's contiguous rows of every global batch; perhaps none of the last one."""
    found = []
    for begin in range(0, len(X), batch):
        x, y = X[begin : begin + batch], Y[begin : begin + batch]
        size = -(-batch // processes)
        rows = slice(process * size, (process + 1) * size)
        found.append((x[rows], y[rows]))
    return found


def run_together(monkeypatch: pytest.MonkeyPatch, processes: int, call: Callable[[int, Any], Any]) -> list[Any]:
    """What each of several processes gets, one after the other: in earlier turns to learn what each has to say."""
    import accelerate.utils

    said: dict[int, list[Any]] = {}
    for turn in range(3):  # what is said second may depend on what was heard first
        results, before = [], dict(said)
        for process in range(processes):
            calls: list[Any] = []

            def exchange(
                mine: Any, process: int = process, calls: list[Any] = calls, turn: int = turn, before: Any = before
            ) -> list[Any]:
                calls.append(mine)
                said[process] = calls
                return [mine] if turn == 0 else [before[other][len(calls) - 1] for other in range(processes)]

            def gather(mine: list[Any], exchange: Any = exchange) -> list[Any]:
                return [item for part in exchange(mine) for item in part]

            def reduce(mine: Tensor, kind: str, exchange: Any = exchange) -> Tensor:
                assert kind == "sum"
                return torch.stack(exchange(mine.clone())).sum(0)

            monkeypatch.setattr(accelerate.utils, "gather_object", gather)
            fake = SimpleNamespace(
                num_processes=1,  # so that no buffer is broadcast: all have the same ones here
                unwrap_model=lambda model: model,
                autocast=lambda: torch.autocast("cpu", enabled=False),
                reduce=reduce,
                print=lambda text: None,
                device=torch.device("cpu"),
            )
            results.append(call(process, fake))
    return results


class TestPredict:
    def test_is_the_model_on_the_set(self, accelerator: Accelerator) -> None:
        net = Net().train()
        logits, labels = predict(accelerator, net, shares(0, 1, 5))
        assert not net.training
        assert torch.equal(labels, Y)
        assert torch.allclose(logits, net(X), atol=1e-6)
        assert not logits.requires_grad

    @pytest.mark.parametrize("processes", [2, 3, 4])
    @pytest.mark.parametrize("batch", [4, 8, 12, 23, 60])
    def test_several_processes_put_it_in_the_order_of_the_set(
        self, monkeypatch: pytest.MonkeyPatch, processes: int, batch: int
    ) -> None:
        net = Net().eval()
        found = run_together(
            monkeypatch, processes, lambda process, fake: predict(fake, net, shares(process, processes, batch))
        )
        for logits, labels in found:
            assert torch.equal(labels, Y)
            assert torch.allclose(logits, net(X), atol=1e-6)

    def test_the_main_process_s_statistics_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import accelerate.utils

        net = Net()
        net.body[1].running_mean.fill_(9.0)
        told = iter([torch.zeros(8), torch.ones(8), torch.tensor(4)])
        monkeypatch.setattr(accelerate.utils, "broadcast", lambda mine: next(told))
        monkeypatch.setattr(accelerate.utils, "gather_object", lambda mine: mine)
        fake = SimpleNamespace(num_processes=2, unwrap_model=lambda model: model, autocast=torch.no_grad)
        predict(fake, net, [(X, Y)])
        assert torch.equal(net.body[1].running_mean, torch.zeros(8))
        assert net.body[1].num_batches_tracked == 4


class TestClassMeans:
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_are_the_means_of_the_features(self, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
        net, plan = Net(), METHODS["ncm"].plan(Y, epochs=0)
        plan.attach(net)
        found = run_together(
            monkeypatch, processes, lambda process, fake: class_means(fake, net, shares(process, processes, 6), plan)
        )
        with torch.no_grad():
            features = net.eval().body(X).double()
        wanted = torch.stack([features[k == Y].mean(0) for k in range(3)])
        for means in found:
            assert torch.allclose(means.means.double(), wanted, atol=1e-5)
            assert means.counts.tolist() == Y.bincount().tolist()
        net.fc.register_forward_pre_hook(lambda *_: None)
        assert len(net.fc._forward_pre_hooks) == 1  # ours alone: its own are gone


class TestSearchTau:
    @pytest.mark.parametrize("processes", [1, 3])
    def test_is_the_best_of_the_grid(self, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
        """Tried one by one on the network itself: the mean accuracy over the classes, the smallest of equals."""
        net, plan = Net().eval(), METHODS["tau_norm"].plan(Y, epochs=0)
        plan.attach(net)
        with torch.no_grad():  # class 0 wins everywhere at tau 0, since its weight is the longest
            features = net.body(X)
            net.fc.weight.copy_(torch.stack([features[k == Y].mean(0) for k in range(3)]) - features.mean(0))
            net.fc.weight[0] += net.fc.weight.norm() * features.mean(0)
            scores = []
            for k in range(21):
                found = ltaug.tau_normalize(net.fc, k / 10)(features).argmax(1)
                scores.append(torch.stack([(found[j == Y] == j).double().mean() for j in range(3)]).mean().item())
        assert max(scores) > scores[0] + 0.05
        taus = run_together(
            monkeypatch, processes, lambda process, fake: search_tau(fake, net, shares(process, processes, 6), plan)
        )
        assert taus == [scores.index(max(scores)) / 10] * processes

    def test_classes_without_a_sample_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A class that has none in the held-out set wins everywhere, and must not decide: only the others compete."""
        found = []
        for lead in (0.0, 50.0):
            torch.manual_seed(0)
            net, plan = Net().eval(), METHODS["tau_norm"].plan(Y, epochs=0)
            plan.attach(net)
            with torch.no_grad():
                features = net.body(X)
                net.fc.weight.copy_(torch.stack([features[k == Y].mean(0) for k in range(3)]) - features.mean(0))
                net.fc.weight[0] += lead * net.fc.weight.norm() * features.mean(0)
            kept = [(x[y != 0], y[y != 0]) for x, y in shares(0, 1, 6)]
            search = functools.partial(search_tau, model=net, loader=kept, plan=plan)
            found += run_together(monkeypatch, 1, lambda _, fake, search=search: search(fake))
        assert found[0] == found[1]


# --- the run ----------------------------------------------------------------------------------------------------------


class Data:
    """Three classes."""

    class_names = ("a", "b", "c")
    class_counts = COUNTS

    def fingerprint(self) -> dict[str, Any]:
        return {"class_names": list(self.class_names), "class_counts": self.class_counts}


def make_run(accelerator: Accelerator, out: Path, data: Any = None, **settings: Any) -> tuple[Run, nn.Module, Any]:
    """A run, its net and optimiser, prepared."""
    values = {"epochs": 4, "report": False, "checkpoint_every": 2, "schedule": "cosine", "decay_at": None}
    cfg = Config(out=str(out), **(values | settings))
    torch.manual_seed(3)
    net = Net()
    plan = cfg.chosen_method().plan(torch.arange(3).repeat_interleave(COUNTS), epochs=cfg.epochs)
    optimizer = make_optimizer(plan.parameter_groups(net), cfg)
    run = Run(cfg, accelerator, data or Data(), plan, net)
    return run, *accelerator.prepare(net, optimizer)


def step(net: nn.Module, optimizer: Any) -> float:
    loss = nn.functional.cross_entropy(net(X), Y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


class TestRun:
    def test_begins_anew_and_says_so(
        self, accelerator: Accelerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Run.begun = False
        run, _, _ = make_run(accelerator, tmp_path / "run", method="mixup", set={"alpha": 0.3})
        said = capsys.readouterr().out
        assert said.startswith("mixup_alpha0.3: 21 samples, 3 classes of 12 to 3, 83 trained parameters, 1 process, ")
        assert not Run.begun
        assert (run.begin(), run.first_step) == (0, 0)
        assert Run.begun
        assert yaml.safe_load((run.path / "config.yaml").read_text())["set"] == {"alpha": 0.3}
        assert json.loads((run.path / "data.json").read_text())["class_counts"] == [12, 6, 3]

    def test_rows_and_checkpoints(
        self, accelerator: Accelerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, net, optimizer = make_run(accelerator, tmp_path / "run", checkpoint_every=3)
        for epoch in range(run.begin(), 4):
            for _ in run.progress([1, 2], epoch):
                loss = step(net, optimizer)
            more = {"top1": 0.5, "few": math.nan} if run.due(epoch, 2) else {}
            run.end_epoch(epoch, loss, samples=23, began=0.0, lr=0.1, **more)
        rows = run.rows()
        assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
        assert ["top1" in row for row in rows] == [False, True, False, True]
        assert rows[1]["few"] is None
        assert all(row["seconds"] > 0 < row["samples_per_second"] for row in rows)
        names = sorted(path.name for path in (run.path / "checkpoints").iterdir())
        assert names == ["epoch_00003", "epoch_00004"]  # of every third, and of the last
        said = capsys.readouterr()
        assert "epoch 2/4  loss " in said.out + said.err
        assert "lr 0.1  top-1 50.0%" in (said.out + said.err).partition("epoch 2/4")[2].partition("\n")[0]
        assert "few" not in (said.out + said.err).partition("epoch 2/4")[2].partition("\n")[0]

    def test_lines_of_a_long_epoch_where_there_is_no_bar(
        self, accelerator: Accelerator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
    ) -> None:
        run, _, _ = make_run(accelerator, tmp_path / "run")
        clock = iter([0.0, 20.0, 31.0, 31.0, 50.0, 62.0, 62.0, 70.0])
        monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
        run.first_step = 1
        assert list(run.progress(["a", "b", "c", "d", "e"], 0)) == ["a", "b", "c", "d", "e"]
        monkeypatch.undo()
        told = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
        assert told == ["epoch 1/4  step 3/6", "epoch 1/4  step 5/6"]

    def test_due(self, accelerator: Accelerator, tmp_path: Path) -> None:
        run, _, _ = make_run(accelerator, tmp_path / "run", epochs=7)
        assert [epoch for epoch in range(7) if run.due(epoch, 3)] == [2, 5, 6]
        assert [epoch for epoch in range(7) if run.due(epoch, 100)] == [6]

    @pytest.mark.parametrize("inside", [0, 5])
    def test_resumes_where_it_was(
        self, accelerator: Accelerator, tmp_path: Path, inside: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, net, optimizer = make_run(accelerator, tmp_path / "run")
        run.begin()
        step(net, optimizer)
        run.save(1, step=inside)
        kept = {name: value.clone() for name, value in net.state_dict().items()}
        drawn = torch.rand(3)
        after = step(net, optimizer)

        again, net, optimizer = make_run(Accelerator(cpu=True), tmp_path / "run", resume=True, epochs=9)
        assert (again.begin(), again.first_step) == (1, inside)
        shown = ", step 5" if inside else ""
        assert f"Resumed after epoch 1 of 9{shown}.\n" in capsys.readouterr().out
        assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
        assert torch.equal(torch.rand(3), drawn)  # the random generators, too
        assert step(net, optimizer) == after
        again.end_epoch(1, 1.0, 23, 0.0)
        assert again.first_step == 0

    def test_resume_without_a_run_starts_it(self, accelerator: Accelerator, tmp_path: Path) -> None:
        run, _, _ = make_run(accelerator, tmp_path / "run", resume=True)
        assert run.begin() == 0

    def test_does_not_resume_with_other_settings_or_data(self, accelerator: Accelerator, tmp_path: Path) -> None:
        make_run(accelerator, tmp_path / "run")
        with pytest.raises(FileExistsError, match="already holds a run"):
            make_run(accelerator, tmp_path / "run")
        with pytest.raises(UserError, match=r"`lr` was 0\.2 and is now 0\.4"):
            make_run(accelerator, tmp_path / "run", resume=True, lr=0.4)
        with pytest.raises(UserError, match=r"`set` was None and is now \{'alpha': 0\.3\}"):
            make_run(accelerator, tmp_path / "run", resume=True, set={"alpha": 0.3})
        other = Data()
        other.class_counts = torch.tensor([12, 6, 2])
        with pytest.raises(UserError, match=r"`class_counts` differs from its data\.json"):
            make_run(accelerator, tmp_path / "run", other, resume=True)
        # How long, how fast, how often, and where the data are may change.
        free = {"epochs": 9, "threads": 3, "eval_every": 1, "checkpoint_every": 1, "report": True, "data_dir": "moved"}
        make_run(accelerator, tmp_path / "run", resume=True, **free)

    def test_fewer_epochs_than_done_are_refused(self, accelerator: Accelerator, tmp_path: Path) -> None:
        run, _, _ = make_run(accelerator, tmp_path / "run")
        run.begin()
        run.save(3)
        with pytest.raises(UserError, match=r"`epochs` is 2, but .* has completed 3"):
            make_run(accelerator, tmp_path / "run", resume=True, epochs=2)
        again, _, _ = make_run(Accelerator(cpu=True), tmp_path / "run", resume=True, epochs=3)
        assert again.begin() == 3

    def test_a_loss_that_is_not_finite_stops_it(self, accelerator: Accelerator, tmp_path: Path) -> None:
        run, _, _ = make_run(accelerator, tmp_path / "run", checkpoint_every=1)
        run.begin()
        for loss in (math.nan, math.inf):
            with pytest.raises(UserError, match="in epoch 2: the training has diverged"):
                run.end_epoch(1, loss, 23, 0.0)
        assert run.rows() == []
        assert not list(run.path.glob("checkpoints/*"))

    def test_finish(self, accelerator: Accelerator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        class More(Data):
            preprocessing = {"mean": [0.5]}  # noqa: RUF012

            def held_out_note(self) -> str:
                return "five samples"

        run, net, optimizer = make_run(accelerator, tmp_path / "run", More(), method="unimix_bayias", epochs=1)
        run.begin()
        run.end_epoch(0, step(net, optimizer), 23, 0.0, lr=0.1)
        logits = Net()(X).detach()
        run.finish(accelerator.unwrap_model(net), {"test": (logits, Y), "held_out": (logits[:5], Y[:5])})
        files = {path.name for path in run.path.iterdir()}
        assert files == {
            ".ltaug.lock",
            "checkpoints",
            "command.txt",
            "config.yaml",
            "data.json",
            "environment.json",
            "held_out.safetensors",
            "logits.safetensors",
            "ltaug.json",
            "metrics.jsonl",
            "model.safetensors",
            "per_class.csv",
            "summary.json",
        }
        info = json.loads((run.path / "ltaug.json").read_text())
        assert set(info) == {
            "class_names",
            "class_counts",
            "method",
            "recipe",
            "logits_prior",
            "logits_prior_reason",
            "held_out",
            "preprocessing",
        }
        assert info["logits_prior"] == pytest.approx(run.plan.logits_prior().tolist())
        assert info["logits_prior_reason"] == run.plan.logits_prior_reason()
        assert (info["held_out"], info["preprocessing"]) == ("five samples", {"mean": [0.5]})
        summary = json.loads((run.path / "summary.json").read_text())
        assert {"name", "method", "data", "model", "dataset", "profile", "imbalance_ratio", "seed", "epochs"} <= set(
            summary
        )
        assert {"settings", "final", "wall_time_s", "samples_per_second", "parameters", "precision"} <= set(summary)
        assert {"num_processes", "class_names", "class_counts", "first_stage", "peak_memory_bytes"} <= set(summary)
        assert (summary["method"], summary["data"], summary["model"]) == ("unimix_bayias", "small_ir50", "")
        assert summary["settings"] == json.loads(json.dumps(vars(run.cfg)))
        assert summary["final"]["top1"] == pytest.approx((logits.argmax(1) == Y).float().mean().item())
        assert summary["parameters"] == sum(each.numel() for each in Net().parameters())
        kept, held_out = run.load_logits(), run.load_logits("held_out.safetensors")
        assert torch.equal(kept[0], logits)
        assert torch.equal(held_out[1], Y[:5])
        assert "| unimix_bayias |" in capsys.readouterr().out

    def test_other_weights_may_be_kept(self, accelerator: Accelerator, tmp_path: Path) -> None:
        run, net, _ = make_run(accelerator, tmp_path / "run")
        run.begin()
        run.end_epoch(0, 1.0, 23, 0.0)
        averaged = {"weight": torch.ones(2)}
        run.finish(net, {"test": (torch.randn(23, 3), Y)}, averaged)
        assert list(load_file(run.path / "model.safetensors")) == ["weight"]
        assert json.loads((run.path / "ltaug.json").read_text())["held_out"] is None

    def test_of_nothing_trained(self, accelerator: Accelerator, tmp_path: Path, first: Path) -> None:
        settings = {"method": "ncm", "from_run": str(first), "epochs": 5}
        run, net, _ = make_run(accelerator, tmp_path / "run", **settings)
        assert run.begin() == 0 == run.cfg.epochs
        run.finish(net, {"test": (torch.randn(23, 3), Y)})
        summary = json.loads((run.path / "summary.json").read_text())
        assert (summary["epochs"], summary["samples_per_second"], summary["first_stage"]) == (0, None, "erm")
        info = json.loads((run.path / "ltaug.json").read_text())
        assert info["logits_prior"] is None
        assert "computed" in info["logits_prior_reason"]


# --- the program ------------------------------------------------------------------------------------------------------


class TestLaunch:
    @pytest.fixture(autouse=True)
    def _one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Run, "begun", False)
        monkeypatch.setattr("sys.argv", ["recipes/any/train.py"])
        monkeypatch.delenv("LOCAL_RANK", raising=False)

    def error(self, capsys: pytest.CaptureFixture[str], main: Callable[[Any], None], script: str, *words: str) -> str:
        with pytest.raises(SystemExit) as end:
            launch(main, Config, script, words)
        assert end.value.code == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        assert text.startswith("train.py: error: ")
        return text

    def test_main_gets_the_settings(self, script: str) -> None:
        got: list[Config] = []
        launch(got.append, Config, script, ["--protocol", "short"])
        assert got[0].epochs == 3

    def test_words_come_from_the_command_line(self, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
        got: list[Config] = []
        monkeypatch.setattr("sys.argv", [script, "--epochs", "7"])
        launch(got.append, Config, script)
        assert got[0].epochs == 7

    def test_a_wrong_setting_is_one_line(self, script: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean 'epochs'?" in self.error(capsys, pytest.fail, script, "--epoch", "3")

    @pytest.mark.parametrize("kind", [ValueError, UserError, OSError, FileExistsError])
    def test_before_training_every_fault_of_settings_and_data_is_one_line(
        self, script: str, capsys: pytest.CaptureFixture[str], kind: type[Exception]
    ) -> None:
        def main(cfg: Config) -> None:
            raise kind("the labels\n  are wrong")

        assert self.error(capsys, main, script) == "train.py: error: the labels are wrong\n"

    @pytest.mark.parametrize("kind", [RuntimeError, TypeError, KeyError, AssertionError])
    def test_faults_of_the_program_keep_their_traceback(self, script: str, kind: type[Exception]) -> None:
        def main(cfg: Config) -> None:
            raise kind("bug")

        with pytest.raises(kind, match="bug"):
            launch(main, Config, script, [])

    def test_once_it_trains_a_value_error_is_one_of_the_program(
        self, script: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def main(cfg: Config) -> None:
            Run.begun = True
            raise ValueError("expected 4D input")

        with pytest.raises(ValueError, match="expected 4D input"):
            launch(main, Config, script, [])

        def diverges(cfg: Config) -> None:
            Run.begun = True
            raise UserError("the training has diverged")

        assert "diverged" in self.error(capsys, diverges, script)

    def test_stopped_by_hand(self, script: str, capsys: pytest.CaptureFixture[str]) -> None:
        def main(cfg: Config) -> None:
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as end:
            launch(main, Config, script, [])
        assert end.value.code == 130
        assert "with `--resume true` continues after the last checkpoint" in capsys.readouterr().err

    def test_a_full_disk(self, script: str, capsys: pytest.CaptureFixture[str]) -> None:
        def main(cfg: Config) -> None:
            raise OSError(28, "No space left on device", "run/model.safetensors")

        assert "What was saved before is intact: make room, and resume." in self.error(capsys, main, script)


def test_nothing_here_trains() -> None:
    """The loop stays in the script: no backward, no optimiser step, no loop over epochs."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(training))
    calls = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not calls & {"backward", "step", "zero_grad"}
    assert ltaug.__version__
