"""Which rows of a sample a repair looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS_PER_INPUT = 16
_LEAST_ROWS = 256
_MOST_ROWS = 4096
"""Rows of a layer for each sample: over all samples about `_ROWS_PER_INPUT` for each input, within these limits."""


@dataclass(frozen=True)
class RowChoice:
    """Chooses rows at random, the same in the original and in the pruned model.

    Attributes:
        most: How many rows of a sample, at most.
        seed: The seed.
    """

    most: int
    seed: int

    @classmethod
    def for_inputs(cls, width: int, samples: int, seed: int) -> RowChoice:
        """As many rows as a fit of so many inputs wants."""
        return cls(int(np.clip(_ROWS_PER_INPUT * width // samples, _LEAST_ROWS, _MOST_ROWS)), seed)

    def of(self, total: int, index: int) -> np.ndarray:
        """The rows of a sample that has so many, in rising order."""
        if total <= self.most:
            return np.arange(total)
        return np.sort(np.random.default_rng((self.seed, index)).choice(total, self.most, replace=False))
