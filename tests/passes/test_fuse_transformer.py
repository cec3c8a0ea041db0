"""The transformer and activation fusions keep what a model computes, on random instances of each pattern."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from modelopt.graph import invariants
from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from modelopt.recipe import pipelines
from tests.passes.test_fuse import apply, run

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
NUMPY: dict[int, type[np.floating]] = {FLOAT: np.float32, HALF: np.float16, DOUBLE: np.float64}
CONTRIB = "com.microsoft"

Shape = Sequence[int | str]


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


def model_of(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, Shape],
    *,
    opset: int,
    dtype: int = FLOAT,
    outputs: Sequence[str] = ("y",),
    in_nodes: bool = False,
) -> onnx.ModelProto:
    """The nodes with inferred shapes, as the engine hands them to a pass."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    graph = helper.make_graph(
        [*(constants if in_nodes else []), *nodes],
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [] if in_nodes else tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def assert_becomes(
    model: onnx.ModelProto, name: str, feeds: Mapping[str, np.ndarray], expected: Sequence[str]
) -> ir.Model:
    """`name` leaves exactly these operators (Constant aside), does so once, and the outputs stay."""
    fused = ir.from_proto(model)
    assert apply(name, fused).rewrites > 0
    assert apply(name, fused).rewrites == 0
    assert invariants.check(fused) == []
    assert [one.op_type for one in fused.graph if one.op_type != "Constant"] == list(expected)
    outputs = [value.name for value in model.graph.output]
    found = compare_outputs(run(ir.from_proto(model), dict(feeds)), run(fused, dict(feeds)), outputs)
    assert not isinstance(found, OutputMismatch), found
    return fused


def assert_left_alone(model: onnx.ModelProto, name: str) -> None:
    fused = ir.from_proto(model)
    before = ir.to_proto(fused).SerializeToString()
    assert apply(name, fused).rewrites == 0
    assert ir.to_proto(fused).SerializeToString() == before


