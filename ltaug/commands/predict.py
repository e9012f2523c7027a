"""Predictions for new samples without labels: the command `ltaug predict`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltaug.commands._runs import find_run
from ltaug.commands.correct import read_prior
from ltaug.correction import ESTIMATES
from ltaug.errors import UserError
from ltaug.predictions import EXPORTED, Predictions, open_model, predict_files

__all__ = ["RunPrediction"]

SHOWN = 30
"""Classes that the table shows, of more those that are predicted most."""


class RunPrediction:
    """Predictions of a run or an exported file, asked for in the words of a command line.

    Args:
        model: run folder or exported file, see :func:`ltaug.predictions.open_model`.
        script: the recipe's training script, or None.
        target_prior: `uniform`, `train`, a JSON file, or None.
        estimate: `estimate`, `trend`, `center`, or None.
        raw: leave the saved correction out.

    Raises:
        UserError: a word is wrong, or the model lacks what it asks for.
    """

    def __init__(
        self,
        model: str,
        script: str | None = None,
        target_prior: str | None = None,
        estimate: str | None = None,
        raw: bool = False,
    ) -> None:
        path = Path(model).expanduser()
        if not path.is_file() and not any((path / f"model{suffix}").is_file() for suffix in EXPORTED):
            path = find_run(model)
        self.model, self.word, self.estimate, self.raw = open_model(path, script), target_prior, estimate, raw
        self.prior = None
        if target_prior in ESTIMATES:
            raise UserError(f"The mix of these very samples is not a prior that is given: --estimate {target_prior}.")
        if target_prior is not None:
            names, counts = self.model.class_names, self.model.class_counts
            self.prior = read_prior("--target_prior", target_prior, names, counts, ())

    def predict(self, place: str, out: str | None = None, **more: Any) -> Predictions:
        """Predict and write; see :func:`ltaug.predictions.predict_files`."""
        asked = {"target_prior": self.prior, "estimate": self.estimate, "raw": self.raw}
        return predict_files(self.model, place, out, **asked, **more)  # type: ignore[arg-type]

    def text(self, found: Predictions) -> str:
        """What is said of predictions: a table of the classes, what they were corrected for, and where they are."""
        summary = found.summary
        number, bad = summary["predicted"], summary["unreadable"]
        said = [self._table(found.summary), f"\nCorrection: {self._correction(summary)}."]
        if summary["estimated"]:
            some = (
                "" if summary["estimated_on"] == number else f", on {summary['estimated_on']:,} of them, evenly spaced"
            )
            said.append(
                f"The mix is estimated from these very samples{some}; the interval is of 95 %, by resampling them "
                f"{summary['resampled']} times."
            )
            if "calibrated" not in summary["correction"]:
                said.append(
                    "But the logits are not calibrated, so that an overconfident model misleads it: `ltaug correct` "
                    "with --calibrate keeps a calibrator in the run."
                )
        unread = f", {bad:,} could not be read" if bad else ""
        said.append(f"{number:,} samples are predicted{unread}. Written: {found.folder / 'predictions.csv'}")
        return "\n".join(said)

    def _correction(self, summary: Mapping[str, Any]) -> str:
        words = str(summary["correction"])
        return words.replace("the prior asked for", f"the prior asked for ({self.word})") if self.word else words

    def _table(self, summary: Mapping[str, Any]) -> str:
        """Markdown of the classes, in percent."""
        columns = {"predicted_share": "predicted", "mean_probability": "mean probability", "estimated_share": "mix"}
        rows = summary["classes"]
        columns = {key: head for key, head in columns.items() if key in rows[0]}
        heads = ["class", "training", *columns.values(), *(["95 % interval"] if "low" in rows[0] else [])]
        total = sum(row["training_samples"] for row in rows)
        lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
        chosen = rows
        if len(rows) > SHOWN:
            most = sorted(range(len(rows)), key=lambda k: -rows[k]["predicted_share"])[:SHOWN]
            chosen = [rows[k] for k in sorted(most)]
        for row in chosen:
            cells = [row["class"], f"{100 * row['training_samples'] / max(1, total):.2f}"]
            cells += [f"{100 * row[key]:.2f}" for key in columns]
            cells += [f"{100 * row['low']:.2f} to {100 * row['high']:.2f}"] if "low" in row else []
            lines.append(cells)
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        more = len(rows) - len(chosen)
        return text + (f"\n\n{more} classes that are predicted less often are in summary.json." if more else "")
