"""Draws the values of one input for each kind of feed."""

from __future__ import annotations

import math

import numpy as np

from modelopt.data.synthetic import Words, draw_words
from modelopt.verification.feeds import NONFINITE, Values
from modelopt.verification.input_uses import InputUse

LARGE = 1000.0
"""The magnitude of large floats: chosen above the bounds that models clip at, and far from overflow."""

UNKNOWN_WORD = "no such word, \u00e9\u6f22 \U0001f600"
"""A string that no table of categories holds."""

SCALE_UP, SCALE_DOWN = 10.0, 0.1

_NEAR = (-1.0, -1 / 64, 0.0, 1 / 64, 1.0)


def draw_strings(rng: np.random.Generator, shape: tuple[int, ...], words: Words, kind: Values) -> np.ndarray:
    """Words that the graph compares its input with; the empty string for zeros, an unknown word for large numbers."""
    if kind in {Values.ZEROS, Values.LARGE}:
        return np.full(shape, UNKNOWN_WORD if kind is Values.LARGE else "", object)
    return draw_words(rng, shape, words)


def draw_booleans(rng: np.random.Generator, shape: tuple[int, ...], kind: Values) -> np.ndarray:
    """Both booleans, or only one of them for zeros and for large numbers."""
    if kind in {Values.ZEROS, Values.LARGE}:
        return np.full(shape, kind is Values.LARGE)
    return np.asarray(rng.integers(0, 2, shape), bool)


def draw_integers(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    ends: tuple[int, int],
    constants: tuple[float, ...],
    kind: Values,
    number: int,
) -> np.ndarray:
    """Integers of the whole range, half of them near the constants; a single one takes its candidates in turn.

    Args:
        rng: The source of randomness.
        shape: Of the array.
        ends: The range, both ends included.
        constants: Numbers that the graph compares the input with.
        kind: What the feed is made of.
        number: Which feed it is.
    """
    low, high = ends
    if kind is Values.ZEROS:
        return np.full(shape, min(max(0, low), high))
    if kind is Values.LARGE:
        return np.full(shape, high)
    # The constants themselves come first: only they make an Equal true.
    asked = [near for step in (0, 1, -1) for near in (round(constant) + step for constant in constants)]
    asked = list(dict.fromkeys(value for value in asked if low <= value <= high))
    if math.prod(shape) == 1:
        turns = asked or list(dict.fromkeys((min(low + 2, high), high, min(low + 1, high), low)))
        return np.full(shape, turns[number % len(turns)])
    count = math.prod(shape)
    if high - low < count:  # each of them, in random order
        drawn = rng.permutation(np.arange(count) % (high - low + 1) + low).reshape(shape)
        return np.asarray(drawn)
    drawn = np.asarray(rng.integers(low, high, shape, endpoint=True))
    return np.where(rng.random(shape) < 0.5, rng.choice(asked, shape), drawn) if asked else drawn


def draw_floats(rng: np.random.Generator, shape: tuple[int, ...], use: InputUse, kind: Values) -> np.ndarray:
    """Standard normal numbers, changed as the kind says."""
    drawn = np.asarray(rng.standard_normal(shape))
    if kind is Values.SCALED_UP:
        return drawn * SCALE_UP
    if kind is Values.SCALED_DOWN:
        return drawn * SCALE_DOWN
    if kind is Values.ZEROS:
        return np.zeros(shape)
    if kind is Values.LARGE:
        return np.sign(drawn) * LARGE * rng.uniform(0.5, 1.0, shape)
    if kind is Values.NEAR_CONSTANTS and use.constants:
        near = rng.choice(np.array(use.constants), shape) + rng.choice(np.array(_NEAR), shape)
        return np.where(rng.random(shape) < 0.75, near, drawn)
    if kind in NONFINITE and drawn.size:
        flat = drawn.reshape(-1)
        odd = (np.nan,) if kind is Values.NAN else (np.inf, -np.inf)
        flat[rng.permutation(flat.size)[: len(odd)]] = odd[: flat.size]
    return drawn