def normalization(
    opset: int, axes: Sequence[int], dtype: int, *, square: str, inverse: bool, centered: bool = True
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """X → n, normalized over `axes`."""
    weights = {"two": np.array(2, NUMPY[dtype]), "eps": np.array([1e-3], NUMPY[dtype])}
    given, attributes = "", {"axes": list(axes)}
    if opset >= 18:
        weights["axes"], given, attributes = np.array(axes, np.int64), " axes", {}
    nodes = []
    if centered:
        nodes += [node("ReduceMean", "x" + given, "m", **attributes), node("Sub", "x m", "d")]
    value = "d" if centered else "x"
    nodes.append(node("Pow", f"{value} two", "p") if square == "Pow" else node("Mul", f"{value} {value}", "p"))
    nodes += [node("ReduceMean", "p" + given, "v", **attributes), node("Add", "v eps", "e"), node("Sqrt", "e", "r")]
    if inverse:
        return [*nodes, node("Reciprocal", "r", "i"), node("Mul", f"i {value}", "n")], weights
    return [*nodes, node("Div", f"{value} r", "n")], weights


FORMS = list(itertools.product(["Pow", "Mul"], [False, True], [False, True], [False, True]))


@pytest.mark.parametrize(("square", "inverse", "scaled", "biased"), FORMS)
@pytest.mark.parametrize(("opset", "dtype"), [(17, FLOAT), (20, FLOAT), (20, HALF), (20, DOUBLE)])
def test_layer_norm(opset: int, dtype: int, square: str, inverse: bool, scaled: bool, biased: bool) -> None:
    rng = np.random.default_rng(1)
    nodes, weights = normalization(opset, [2] if inverse else [-1], dtype, square=square, inverse=inverse)
    value = "n"
    for wanted, op, name, shape in ((scaled, "Mul", "s", (1, 8)), (biased, "Add", "b", (8,))):
        if wanted:
            weights[name] = rng.uniform(0.5, 2, shape).astype(NUMPY[dtype])
            nodes.append(node(op, f"{name} {value}", op))
            value = op
    nodes.append(node("Neg", value, "y"))
    model = model_of(nodes, weights, {"x": ["N", "S", 8]}, opset=opset, dtype=dtype)
    feeds = {"x": (rng.standard_normal((2, 3, 8)) * 3 + 1).astype(NUMPY[dtype])}
    assert_becomes(model, "fuse-layer-norm", feeds, ["LayerNormalization", "Neg"])


@pytest.mark.parametrize("in_nodes", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT, HALF, DOUBLE])
def test_rms_norm(dtype: int, in_nodes: bool) -> None:
    rng = np.random.default_rng(2)
    nodes, weights = normalization(23, [-1], dtype, square="Mul", inverse=False, centered=False)
    weights["s"] = rng.uniform(0.5, 2, 8).astype(NUMPY[dtype])
    nodes.append(node("Mul", "n s", "y"))
    model = model_of(nodes, weights, {"x": ["N", "S", 8]}, opset=23, dtype=dtype, in_nodes=in_nodes)
    feeds = {"x": rng.standard_normal((2, 3, 8)).astype(NUMPY[dtype])}
    assert_becomes(model, "fuse-rms-norm", feeds, ["RMSNormalization"])


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("scaled", [False, True])
def test_instance_norm(rank: int, opset: int, scaled: bool) -> None:
    rng = np.random.default_rng(3)
    nodes, weights = normalization(opset, list(range(2, rank)), FLOAT, square="Pow", inverse=False)
    if scaled:
        weights["s"] = rng.uniform(0.5, 2, (5, *[1] * (rank - 2))).astype(np.float32)
        nodes.append(node("Mul", "n s", "t"))
    nodes.append(node("Neg", "t" if scaled else "n", "y"))
    model = model_of(nodes, weights, {"x": ["N", 5, *["L"] * (rank - 2)]}, opset=opset)
    feeds = {"x": (rng.standard_normal((2, 5, *[4] * (rank - 2))) + 2).astype(np.float32)}
    assert_becomes(model, "fuse-instance-norm", feeds, ["InstanceNormalization", "Neg"])


ERF = {
    "torch": ["Div x root d", "Erf d e", "Add e one a", "Mul x a m", "Mul m half y"],
    "half first": ["Mul x half h", "Div x root d", "Erf d e", "Add one e a", "Mul h a y"],
    "half inside": ["Div x root d", "Erf d e", "Add e one a", "Mul a half g", "Mul g x y"],
    "over two": ["Mul x inverse d", "Erf d e", "Add e one a", "Mul x a m", "Div m two y"],
}
_LAST = ["Mul x a m", "Mul m half y"]
_END = ["Mul x half h", "Mul h a y"]
TANH = {
    "pow": ["Pow x three q", "Mul q c w", "Add x w u", "Mul u k v", "Tanh v t", "Add t one a", *_END],
    "products": ["Mul x x q", "Mul q x q3", "Mul c q3 w", "Add w x u", "Mul k u v", "Tanh v t", "Add one t a", *_END],
    "factored": [
        "Mul x k xk",
        "Mul x c xc",
        "Mul xc x xx",
        "Add one xx f",
        "Mul xk f v",
        "Tanh v t",
        "Add t one a",
        *_LAST,
    ],
}
NUMBERS = {
    "root": 2**0.5,
    "inverse": 0.5**0.5,
    "one": 1,
    "half": 0.5,
    "two": 2,
    "three": 3,
    "c": 0.044715,
    "k": 0.7978845608,
}


def gelu(lines: Sequence[str], dtype: int, **changed: float) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    words = [line.split() for line in lines]
    used = {name for line in words for name in line[1:-1]}
    weights = {name: np.array(v, NUMPY[dtype]) for name, v in (NUMBERS | changed).items() if name in used}
    return [node(line[0], " ".join(line[1:-1]), line[-1]) for line in words], weights


