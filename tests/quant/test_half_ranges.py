"""Half precision: what would leave its range stays in float32, as samples or the graph show."""

from __future__ import annotations

import numpy as np
import pytest

from modelopt.calibration.histogram import Collector
from modelopt.core.errors import InputError
from modelopt.quant.float16.ranges import Extent, extent
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.half_models import FEEDS, WEIGHT, half_of, reasons
from tests.quant_tools import op_types, run

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def test_samples_release_risky_operators_that_keep_within_the_range(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ a = MatMul (x, w) s = Tanh (a) y = Exp (s) }}"
    _, blind = half_of(text, runner)
    _, seen = half_of(text, runner, calibrated=True)
    assert "calibration data" in reasons(blind)["y (Exp)"]
    assert seen.facts["nodes_half"] == 3
    assert seen.facts["ranges"] == "seen on 1 samples"


def test_samples_keep_what_leaves_the_range(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y) <float big = {{60000}}>
    {{ a = MatMul (x, w) b = Mul (a, big) c = Div (b, big) y = MatMul (c, w) }}"""
    result, changes = half_of(text, runner, calibrated=True)
    assert "b reaches" in reasons(changes)["b (Mul)"]
    assert "b reaches" in reasons(changes)["c (Div)"]
    assert op_types(result)["Cast"] == 4


def test_samples_keep_what_is_too_small(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y) <float small = {{0.0001}}>
    {{ a = Mul (x, small) b = Mul (a, small) c = Div (b, small) y = MatMul (c, w) }}"""
    _, changes = half_of(text, runner, {"x": np.ones((3, 8), np.float32)}, calibrated=True)
    assert "b never exceeds 1e-08" in reasons(changes)["b (Mul)"]


def test_the_margin_is_the_users(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ y = MatMul (x, w) }}"
    feeds = {"x": np.full((1, 8), 40000.0, np.float32)}
    small = {"w": WEIGHT / 1000}
    assert half_of(text, runner, feeds, calibrated=True, weights=small)[1].rewrites == 0
    assert half_of(text, runner, feeds, calibrated=True, weights=small, margin=1.0)[1].rewrites == 1
    with pytest.raises(InputError, match="not a share"):
        half_of(text, runner, margin=0.0)


@pytest.mark.parametrize("lowest", [-1e9, -3.4028234663852886e38, -65504.0])
def test_masks_stay_masks(runner: WorkerRunner, lowest: float) -> None:
    text = f"""{HEAD} net (float[n,8] x, bool[8] keep) => (float[n,8] y)
    {{ a = MatMul (x, w) m = Where (keep, zero, lowest) b = Add (a, m) c = Add (b, m) y = Softmax (c) }}"""
    keep = np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    constants = {"w": WEIGHT, "zero": np.zeros((), np.float32), "lowest": np.full((), lowest, np.float32)}
    result, changes = half_of(text, runner, FEEDS | {"keep": keep}, weights=constants)
    assert changes.facts["nodes_kept_float32"] == 0
    assert changes.facts.get("numbers_clamped", 0) == (abs(lowest) > 65504)
    (found,) = run(result, FEEDS | {"keep": ~keep & keep})  # all masked: no NaN
    assert np.isfinite(found).all()


def test_a_sum_that_is_no_mask_stays(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) <float far = {{-1000000}}> {{ y = Add (x, far) }}"
    assert "reaches 1e+06" in reasons(half_of(text, runner)[1])["y (Add)"]


def test_positions_stay_whole_and_angles_exact(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (int64[n] p) => (float[n] y, bool[n] late) <float f = {{0.01}}, float limit = {{5000}}>
    {{ c = Cast <to = 1> (p) a = Mul (c, f) y = Cos (a) late = Greater (c, limit) }}"""
    result, changes = half_of(text, runner, {"p": np.arange(4990, 5010)}, weights={})
    assert changes.rewrites == 0
    assert op_types(result)["Cast"] == 1


def test_the_argument_of_a_logarithm_does_not_vanish(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ a = MatMul (x, w) s = Softmax (a) y = Log (s) }}"
    result, changes = half_of(text, runner, {"x": FEEDS["x"] * 10}, calibrated=True)
    assert "logarithm" in reasons(changes)["s (Softmax)"]
    assert all(np.isfinite(out).all() for out in run(result, {"x": FEEDS["x"] * 10}))


def test_extents_leave_out_masks() -> None:
    masked, broken = Collector(), Collector()
    masked.observe(np.array([-3.4e38, 1.0, -2.0, 2.5, np.inf], np.float32))
    broken.observe(np.array([np.nan, 5.0], np.float32))
    assert extent(masked) == Extent(2.5, nan=False)
    assert extent(broken) == Extent(5.0, nan=True)
    assert extent(Collector()) is None


def test_samples_show_bodies(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x, bool c) => (float[n,8] y) <float big = {{60000}}>
    {{ y = If (c) <then_branch = p () => (float[n,8] a) {{ m = MatMul (x, w) b = Mul (m, big) a = Div (b, big) }},
                 else_branch = q () => (float[n,8] d) {{ e = MatMul (x, w) d = Exp (e) }}> }}"""
    _, changes = half_of(text, runner, FEEDS | {"c": np.ones((), bool)}, calibrated=True)
    assert "b reaches" in reasons(changes)["b (Mul)"]
    assert "calibration data" in reasons(changes)["d (Exp)"]  # no sample came there
