"""What the kernels of consteval refuse: invalid inputs, results that are too large, operators that are never folded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import consteval
from tests.kernel_tools import F32, I64, Array, X, a, make_node


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Cast", [a([np.nan])], {"to": 7}),
        ("Cast", [a([300.0])], {"to": 2}),
        ("Cast", [a([2.0**63])], {"to": 7}),
        ("Div", [a([1], I64), a([0], I64)], {}),
        ("Mod", [a([1], I64), a([0], I64)], {}),
        ("Gather", [X, a([4], I64)], {"axis": 1}),
        ("Reshape", [X, a([3, 3], I64)], {}),
        ("Reshape", [X, a([-1, -1], I64)], {}),
        ("Add", [X, a([1.0, 2.0, 3.0])], {}),
        ("Transpose", [X], {"perm": [0, 0]}),
        ("Slice", [X, a([0], I64), a([1], I64), a([0], I64), a([0], I64)], {}),
        ("Range", [a(0.0), a(np.inf), a(1.0)], {}),
        ("Range", [a(0, I64), a(5, I64), a(0, I64)], {}),
        ("Unsqueeze", [X, a(range(100), I64)], {}),
        ("ReduceMean", [np.zeros((0, 2), F32)], {}),
        ("ArgMax", [np.zeros((0, 2), F32)], {}),
        ("Equal", [np.array(["a"], object), np.array(["a"], object)], {}),
        ("Add", [X, None], {}),
        ("Add", [X], {}),
    ],
)
def test_invalid_or_undefined_is_refused(op: str, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    with pytest.raises(consteval.NotEvaluable):
        consteval.evaluate(make_node(op, inputs, attributes), inputs, 20)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [a([2**62], I64)], {}),
        ("ConstantOfShape", [a([2**40, 2**40, 2**40], I64)], {}),
        ("Expand", [a([1.0]), a([2**40], I64)], {}),
        ("Tile", [a([1.0]), a([2**62], I64)], {}),
        ("Range", [a(0, I64), a(2**62, I64), a(1, I64)], {}),
        ("OneHot", [a([1], I64), a(2**50, I64), a([0.0, 1.0])], {}),
        ("Pad", [X, a([0, 2**40, 0, 0], I64)], {}),
        ("Add", [np.broadcast_to(a(1.0), (2**20, 1)), np.broadcast_to(a(1.0), (1, 2**20))], {}),
        ("Gather", [np.broadcast_to(a(1.0), (1, 2**20)), np.zeros(2**14, I64)], {}),
        ("ReduceSum", [np.empty((0, 2**40), F32), a([0], I64)], {}),
        ("Concat", [np.broadcast_to(a(1.0), (2**30,))] * 2, {"axis": 0}),
    ],
)
def test_bombs_are_measured_without_allocation(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    node = make_node(op, inputs, attributes)
    tracemalloc.start()
    size = consteval.output_bytes(node, inputs, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size is not None
    assert size > 2**30
    assert peak < 2**20


@pytest.mark.parametrize(
    "op",
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "RandomNormalLike",
        "Bernoulli",
        "Dropout",
        "Constant",
    ],
)
def test_some_operators_are_never_folded(op: str) -> None:
    node = make_node(op, [X], {})
    assert not consteval.is_foldable(node)
    assert consteval.evaluate(node, [X], 20) is None
    assert consteval.output_bytes(node, [X], 20) is None


def test_other_domains_old_opsets_and_reference_attributes_are_not_evaluated() -> None:
    assert not consteval.is_foldable(ir.node("Add", [], domain="local"))
    assert consteval.evaluate(make_node("Add", [X, X], {}), [X, X], 6) is None
    borrowed = make_node("Concat", [X], {})
    borrowed.attributes.add(ir.RefAttr("axis", "which", ir.AttributeType.INT))
    assert not consteval.is_foldable(borrowed)
