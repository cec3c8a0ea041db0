"""Calibrations are shared and kept: the same model on the same data is observed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.calibration import calibrate
from modelopt.calibration.cache import Calibrations, Seen
from modelopt.calibration.calibrate import Observations
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import Collector, Observed
from modelopt.core.errors import InputError
from modelopt.core.runner import Runner
from tests.quant_tools import context, model

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n] x) => (float[n] y)
{
  half = Mul (x, w)
  up = Add (half, x)
  never = Sub (half, half)
  same = Pow (x, nought)
  log = Log (x)
  lost = Sqrt (x)
  integer = Cast <to = 7> (x)
  y = Relu (up)
}
"""
NAMES = ("half", "up", "y")


class Counting:
    """Runs on numpy, and says how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def observe(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Mapping[str, str], *, bins: int
    ) -> Observed:
        self.asked.append(tuple(outputs))
        collectors = {key: Collector(bins) for key in outputs}
        samples = 0
        for feed in feeds:
            for collector in collectors.values():
                collector.observe(feed["x"])
            samples += 1
        return Observed(collectors, {}, samples, 1000)

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        raise AssertionError

    def infer_shapes(self, model: ir.Model) -> None:
        raise AssertionError

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        raise AssertionError

    def simplify(self, model: ir.Model) -> ir.Model:
        raise AssertionError


def net() -> ir.Model:
    return model(NET, w=np.full((), 0.5, np.float32), nought=np.zeros((), np.float32))


def lent(runner: Runner, calibrations: Calibrations | None) -> Context:
    feeds = [{"x": np.linspace(-1, 2, 7, dtype=np.float32)}, {"x": np.linspace(0.5, 5, 3, dtype=np.float32)}]
    return replace(context(runner, feeds), calibrations=calibrations)  # type: ignore[arg-type]


def states(seen: Observations) -> dict[str, tuple[object, list[int]]]:
    told = {name: collector.state() for name, collector in seen.collectors.items()}
    return {name: (state, counts.tolist()) for name, (state, counts) in told.items()}


def test_without_a_memory_each_time_is_a_run() -> None:
    runner = Counting()
    for _ in range(2):
        calibrate.collect(net(), NAMES, lent(runner, None))
    assert len(runner.asked) == 2


def test_what_is_known_is_not_run_and_the_rest_is() -> None:
    runner = Counting()
    ctx = lent(runner, Calibrations())
    first = calibrate.collect(net(), ("half", "up"), ctx)
    again = calibrate.collect(net(), ("half", "up"), ctx)
    more = calibrate.collect(net(), NAMES, ctx)
    assert runner.asked == [("half", "up"), ("y",)]
    assert (first.samples, again.samples, more.samples) == (2, 2, 2)
    assert (first.peak_bytes, again.peak_bytes) == (1000, None)
    assert states(first) == states(again)
    assert set(more.collectors) == set(NAMES)


def test_extremes_do_not_stand_in_for_histograms_but_histograms_do_for_extremes() -> None:
    runner = Counting()
    ctx = lent(runner, Calibrations())
    calibrate.collect(net(), NAMES, ctx, bins=1)
    calibrate.collect(net(), NAMES, ctx)
    calibrate.collect(net(), NAMES, ctx, bins=1)
    assert len(runner.asked) == 2


def test_another_model_or_other_data_are_another_calibration() -> None:
    runner = Counting()
    known = Calibrations()
    ctx = lent(runner, known)
    calibrate.collect(net(), NAMES, ctx)
    other = model(NET, w=np.full((), 0.25, np.float32), nought=np.zeros((), np.float32))
    calibrate.collect(other, NAMES, ctx)
    fewer = replace(context(runner, [{"x": np.ones(3, np.float32)}]), calibrations=known)  # type: ignore[arg-type]
    calibrate.collect(net(), NAMES, fewer)
    assert len(runner.asked) == 3


def test_a_file_outlives_the_run(tmp_path: Path) -> None:
    runner = Counting()
    file = tmp_path / "calibration.json"
    first = calibrate.collect(net(), NAMES, lent(runner, Calibrations(file)))
    again = calibrate.collect(net(), NAMES, lent(runner, Calibrations(file)))
    assert len(runner.asked) == 1
    assert states(first) == states(again)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@given(st.lists(st.floats(width=32), max_size=30), st.sampled_from([1, 16, 2048]))
def test_a_collector_comes_back_as_it_was(values: list[float], bins: int) -> None:
    collector = Collector(bins)
    collector.observe(np.array(values, np.float32))
    state, counts = collector.state()
    back, again = Collector.restored(state, counts).state()
    assert back == state
    np.testing.assert_array_equal(again, counts)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 1}',
        '{"format": "another", "entries": {}}',
        '{"format": "modelopt-calibration-1", "entries": {"k": {"samples": 1, "tensors": {"t": {"what": 1}}}}}',
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is not a calibration cache"):
        Calibrations(file)
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("found", "put"),
    [
        ('"finite":10', '"finite":11'),
        ('"exponent":-21', '"exponent":-20'),
        ('"bins":2048', '"bins":4096'),
        ('"low":-1.0', '"low":null'),
        ('"high":5.0', '"high":1e400'),
        ('"low_sum":"', '"low_sum":"z'),
        ('"counts":[1', '"counts":[-1'),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, found: str, put: str) -> None:
    file = tmp_path / "calibration.json"
    calibrate.collect(net(), ("y",), lent(Counting(), Calibrations(file)))
    text = file.read_text(encoding="utf-8")
    found = found if found in text else text[text.index(found[:10]) : text.index(",", text.index(found[:10]))]
    file.write_text(text.replace(found, put, 1), encoding="utf-8")
    with pytest.raises(InputError, match="is not a calibration cache"):
        Calibrations(file)


def test_an_empty_file_or_one_that_may_be_replaced_is_written_anew(tmp_path: Path) -> None:
    for text, force in (("", False), ("{}", True)):
        file = tmp_path / "calibration.json"
        file.write_text(text, encoding="utf-8")
        Calibrations(file, force=force).add("key", 3, {"t": Seen(reason="is int64, not float32")})
        assert Calibrations(file).samples("key") == 3


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        Calibrations(tmp_path / "no" / "c.json").add("key", 1, {"t": Seen(reason="is int64, not float32")})


def test_reasons_are_kept_too(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    Calibrations(file).add("key", 3, {"t": Seen(reason="is int64, not float32"), "u": Seen(Collector(), None, 2.0)})
    known = Calibrations(file)
    assert known.samples("key") == 3
    assert known.known("key", 2048)["t"].reason == "is int64, not float32"
    assert known.known("key", 2048)["u"].runs == 2.0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "[" * 100_000, '{"entries": {"a": ' + "{" * 100_000])
def test_a_cache_that_is_nested_without_end_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match="is not a calibration cache"):
        Calibrations(tmp_path / "c.json")


def test_a_cache_that_is_no_file_or_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/zero is not a regular file"):
        Calibrations(Path("/dev/zero"))
    with (tmp_path / "c.json").open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(InputError, match="too large"):
        Calibrations(tmp_path / "c.json")
