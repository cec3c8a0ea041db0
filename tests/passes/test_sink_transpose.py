"""sink-transpose on graphs of random operators: the same outputs, never more transpositions, and an end to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.passes.sink_transpose import SinkTranspose
from tests.fusion_tools import assert_fuses, feed, float_model, floats, operators
from tests.helpers import WITHOUT_RUNNER
from tests.quant_tools import op_types

_OPSET = 18

Shape = tuple[int, ...]


class _Builder:
    """A graph of small tensors; each value has a known shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []
        self.values: list[tuple[str, Shape]] = [("x", (2, 3, 4))]
        for _ in range(int(self.rng.integers(4, 14))):
            self._add()

    def _node(self, kind: str, inputs: list[str], shape: Shape, count: int = 1, **attributes: Any) -> None:
        names = [f"v{len(self.nodes)}_{position}" for position in range(count)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        self.values += [(name, shape) for name in names]

    def _ints(self, numbers: list[int]) -> str:
        name = f"k{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def _floats(self, shape: Shape) -> str:
        name = f"k{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(self.rng.normal(size=shape).astype(np.float32), name))
        return name

    def _add(self) -> None:
        latest = self.values[-5:]
        name, shape = latest[int(self.rng.integers(len(latest)))]
        kind = str(self.rng.choice([*["transpose"] * 6, *_KINDS]))
        axis = int(self.rng.integers(len(shape))) if shape else 0
        if len(shape) < 2 or not getattr(self, f"_{kind}")(name, shape, axis):
            self._node("Relu", [name], shape)

    def _from_end(self, axis: int, rank: int) -> int:
        """The axis, counted from the end here and there."""
        return axis - rank if self.rng.random() < 0.5 else axis

    def _transpose(self, name: str, shape: Shape, _axis: int) -> bool:
        perm = [int(item) for item in self.rng.permutation(len(shape))]
        self._node("Transpose", [name], tuple(shape[item] for item in perm), perm=perm)
        return True

    def _scaled(self, name: str, shape: Shape, axis: int) -> bool:
        wide = tuple(dim if self.rng.random() < 0.5 else 1 for dim in shape)[axis:]
        operands = [name, self._floats(wide)]
        self._node("Mul", operands if self.rng.random() < 0.5 else operands[::-1], shape)
        return True

    def _sum(self, name: str, shape: Shape, _axis: int) -> bool:
        same = [other for other, dims in self.values if dims == shape]
        self._node("Add", [name, same[int(self.rng.integers(len(same)))]], shape)
        return True

    def _softmax(self, name: str, shape: Shape, axis: int) -> bool:
        self._node("Softmax", [name], shape, axis=self._from_end(axis, len(shape)))
        return True

    def _concat(self, name: str, shape: Shape, axis: int) -> bool:
        fit = [
            (other, dims)
            for other, dims in self.values
            if len(dims) == len(shape) and (*dims[:axis], *dims[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])
        ]
        other, dims = fit[int(self.rng.integers(len(fit)))]
        self._node("Concat", [name, other], _plus(shape, axis, dims[axis]), axis=self._from_end(axis, len(shape)))
        return True

    def _slice(self, name: str, shape: Shape, axis: int) -> bool:
        if shape[axis] == 1:
            return False
        ends = [self._ints([number]) for number in (1, 2**31 - 1, self._from_end(axis, len(shape)))]
        self._node("Slice", [name, *ends], _plus(shape, axis, -1))
        return True

    def _pad(self, name: str, shape: Shape, axis: int) -> bool:
        rank = len(shape)
        if self.rng.random() < 0.5:
            axes = self._ints([self._from_end(axis, rank)])
            self._node("Pad", [name, self._ints([1, 0]), "", axes], _plus(shape, axis, 1))
            return True
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = 2, 1
        self._node("Pad", [name, self._ints(pads)], _plus(shape, axis, 3))
        return True

    def _mean(self, name: str, shape: Shape, axis: int) -> bool:
        keeps = int(self.rng.random() < 0.5)
        left = tuple(1 if i == axis else dim for i, dim in enumerate(shape) if keeps or i != axis)
        self._node("ReduceMean", [name, self._ints([self._from_end(axis, len(shape))])], left, keepdims=keeps)
        return True

    def _split(self, name: str, shape: Shape, axis: int) -> bool:
        if shape[axis] % 2:
            return False
        half = _plus(shape, axis, -(shape[axis] // 2))
        self._node("Split", [name], half, 2, axis=self._from_end(axis, len(shape)), num_outputs=2)
        return True

    def _unsqueeze(self, name: str, shape: Shape, axis: int) -> bool:
        if len(shape) > 4:
            return False
        self._node("Unsqueeze", [name, self._ints([axis])], (*shape[:axis], 1, *shape[axis:]))
        return True

    def _squeeze(self, name: str, shape: Shape, axis: int) -> bool:
        if shape[axis] != 1:
            return False
        axes = self._ints([self._from_end(axis, len(shape))])
        self._node("Squeeze", [name, axes], (*shape[:axis], *shape[axis + 1 :]))
        return True

    def model(self) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input}
        ends = [value for value in self.values[1:] if value[0] not in used or self.rng.random() < 0.15]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 4))
        body = helper.make_graph(self.nodes, "g", [x], outputs, self.stored)
        made = helper.make_model(body, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        return shape_inference.infer_shapes(made, strict_mode=True)


_KINDS = ["scaled", "sum", "softmax", "concat", "slice", "pad", "mean", "split", "unsqueeze", "squeeze"]


def _plus(shape: Shape, axis: int, more: int) -> Shape:
    return tuple(dim + more if i == axis else dim for i, dim in enumerate(shape))


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_random_graphs(first: int) -> None:
    moved = 0
    for seed in range(first, first + 50):
        before = _Builder(seed).model()
        subject = serialize.from_bytes(before.SerializeToString())
        changes = SinkTranspose().apply(subject, WITHOUT_RUNNER)
        assert invariants.check(subject) == [], seed
        after = onnx.load_from_string(serialize.to_bytes(subject))
        feeds = {"x": np.random.default_rng(seed).normal(size=(2, 3, 4)).astype(np.float32)}
        expected = ReferenceEvaluator(before).run(None, feeds)
        found = ReferenceEvaluator(after).run(None, feeds)
        names = [output.name for output in before.graph.output]
        assert [output.name for output in after.graph.output] == names, seed
        for name, one, other in zip(names, expected, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5, err_msg=f"{seed} {name}")
        onnx.checker.check_model(after, full_check=True)
        assert op_types(subject)["Transpose"] <= sum(node.op_type == "Transpose" for node in before.graph.node)
        assert SinkTranspose().apply(subject, WITHOUT_RUNNER).rewrites == 0, seed
        moved += changes.rewrites
    assert moved


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(4)),
    st.lists(
        st.sampled_from(["Relu", "Mul", "Add", "Sub", "Square", "Softmax", "keep", "drop"]), min_size=1, max_size=5
    ),
    st.sampled_from([13, 18]),
    st.integers(0, 2**16),
)
def test_a_chain_between_two_transposes(perm: list[int], chain: list[str], opset: int, seed: int) -> None:
    """Any chain between a Transpose and the Transpose that undoes it on the axes that are left."""
    rng = np.random.default_rng(seed)
    nodes = [helper.make_node("Transpose", ["x"], ["v"], perm=perm)]
    weights: dict[str, np.ndarray] = {}
    left, value = list(perm), "v"
    dims = dict(enumerate((2, 3, 4, 5)))
    for index, kind in enumerate(chain):
        target, shape = f"t{index}", [dims[axis] for axis in left]
        if kind in {"Relu", "Softmax"}:
            more: dict[str, Any] = {"axis": int(rng.integers(-len(left), len(left)))} if kind == "Softmax" else {}
            nodes.append(helper.make_node(kind, [value], [target], **more))
        elif kind == "Square":
            nodes.append(helper.make_node("Mul", [value, value], [target]))
        elif kind in {"keep", "drop"}:
            if len(left) < 3:
                continue
            axis = int(rng.integers(0, len(left)))
            weights[f"k{index}"] = np.array([axis - len(left)], np.int64)
            nodes.append(helper.make_node("ReduceSum", [value, f"k{index}"], [target], keepdims=int(kind == "keep")))
            dims[left[axis]] = 1
            if kind == "drop":
                del left[axis]
        else:
            kept = [size if rng.integers(2) else 1 for size in shape][int(rng.integers(0, len(shape))) :]
            weights[f"k{index}"] = floats(rng, *kept)
            nodes.append(helper.make_node(kind, [value, f"k{index}"][:: 1 if rng.integers(2) else -1], [target]))
        value = target
    back = [int(axis) for axis in np.argsort(left)]
    nodes.append(helper.make_node("Transpose", [value], ["y"], perm=back))
    model = float_model(nodes, weights, 4, opset=opset)
    del model.graph.output[0].type.tensor_type.shape.dim[len(left) :]
    assume(value != "v" and perm != sorted(perm))  # eliminate-identity removes what keeps the order
    fused = assert_fuses(model, feed(rng, 2, 3, 4, 5), "sink-transpose", 1)
    assert "Transpose" not in operators(fused) or left == sorted(left)


def test_pad_with_axes_of_its_own() -> None:
    """onnxruntime 1.32 runs no Pad with axes between two transpositions: it rewrites that wrongly itself."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[4, 6, 8] x) => (float[4, 9, 8] y) <int64[2] pads = {1, 2}, int64[1] axes = {0}, float zero = {0}> {
      t = Transpose <perm: ints = [1, 2, 0]> (x)
      p = Pad (t, pads, zero, axes)
      y = Transpose <perm: ints = [2, 0, 1]> (p)
    }"""
    subject = ir.from_onnx_text(text)
    assert SinkTranspose().apply(subject, WITHOUT_RUNNER).rewrites == 1
    assert op_types(subject) == {"Pad": 1}
    x = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    (found,) = ReferenceEvaluator(onnx.load_from_string(serialize.to_bytes(subject))).run(None, {"x": x})
    np.testing.assert_array_equal(found, np.pad(x, ((0, 0), (1, 2), (0, 0))))
