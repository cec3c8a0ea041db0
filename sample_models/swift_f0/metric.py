"""Raw pitch accuracy: the share of frames whose pitch is within 50 cents (half a semitone) of the truth."""

from __future__ import annotations

import numpy as np

TOLERANCE_CENTS = 50.0
EDGE_FRAMES = 2  # the analysis window reaches past the signal at either end


def score(outputs: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """One 1.0 (right) or 0.0 (wrong) per frame of one sample; `outputs[0]` and `label` are pitches in Hz."""
    pitch = np.asarray(outputs[0], np.float64).ravel()
    truth = np.asarray(label, np.float64).ravel()
    frames = slice(EDGE_FRAMES, min(len(pitch), len(truth)) - EDGE_FRAMES)
    cents = 1200 * np.abs(np.log2(np.maximum(pitch[frames], 1.0) / truth[frames]))
    return (cents < TOLERANCE_CENTS).astype(np.float64)
