"""fuse-layer-norm, fuse-rms-norm, fuse-instance-norm and fuse-skip-layer-norm on each form that exporters write."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto

from tests.transformer_tools import DOUBLE, FLOAT, HALF, NUMPY, Shape, assert_becomes, inferred_model, node


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
    model = inferred_model(nodes, weights, {"x": ["N", "S", 8]}, opset=opset, dtype=dtype)
    feeds = {"x": (rng.standard_normal((2, 3, 8)) * 3 + 1).astype(NUMPY[dtype])}
    assert_becomes(model, "fuse-layer-norm", feeds, ["LayerNormalization", "Neg"])


@pytest.mark.parametrize("in_nodes", [False, True])
@pytest.mark.parametrize("dtype", [FLOAT, HALF, DOUBLE])
def test_rms_norm(dtype: int, in_nodes: bool) -> None:
    rng = np.random.default_rng(2)
    nodes, weights = normalization(23, [-1], dtype, square="Mul", inverse=False, centered=False)
    weights["s"] = rng.uniform(0.5, 2, 8).astype(NUMPY[dtype])
    nodes.append(node("Mul", "n s", "y"))
    model = inferred_model(nodes, weights, {"x": ["N", "S", 8]}, opset=23, dtype=dtype, in_nodes=in_nodes)
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
    model = inferred_model(nodes, weights, {"x": ["N", 5, *["L"] * (rank - 2)]}, opset=opset)
    feeds = {"x": (rng.standard_normal((2, 5, *[4] * (rank - 2))) + 2).astype(np.float32)}
    assert_becomes(model, "fuse-instance-norm", feeds, ["InstanceNormalization", "Neg"])


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
    model = inferred_model(nodes, weights, {"x": shape, "r": shape}, opset=17, outputs=outputs, in_nodes=in_nodes)
    feeds = {name: rng.standard_normal((2, 3, 8)).astype(np.float32) for name in ("x", "r")}
    expected = ["SkipLayerNormalization", "Relu"] if shared else ["SkipLayerNormalization"]
    fused = assert_becomes(model, "fuse-skip-layer-norm", feeds, expected)
    assert len([value for value in next(n for n in fused.graph if n.domain).inputs if value]) == (5 if biased else 4)
