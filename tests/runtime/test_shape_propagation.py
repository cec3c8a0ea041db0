"""Shape inference that carries values: it ends, and looks only where sizes are."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from modelopt import graph
from modelopt.io import serialize
from modelopt.runtime import shape_propagation
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import value


def test_shape_inference_of_doubling_vectors_ends() -> None:
    doubled = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(20)]
    proto = helper.make_model(
        helper.make_graph(
            doubled, "g", [value("v0", [4], TensorProto.INT64)], [value("v20", [None], TensorProto.INT64)]
        )
    )
    model = serialize.from_bytes(proto.SerializeToString())
    assert not shape_propagation.is_affordable(model)
    runner = WorkerRunner()
    runner.infer_shapes(model)
    runner.close()
    assert graph.static_shape(model.graph[-1].outputs[0]) == (4 * 2**20,)


@pytest.mark.parametrize(
    ("makes", "most"),
    [
        ("r = Range (zero, huge, one)", False),
        ("r = ConstantOfShape (size)", False),
        ("r = Expand (one, size)", False),
        ("r = Tile (few, size)", False),
        ("r = Pad (few, pads)", False),
        ("r = Pad (few, pads, one)", False),
        ("r = Range (zero, one, one)", True),
        ("r = Range (zero, one, zero)", True),
        ("r = Range (zero, n, one)", True),
        ("r = Tile (few, few)", True),
        ("r = ConstantOfShape (plane)", True),  # only vectors are propagated
        ("r = Tile (few, word)", True),
    ],
)
def test_numbers_that_one_node_makes_are_counted_before_they_are_propagated(makes: str, most: bool) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (int64 n) => (int32[k] y)
        <int64 zero = {{0}}, int64 huge = {{{2**62}}}, int64 one = {{1}}, int64[1] size = {{{2**62}}},
         int64[1] few = {{3}}, int64[2] pads = {{0, {2**62}}},
         int64[2] plane = {{100000, 100000}}, string[1] word = {{"x"}}>
        {{ {makes} y = Cast <to = 6> (r) }}"""
    )
    assert shape_propagation.is_affordable(model) is most


def test_sizes_in_attributes_of_old_opsets_are_not_looked_for_in_inputs() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 4, opset_import: ["" : 9]> g (int64[2] x) => (int32[4] y)
        { p = Pad <pads = [1, 1]> (x) y = Cast <to = 6> (p) }"""
    )
    assert shape_propagation.is_affordable(model)
