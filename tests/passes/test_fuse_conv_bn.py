"""fuse-conv-bn on random convolutions: the outputs stay, wherever the weights are stored."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from tests.fusion_tools import PLACES, apply, assert_fuses, conv_weights, feed, float_model

SHAPES = list(itertools.product(["Conv", "ConvTranspose"], [1, 2, 3], [1, 3], [False, True]))


@pytest.mark.parametrize(("op", "dims", "group", "bias"), SHAPES)
def test_conv_bn(op: str, dims: int, group: int, bias: bool) -> None:
    rng = np.random.default_rng(7)
    node, weights, channels = conv_weights(rng, op, dims, group, bias=bias)
    for name in ("s", "t", "m"):
        weights[name] = rng.standard_normal(channels).astype(np.float32)
    weights["v"] = rng.uniform(0.1, 2, channels).astype(np.float32)
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], epsilon=1e-3)
    feeds = feed(rng, 2, 2 * group, *[4] * dims)
    fused = assert_fuses(float_model([node, bn], weights, dims + 2), feeds, "fuse-conv-bn", 1)
    assert [node.op_type for node in fused.graph] == [op]
    assert len(fused.graph.initializers) == 2


def dead_channel(mean: float, epsilon: float = 1e-5) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution whose channel 1 is always `mean`, as trained mobile networks have many, and its normalization."""
    rng = np.random.default_rng(13)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=True)
    weights |= {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "t", "m", "v")}
    weights["w"][1], weights["b"][1], weights["m"][1], weights["v"][1] = 0, mean, mean, 0
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], epsilon=epsilon)
    return float_model([node, bn], weights, 4), feed(rng, 2, 2, 4, 4)


@pytest.mark.parametrize("mean", [0.0, 1e-20, -0.3])
def test_a_channel_without_variance_is_folded(mean: float) -> None:
    fused = assert_fuses(*dead_channel(mean), "fuse-conv-bn", 1)
    assert [node.op_type for node in fused.graph] == ["Conv"]


@pytest.mark.parametrize(
    ("mean", "epsilon", "reason"), [(1000.0, 1e-5, "a mean so large"), (0.1, 0.0, "nothing is added to it")]
)
def test_a_channel_without_variance_is_refused_where_rounding_would_show(
    mean: float, epsilon: float, reason: str
) -> None:
    changes = apply("fuse-conv-bn", ir.from_proto(dead_channel(mean, epsilon)[0]))
    assert changes.rewrites == 0
    assert reason in changes.skipped[0].reason


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_conv_bn_wherever_the_weights_are(place: dict[str, bool]) -> None:
    rng = np.random.default_rng(8)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights |= {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "t", "m", "v")}
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])
    feeds = feed(rng, 2, 2, 4, 4, place=place)
    assert_fuses(float_model([node, bn], weights, 4, **place), feeds, "fuse-conv-bn", 1)


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs", "reason"),
    [
        (17, {"training_mode": 1}, ["y", "", ""], "training mode"),
        (9, {}, ["y", "a", "b", "c1", "d"], "training outputs"),
        (8, {"spatial": 0}, ["y"], "spatial is 0"),
        (6, {}, ["y"], "is_test is 0"),
    ],
)
def test_bn_in_training_mode_is_refused(
    opset: int, attributes: dict[str, Any], outputs: list[str], reason: str
) -> None:
    rng = np.random.default_rng(9)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights |= {name: np.ones(channels, np.float32) for name in ("s", "t", "m", "v")}
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], outputs, **attributes)
    changes = apply("fuse-conv-bn", ir.from_proto(float_model([node, bn], weights, 4, opset=opset)))
    assert changes.rewrites == 0
    assert reason in changes.skipped[0].reason
