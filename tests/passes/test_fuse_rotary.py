"""Rotary embeddings become onnxruntime's operator, on random instances of each form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from modelopt.graph import invariants
from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from modelopt.recipe import pipelines
from tests.fusion_tools import apply, run
from tests.transformer_tools import NUMPY, node

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
ROWS, SIZE, LENGTH = 12, 8, 5


def unsqueeze(source: str, axis: int, output: str, opset: int) -> list[NodeProto]:
    if opset < 13:
        return [node("Unsqueeze", source, output, axes=[axis])]
    constant = numpy_helper.from_array(np.array([axis], np.int64))
    return [
        node("Constant", "", f"{output}_axes", value=constant),
        node("Unsqueeze", f"{source} {output}_axes", output),
    ]


def turned(form: str, x: str, opset: int) -> list[NodeProto]:
    """The nodes that make ``{x}_t``, which is `x` turned."""
    if form == "neighbours":
        steps = [node("Slice", f"{x} i{start} end last two", f"{x}_{start}") for start in (0, 1)]
        steps.append(node("Neg", f"{x}_1", f"{x}_n"))
        steps += unsqueeze(f"{x}_n", 4, f"{x}_u1", opset) + unsqueeze(f"{x}_0", 4, f"{x}_u0", opset)
        steps.append(node("Concat", f"{x}_u1 {x}_u0", f"{x}_c", axis=-1))
        return [*steps, node("Reshape", f"{x}_c whole", f"{x}_t")]
    if form == "split":
        halves = [node("Split", x, f"{x}_0 {x}_1", axis=-1)]
    else:
        halves = [node("Slice", f"{x} i0 half last", f"{x}_0"), node("Slice", f"{x} half end last", f"{x}_1")]
    return [*halves, node("Neg", f"{x}_1", f"{x}_n"), node("Concat", f"{x}_n {x}_0", f"{x}_t", axis=3)]


def rotary(form: str, tables: str, *, opset: int = 17, dtype: int = FLOAT) -> onnx.ModelProto:
    """Queries with 3 heads and keys with 1, turned by the same tables, q and k → y and z."""
    angles = np.random.default_rng(1).uniform(-3, 3, (ROWS if tables != "all" else LENGTH, SIZE // 2))
    doubled = np.repeat(angles, 2, axis=1) if form == "neighbours" else np.tile(angles, 2)
    weights = {"cos": np.cos(doubled).astype(NUMPY[dtype]), "sin": np.sin(doubled).astype(NUMPY[dtype])}
    integers = {"i0": 0, "i1": 1, "two": 2, "half": SIZE // 2, "last": 3, "end": 2**63 - 1}
    weights |= {name: np.array([number]) for name, number in integers.items()}
    weights["whole"] = np.array([0, 0, 0, SIZE])
    length = LENGTH if tables == "all" else "S"
    inputs = [
        helper.make_tensor_value_info(name, dtype, ["N", heads, length, SIZE]) for name, heads in (("q", 3), ("k", 1))
    ]
    nodes: list[NodeProto] = []
    cosine, sine = "cos", "sin"
    if tables == "positions":
        inputs.append(helper.make_tensor_value_info("p", TensorProto.INT64, ["N", "S"]))
        for name in ("cos", "sin"):
            nodes.append(node("Gather", f"{name} p", f"{name}_g"))
            nodes += unsqueeze(f"{name}_g", 1, f"{name}_u", opset)
        cosine, sine = "cos_u", "sin_u"
    if tables == "length":
        weights["axis"] = np.array([2])
        nodes += [node("Shape", "q", "shape"), node("Gather", "shape axis", "length", axis=0)]
        nodes += [node("Slice", f"{name} i0 length i0", f"{name}_s") for name in ("cos", "sin")]
        cosine, sine = "cos_s", "sin_s"
    for x, y in (("q", "y"), ("k", "z")):
        nodes += turned(form, x, opset)
        nodes += [node("Mul", f"{x} {cosine}", f"{x}_a"), node("Mul", f"{x}_t {sine}", f"{x}_b")]
        nodes.append(node("Add", f"{x}_a {x}_b", y))
    outputs = [helper.make_tensor_value_info(name, dtype, None) for name in ("y", "z")]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def feeds(model: onnx.ModelProto, dtype: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    made = {
        name: rng.standard_normal((2, heads, LENGTH, SIZE)).astype(NUMPY[dtype]) for name, heads in (("q", 3), ("k", 1))
    }
    if len(model.graph.input) == 3:
        made["p"] = rng.integers(0, ROWS, (2, LENGTH))
    return made


@pytest.mark.parametrize("form", ["slices", "split", "neighbours"])
@pytest.mark.parametrize("tables", ["all", "positions", "length"])
@pytest.mark.parametrize(("opset", "dtype"), [(11, FLOAT), (17, FLOAT), (17, HALF)])
def test_rotary(form: str, tables: str, opset: int, dtype: int) -> None:
    model = rotary(form, tables, opset=opset, dtype=dtype)
    fused = ir.from_proto(model)
    assert apply("fuse-rotary", fused).rewrites == 2
    assert apply("fuse-rotary", fused).rewrites == 0
    assert invariants.check(fused) == []
    assert {one.op_type for one in fused.graph} == {"RotaryEmbedding"}
    assert {"cos", "sin"}.isdisjoint(fused.graph.initializers)
    given = feeds(model, dtype)
    found = compare_outputs(run(ir.from_proto(model), given), run(fused, given), ["y", "z"])
    assert not isinstance(found, OutputMismatch), found


def test_sizes_are_those_of_pairs() -> None:
    fused = ir.from_proto(rotary("split", "positions"))
    apply("fuse-rotary", fused)
    assert sorted(name for name in fused.graph.initializers if name.endswith("_half")) == ["cos_half", "sin_half"]
    assert fused.graph.initializers["cos_half"].shape == (ROWS, SIZE // 2)


@pytest.mark.parametrize("axes", [[0], [0, 1], [1], [0, 1, 2]])
def test_rows_with_new_axes(axes: list[int]) -> None:
    """Before the positions, they change nothing; elsewhere, or where the rank would grow, the parts stay."""
    model = rotary("split", "length")
    for one in model.graph.node:
        one.input[:] = [f"{name[:3]}_u" if name in {"cos_s", "sin_s"} else name for name in one.input]
    at = next(i for i, one in enumerate(model.graph.node) if one.op_type == "Slice") + 2
    model.graph.initializer.append(numpy_helper.from_array(np.array(axes), "axes"))
    for name in ("cos", "sin"):
        model.graph.node.insert(at, node("Unsqueeze", f"{name}_s axes", f"{name}_u"))
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    assert apply("fuse-rotary", ir.from_proto(inferred)).rewrites == (2 if axes in ([0], [0, 1]) else 0)


def test_rotary_is_for_onnxruntime_only() -> None:
    assert "fuse-rotary" in pipelines.CONTRIB
    assert "fuse-rotary" not in pipelines.EXACT
