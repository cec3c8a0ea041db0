"""fuse-pad: a Pad becomes the padding of the operator behind it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.fusion_tools import assert_fuses, feed, float_model, floats, operators


@pytest.mark.parametrize(("op", "opset"), list(itertools.product(["Conv", "MaxPool", "AveragePool"], [9, 12, 17, 18])))
@pytest.mark.parametrize("own", [0, 1])
def test_pad(op: str, opset: int, own: int) -> None:
    """Asymmetric, behind Relu, with the operator's own padding beside it."""
    rng = np.random.default_rng(6)
    pads = [0, 0, 1, 0, 0, 0, 0, 1]
    weights: dict[str, np.ndarray] = {"w": floats(rng, 3, 2, 3, 3)} if op == "Conv" else {}
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    if opset < 11:
        nodes.append(helper.make_node("Pad", ["r"], ["d"], pads=pads))
    else:
        weights["p1"] = np.array(pads, np.int64)
        nodes.append(helper.make_node("Pad", ["r", "p1"], ["d"]))
    more: dict[str, Any] = {"count_include_pad": 1} if op == "AveragePool" else {}
    nodes.append(
        helper.make_node(
            op, ["d", *weights][: 2 if op == "Conv" else 1], ["y"], kernel_shape=[3, 3], pads=[own] * 4, **more
        )
    )
    fused = assert_fuses(float_model(nodes, weights, 4, opset=opset), feed(rng, 2, 2, 5, 6), "fuse-pad", 1)
    assert operators(fused) == ["Relu", op]
