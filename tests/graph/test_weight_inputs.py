"""Large initializers as inputs and back; the version converter sees no large weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants, weight_inputs
from modelopt.graph.opset_conversion import upgraded
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import model, run

TEXT = """
<ir_version: 8, opset_import: ["" : 13]>
net (float[1,200] x, bool c) => (float[1,200] y)
{
  a = MatMul (x, w)
  b = MatMul (a, square)
  y = If (c) <then_branch = t () => (z) { z = MatMul (b, w) }, else_branch = e () => (z) { z = MatMul (b, v) }>
}
"""
X = np.random.default_rng(0).standard_normal((1, 200)).astype(np.float32)


def net() -> ir.Model:
    rng = np.random.default_rng(1)
    large = {name: rng.standard_normal((200, 200)).astype(np.float32) / 14 for name in ("w", "v")}
    return model(TEXT, square=np.eye(200, dtype=np.float32), **large)


def test_they_come_back_as_they_were() -> None:
    given = net()
    light, tensors = weight_inputs.without_weights(given)
    assert set(tensors) == {"square", "w", "v"}
    assert [value.name for value in light.graph.inputs][:2] == ["x", "c"]
    assert invariants.check(light) == []
    assert graph.weight_bytes(light) == 0
    weight_inputs.with_weights(light, tensors)
    assert [value.name for value in light.graph.inputs] == ["x", "c"]
    assert set(light.graph.initializers) == set(given.graph.initializers)
    for flag in (True, False):
        feed = {"x": X, "c": np.array(flag)}
        np.testing.assert_array_equal(run(light, feed)[0], run(given, feed)[0])


def test_small_ones_and_those_that_are_inputs_stay() -> None:
    given = net()
    overridable = given.graph.initializers["w"]
    given.graph.inputs.append(overridable)
    given.graph.initializers["v"].const_value = ir.tensor(np.ones((2, 2), np.float32))
    light, tensors = weight_inputs.without_weights(given)
    assert set(tensors) == {"square"}
    assert set(light.graph.initializers) == {"w", "v"}


def test_a_weight_that_the_tool_lost_is_an_error() -> None:
    light, tensors = weight_inputs.without_weights(net())
    light.graph.inputs.pop()
    with pytest.raises(KeyError):
        weight_inputs.with_weights(light, tensors)


def test_the_converter_sees_no_large_weight(runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    transform = WorkerRunner._transform

    def counted(self: WorkerRunner, call: str, model: ir.Model, *, doing: str, **arguments: int) -> ir.Model:
        sent.append(graph.weight_bytes(model))
        return transform(self, call, model, doing=doing, **arguments)

    monkeypatch.setattr(WorkerRunner, "_transform", counted)
    given = net()
    later = upgraded(given, 17, runner)
    assert graph.opset(later) == 17
    assert sent == [0]
    feed = {"x": X, "c": np.array(1, bool)}
    np.testing.assert_array_equal(run(later, feed)[0], run(given, feed)[0])
