"""Models with planted dead channels, and near misses that must stay: from x to y, all float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

IMAGE = (2, 3, 6, 6)
ROWS = (2, 4, 6)


@dataclass
class Planted:
    """A model under construction.

    Attributes:
        seed: Of its weights.
        shape: The shape of x; the first axis is open.
        nodes: In order.
        weights: By name.
    """

    seed: int = 0
    shape: tuple[int, ...] = IMAGE
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the random numbers."""
        self.rng = np.random.default_rng(self.seed)

    def stored(self, array: np.ndarray) -> str:
        """A stored tensor."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        kernel: int = 1,
        zero: Sequence[int] = (),
        bias: float | None = 0.5,
        op: str = "Conv",
        **attributes: Any,
    ) -> str:
        """A convolution of `channels` (in, out) whose filters of the outputs `zero` are zero.

        `bias` is added to these, and random numbers to the others; None: no bias.
        """
        group = int(attributes.get("group", 1))
        first, second = channels
        shape = (second, first // group) if op == "Conv" else (first, second // group)
        weight = self.floats(*shape, kernel, kernel)
        weight[(slice(None), list(zero)) if op != "Conv" else (list(zero),)] = 0
        names = [self.stored(weight)]
        if bias is not None:
            numbers = self.floats(second)
            numbers[list(zero)] = bias
            names.append(self.stored(numbers))
        return self.op(op, x, *names, **attributes)

    def floats(self, *shape: int) -> np.ndarray:
        """Random numbers."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def gemm(self, x: str, channels: tuple[int, int], zero: Sequence[int] = (), bias: float = 0.5) -> str:
        """A Gemm whose columns `zero` are zero."""
        weight, numbers = self.floats(*channels), self.floats(channels[1])
        weight[:, list(zero)] = 0
        numbers[list(zero)] = bias
        return self.op("Gemm", x, self.stored(weight), self.stored(numbers))

    def linear(self, x: str, channels: tuple[int, int], zero: Sequence[int] = (), bias: float = 0.5) -> str:
        """A MatMul whose columns `zero` are zero, and the Add behind it."""
        weight, numbers = self.floats(*channels), self.floats(channels[1])
        weight[:, list(zero)] = 0
        numbers[list(zero)] = bias
        return self.op("Add", self.op("MatMul", x, self.stored(weight)), self.stored(numbers))

    def model(self, y: str) -> onnx.ModelProto:
        """The model that ends with the value `y`."""
        self.nodes.append(helper.make_node("Identity", [y], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape[1:]])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "g", [x], [out], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        model.graph.output[0].CopyFrom(inferred.graph.output[0])
        return model


Build = Callable[[Planted], str]
CASES: dict[str, tuple[int, tuple[int, ...], Build]] = {}
"""By name: how many channels are dead, the shape of x, and what builds the model."""


def case(dead: int, shape: tuple[int, ...] = IMAGE) -> Callable[[Build], Build]:
    """Register a builder under its name."""

    def register(build: Build) -> Build:
        CASES[build.__name__] = dead, shape, build
        return build

    return register


@case(2)
def zero_filters(net: Planted) -> str:
    return net.conv(net.conv("x", (3, 5), 3, zero=(1, 3)), (5, 2))


@case(1)
def zero_scale(net: Planted) -> str:
    scale, variance = net.floats(5), np.abs(net.floats(5))
    scale[2] = 0
    x = net.conv("x", (3, 5), 3, bias=None)
    x = net.op("BatchNormalization", x, *map(net.stored, (scale, net.floats(5), net.floats(5), variance)))
    return net.conv(net.op("HardSwish", x), (5, 2))


@case(1)
def product_with_zero(net: Planted) -> str:
    x = net.op("Mul", net.conv("x", (3, 3)), net.stored(np.array([1, 0, 2], np.float32).reshape(3, 1, 1)))
    return net.conv(x, (3, 2), 3, pads=[1] * 4)


@case(1)
def relu_behind_a_clip(net: Planted) -> str:
    x = net.op("Clip", "x", net.stored(np.array(0, np.float32)), net.stored(np.array(6, np.float32)))
    x = net.conv(x, (3, 5), 3, pads=[1] * 4)
    net.weights["w3"][4] = -1 - 6 * np.abs(net.weights["w2"][4]).sum()
    return net.conv(net.op("Relu", x), (5, 2), 3, pads=[1] * 4)


@case(0)
def relu_behind_a_clip_that_just_opens(net: Planted) -> str:
    x = net.op("Clip", "x", net.stored(np.array(0, np.float32)), net.stored(np.array(6, np.float32)))
    x = net.conv(x, (3, 5), 3)
    net.weights["w3"][4] = 1e-3 - 6 * np.maximum(net.weights["w2"][4], 0).sum()
    return net.conv(net.op("Relu", x), (5, 2))


@case(1)
def depthwise_zero_filter(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 5)), (5, 5), 3, zero=(2,), group=5, pads=[1] * 4)
    return net.conv(net.op("Relu", x), (5, 2))


@case(1)
def depthwise_of_zeros(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 5), zero=(0,), bias=0), (5, 5), 3, group=5, pads=[1] * 4)
    return net.conv(x, (5, 2))


@case(0)
def depthwise_of_a_constant_at_borders(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 5), zero=(0,)), (5, 5), 3, group=5, pads=[1] * 4)
    return net.conv(x, (5, 2))


@case(1)
def depthwise_of_a_constant(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 5), zero=(0,)), (5, 5), 3, group=5)
    return net.conv(x, (5, 2))


