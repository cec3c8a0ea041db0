"""First convolutions regrouped for the integer kernel: the same integers, in another order."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.graph import invariants
from modelopt.quant.static import first_convolution
from tests.quant_tools import model, op_types, run

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,{channels},{height},{width}] x) => (float[n,8,a,b] y)
{{
  xq = QuantizeLinear (x, xs, xz)
  xd = DequantizeLinear (xq, xs, xz)
  wd = DequantizeLinear <axis = 0> (w, ws, wz)
  bd = DequantizeLinear (b, bs, bz)
  c = Conv <{attributes}> (xd, wd, bd)
  cq = QuantizeLinear (c, ys, yz)
  y = DequantizeLinear (cq, ys, yz)
}}
"""


def net(
    kernel: tuple[int, int],
    attributes: str,
    channels: int = 3,
    height: int | str = 16,
    width: int | str = 24,
    zero_point: type = np.uint8,
) -> ir.Model:
    rng = np.random.default_rng(0)
    return model(
        TEXT.format(attributes=attributes, channels=channels, height=height, width=width),
        xs=np.array(0.02, np.float32),
        xz=np.array(100, zero_point),
        w=rng.integers(-127, 128, (8, channels, *kernel)).astype(np.int8),
        ws=np.linspace(0.001, 0.01, 8, dtype=np.float32),
        wz=np.zeros(8, np.int8),
        b=rng.integers(-500, 500, 8).astype(np.int32),
        bs=np.linspace(0.00002, 0.0002, 8, dtype=np.float32),
        bz=np.zeros(8, np.int32),
        ys=np.array(0.05, np.float32),
        yz=np.array(120, zero_point),
    )


def outputs(changed: ir.Model, channels: int = 3, height: int = 16, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng(1)
    return run(changed, {"x": rng.standard_normal((2, channels, height, width)).astype(np.float32)})[0]


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((7, 7), "strides = [2,2], pads = [3,3,3,3]"),
        ((3, 3), "strides = [2,2], pads = [1,1,1,1]"),
        ((3, 3), "strides = [2,2], pads = [0,0,1,1]"),
        ((3, 3), "strides = [2,2]"),
        ((6, 6), "strides = [2,2], pads = [2,2,2,2]"),
        ((2, 2), "strides = [2,2]"),
        ((5, 3), "strides = [2,2], pads = [2,0,1,1]"),
        ((4, 4), "strides = [4,4]"),
        ((7, 7), "strides = [4,4], pads = [2,2,2,2]"),
    ],
)
def test_blocks_become_channels(kernel: tuple[int, int], attributes: str) -> None:
    before, after = net(kernel, attributes), net(kernel, attributes)
    assert first_convolution.regroup(after) == 1
    assert op_types(after)["SpaceToDepth"] == 1
    assert op_types(after)["QuantizeLinear"] == 2
    assert not invariants.check(after)
    np.testing.assert_array_equal(outputs(after), outputs(before))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_odd_number_of_channels(channels: int) -> None:
    attributes = "strides = [2,2], pads = [1,1,1,1]"
    before, after = net((3, 3), attributes, channels), net((3, 3), attributes, channels)
    assert first_convolution.regroup(after) == 1
    np.testing.assert_array_equal(outputs(after, channels), outputs(before, channels))


@pytest.mark.parametrize(
    ("attributes", "height", "width"),
    [
        ("pads = [1,1,1,1]", 16, 24),
        ("strides = [2,2], pads = [1,1,1,1]", 15, 24),
        ("strides = [2,2], pads = [1,1,1,1]", "h", "w"),
        ("strides = [3,3]", 16, 24),
        ("strides = [2,1], pads = [1,1,1,1]", 16, 24),
        ("dilations = [2,2], strides = [2,2]", 16, 24),
        ('auto_pad = "SAME_UPPER", strides = [2,2]', 16, 24),
    ],
)
def test_a_channel_is_appended_where_blocks_do_not_fit(attributes: str, height: int | str, width: int | str) -> None:
    before = net((3, 3), attributes, height=height, width=width)
    after = net((3, 3), attributes, height=height, width=width)
    assert first_convolution.regroup(after) == 1
    assert op_types(after)["Pad"] == 1
    assert not invariants.check(after)
    size = (height if isinstance(height, int) else 17, width if isinstance(width, int) else 20)
    np.testing.assert_array_equal(outputs(after, 3, *size), outputs(before, 3, *size))


@pytest.mark.parametrize(
    "refused",
    [
        net((3, 3), "strides = [2,2]", 4),
        net((1, 1), "strides = [2,2]"),
        net((3, 3), "pads = [1,1,1,1]", 1),
        net((3, 3), "strides = [2,2]", zero_point=np.int8),
    ],
    ids=["fours", "pointwise", "one channel", "signed"],
)
def test_left_alone(refused: ir.Model) -> None:
    before = op_types(refused)
    assert first_convolution.regroup(refused) == 0
    assert op_types(refused) == before


def test_twice_changes_nothing() -> None:
    once = net((7, 7), "strides = [2,2], pads = [3,3,3,3]")
    first_convolution.regroup(once)
    assert first_convolution.regroup(once) == 0


def test_an_input_with_another_reader_keeps_its_pair() -> None:
    shared = net((3, 3), "strides = [2,2], pads = [1,1,1,1]")
    before = net((3, 3), "strides = [2,2], pads = [1,1,1,1]")
    for each in (shared, before):
        read = next(node for node in each.graph if node.op_type == "DequantizeLinear").outputs[0]
        mean = ir.Node("", "GlobalAveragePool", [read], outputs=[ir.Value(name="mean")])
        mean.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        mean.outputs[0].shape = ir.Shape(("n", 3, 1, 1))
        each.graph.append(mean)
        each.graph.outputs.append(mean.outputs[0])
    assert first_convolution.regroup(shared) == 1
    assert op_types(shared)["QuantizeLinear"] == 3
    np.testing.assert_array_equal(outputs(shared), outputs(before))
