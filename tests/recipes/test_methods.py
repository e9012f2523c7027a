"""Every config trains, sees the labels that it says, and records the prior that its logits are under."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from recipe_support import ROOT, Launcher, copy_recipe, rows, settings, summary
from test_stage2 import MODEL

from ltaug import class_prior, effective_number_weights, exponential_counts

CONFIGS = sorted((ROOT / "recipes" / "cifar_lt" / "configs").glob("*.yaml"))
TRAINED = [path.stem for path in CONFIGS if not re.search("^stage1: ", path.read_text(), re.MULTILINE)]
TRAINED.remove("quickstart")
COUNTS = exponential_counts(114, 10, 50)

# Answers, for every config, with the logits' prior, and with the label mass that its sampler and mixer really make.
ASK = """
import json, sys
sys.path[0] = sys.argv[1]
import torch
from torch.nn.functional import one_hot
from config import parse_config
from method import logits_prior, make_mixer, make_sampler, seen_prior
from ltaug.samplers.pair import sampler_indices
counts = torch.tensor(json.loads(sys.argv[2]))
labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
answers = {}
for name in sys.argv[3:]:
    cfg = parse_config(["--config", f"{sys.argv[1]}/configs/{name}.yaml", "--batch_size", "64"])
    mixer = make_mixer(cfg, counts)
    epoch = 170
    total, mass = 0, torch.zeros(len(counts), dtype=torch.float64)
    torch.manual_seed(0)
    for seed in range(40):
        cfg.seed = seed
        sampler = make_sampler(cfg, labels, epoch)
        sampler.set_epoch(epoch)
        drawn = sampler_indices(sampler)
        drawn = drawn[: len(drawn) // 64 * 64]
        for batch in drawn.split(64):
            pair = labels[batch]
            if mixer is None:
                dense = one_hot(pair, len(counts))
            else:
                if cfg.mixer == "manifold_mixup":
                    mixer = make_mixer(parse_config(["--config", f"{sys.argv[1]}/configs/mixup.yaml"]), counts)
                blank = torch.zeros(64, 1, 32, 32)
                arguments = (blank, pair[:, 0], blank, pair[:, 1]) if pair.ndim == 2 else (blank, pair)
                dense = mixer(*arguments)[1]
            mass += dense.double().sum(0)
            total += 64
    answers[name] = [
        logits_prior(cfg, counts, make_mixer(cfg, counts)).tolist(),
        seen_prior(cfg, counts, make_mixer(cfg, counts), epoch).tolist(),
        (mass / total).tolist(), total,
    ]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MODEL.replace(
        "self.fc =", "self.blocks = nn.ModuleList([nn.Identity() for _ in range(10)])\n        self.fc ="
    )
    model = model.replace("self.fc(self.body(x))", "self.fc(self.body(self.blocks[9](self.blocks[4](x))))")
    return copy_recipe(tmp_path_factory.mktemp("methods") / "recipe", model)


@pytest.fixture(scope="module")
def answers(recipe: Path, env: Mapping[str, str]) -> dict[str, list]:
    command = [sys.executable, "-c", ASK, str(recipe), json.dumps(COUNTS.tolist()), *TRAINED]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains(launcher: Launcher, recipe: Path, tmp_path: Path, name: str) -> None:
    # One epoch, behind the switches of deferred methods.
    changes = {"epochs": 1, "rebalance_epoch": 0, "reweight_epoch": 0}
    launcher.run(recipe / "train.py", *settings(recipe, name, tmp_path / "run", **changes)).good()
    assert rows(tmp_path / "run")[0]["loss"] > 0
    assert summary(tmp_path / "run")["final"]["top1"] >= 0


@pytest.mark.parametrize("name", TRAINED)
def test_it_sees_the_labels_that_it_says(answers: dict[str, list], name: str) -> None:
    _, seen, drawn, total = answers[name]
    assert sum(seen) == pytest.approx(1.0)
    for expected, found in zip(seen, drawn, strict=True):
        # A label mass in [0, 1] a sample has at most the variance of a coin; 64-sized ends of epochs are cut.
        assert abs(expected - found) < 4.5 * (expected * (1 - expected) / total) ** 0.5 + 1e-3, (seen, drawn)


def test_the_prior_of_the_logits(answers: dict[str, list]) -> None:
    prior = class_prior(COUNTS)
    uniform = torch.full_like(prior, 0.1)
    weighted = prior * effective_number_weights(COUNTS)
    expected = {
        "erm": prior,
        "mixup": prior,
        "manifold_mixup": prior,
        "label_smoothing": prior,
        "ldam": prior,
        "bayias": uniform,
        "logit_adjustment": uniform,
        "lade": uniform,
        "mixup_bayias": uniform,
        "class_balanced": uniform,
        "drs": uniform,
        "lob_mixup": uniform,
        "lob_mixup_deferred": uniform,
        "unimix_bayias_effective": uniform,
        "remix_bayias_effective": uniform,
        "ce_drw": weighted / weighted.sum(),
        "cb_ce": weighted / weighted.sum(),
        "mixup_drw": weighted / weighted.sum(),
        "square_root": COUNTS.double().sqrt() / COUNTS.double().sqrt().sum(),
    }
    for name, value in expected.items():
        assert torch.tensor(answers[name][0], dtype=torch.float64) == pytest.approx(value, rel=1e-9), name
    # The paper's UniMix corrects more than there is: the rare classes are favoured.
    over = answers["unimix_bayias"][0]
    assert over[-1] > 3 * over[0]
    assert max(answers["unimix_bayias_official"][0]) < 1.6 * min(answers["unimix_bayias_official"][0])


class TestPrior:
    def test_a_list_is_what_the_loss_corrects(self, launcher: Launcher, recipe: Path, tmp_path: Path) -> None:
        given = [0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
        run = tmp_path / "run"
        launcher.run(recipe / "train.py", *settings(recipe, "bayias", run, epochs=1, prior=json.dumps(given))).good()
        wanted = class_prior(COUNTS) / torch.tensor(given, dtype=torch.float64)
        assert json.loads((run / "ltaug.json").read_text())["logits_prior"] == pytest.approx(
            (wanted / wanted.sum()).tolist()
        )

    @pytest.mark.parametrize(
        ("method", "changes", "message"),
        [
            ("bayias", {"prior": "[0.5, 0.5]"}, "`prior` must have one number a class, 10, but has 2"),
            ("bayias", {"prior": "[0.5, 0]"}, "`prior` must hold positive numbers"),
            ("bayias", {"prior": "trian"}, "`prior` must be train, effective or a list of numbers, but is 'trian'"),
            ("erm", {"prior": "effective"}, "`prior` is what bayias and lade correct, but `loss` is ce"),
            ("ldam", {"classifier": "linear"}, "`loss: ldam` needs cosines"),
            ("lade", {"class_weights": "effective_number"}, "`class_weights` cannot weight `loss: lade`"),
            ("manifold_mixup", {"compile": "true"}, "`mixer: manifold_mixup` changes the graph"),
            ("manifold_mixup", {"manifold_layers": "[blcks.4]"}, "blocks.4"),
        ],
    )
    def test_bad_input_is_named(
        self, launcher: Launcher, recipe: Path, tmp_path: Path, method: str, changes: dict, message: str
    ) -> None:
        done = launcher.run(recipe / "train.py", *settings(recipe, method, tmp_path / "run", **changes))
        assert message in done.error()
        assert not (tmp_path / "run").exists()
