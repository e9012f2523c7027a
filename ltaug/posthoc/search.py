"""Search for the strength of a prior correction."""

from __future__ import annotations

import math
from collections.abc import Callable

from ltaug._arguments import as_number, checked

__all__ = ["search_strength", "strength_curve"]

MOST_STRENGTHS = 10**6
"""Of a curve: more are a slip."""


@checked
def search_strength(
    score: Callable[[float], float], step: float = 0.1, high: float = 2.0, limit: float = 10.0, method: str = "peak"
) -> float:
    """Find the strength of a prior correction that scores best on held-out data, on the grid 0, step, 2 step, ...

    This is the search of IC's lambda (Tian et al., NeurIPS 2020, Algorithm 2, https://arxiv.org/abs/2010.11820).

    ======= ===========================================================================================================
    "paper" Algorithm 2 as printed. If one step scores worse than 0, the answer is 0; while the upper end scores no
            worse than 0, the range grows by 5 steps. Then a binary search: the middle is the answer if it is better
            than both neighbours; the search goes left if the score falls there, else right, past flat parts too; of
            two strengths it takes the better. O(log) calls.
    "peak"  the default, ours: the same, mended for flat parts. The range doubles; the search crosses flat parts; the
            answer is the best of the strengths that were scored, the smallest of equals, so never worse than 0, and
            the peak, or the left end of a flat one, of any score that rises to one and falls after it.
    "grid"  every strength up to ``limit`` is scored, 101 by default. The answer is the best; of equals the middle one,
            which is the furthest from where the score falls, but 0 where nothing is better than 0.
    ======= ===========================================================================================================

    All agree on a score that strictly rises to one peak in the range and falls after it. Accuracy on few samples is a
    ragged and partly flat curve: if the first step misclassifies one sample more and corrects no other yet, the first
    two answer 0, and "paper" may stop at any of its peaks. Use "grid" there; the others are for scores that are
    smooth, such as a likelihood, or expensive.

    Where the listing cannot be followed to the letter: it counts steps and strengths in one variable, so its halves
    may leave the grid, and it runs forever where no strength scores worse than 0. So "paper" works on the grid's
    indices, and its range ends at ``limit``.

    Args:
        score: takes a strength and returns a number, higher is better: for instance accuracy on held-out samples of
            ``shift_logits(logits, counts, target, strength)``. Never the split whose result is reported.
        step: spacing of the grid.
        high: upper end of the range of "paper" and "peak" at first.
        limit: upper end of the range at most.
        method: "paper", "peak" or "grid".

    Returns:
        A strength in 0..``limit``, on the grid.

    Raises:
        ValueError: the score is NaN or not a number, the range is not 0 < ``step`` <= ``high`` <= ``limit``, or
            ``method`` is unknown.

    >>> search_strength(lambda strength: -((strength - 1.3) ** 2))
    1.3
    >>> accuracy = {0.0: 0.50, 0.5: 0.49, 1.0: 0.61, 1.5: 0.63, 2.0: 0.58}
    >>> [search_strength(accuracy.get, step=0.5, limit=2.0, method=name) for name in ("paper", "peak", "grid")]
    [0.0, 0.0, 1.5]
    """
    if method not in ("paper", "peak", "grid"):
        raise ValueError(f'`method` must be "paper", "peak" or "grid", but is {method!r}.')
    step, high, limit = as_number(step, "step"), as_number(high, "high"), as_number(limit, "limit")
    if not 0.0 < step <= high <= limit < math.inf:
        raise ValueError(
            f"`step`, `high` and `limit` must be finite with 0 < step <= high <= limit, but are {step}, {high} and "
            f"{limit}."
        )
    if method == "grid":
        strengths, values = strength_curve(score, step, limit)
        most = max(values)
        best = [strength for strength, value in zip(strengths, values, strict=True) if value == most]
        return best[0] if best[0] == 0.0 else best[(len(best) - 1) // 2]
    scores: dict[int, float] = {}  # by grid index: multiples of a float step would not compare equal

    def at(k: int) -> float:
        if k not in scores:
            scores[k] = _scored(score, _strength(k, step))
        return scores[k]

    top, last = _steps(high, step), _steps(limit, step)
    if at(1) < at(0):
        return 0.0
    while top < last and at(top) >= at(0):
        top = min(top + 5 if method == "paper" else 2 * top, last)
    return _strength(_printed(at, top) if method == "paper" else _peak(at, top, scores), step)


def _printed(at: Callable[[int], float], high: int) -> int:
    """The binary search of Algorithm 2, over grid indices 0..high."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        rises, falls = at(middle) > at(middle - 1), at(middle) > at(middle + 1)
        if rises and falls:
            return middle
        if falls and at(middle) < at(middle - 1):
            high = middle - 1
        else:
            low = middle + 1
    return low if at(low) >= at(high) else high


def _peak(at: Callable[[int], float], top: int, scores: dict[int, float]) -> int:
    """The first peak of a score with flat parts, over grid indices 0..top; the best of all in ``scores``."""
    low = 0
    while top - low > 1:
        middle = (low + top) // 2
        other = middle + 1
        while other < top and at(other) == at(middle):  # no jumps: a peak may be one step wide
            other += 1
        if at(other) > at(middle):
            low = other - 1
        else:
            top = middle  # on a flat top too: its left end is the answer
    at(low)
    at(top)
    return min(scores, key=lambda k: (-scores[k], k))


@checked
def strength_curve(
    score: Callable[[float], float], step: float = 0.1, limit: float = 10.0
) -> tuple[list[float], list[float]]:
    """Score every strength of a prior correction, for a plot (IC, Fig. 3).

    :func:`ltaug.plots.accuracy_against_lambda` draws it. :func:`search_strength` with ``method="grid"`` takes the best
    of the same strengths; to have both, wrap an expensive score in ``functools.cache``.

    Args:
        score: takes a strength and returns a number, as for :func:`search_strength`.
        step: spacing of the strengths.
        limit: the largest strength.

    Returns:
        Strengths 0, step, ..., ``limit``, and the score of each.

    Raises:
        ValueError: the score is NaN or not a number, or the range is not 0 < ``step`` <= ``limit``.

    >>> strength_curve(lambda strength: 1.0 - strength**2, step=0.5, limit=1.0)
    ([0.0, 0.5, 1.0], [1.0, 0.75, 0.0])
    """
    step, limit = as_number(step, "step"), as_number(limit, "limit")
    if not 0.0 < step <= limit < math.inf:
        raise ValueError(f"`step` and `limit` must be finite with 0 < step <= limit, but are {step} and {limit}.")
    if limit / step > MOST_STRENGTHS:
        raise ValueError(f"`step`={step} and `limit`={limit} ask for {limit / step:.3g} scores. Raise `step`.")
    strengths = [_strength(k, step) for k in range(_steps(limit, step) + 1)]
    return strengths, [_scored(score, strength) for strength in strengths]


def _strength(k: int, step: float) -> float:
    return round(k * step, 12)  # 0.3, not 0.30000000000000004


def _steps(end: float, step: float) -> int:
    return int(end / step + 1e-9)  # the end must not be lost to the rounding of the quotient (0.3 / 0.1 < 3)


def _scored(score: Callable[[float], float], strength: float) -> float:
    value = as_number(score(strength), "score", f"That is what it returns for strength {strength}.")
    if math.isnan(value):
        raise ValueError(f"`score` must return a number, but is NaN at strength {strength}.")
    return value