@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize("form", [*ERF, *TANH])
@pytest.mark.parametrize("biased", [False, True])
def test_gelu(form: str, dtype: int, biased: bool) -> None:
    nodes, weights = gelu({**ERF, **TANH}[form], dtype)
    if biased:
        weights["b"] = np.linspace(-1, 1, 8).astype(NUMPY[dtype])
        nodes.insert(0, node("Add", "x0 b", "x"))
    name = "x0" if biased else "x"
    feeds = {name: np.linspace(-4, 4, 48).reshape(2, 3, 8).astype(NUMPY[dtype])}
    model = model_of(nodes, weights, {name: ["N", "S", 8]}, opset=20, dtype=dtype)
    fused = assert_becomes(model, "fuse-gelu", feeds, ["Add", "Gelu"] if biased else ["Gelu"])
    assert fused.graph[-1].attributes.get_string("approximate", "none") == ("none" if form in ERF else "tanh")
    if dtype == HALF:  # onnxruntime's CPU provider has none of its own operators in float16
        return
    model = model_of(nodes, weights, {name: ["N", "S", 8]}, opset=13, dtype=dtype)
    expected = "FastGelu" if form in TANH else "BiasGelu" if biased else "Gelu"
    fused = assert_becomes(model, "fuse-bias-gelu", feeds, [expected])
    assert fused.graph[-1].domain == CONTRIB
    assert fused.opset_imports[CONTRIB] == 1


@pytest.mark.parametrize(("form", "number"), [("torch", "root"), ("half first", "half"), ("pow", "c"), ("pow", "k")])
def test_gelu_with_another_number(form: str, number: str) -> None:
    nodes, weights = gelu({**ERF, **TANH}[form], FLOAT, **{number: NUMBERS[number] * 1.01})
    assert_left_alone(model_of(nodes, weights, {"x": ["N", 8]}, opset=20), "fuse-gelu")


