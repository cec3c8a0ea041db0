"""Calibration on onnxruntime: the child counts what the model computes, and what cannot be quantized is named."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from modelopt.calibration import calibrate
from modelopt.calibration.histogram import Collector
from modelopt.core.errors import InputError, Refused
from modelopt.quant.numerics.range_methods import Method, choose_range
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.runtime.child_calibration import Observing
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import PATIENCE
from tests.quant_tools import context, model

U8 = Grid(IntType.U8, Symmetry.ASYMMETRIC)
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n] x) => (float[n] y)
{
  half = Mul (x, w)
  y = Tanh (half)
  zero = Sub (half, half)
  one = Pow (x, nought)
  log = Log (x)
  root = Sqrt (x)
  whole = Cast <to = 7> (x)
  none = Slice (x, first, first)
}
"""
RAGGED = [np.array(values, np.float32) for values in ([-1.0, 2.0, 0.0], [3.0], [-0.5, 0.25])]


def collect(runner: WorkerRunner, *names: str, bins: int = 2048) -> calibrate.Observations:
    net = model(NET, w=np.full((), 0.5, np.float32), nought=np.zeros((), np.float32), first=np.zeros(1, np.int64))
    return calibrate.collect(net, names, context(runner, [{"x": array} for array in RAGGED]), bins=bins)


@pytest.mark.parametrize("bins", [1, 2048])
def test_samples_of_any_shape_are_counted_as_they_are(runner: WorkerRunner, bins: int) -> None:
    seen = collect(runner, "x", "half", "y", bins=bins)
    assert (seen.samples, seen.skipped) == (3, ())
    expected = Collector(bins)
    for array in RAGGED:
        expected.observe(array * np.float32(0.5))
    state, counts = expected.state()
    assert seen.collectors["half"].state()[0] == state
    np.testing.assert_array_equal(seen.collectors["half"].state()[1], counts)
    assert (seen.collectors["x"].low, seen.collectors["x"].high) == (-1.0, 3.0)
    assert seen.peak_bytes is not None
    assert seen.peak_bytes > 2**20


def test_what_would_poison_a_range_is_named_with_the_reason(runner: WorkerRunner) -> None:
    seen = collect(runner, "half", "zero", "one", "log", "root", "whole", "none")
    assert set(seen.collectors) == {"half"}
    assert {skip.node: skip.reason for skip in seen.skipped} == {
        "zero": "was zero in all of calibration",
        "one": "was constant (1) in all of calibration",
        "log": "held 2 NaN in calibration",
        "root": "held 2 NaN in calibration",
        "whole": "is int64, not float32",
        "none": "was empty in every calibration sample",
    }


def test_the_moving_average_is_the_mean_of_the_samples_extremes(runner: WorkerRunner) -> None:
    histogram = collect(runner, "x", bins=1).collectors["x"].histogram()
    low, high = choose_range(histogram, Method.MOVING_AVERAGE, U8)
    assert (low, high) == ((-1 + 3 - 0.5) / 3, (2 + 3 + 0.25) / 3)


def test_no_sample_is_said(runner: WorkerRunner) -> None:
    net = model(NET, w=np.ones((), np.float32), nought=np.zeros((), np.float32), first=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="holds no sample"):
        calibrate.collect(net, ("half",), context(runner, []))


def test_a_sample_that_fails_in_the_background_is_told_and_the_child_goes_on(runner: WorkerRunner) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n] x) => (float[m] y) { a = Reshape (x, shape) y = Relu (a) }"""
    net = model(text, shape=np.array([2, 2], np.int64))
    good, bad = np.ones(4, np.float32), np.ones(5, np.float32)
    with pytest.raises(Refused):
        calibrate.collect(net, ("a",), context(runner, [{"x": array} for array in (good, bad, good, good, good)]))
    assert collect(runner, "half").samples == 3


def test_progress_tells_each_sample(runner: WorkerRunner) -> None:
    from dataclasses import replace

    told: list[tuple[str, int, int | None]] = []
    net = model(NET, w=np.ones((), np.float32), nought=np.zeros((), np.float32), first=np.zeros(1, np.int64))
    ctx = context(runner, [{"x": array} for array in RAGGED])
    calibrate.collect(net, ("half",), replace(ctx, progress=lambda *step: told.append(step)))
    assert told == [("calibrating", done, 3) for done in (0, 1, 2, 3)]


@pytest.mark.parametrize(("room", "at_once"), [(0, 1), (10**15, 3)])
def test_as_many_samples_run_at_once_as_memory_allows(room: int, at_once: int) -> None:
    lock, barrier = threading.Lock(), threading.Barrier(at_once)
    running = most = started = 0

    def run(_names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[object]:
        nonlocal running, most, started
        with lock:
            started += 1
            first = started == 1
            running += 1
            most = max(most, running)
        if not first:
            barrier.wait(timeout=60 * PATIENCE)  # passes only where as many run together
        with lock:
            running -= 1
        return [feeds["x"]]

    observing = Observing({"a": "x"}, 2048, 3, room, run)
    for _ in range(1 + 2 * at_once):
        observing.add({"x": np.ones(100_000, np.float32)})
    observing.finish()
    assert most == at_once
    assert observing.collectors["a"].finite == (1 + 2 * at_once) * 100_000
