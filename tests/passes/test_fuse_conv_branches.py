"""fuse-conv-branches: convolutions of one input whose outputs are added become one convolution."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from tests.fusion_tools import PLACES, apply, assert_fuses, feed, float_model, floats, operators, rewrites, run

KERNELS = [((3, 3), (1, 1)), ((3, 3), (3, 3)), ((5, 3), (3, 1)), ((3, 3), (2, 2)), ((1, 1), (1, 1))]


@pytest.mark.parametrize(("group", "stride", "dilation"), list(itertools.product([1, 4], [1, 2], [1, 2])))
@pytest.mark.parametrize(("large", "small"), KERNELS)
@pytest.mark.parametrize("swapped", [False, True])
def test_two_convolutions(
    group: int, stride: int, dilation: int, large: tuple[int, int], small: tuple[int, int], swapped: bool
) -> None:
    """The smaller kernel lies one tap from the begin of the larger, or at it."""
    rng = np.random.default_rng(1)
    spare = [big - little for big, little in zip(large, small, strict=True)]
    offset = [min(1, taps) for taps in spare]
    pads = [dilation * taps + 1 for taps in offset] + [2 * dilation + 1] * 2
    inner = [1, 1, *(pads[2 + axis] - dilation * (spare[axis] - offset[axis]) for axis in range(2))]
    weights = {"w1": floats(rng, 8, 8 // group, *large), "w2": floats(rng, 8, 8 // group, *small), "b2": floats(rng, 8)}
    same: dict[str, Any] = {"group": group, "strides": [stride] * 2, "dilations": [dilation] * 2}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=pads, **same),
        helper.make_node("Conv", ["x", "w2", "b2"], ["c2"], pads=inner, **same),
        helper.make_node("Add", ["c2", "c1"] if swapped else ["c1", "c2"], ["y"]),
    ]
    fused = assert_fuses(float_model(nodes, weights, 4), feed(rng, 2, 8, 11, 12), "fuse-conv-branches", 1)
    assert operators(fused) == ["Conv"]
    assert len(fused.graph.initializers) == 2


@pytest.mark.parametrize(("dims", "group"), list(itertools.product([1, 2, 3], [1, 2, 4])))
@pytest.mark.parametrize("branch", ["identity", "BatchNormalization", "Mul", "Div", "Sub"])
def test_identity_branches(dims: int, group: int, branch: str) -> None:
    rng = np.random.default_rng(2)
    weights = {"w": floats(rng, 4, 4 // group, *[3] * dims), "b": floats(rng, 4)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 2 * dims, group=group)]
    if branch == "BatchNormalization":
        weights |= {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "stmv"}
        nodes.append(helper.make_node(branch, ["x", *"stmv"], ["d"]))
    elif branch != "identity":
        weights["k"] = rng.uniform(0.5, 2, (4, *[1] * dims)).astype(np.float32)
        nodes.append(helper.make_node(branch, ["x", "k"], ["d"]))
    nodes.append(helper.make_node("Sum", ["x" if branch == "identity" else "d", "c"], ["y"]))
    model = float_model(nodes, weights, dims + 2)
    fused = assert_fuses(model, feed(rng, 2, 4, *[5] * dims), "fuse-conv-branches", 1)
    assert operators(fused) == ["Conv"]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_block_with_three_branches(place: dict[str, bool]) -> None:
    """RepVGG: 3×3, 1×1 and identity, each with a normalization, wherever the weights are."""
    rng = np.random.default_rng(3)
    weights = {"w3": floats(rng, 4, 4, 3, 3), "w1": floats(rng, 4, 4, 1, 1)}
    weights |= {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "stmv"}
    nodes = [
        helper.make_node("Conv", ["x", "w3"], ["c3"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c3", *"stmv"], ["n3"]),
        helper.make_node("Conv", ["x", "w1"], ["c1"]),
        helper.make_node("BatchNormalization", ["c1", *"stmv"], ["n1"]),
        helper.make_node("BatchNormalization", ["x", *"stmv"], ["n0"]),
        helper.make_node("Add", ["n0", "n1"], ["a"]),
        helper.make_node("Add", ["n3", "a"], ["y"]),
    ]
    model = float_model(nodes, weights, 4, **place)
    fused = ir.from_proto(model)
    assert apply("fuse-conv-bn", fused).rewrites == 2
    assert apply("fuse-conv-branches", fused).rewrites == 2
    assert apply("fuse-conv-branches", fused).rewrites == 0
    feeds = feed(rng, 2, 4, 6, 5, place=place)
    np.testing.assert_allclose(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kernel": (1, 3), "pads": [0, 1, 0, 1]}, {"kernel": (3, 1), "pads": [1, 0, 1, 0]}),
        ({"kernel": (3, 3), "pads": [1] * 4, "strides": [2, 2]}, {"kernel": (1, 1), "pads": [0] * 4}),
        ({"kernel": (3, 3), "pads": [1] * 4}, {"kernel": (3, 3), "pads": [2] * 4, "dilations": [2, 2]}),
        ({"kernel": (3, 3), "auto_pad": "SAME_UPPER"}, {"kernel": (1, 1)}),
    ],
)
def test_branches_that_do_not_fit(first: dict[str, Any], second: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    weights, nodes = {}, []
    for name, branch in (("1", dict(first)), ("2", dict(second))):
        weights[f"w{name}"] = floats(rng, 2, 2, *branch.pop("kernel"))
        nodes.append(helper.make_node("Conv", ["x", f"w{name}"], [f"c{name}"], **branch))
    nodes.append(helper.make_node("Add", ["c1", "c2"], ["y"]))
    assert rewrites("fuse-conv-branches", float_model(nodes, weights, 4)) == 0
