"""Whether a model gives the same outputs twice for the same inputs.

Random operators without a seed and dropout in training mode change outputs from run to run. Such outputs cannot be
compared with those of another model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from modelopt.measure.tolerance import NOISIEST, OutputMismatch, compare_outputs

UNSTABLE = "the original's outputs differ between two runs on the same inputs"
"""The note where they do."""

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
)
"""Operators that may answer differently each time; Dropout does only in training mode."""

REPEATS = 2
"""How often a model runs again on the same inputs."""

MORE_REPEATS = 8
"""How often it runs again where it holds `RANDOM_OPERATORS`: two draws may agree by chance."""


def unstable(
    run: Callable[[], Sequence[np.ndarray]], first: Sequence[np.ndarray], repeats: int = REPEATS
) -> frozenset[int]:
    """Positions of the outputs that differ by more than rounding from one run to another.

    Args:
        run: Runs the model once more on the same inputs.
        first: Its outputs.
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
    """The outputs, with those at these positions emptied, so that metrics and comparisons leave them out."""
    return [output.reshape(-1)[:0] if i in positions else output for i, output in enumerate(outputs)]


def said(names: Sequence[str], positions: Collection[int]) -> str:
    """The note on outputs that were not compared."""
    listed = ", ".join(f"'{names[position]}'" for position in sorted(positions))
    return f"{UNSTABLE}: {listed} {'was' if len(positions) == 1 else 'were'} not compared"
