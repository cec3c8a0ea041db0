"""How much each weight matters: the smaller the score, the sooner it goes."""

from __future__ import annotations

import numpy as np


def magnitude(weights: np.ndarray) -> np.ndarray:
    """``|w|``, in float32 or, for float64 weights, float64; same shape.

    Magnitude pruning as in Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015).
    """
    wide = np.float64 if weights.dtype == np.float64 else np.float32
    scores: np.ndarray = np.abs(weights.astype(wide))
    return scores