def test_silu_and_mish() -> None:
    feeds = {"x": np.linspace(-5, 5, 48).reshape(2, 24).astype(np.float32)}
    silu = model_of([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")], {}, {"x": ["N", 24]}, opset=13)
    assert_becomes(silu, "fuse-silu", feeds, ["QuickGelu"])
    nodes = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")]
    assert_becomes(model_of(nodes, {}, {"x": ["N", 24]}, opset=18), "fuse-mish", feeds, ["Mish"])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("in_nodes", [False, True])
def test_skip_layer_norm(shared: bool, biased: bool, in_nodes: bool) -> None:
    rng = np.random.default_rng(4)
    weights = {name: rng.uniform(0.5, 2, 8).astype(np.float32) for name in ("s", "b", "c")[: 3 if biased else 2]}
    nodes = [node("Add", "c x", "p")] if biased else []
    nodes += [node("Add", "r p" if biased else "x r", "a")]
    if shared:
        nodes.append(node("Relu", "a", "z"))
    nodes.append(node("LayerNormalization", "a s b", "y", epsilon=1e-3))
    outputs = ["y", "z"] if shared else ["y"]
    shape: Shape = ("N", "S", 8)
    model = model_of(nodes, weights, {"x": shape, "r": shape}, opset=17, outputs=outputs, in_nodes=in_nodes)
    feeds = {name: rng.standard_normal((2, 3, 8)).astype(np.float32) for name in ("x", "r")}
    expected = ["SkipLayerNormalization", "Relu"] if shared else ["SkipLayerNormalization"]
    fused = assert_becomes(model, "fuse-skip-layer-norm", feeds, expected)
    assert len([value for value in next(n for n in fused.graph if n.domain).inputs if value]) == (5 if biased else 4)


MASKS: dict[str, tuple[Shape, tuple[int, ...]]] = {
    "none": ((), ()),
    "keys": (("N", 1, 1, "S"), (3, 1, 1, 5)),
    "one batch": ((1, 1, 1, "S"), (1, 1, 1, 5)),
    "queries": ((1, 1, "S", "S"), (1, 1, 5, 5)),
    "all": (("N", 4, "S", "S"), (3, 4, 5, 5)),
}


def attention(mask: str, scale: str, *, layers: int, biased: bool) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Layers of attention with 4 heads of 2 and a residual, x → y."""
    rng = np.random.default_rng(5)
    weights = {"split": np.array([0, 0, 4, 2]), "join": np.array([0, 0, 8]), "k": np.array(2**0.5, np.float32)}
    nodes = []
    x = "x"
    for layer in range(layers):
        own = f"l{layer}_"
        for part in "qkv":
            weights[f"{own}w{part}"] = rng.standard_normal((8, 8)).astype(np.float32)
            weights[f"{own}b{part}"] = rng.standard_normal(8).astype(np.float32)
            nodes.append(node("MatMul", f"{x} {own}w{part}", f"{own}m{part}"))
            if biased:
                nodes.append(node("Add", f"{own}m{part} {own}b{part}", f"{own}a{part}"))
            nodes.append(node("Reshape", f"{own}{'a' if biased else 'm'}{part} split", f"{own}r{part}"))
            perm = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            nodes.append(node("Transpose", f"{own}r{part}", f"{own}t{part}", perm=perm))
        query = f"{own}tq"
        if scale == "query":
            nodes.append(node("Div", f"{query} k", f"{own}qs"))
            query = f"{own}qs"
        nodes.append(node("MatMul", f"{query} {own}tk", f"{own}s"))
        scores = f"{own}s"
        if scale == "scores":
            nodes.append(node("Mul", f"k {scores}", f"{own}d"))
            scores = f"{own}d"
        if mask != "none":
            nodes.append(node("Add", f"{scores} mask", f"{own}a"))
            scores = f"{own}a"
        nodes += [node("Softmax", scores, f"{own}p", axis=-1), node("MatMul", f"{own}p {own}tv", f"{own}c")]
        nodes.append(node("Transpose", f"{own}c", f"{own}t", perm=[0, 2, 1, 3]))
        nodes += [node("Reshape", f"{own}t join", f"{own}o"), node("Add", f"{own}o {x}", f"{own}y")]
        x = f"{own}y"
    nodes[-1].output[0] = "y"
    if not biased:
        weights = {name: array for name, array in weights.items() if "_b" not in name}
    return nodes, weights


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", ["none", "query", "scores"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("lowest", [-1e4, float(np.finfo(np.float32).min), -np.inf])
def test_attention(mask: str, scale: str, biased: bool, lowest: float) -> None:
    rng = np.random.default_rng(6)
    nodes, weights = attention(mask, scale, layers=2, biased=biased)
    inputs: dict[str, Shape] = {"x": ["N", "S", 8]}
    feeds = {"x": rng.standard_normal((3, 5, 8)).astype(np.float32)}
    if mask != "none":
        declared, shape = MASKS[mask]
        inputs["mask"] = declared
        feeds["mask"] = np.where(np.arange(5) < 3, 0, lowest).astype(np.float32) * np.ones(shape, np.float32)
        feeds["mask"][np.isnan(feeds["mask"])] = 0
    expand = ["Shape", "Gather", "Concat", "Expand"] if mask in {"keys", "one batch"} else []
    model = model_of(nodes, weights, inputs, opset=17)
    assert_becomes(model, "fuse-attention", feeds, [*expand, "Attention", "Add", "Attention", "Add"])


@pytest.mark.parametrize("mask", [None, (2, 1, 1, 7), (1, 4, 5, 7)])
def test_cross_attention(mask: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(7)
    nodes, weights = attention("none" if mask is None else "keys", "scores", layers=1, biased=True)
    for one in nodes:
        if one.op_type == "MatMul" and one.output[0] in {"l0_mk", "l0_mv"}:
            one.input[0] = "memory"
    inputs: dict[str, Shape] = {"x": ("N", "S", 8), "memory": ("N", "T", 8)}
    arrays = {"x": rng.standard_normal((2, 5, 8)), "memory": rng.standard_normal((2, 7, 8))}
    if mask is not None:
        arrays["mask"] = rng.standard_normal(mask) * 3
        inputs["mask"] = tuple({2: "N", 5: "S", 7: "T"}.get(size, size) for size in mask)
    model = model_of(nodes, weights, inputs, opset=17)
    feeds = {name: array.astype(np.float32) for name, array in arrays.items()}
    expand = ["Shape", "Gather", "Concat", "Expand"] if mask is not None and mask[2] == 1 else []
    assert_becomes(model, "fuse-attention", feeds, ["MatMul", "Add"] * 3 + [*expand, "MultiHeadAttention", "Add"])


def test_attention_whose_keys_are_needed_too() -> None:
    rng = np.random.default_rng(9)
    nodes, weights = attention("keys", "scores", layers=1, biased=True)
    model = model_of(
        nodes, weights, {"x": ("N", "S", 8), "mask": ("N", 1, 1, "S")}, opset=17, outputs=("y", "l0_ak", "l0_av")
    )
    feeds = {"x": rng.standard_normal((2, 5, 8)).astype(np.float32), "mask": np.zeros((2, 1, 1, 5), np.float32)}
    expected = ["MatMul", "Add"] * 3 + ["Shape", "Gather", "Concat", "Expand", "MultiHeadAttention", "Add"]
    assert_becomes(model, "fuse-attention", feeds, expected)


def test_softmax_of_opset_11_flattens_by_default() -> None:
    nodes, weights = attention("none", "scores", layers=1, biased=True)
    (softmax,) = (one for one in nodes if one.op_type == "Softmax")
    del softmax.attribute[:]
    assert_left_alone(model_of(nodes, weights, {"x": ("N", "S", 8)}, opset=11), "fuse-attention")


@pytest.mark.parametrize("seen", ["l0_p", "l0_s", "l0_tq", "l0_c"])
def test_attention_that_is_seen_inside(seen: str) -> None:
    nodes, weights = attention("none", "scores", layers=1, biased=True)
    model = model_of(nodes, weights, {"x": ["N", "S", 8]}, opset=17, outputs=["y", seen])
    fused = ir.from_proto(model)
    assert apply("fuse-attention", fused).rewrites == 0


def test_an_encoder_layer_by_the_whole_pipeline() -> None:
    """All passes together, in their order, on attention, residuals, normalizations and a Gelu."""
    rng = np.random.default_rng(8)
    nodes, weights = attention("keys", "scores", layers=1, biased=True)
    nodes[-1].output[0] = "h"
    for name, shape in (("s", 8), ("b", 8), ("b1", 16)):
        weights[name] = rng.uniform(0.5, 2, shape).astype(np.float32)
    weights["w1"] = rng.standard_normal((8, 16)).astype(np.float32)
    middle, numbers = gelu(ERF["torch"], FLOAT)
    for one in middle:
        one.input[:] = ["g" if name == "x" else name for name in one.input]
    nodes += [
        node("LayerNormalization", "h s b", "n", axis=-1),
        node("MatMul", "n w1", "f"),
        node("Add", "f b1", "g"),
        *middle,
    ]
    model = model_of(nodes, weights | numbers, {"x": ["N", "S", 8], "mask": ["N", 1, 1, "S"]}, opset=17)
    fused = ir.from_proto(model)
    for name in (*pipelines.EXACT[2:], *pipelines.CONTRIB):
        if name != pipelines.RAISE:
            apply(name, fused)
    operators = {one.op_type for one in fused.graph}
    assert {"Attention", "SkipLayerNormalization", "BiasGelu"} <= operators
    assert not operators & {"Softmax", "Erf", "LayerNormalization", "Transpose"}
    feeds = {"x": rng.standard_normal((2, 5, 8)).astype(np.float32), "mask": np.zeros((2, 1, 1, 5), np.float32)}
    found = compare_outputs(run(ir.from_proto(model), feeds), run(fused, feeds), ["y"])
    assert not isinstance(found, OutputMismatch), found
