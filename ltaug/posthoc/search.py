"""Search for the strength of a prior correction."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["search_strength"]


def search_strength(
    score: Callable[[float], float], step: float = 0.1, high: float = 2.0, limit: float = 10.0
) -> float:
    """The strength of a prior correction that scores best on held-out data (IC, Tian et al., NeurIPS 2020, Algorithm 2,
    https://arxiv.org/abs/2010.11820).

    A binary search for the peak of ``score`` on the grid 0, step, 2 step, ...: O(log) calls, none of them twice, and
    those that it takes to walk over flat parts. If one step is worse than none, 0 is the answer; while the upper end is
    no worse than none, the range grows, up to ``limit``. For a score that rises to one peak and falls after it the
    answer is the peak, the smallest strength of a flat one; for any other, the best of the strengths that were scored,
    the smallest of equals, so never worse than 0.

    The paper's listing leaves the grid, runs forever where no strength is worse than none, takes a flat part for a
    rising one and widens the range in steps of 5, where this one doubles it.

    Args:
        score: takes a strength and returns a number, higher is better: for instance accuracy on held-out samples of
            ``shift_logits(logits, counts, target, strength)``. Never the split whose result is reported.
        step: spacing of the grid.
        high: upper end of the range at first.
        limit: upper end of the range at most.

    Returns:
        A strength in 0..``limit``, on the grid.

    Raises:
        ValueError: the score is NaN, or not 0 < ``step`` <= ``high`` <= ``limit``.

    >>> search_strength(lambda strength: -((strength - 1.3) ** 2))
    1.3
    """
    if not 0.0 < step <= high <= limit < math.inf:
        raise ValueError(
            f"`step`, `high` and `limit` must be finite with 0 < step <= high <= limit, but are {step}, {high} and "
            f"{limit}."
        )
    scores: dict[int, float] = {}  # by grid index: multiples of a float step would not compare equal

    def strength(k: int) -> float:
        return round(k * step, 12)  # 0.3, not 0.30000000000000004

    def at(k: int) -> float:
        if k not in scores:
            value = float(score(strength(k)))
            if math.isnan(value):
                raise ValueError(f"`score` must return a number, but is NaN at strength {strength(k)}.")
            scores[k] = value
        return scores[k]

    # 1e-9: the end of the grid must not be lost to the rounding of the quotient (0.3 / 0.1 < 3).
    low, top, last = 0, int(high / step + 1e-9), int(limit / step + 1e-9)
    if at(1) < at(0):
        return 0.0
    while top < last and at(top) >= at(0):
        top = min(2 * top, last)
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
    return strength(min(scores, key=lambda k: (-scores[k], k)))
