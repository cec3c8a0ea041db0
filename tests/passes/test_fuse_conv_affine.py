"""fuse-conv-affine and fuse-padded-affine on random convolutions: the outputs stay."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from tests.fusion_tools import PLACES, apply, assert_fuses, conv_weights, feed, float_model, floats

SHAPES = list(itertools.product(["Conv", "ConvTranspose"], [1, 2, 3], [1, 3], [False, True]))


@pytest.mark.parametrize(("op", "dims", "group", "bias"), SHAPES)
@pytest.mark.parametrize("first", [False, True])
def test_conv_affine(op: str, dims: int, group: int, bias: bool, first: bool) -> None:
    """Four operators behind one convolution, with one number and one per channel, on either side."""
    rng = np.random.default_rng(10)
    node, weights, channels = conv_weights(rng, op, dims, group, bias=bias)
    shapes: list[tuple[int, ...]] = [(), (1,), (channels, *[1] * dims), (1, channels, *[1] * dims)]
    nodes = [node]
    for index, (kind, shape) in enumerate(zip(("Mul", "Add", "Sub", "Div"), shapes, strict=True)):
        weights[f"k{index}"] = rng.uniform(0.5, 2, shape).astype(np.float32)
        operands = [nodes[-1].output[0], f"k{index}"]
        swapped = first and kind != "Div"
        nodes.append(helper.make_node(kind, operands[::-1] if swapped else operands, [f"o{index}"]))
    nodes[-1].output[0] = "y"
    feeds = feed(rng, 2, 2 * group, *[4] * dims)
    fused = assert_fuses(float_model(nodes, weights, dims + 2), feeds, "fuse-conv-affine", 4)
    assert [node.op_type for node in fused.graph] == [op]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_conv_affine_wherever_the_weights_are(place: dict[str, bool]) -> None:
    rng = np.random.default_rng(11)
    node, weights, _ = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights["k"] = rng.uniform(0.5, 2, (3, 1, 1)).astype(np.float32)
    nodes = [node, helper.make_node("Add", ["c", "k"], ["d"]), helper.make_node("Mul", ["d", "k"], ["y"])]
    feeds = feed(rng, 2, 2, 4, 4, place=place)
    assert_fuses(float_model(nodes, weights, 4, **place), feeds, "fuse-conv-affine", 2)


@pytest.mark.parametrize(("dims", "group", "bias"), list(itertools.product([1, 2, 3], [1, 3], [False, True])))
def test_affine_before_conv(dims: int, group: int, bias: bool) -> None:
    rng = np.random.default_rng(12)
    node, weights, _ = conv_weights(rng, "Conv", dims, group, bias=bias)
    node.input[0] = "a"
    weights["k"] = rng.uniform(0.5, 2, (2 * group, *[1] * dims)).astype(np.float32)
    weights["t"] = rng.uniform(0.5, 2, (1,)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["k", "r"], ["m"]),
        helper.make_node("Sub", ["t", "m"], ["a"]),
        node,
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    feeds = feed(rng, 2, 2 * group, *[4] * dims)
    fused = assert_fuses(float_model(nodes, weights, dims + 2), feeds, "fuse-conv-affine", 2)
    assert [node.op_type for node in fused.graph] == ["Relu", "Conv", "Relu"]


def test_a_large_shared_weight_is_not_copied() -> None:
    rng = np.random.default_rng(13)
    weights = {"w": rng.standard_normal((64, 64, 2, 2)).astype(np.float32), "k": np.array(2, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "k"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"]),
    ]
    changes = apply("fuse-conv-affine", ir.from_proto(float_model(nodes, weights, 4)))
    assert changes.rewrites == 0
    assert {skip.reason for skip in changes.skipped} == {
        "other nodes use its weight too, and a copy would add 65536 bytes"
    }


# fuse-padded-affine


@pytest.mark.parametrize(("group", "scalar", "div", "sub"), list(itertools.product([1, 4], *[[False, True]] * 3)))
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_padded_affine(group: int, scalar: bool, div: bool, sub: bool, place: dict[str, bool]) -> None:
    rng = np.random.default_rng(5)
    shape = () if scalar else (4, 1, 1)
    weights = {"w": floats(rng, 4, 4 // group, 3, 3)}
    weights |= {name: np.array(rng.uniform(0.5, 2, shape), np.float32) for name in "as"}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Div" if div else "Mul", ["r", "a"], ["m"]),
        helper.make_node("Sub" if sub else "Add", ["m", "s"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"], pads=[1] * 4, group=group),
    ]
    model = float_model(nodes, weights, 4, **place)
    assert_fuses(model, feed(rng, 2, 4, 5, 6, place=place), "fuse-padded-affine", 1)
