#!/usr/bin/env python3
"""Models of real architecture and size with seeded random weights, as an exporter leaves them: nothing is folded.

    python tests/bench/shapes.py MODEL OUT.onnx

MODEL is bert-base, resnet50, mobilenetv2, efficientnet-lite0 or efficientnet-b0.
For measuring speed and memory; the accuracy of such a model means nothing. BatchNormalization is there, shapes are
computed with Shape → Gather → Unsqueeze → Concat → Reshape, LayerNormalization and Gelu are decomposed. In
EfficientNet-Lite0 every sixteenth channel has no variance, as trained mobile networks often have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Builder:
    """Collects nodes and initializers; each method adds one operator and returns its output's name."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = self.name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"/{output}", **attributes))
        return output

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """A Constant node, as exporters write scalars and shapes."""
        tensor = numpy_helper.from_array(np.array(value, dtype))
        return self.op("Constant", value=tensor)

    def random(self, *dims: int, scale: float | None = None) -> str:
        """An initializer drawn from a normal distribution, scaled by its fan-in."""
        fan_in = int(np.prod(dims[1:])) if len(dims) == 4 else dims[0]
        return self.store(self.numbers(*dims) * np.float32(scale or (2 / fan_in) ** 0.5))

    def numbers(self, *dims: int) -> np.ndarray:
        """float32[dims], drawn from a normal distribution."""
        return self._rng.standard_normal(dims, dtype=np.float32)

    def store(self, values: np.ndarray) -> str:
        name = self.name("weight")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def model(self, inputs: list[onnx.ValueInfoProto], output: str, dims: list[int | str]) -> onnx.ModelProto:
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)
        graph = helper.make_graph(self.nodes, "shapes", inputs, [result], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


# Convolutional networks


def conv_bn(
    b: Builder, x: str, c_in: int, c_out: int, kernel: int, *, stride: int = 1, group: int = 1, dead: bool = False
) -> str:
    """A convolution and its normalization; with `dead` every sixteenth channel is 0 whatever comes in."""
    if dead:
        return _dead(b, x, c_in, c_out, kernel, stride, group)
    weight = b.random(c_out, c_in // group, kernel, kernel)
    pads = [kernel // 2] * 4
    y = b.op("Conv", x, weight, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)
    ones, zeros = np.ones(c_out, np.float32), np.zeros(c_out, np.float32)
    return b.op("BatchNormalization", y, *(b.store(v) for v in (ones, zeros, zeros, ones)), epsilon=1e-5)


def _dead(b: Builder, x: str, c_in: int, c_out: int, kernel: int, stride: int, group: int) -> str:
    shape = (c_out, c_in // group, kernel, kernel)
    weight, alive = b.numbers(*shape) * np.float32((2 / np.prod(shape[1:])) ** 0.5), np.ones(c_out, np.float32)
    alive[::16] = 0
    weight *= alive[:, None, None, None]
    pads = [kernel // 2] * 4
    y = b.op("Conv", x, b.store(weight), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)
    scale, bias = np.where(alive, 1, 1e-3).astype(np.float32), b.numbers(c_out) * np.float32(0.1)
    stored = [b.store(values) for values in (scale, bias, np.zeros(c_out, np.float32), alive)]
    return b.op("BatchNormalization", y, *stored, epsilon=1e-3)


def classifier(b: Builder, x: str, channels: int) -> str:
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    return b.op("Gemm", pooled, b.random(1000, channels), b.store(np.zeros(1000, np.float32)), transB=1)


def resnet50() -> onnx.ModelProto:
    b = Builder()
    x = b.op("Relu", conv_bn(b, "x", 3, 64, 7, stride=2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            step = stride if i == 0 else 1
            y = b.op("Relu", conv_bn(b, x, channels, width, 1))
            y = b.op("Relu", conv_bn(b, y, width, width, 3, stride=step))
            y = conv_bn(b, y, width, 4 * width, 1)
            shortcut = x if i else conv_bn(b, x, channels, 4 * width, 1, stride=step)
            x, channels = b.op("Relu", b.op("Add", y, shortcut)), 4 * width
    return b.model([_image()], classifier(b, x, channels), ["batch", 1000])


def mobilenetv2() -> onnx.ModelProto:
    b = Builder()

    def relu6(x: str) -> str:
        return b.op("Clip", x, b.constant(0.0), b.constant(6.0))

    x = relu6(conv_bn(b, "x", 3, 32, 3, stride=2))
    channels = 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, width, repeats, stride in plan:
        for i in range(repeats):
            step, hidden = (stride if i == 0 else 1), channels * expand
            y = relu6(conv_bn(b, x, channels, hidden, 1)) if expand > 1 else x
            y = relu6(conv_bn(b, y, hidden, hidden, 3, stride=step, group=hidden))
            y = conv_bn(b, y, hidden, width, 1)
            x = b.op("Add", x, y) if step == 1 and channels == width else y
            channels = width
    x = relu6(conv_bn(b, x, channels, 1280, 1))
    return b.model([_image()], classifier(b, x, 1280), ["batch", 1000])


def efficientnet_lite0() -> onnx.ModelProto:
    """ReLU6, no squeeze-and-excite, and channels without variance."""
    b = Builder()

    def relu6(x: str) -> str:
        return b.op("Clip", x, b.constant(0.0), b.constant(6.0))

    return _efficientnet(b, relu6, excite=False, dead=True)


def efficientnet_b0() -> onnx.ModelProto:
    """SiLU, and squeeze-and-excite in each block."""
    b = Builder()
    return _efficientnet(b, lambda x: _silu(b, x), excite=True, dead=False)


def _efficientnet(b: Builder, act: Callable[[str], str], *, excite: bool, dead: bool) -> onnx.ModelProto:
    x = act(conv_bn(b, "x", 3, 32, 3, stride=2, dead=dead))
    channels = 32
    plan = (
        *((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5)),
        (6, 320, 1, 1, 3),
    )
    for expand, width, repeats, stride, kernel in plan:
        for i in range(repeats):
            step, hidden = (stride if i == 0 else 1), channels * expand
            y = act(conv_bn(b, x, channels, hidden, 1, dead=dead)) if expand > 1 else x
            y = act(conv_bn(b, y, hidden, hidden, kernel, stride=step, group=hidden, dead=dead))
            y = _excited(b, y, hidden, channels // 4) if excite else y
            y = conv_bn(b, y, hidden, width, 1)
            x = b.op("Add", x, y) if step == 1 and channels == width else y
            channels = width
    x = act(conv_bn(b, x, channels, 1280, 1, dead=dead))
    return b.model([_image()], classifier(b, x, 1280), ["batch", 1000])


def _silu(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("Sigmoid", x))


def _excited(b: Builder, x: str, channels: int, squeezed: int) -> str:
    """Squeeze-and-excite."""
    y = x
    for layer, (c_in, c_out) in enumerate(((channels, squeezed), (squeezed, channels))):
        y = b.op("GlobalAveragePool", y) if layer == 0 else _silu(b, y)
        y = b.op("Conv", y, b.random(c_out, c_in, 1, 1), b.store(np.zeros(c_out, np.float32)), kernel_shape=[1, 1])
    return b.op("Mul", x, b.op("Sigmoid", y))


def _image() -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])


# A transformer


def layer_norm(b: Builder, x: str, width: int) -> str:
    centred = b.op("Sub", x, b.op("ReduceMean", x, axes=[-1]))
    variance = b.op("ReduceMean", b.op("Pow", centred, b.constant(2.0)), axes=[-1])
    scaled = b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, b.constant(1e-12))))
    gamma, beta = b.store(np.ones(width, np.float32)), b.store(np.zeros(width, np.float32))
    return b.op("Add", b.op("Mul", scaled, gamma), beta)


def linear(b: Builder, x: str, n_in: int, n_out: int) -> str:
    """The weight is stored as PyTorch holds it and transposed in the graph."""
    weight = b.op("Transpose", b.random(n_out, n_in, scale=0.02), perm=[1, 0])
    return b.op("Add", b.store(np.zeros(n_out, np.float32)), b.op("MatMul", x, weight))


def heads(b: Builder, x: str, count: int, size: int) -> str:
    """(batch, length, count·size) → (batch, count, length, size), its shape computed as exporters do."""
    shape = b.op("Shape", x)
    dims = [b.op("Gather", shape, b.constant(i, np.int64), axis=0) for i in (0, 1)]
    axis = b.constant([0], np.int64)
    parts = [
        *(b.op("Unsqueeze", dim, axis) for dim in dims),
        b.constant([count], np.int64),
        b.constant([size], np.int64),
    ]
    return b.op("Transpose", b.op("Reshape", x, b.op("Concat", *parts, axis=0)), perm=[0, 2, 1, 3])


def bert_base(layers: int = 12, width: int = 768, vocabulary: int = 30522) -> onnx.ModelProto:
    b = Builder()
    x = b.op("Gather", b.random(vocabulary, width, scale=0.02), "input_ids")
    positions = b.op(
        "Slice", b.random(512, width, scale=0.02), b.constant([0], np.int64), _length(b), b.constant([0], np.int64)
    )
    x = layer_norm(b, b.op("Add", x, positions), width)
    mask = b.op("Unsqueeze", b.op("Cast", "attention_mask", to=TensorProto.FLOAT), b.constant([1, 2], np.int64))
    mask = b.op("Mul", b.op("Sub", b.constant(1.0), mask), b.constant(-10000.0))
    for _ in range(layers):
        q, k, v = (heads(b, linear(b, x, width, width), 12, width // 12) for _ in range(3))
        scores = b.op("Div", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), b.constant(8.0))
        mixed = b.op("MatMul", b.op("Softmax", b.op("Add", scores, mask), axis=-1), v)
        merged = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, 0, width], np.int64))
        x = layer_norm(b, b.op("Add", linear(b, merged, width, width), x), width)
        hidden = linear(b, x, width, 4 * width)
        erf = b.op("Add", b.op("Erf", b.op("Div", hidden, b.constant(2**0.5))), b.constant(1.0))
        gelu = b.op("Mul", b.op("Mul", hidden, erf), b.constant(0.5))
        x = layer_norm(b, b.op("Add", linear(b, gelu, 4 * width, width), x), width)
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    return b.model(ids, x, ["batch", "length", width])


def _length(b: Builder) -> str:
    length = b.op("Gather", b.op("Shape", "input_ids"), b.constant(1, np.int64), axis=0)
    return b.op("Unsqueeze", length, b.constant([0], np.int64))


MODELS = {
    "bert-base": bert_base,
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "efficientnet-lite0": efficientnet_lite0,
    "efficientnet-b0": efficientnet_b0,
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(MODELS[sys.argv[1]]().SerializeToString())
