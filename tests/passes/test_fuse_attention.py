"""fuse-attention on random instances of each form, and a whole encoder layer by the whole pipeline."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from modelopt.recipe import pipelines
from tests.fusion_tools import apply, run
from tests.transformer_tools import (
    ERF,
    FLOAT,
    Shape,
    assert_becomes,
    assert_left_alone,
    attention,
    gelu,
    inferred_model,
    node,
)

MASKS: dict[str, tuple[Shape, tuple[int, ...]]] = {
    "none": ((), ()),
    "keys": (("N", 1, 1, "S"), (3, 1, 1, 5)),
    "one batch": ((1, 1, 1, "S"), (1, 1, 1, 5)),
    "queries": ((1, 1, "S", "S"), (1, 1, 5, 5)),
    "all": (("N", 4, "S", "S"), (3, 4, 5, 5)),
}


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
    model = inferred_model(nodes, weights, inputs, opset=17)
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
    model = inferred_model(nodes, weights, inputs, opset=17)
    feeds = {name: array.astype(np.float32) for name, array in arrays.items()}
    expand = ["Shape", "Gather", "Concat", "Expand"] if mask is not None and mask[2] == 1 else []
    assert_becomes(model, "fuse-attention", feeds, ["MatMul", "Add"] * 3 + [*expand, "MultiHeadAttention", "Add"])


def test_attention_whose_keys_are_needed_too() -> None:
    rng = np.random.default_rng(9)
    nodes, weights = attention("keys", "scores", layers=1, biased=True)
    model = inferred_model(
        nodes, weights, {"x": ("N", "S", 8), "mask": ("N", 1, 1, "S")}, opset=17, outputs=("y", "l0_ak", "l0_av")
    )
    feeds = {"x": rng.standard_normal((2, 5, 8)).astype(np.float32), "mask": np.zeros((2, 1, 1, 5), np.float32)}
    expected = ["MatMul", "Add"] * 3 + ["Shape", "Gather", "Concat", "Expand", "MultiHeadAttention", "Add"]
    assert_becomes(model, "fuse-attention", feeds, expected)


def test_softmax_of_opset_11_flattens_by_default() -> None:
    nodes, weights = attention("none", "scores", layers=1, biased=True)
    (softmax,) = (one for one in nodes if one.op_type == "Softmax")
    del softmax.attribute[:]
    assert_left_alone(inferred_model(nodes, weights, {"x": ("N", "S", 8)}, opset=11), "fuse-attention")


@pytest.mark.parametrize("seen", ["l0_p", "l0_s", "l0_tq", "l0_c"])
def test_attention_that_is_seen_inside(seen: str) -> None:
    nodes, weights = attention("none", "scores", layers=1, biased=True)
    model = inferred_model(nodes, weights, {"x": ["N", "S", 8]}, opset=17, outputs=["y", seen])
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
    model = inferred_model(nodes, weights | numbers, {"x": ["N", "S", 8], "mask": ["N", 1, 1, "S"]}, opset=17)
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