@case(1)
def a_whole_group(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 6)), (6, 6), 3, zero=(2, 3), group=3)
    return net.conv(x, (6, 2))


@case(0)
def half_a_group(net: Planted) -> str:
    x = net.conv(net.conv("x", (3, 6)), (6, 6), 3, zero=(2,), group=3)
    return net.conv(x, (6, 2))


@case(2)
def concat(net: Planted) -> str:
    parts = net.op("Relu", net.conv("x", (3, 5), zero=(4,))), net.op("Sigmoid", net.conv("x", (3, 3), zero=(0,)))
    return net.conv(net.op("Concat", *parts, axis=1), (8, 2))


@case(2)
def split(net: Planted) -> str:
    x, name = net.conv("x", (3, 7), zero=(1, 5)), net.stored(np.array([3, 4]))
    net.nodes.append(helper.make_node("Split", [x, name], ["p", "q"], axis=1))
    first, second = net.conv(net.op("Relu", "p"), (3, 2)), net.conv(net.op("Tanh", "q"), (4, 2))
    return net.op("Add", first, second)


@case(1)
def residual(net: Planted) -> str:
    x = net.op("Add", net.conv("x", (3, 5), zero=(1, 2)), net.conv("x", (3, 5), zero=(2, 3)))
    return net.conv(x, (5, 2))


@case(0)
def residual_with_one_live_summand(net: Planted) -> str:
    x = net.op("Add", net.conv("x", (3, 5), zero=(1, 2)), net.conv("x", (3, 5), zero=(0, 3)))
    return net.conv(x, (5, 2))


def _gated(net: Planted, *, reads: bool) -> str:
    x = net.conv("x", (3, 5))
    squeezed = net.conv(net.op("GlobalAveragePool", x), (5, 3))
    if not reads:
        net.weights["w2"][:, 2] = 0
    gate = net.conv(net.op("Relu", squeezed), (3, 5), zero=(2,), bias=-4)
    x = net.op("Mul", x, net.op("HardSigmoid", gate))
    return net.conv(x, (5, 2), 3, pads=[1] * 4)


@case(1)
def closed_gate(net: Planted) -> str:
    return _gated(net, reads=False)


@case(0)
def closed_gate_that_reads_its_channel(net: Planted) -> str:
    return _gated(net, reads=True)


@case(1)
def flatten(net: Planted) -> str:
    x = net.op("Flatten", net.op("Relu", net.conv("x", (3, 5), zero=(3,))))
    return net.gemm(x, (180, 3))


@case(2)
def pooled(net: Planted) -> str:
    x = net.op("MaxPool", net.conv("x", (3, 5), zero=(1, 3)), kernel_shape=[3, 3], pads=[1] * 4)
    return net.conv(net.op("AveragePool", x, kernel_shape=[2, 2]), (5, 2))


@case(0)
def pooled_with_zeros_at_borders(net: Planted) -> str:
    x = net.conv("x", (3, 5), zero=(1, 3))
    return net.conv(net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), (5, 2))


@case(1)
def prelu(net: Planted) -> str:
    x = net.conv("x", (3, 5), zero=(3,), bias=-2)
    return net.conv(net.op("PRelu", x, net.stored(net.floats(5, 1, 1))), (5, 2))


@case(1)
def transposed_makes(net: Planted) -> str:
    return net.conv(net.conv("x", (3, 5), 3, zero=(1,), op="ConvTranspose", strides=[2, 2]), (5, 2))


@case(1)
def transposed_reads_zeros(net: Planted) -> str:
    return net.conv(net.conv("x", (3, 5), zero=(1,), bias=0), (5, 2), 3, op="ConvTranspose")


@case(0)
def transposed_reads_a_constant(net: Planted) -> str:
    return net.conv(net.conv("x", (3, 5), zero=(1,)), (5, 2), 3, op="ConvTranspose")


@case(0)
def padded_reads_a_constant(net: Planted) -> str:
    return net.conv(net.conv("x", (3, 5), zero=(1,)), (5, 2), 3, auto_pad="SAME_UPPER")


@case(2, ROWS)
def feed_forward(net: Planted) -> str:
    return net.linear(net.op("Gelu", net.linear("x", (6, 9), zero=(0, 5))), (9, 6))


@case(1, ROWS)
def unread(net: Planted) -> str:
    x = net.linear("x", (6, 9))
    y = net.linear(net.op("Tanh", x), (9, 4))
    net.weights["w2"][7] = 0
    return y


@case(3, ROWS)
def unread_behind_unread(net: Planted) -> str:
    x = net.op("Tanh", net.linear("x", (6, 7)))
    x = net.op("Tanh", net.linear(x, (7, 5)))
    y = net.linear(x, (5, 4))
    net.weights["w4"][:2] = 0
    net.weights["w2"][3, 2:] = 0
    return y


@case(1, ROWS)
def a_head_without_values(net: Planted) -> str:
    rows = []
    for zero in ((), (), (0, 1)):
        x = net.linear("x", (6, 6), zero=zero, bias=0)
        x = net.op("Reshape", x, net.stored(np.array([0, 0, 3, 2])))
        rows.append(net.op("Transpose", x, perm=[0, 2, 1, 3]))
    scores = net.op("MatMul", rows[0], net.op("Transpose", rows[1], perm=[0, 1, 3, 2]))
    x = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores), rows[2]), perm=[0, 2, 1, 3])
    return net.linear(net.op("Reshape", x, net.stored(np.array([0, 0, 6]))), (6, 4))
