"""Whether a model answers the same inputs in the same way twice: noise, dropout in training mode, draws without a seed.

Nothing can be held against outputs that differ by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from modelopt.measure.tolerance import NOISIEST, OutputMismatch, compare_outputs

UNSTABLE = "the original's outputs differ between two runs on the same inputs"
"""What is said where they do."""

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
)
"""Operators that may answer differently each time; Dropout does only in training mode."""

REPEATS = 2
"""How often a model runs again on inputs that it answered."""

MORE_REPEATS = 8
"""How often where it holds `RANDOM_OPERATORS`: draws may agree by chance."""


def unstable(
    run: Callable[[], Sequence[np.ndarray]], first: Sequence[np.ndarray], repeats: int = REPEATS
) -> frozenset[int]:
    """Positions of the outputs that differ by more than rounding from one run to another.

    Args:
        run: Runs the model once more on the same inputs.
        first: What it answered.
        repeats: How often to run it.
    """
    found: set[int] = set()
    for _ in range(repeats):
        for position, (before, after) in enumerate(zip(first, run(), strict=True)):
            same = compare_outputs([before], [after], [""], tolerances=[NOISIEST])
            if isinstance(same, OutputMismatch):
                found.add(position)
    return frozenset(found)


def blanked(outputs: Sequence[np.ndarray], positions: Collection[int]) -> list[np.ndarray]:
    """The outputs, those at these positions without elements: metrics and comparisons pass over them."""
    return [output.reshape(-1)[:0] if i in positions else output for i, output in enumerate(outputs)]


def said(names: Sequence[str], positions: Collection[int]) -> str:
    """What the reader must know of outputs that are not compared; nothing is said of an empty set."""
    listed = ", ".join(f"'{names[position]}'" for position in sorted(positions))
    return f"{UNSTABLE}: {listed} {'was' if len(positions) == 1 else 'were'} not compared"
