"""The noise of a model widens what passes for rounding, within bounds."""

from __future__ import annotations

import numpy as np

from modelopt.measure.precision import Precision
from modelopt.measure.rounding_noise import FACTOR, nudged_feeds, tolerances
from modelopt.measure.tolerance import FLOOR, NOISIEST

VALUES = np.linspace(1, 2, 100, dtype=np.float32)


def _tolerance(error: float) -> float:
    return tolerances([[VALUES]], [[[VALUES * np.float32(1 + error)]]], [Precision.FULL])[0].of_rms


def test_noise_widens_the_tolerance_between_a_floor_and_a_cap() -> None:
    assert _tolerance(0) == FLOOR.of_rms
    assert np.isclose(_tolerance(1e-5), FACTOR * 1e-5, rtol=0.05)
    assert _tolerance(0.1) == NOISIEST.of_rms


def test_a_nudge_is_one_rounding_step() -> None:
    nudged = nudged_feeds({"x": VALUES, "i": np.arange(3)}, np.random.default_rng(0))
    steps = (nudged["x"] - VALUES) / np.spacing(VALUES)
    assert set(steps.tolist()) == {-1.0, 0.0, 1.0}
    assert nudged["i"].tolist() == [0, 1, 2]


def test_zeros_are_nudged_at_the_scale_of_one() -> None:
    nudged = nudged_feeds({"x": np.zeros(100, np.float32)}, np.random.default_rng(0))["x"]
    assert set((nudged / np.finfo(np.float32).eps).tolist()) == {-1.0, 0.0, 1.0}


def test_noise_is_not_believed_where_integers_compute() -> None:
    noisy = tolerances([[VALUES]], [[[VALUES * np.float32(1.01)]]], [Precision.STEPPED])[0]
    assert noisy == Precision.STEPPED.tolerance
