"""Fusion of finished runs that saw the same scenes by different sensors: the command `ltaug fuse`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltaug.commands._runs import without_absent
from ltaug.errors import UserError, as_user_errors
from ltaug.fusion import mean_fusion, noisy_or, uncertainty_scale, uno_ic
from ltaug.loaders._notes import warn
from ltaug.metrics import StreamingSegmentation
from ltaug.posthoc import search_strength, shift_logits
from ltaug.priors import class_prior
from ltaug.run import RunFolder
from ltaug.tables import Published, published_in_words, published_numbers

__all__ = ["SCORES", "RunFusion"]

BATCH = 32
"""Scenes that are fused at once."""
SCORES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "miou": lambda found: found["miou"],
    "macc": lambda found: found["macc"],
    "mean": lambda found: (found["miou"] + found["macc"]) / 2,
}
"""What lambda may be searched for: mIoU, mACC, or the mean of both. The paper does not say; its lambdas of 0.2 to 0.4
are near the best mIoU."""
HELD_OUT, TEST = "held_out", "test"


class RunFusion:
    """Fusions of runs, one a modality, by the rules of Tian et al. (NeurIPS 2020, https://arxiv.org/abs/2010.11820).

    Scores are those of the pixels whose logits the runs have kept. lambda is searched on their held-out scenes.

    Args:
        folders: of finished runs of a segmentation, at least one; two and more are fused.
        strength: lambda, or None: it is searched, by Algorithm 2, for each modality and for UNO-IC.
        score: what it is searched for, a key of :data:`SCORES`.
        from_prior: `recorded` (by each run) or `train`: the prior that the logits are under.

    Attributes:
        names: of the modalities.
        strengths: lambda by modality, and under `fusion` that of IC and UNO-IC.
        results: scores by method and condition.
        class_accuracy: accuracy of each class [C] in the test scenes, by method.
        trust: by modality and condition, the mean of UNO's factor over the scenes; 1 is full trust.

    Raises:
        UserError: a run is no finished segmentation, or the runs saw other scenes.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        strength: float | None = None,
        score: str = "miou",
        from_prior: str = "recorded",
    ) -> None:
        self.runs = [RunFolder.open(folder) for folder in folders]
        if len({run.path.resolve() for run in self.runs}) < len(self.runs):
            raise UserError("The runs to fuse must be different ones, but one is named twice.")
        self.tensors: list[dict[str, Tensor]] = []
        self.info: list[dict[str, Any]] = []
        for run in self.runs:
            if not (run.path / "dense.safetensors").is_file():
                raise UserError(f"`{run.path}` is no finished run of a segmentation: it has no dense.safetensors.")
            tensors, info = run.load_dense()
            self.tensors.append(tensors)
            self.info.append(info | run.info())
        self.classes: list[str] = self.info[0]["class_names"]
        self.counts = torch.as_tensor(self.info[0]["class_counts"])
        self.void = int(self.info[0]["ignore_index"])
        self.conditions = self._same_scenes()
        self.names = self._names()
        self.statistics = [(float(each["entropy"]["mean"]), float(each["entropy"]["std"])) for each in self.info]
        self._absent: set[str] = set()
        self.priors = [self._prior(k, from_prior) for k in range(len(self.runs))]
        if absent := [name for name in self.classes if name in self._absent]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            warn(f"IC leaves the logits of {', '.join(absent[:5])}{more} as they are: training had no pixel of them.")
        self.score = score
        self.strengths = self._strengths(strength)
        self.results: dict[str, dict[str, dict[str, float]]] = {}
        self.class_accuracy: dict[str, Tensor] = {}
        for name, rule in self.rules().items():
            found = {condition: self._scored(rule, condition) for condition in self.conditions if condition != HELD_OUT}
            self.results[name] = {condition: scores.compute() for condition, scores in found.items()}
            self.class_accuracy[name] = found[TEST].scores().class_accuracy
        self.trust = {name: self._trust(k) for k, name in enumerate(self.names)}

    # --- the runs -----------------------------------------------------------------------------------------------------

    def _same_scenes(self) -> list[str]:
        """Conditions that all runs have; refuse runs of other scenes or classes."""
        every = dict.fromkeys(name for each in self.info for name in each["conditions"])
        conditions = [name for name in every if all(name in each["conditions"] for each in self.info)]
        for name in every:
            if name not in conditions:
                warn(f"{name} is left out: not all runs have scenes of it.")
        for run, info, tensors in zip(self.runs[1:], self.info[1:], self.tensors[1:], strict=True):
            if info["class_names"] != self.classes:
                raise UserError(f"`{run.path}` has other classes than `{self.runs[0].path}`: they cannot be fused.")
            for name in conditions:
                if not torch.equal(tensors[f"{name}.labels"], self.tensors[0][f"{name}.labels"]):
                    raise UserError(
                        f"`{run.path}` has other scenes of {name} than `{self.runs[0].path}`, or has kept other "
                        "pixels. Train both on the same data, with the same `data_seed`, sizes and `keep_every`."
                    )
        labelled = [name for name in conditions if bool((self.tensors[0][f"{name}.labels"] != self.void).any())]
        for name in conditions:
            if name not in labelled:
                warn(f"{name} is left out: no pixel of it that the runs have kept has a class.")
        if TEST not in labelled:
            raise UserError("The runs have no test scenes in common, with pixels that have a class.")
        return labelled

    def _names(self) -> list[str]:
        names = [str(info["modality"]) for info in self.info]
        if len(set(names)) < len(names):
            names = [f"{name} ({run.path.name})" for name, run in zip(names, self.runs, strict=True)]
        return names

    def _prior(self, k: int, word: str) -> Tensor:
        prior = self.info[k]["class_counts"] if word == "train" else self.info[k].get("logits_prior")
        if prior is None:
            raise UserError(
                f"`{self.runs[k].path}` does not say which prior its logits are under. Take that of the training: "
                "--from_prior train."
            )
        found = class_prior(torch.as_tensor(prior, dtype=torch.float64))
        self._absent |= {name for name, share in zip(self.classes, found.tolist(), strict=True) if not share}
        return without_absent(found)

    @property
    def unseen(self) -> list[str]:
        """Conditions that training has not seen."""
        return [name for name in self.conditions if name not in (TEST, HELD_OUT)]

    @property
    def uniform(self) -> Tensor:
        """The prior that is corrected for, under which mACC is the accuracy."""
        return torch.full((len(self.classes),), 1.0 / len(self.classes), dtype=torch.float64)

    # --- the rules ----------------------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Callable[[list[Tensor]], Tensor]]:
        """What makes probabilities of the logits of all modalities, by the names of the papers' tables."""
        rules: dict[str, Callable[[list[Tensor]], Tensor]] = {}
        for k, name in enumerate(self.names):
            rules[name] = functools.partial(_alone, k)
            rules[f"{name}, IC"] = functools.partial(self._corrected, k, self.strengths[name])
        if len(self.runs) > 1:
            strength = self.strengths["fusion"]
            rules["SoftAve"] = lambda logits: mean_fusion([z.softmax(1) for z in logits])
            rules["noisy-or"] = lambda logits: noisy_or([z.softmax(1) for z in logits])
            rules["UNO"] = functools.partial(self._uno_ic, 0.0, ())
            rules["IC"] = lambda logits: noisy_or([self._corrected(k, strength, logits) for k in range(len(self.runs))])
            rules["UNO-IC"] = functools.partial(self._uno_ic, strength, ())
            for k, name in enumerate(self.names):
                rules[f"UNO-IC, no {name}"] = functools.partial(self._uno_ic, strength, (k,))
        return rules

    def _corrected(self, k: int, strength: float, logits: list[Tensor]) -> Tensor:
        return shift_logits(logits[k], self.priors[k], self.uniform, strength).softmax(1)

    def _uno_ic(self, strength: float, missing: Sequence[int], logits: list[Tensor]) -> Tensor:
        there = [None if k in missing else z for k, z in enumerate(logits)]
        return uno_ic(there, self.statistics, self.priors, self.uniform, strength)

    def _strengths(self, given: float | None) -> dict[str, float]:
        """lambda of each modality, and of their fusion."""
        wanted: dict[str, Callable[[float], Callable[[list[Tensor]], Tensor]]] = {
            name: functools.partial(_later, self._corrected, k) for k, name in enumerate(self.names)
        }
        if len(self.runs) > 1:
            wanted["fusion"] = lambda strength: functools.partial(self._uno_ic, strength, ())
        if given is not None:
            return dict.fromkeys(wanted, given)
        if HELD_OUT not in self.conditions:
            raise UserError("The runs have no held-out scenes, on which lambda is searched. Give it: --strength 0.4.")
        with as_user_errors():
            return {
                name: search_strength(functools.partial(self._held_out_score, rule)) for name, rule in wanted.items()
            }

    def _held_out_score(self, rule: Callable[[float], Callable[[list[Tensor]], Tensor]], strength: float) -> float:
        return SCORES[self.score](self._scored(rule(strength), HELD_OUT).compute())

    def _scored(self, rule: Callable[[list[Tensor]], Tensor], condition: str) -> StreamingSegmentation:
        scores = StreamingSegmentation(len(self.classes), ignore_index=self.void, logits=False)
        logits = [tensors[f"{condition}.logits"] for tensors in self.tensors]
        labels = self.tensors[0][f"{condition}.labels"]
        for start in range(0, len(labels), BATCH):
            scores.update(rule([z[start : start + BATCH].float() for z in logits]), labels[start : start + BATCH])
        return scores

    def _trust(self, k: int) -> dict[str, float]:
        return {
            condition: float(
                uncertainty_scale(self.tensors[k][f"{condition}.logits"].float(), *self.statistics[k]).mean()
            )
            for condition in self.conditions
            if condition != HELD_OUT
        }

    # --- what is shown ------------------------------------------------------------------------------------------------

    def example(self, condition: str) -> dict[str, Tensor]:
        """The first scene of a condition: what sensors saw, the truth, predictions and their uncertainty in nats."""
        kept = {"picture": "rgb", "depth": "depth", "truth": "truth"}
        shown = {title: self.tensors[0][f"{condition}.{name}"] for title, name in kept.items()}
        logits = [tensors[f"{condition}.example"].float()[None] for tensors in self.tensors]
        probs = {f"by {name}": z.softmax(1)[0] for name, z in zip(self.names, logits, strict=True)}
        if len(self.runs) > 1:
            probs["by UNO-IC"] = self._uno_ic(self.strengths["fusion"], (), logits)[0]
        shown |= {name: p.argmax(0) for name, p in probs.items()}
        entropies = {name: -(p * p.clamp(min=1e-12).log()).sum(0) for name, p in probs.items()}
        return shown | {name.replace("by", "uncertainty,"): entropy for name, entropy in entropies.items()}

    def average(self, method: str, key: str) -> float:
        """Mean of a score over the conditions that training has not seen; NaN if there are none."""
        values = [self.results[method][condition][key] for condition in self.unseen]
        return sum(values) / len(values) if values else float("nan")

    def table(self, keys: Sequence[str] = ("miou", "macc")) -> tuple[list[str], list[list[str]]]:
        """Heads and rows, in percent: a row a method, a column a condition, and the mean over the unseen ones."""
        heads = ["", TEST, *self.unseen, *(["AVE"] if self.unseen else [])]
        rows = []
        for method, found in self.results.items():
            cells = [[found[condition][key] for key in keys] for condition in (TEST, *self.unseen)]
            cells += [[self.average(method, key) for key in keys]] if self.unseen else []
            rows.append([method, *(" / ".join(f"{100 * value:.1f}" for value in cell) for cell in cells)])
        return heads, rows

    def text(self) -> str:
        """Markdown of the tables, and what they are of."""
        pixels = int((self.tensors[0][f"{TEST}.labels"] != self.void).sum())
        found = ", ".join(f"{name} {value:g}" for name, value in self.strengths.items())
        ave = "; AVE is the mean over the conditions that training has not seen" if self.unseen else ""
        return (
            f"mIoU / mACC in percent{ave}:\n\n{_markdown(*self.table())}\n\nECE15 in percent:\n\n"
            f"{_markdown(*self.table(['ece']))}\n\nTrust (UNO's factor, mean over scenes):\n\n"
            f"{_markdown(*self.trust_table())}\n\nlambda: {found}. Of {pixels:,} pixels of the test scenes that the "
            "runs have kept."
        )

    def trust_table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows: a row a modality."""
        conditions = [TEST, *self.unseen]
        rows = [[name, *(f"{found[each]:.2f}" for each in conditions)] for name, found in self.trust.items()]
        return ["", *conditions], rows

    def published(self, lines: Published) -> list[str]:
        """Published numbers of the runs' method and data, in lines of text."""
        summary = self.runs[0].summary() if (self.runs[0].path / "summary.json").is_file() else {}
        asked = {"alone": ("", ""), "alone, IC": ("ic", "")}
        asked |= {rule: (rule, "other weather") for rule in ("SoftAve", "UNO", "IC", "UNO-IC") if len(self.runs) > 1}
        return published_in_words({name: published_numbers(summary, lines, *words) for name, words in asked.items()})

    def plain(self) -> dict[str, Any]:
        """All numbers, for a file."""
        return {
            "runs": [str(run.path) for run in self.runs],
            "strengths": self.strengths,
            "score": self.score,
            "results": self.results,
            "class_names": self.classes,
            "class_accuracy": {name: values.tolist() for name, values in self.class_accuracy.items()},
            "trust": self.trust,
        }


def _alone(k: int, logits: list[Tensor]) -> Tensor:
    return logits[k].softmax(1)


def _later(rule: Callable[..., Tensor], k: int, strength: float) -> Callable[[list[Tensor]], Tensor]:
    return functools.partial(rule, k, strength)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] + ["---:"] * (len(heads) - 1), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
