"""Lengths of which Fourier transforms are fast."""

from __future__ import annotations

_ODD = [3**b * 5**c for b in range(21) for c in range(14)]
_LENGTHS: list[int] = sorted(n << a for n in _ODD for a in range(33 - n.bit_length()))
"""All numbers below 2**32 whose prime factors are 2, 3 and 5."""


def fast_length(length: int) -> int:
    """The next number without other prime factors than 2, 3 and 5, from ``length`` on.

    That of ``scipy.fft.next_fast_len(length, real=True)``, but in comparisons that ``torch.compile`` can follow: a
    graph then serves all lengths that have the same.
    """
    low, high = 0, len(_LENGTHS) - 1
    while low < high:
        middle = (low + high) // 2
        if _LENGTHS[middle] < length:
            low = middle + 1
        else:
            high = middle
    return _LENGTHS[low]
