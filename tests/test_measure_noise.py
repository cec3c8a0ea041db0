"""The noise of a model widens what passes for rounding, within bounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt.measure.closeness import FLOOR, NOISIEST
from modelopt.measure.noise import FACTOR, is_smooth, nudged_feeds, tolerances
from tests.helpers import big_model

VALUES = np.linspace(1, 2, 100, dtype=np.float32)


def _tolerance(error: float) -> float:
    return tolerances([[VALUES]], [[[VALUES * np.float32(1 + error)]]])[0].of_rms


def test_noise_widens_the_tolerance_between_a_floor_and_a_cap() -> None:
    assert _tolerance(0) == FLOOR.of_rms
    assert np.isclose(_tolerance(1e-5), FACTOR * 1e-5, rtol=0.05)
    assert _tolerance(0.1) == NOISIEST.of_rms


def test_a_nudge_is_one_rounding_step() -> None:
    nudged = nudged_feeds({"x": VALUES, "i": np.arange(3)}, np.random.default_rng(0))
    steps = (nudged["x"] - VALUES) / np.spacing(VALUES)
    assert set(steps.tolist()) == {-1.0, 0.0, 1.0}
    assert nudged["i"].tolist() == [0, 1, 2]


def test_a_model_that_rounds_to_few_bits_is_not_smooth() -> None:
    assert is_smooth(ir.from_proto(big_model()))
    coarse = ir.from_onnx_text("""<ir_version: 9, opset_import: ["" : 17]>
        g (float[4] x) => (float[4] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }""")
    assert not is_smooth(coarse)
