"""Why a model loses accuracy: the cause is read from what its nodes are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.search.diagnosis import causes

# Why


class _Runner:
    """Answers what a test says that values are."""

    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        self._values = values

    def run(self, model: ir.Model, feeds: Iterable[Any], outputs: Sequence[str]) -> Iterator[list[np.ndarray]]:
        for _ in feeds:
            yield [self._values[name] for name in outputs]


class _Samples:
    def __init__(self, runner_values: Mapping[str, np.ndarray]) -> None:
        self.values = runner_values

    def __iter__(self) -> Iterator[Any]:
        yield type("Sample", (), {"feeds": {}})()


def _conv(*, concat: bool = False) -> ir.Model:
    weight = numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "w")
    exclusions = [helper.make_node("Conv", ["c" if concat else "x", "w"], ["y"], name="conv")]
    if concat:
        exclusions.insert(0, helper.make_node("Concat", ["x", "z"], ["c"], axis=1))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "z")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(exclusions, "g", inputs, [output], [weight])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


_EVEN = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 4, 8, 8)


@pytest.mark.parametrize(
    ("x", "cause"),
    [
        (_EVEN, None),
        (_EVEN * 0, "dead tensor"),
        (_EVEN * np.array([1, 1, 1, 50], np.float32).reshape(1, 4, 1, 1), "outlier channel"),
    ],
)
def test_a_cause_is_read_from_the_input(x: np.ndarray, cause: str | None) -> None:
    data: Any = _Samples({})
    runner: Any = _Runner({"x": x})
    found = causes(_conv(), ["conv"], runner, data, None)
    assert cause is None if not found else str(cause) in found["conv"]


def test_a_concat_of_unlike_ranges_is_named() -> None:
    data: Any = _Samples({})
    runner: Any = _Runner({"x": _EVEN, "z": _EVEN * 100, "c": _EVEN * 100})
    assert "wide concat" in causes(_conv(concat=True), ["conv"], runner, data, None)["conv"]


def test_data_that_do_not_match_are_named() -> None:
    class Later(_Runner):
        calls = 0

        def run(self, model: ir.Model, feeds: Iterable[Any], outputs: Sequence[str]) -> Iterator[list[np.ndarray]]:
            Later.calls += 1
            yield [_EVEN * (1 if Later.calls == 1 else 3)]

    data: Any = _Samples({})
    runner: Any = Later({})
    assert "data mismatch" in causes(_conv(), ["conv"], runner, data, data)["conv"]
