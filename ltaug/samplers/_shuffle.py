"""Pseudo-random permutations of any size, computed place by place without memory."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PIECE = 2**14
"""Places computed at a time: their intermediate results stay in the processor's cache."""


def shuffled(places: Array, size: int | Array, key: Array, rounds: int) -> Array:
    """Items at the given places of ``range(size)`` shuffled with a key, int64 [n].

    A Feistel network on a rectangle that holds ``size`` cells (Black and Rogaway, *Ciphers with Arbitrary Finite
    Domains*, CT-RSA 2002): row and column number are shifted in turn by a random function of the other, and an item
    that lands on one of the few cells beyond ``size`` goes through again.

    Args:
        places: in 0..size - 1, int [n].
        size: how many items are shuffled, one number for all or int [n].
        key: which permutation, uint64 [n], or [1] for all.
        rounds: how often either number is shifted, together. Six are enough for thousands of items; a handful needs
            sixteen until two of them come in any order about as often.
    """
    cells = places.astype(np.uint64)
    sizes, keys = (np.broadcast_to(each, cells.shape) for each in (np.asarray(size).astype(np.uint64), key))
    cells = _once(cells, sizes, keys, rounds)
    beyond = np.flatnonzero(cells >= sizes)
    while len(beyond):
        cells[beyond] = _once(cells[beyond], sizes[beyond], keys[beyond], rounds)
        beyond = beyond[cells[beyond] >= sizes[beyond]]
    return cells.astype(np.int64)


def _once(cells: Array, sizes: Array, keys: Array, rounds: int) -> Array:
    """Map every cell of a rectangle to another one, by all rounds of the network."""
    out = np.empty_like(cells)
    for start in range(0, len(cells), PIECE):
        part = slice(start, start + PIECE)
        size, key = sizes[part], keys[part]
        width = np.ceil(np.sqrt(size)).astype(np.uint64)
        height = (size + width - np.uint64(1)) // width
        row, column = np.divmod(cells[part], width)
        for number in range(0, rounds, 2):
            column = _shifted(column, width, key, row * np.uint64(rounds) + np.uint64(number))
            row = _shifted(row, height, key, column * np.uint64(rounds) + np.uint64(number + 1))
        out[part] = row * width + column
    return out


def _shifted(side: Array, length: Array, key: Array, number: Array) -> Array:
    """Shift a row or column number cyclically, by a number of the key's random stream."""
    moved = side + (((mix(key, number) >> np.uint64(32)) * length) >> np.uint64(32))
    return np.asarray(np.minimum(moved, moved - length))  # below 0 is far above, in unsigned numbers


def mix(seed: Array, number: Array) -> Array:
    """Number at a given position of a seed's random stream, uint64: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    out: Array = seed + (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    out ^= out >> np.uint64(30)
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out


def random_key(generator: np.random.Generator) -> Array:
    """Draw the key of a permutation, uint64 [1]."""
    return generator.integers(2**64, size=1, dtype=np.uint64)
