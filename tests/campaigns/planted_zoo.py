"""The model that wrong passes are planted in: one of each pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# The model that they are planted in: one of each pattern. Names are those of the nodes.


class _Zoo:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def numbers(self, *shape: int, scale: float = 1.0, positive: bool = False) -> np.ndarray:
        drawn = self._rng.normal(size=shape) * scale
        return np.asarray(np.abs(drawn) + 0.5 if positive else drawn, np.float32)

    def add(self, op_type: str, name: str, *inputs: str | np.ndarray | list[int], **attributes: Any) -> str:
        """Add a node whose output has its name; arrays and lists become initializers."""
        names = []
        for index, given in enumerate(inputs):
            if isinstance(given, str):
                names.append(given)
                continue
            array = np.array(given, np.int64) if isinstance(given, list) else given
            self.stored.append(numpy_helper.from_array(array, f"{name}.{index}"))
            names.append(f"{name}.{index}")
        self.nodes.append(helper.make_node(op_type, names, [name], name=name, **attributes))
        return name

    def norm(self, name: str, x: str, channels: int, epsilon: float = 1e-5) -> str:
        parameters = [self.numbers(channels) for _ in range(3)]
        variance = self.numbers(channels, positive=True)
        return self.add("BatchNormalization", name, x, *parameters, variance, epsilon=epsilon)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def zoo() -> onnx.ModelProto:
    """The model: x float (batch, 4, 8, 8); outputs that have something of every branch."""
    z = _Zoo()
    n = z.numbers
    number = scalar
    z.add("Conv", "conv1", "x", n(6, 4, 3, 3, scale=0.2), n(6), pads=[1, 0, 0, 1])
    z.norm("bn1", "conv1", 6)
    z.add("Relu", "relu1", "bn1")
    z.add("Conv", "conv2", "relu1", n(6, 1, 3, 3, scale=0.4), n(6), pads=[1, 1, 1, 1], group=6)
    z.add("Mul", "mul2", "conv2", n(6, 1, 1, positive=True))
    z.add("Add", "add2", "mul2", n(6, 1, 1))
    z.add("Add", "plus3", "add2", number(3))
    z.add("Clip", "clip", "plus3", number(0), number(6))
    z.add("Mul", "gated", "add2", "clip")
    z.add("Div", "hardswish", "gated", number(6))
    z.add("Add", "res", "hardswish", "relu1")
    z.add("Sub", "sub3", n(6, 1, 1), "res")
    z.add("Div", "div3", "sub3", n(6, 1, 1, positive=True))
    z.add("Conv", "conv3", "div3", n(6, 6, 1, 1, scale=0.4), n(6))
    z.norm("bn3", "conv3", 6, 1e-3)
    z.add("Neg", "neg3", "conv3")
    z.add("Add", "both3", "bn3", "neg3")
    z.add("Conv", "conv4", "both3", n(6, 6, 3, 3, scale=0.2), n(6), pads=[1, 1, 1, 1], dilations=[1, 1])
    z.norm("bn4", "conv4", 6)
    z.add("Add", "branches", "bn4", "both3")
    z.add("ConvTranspose", "up", "branches", n(6, 6, 2, 2, scale=0.4), strides=[1, 1])
    z.norm("bn_up", "up", 6)
    angles = np.tile(np.outer(np.arange(1, 9), [0.5, 0.2, 0.1, 0.05]), 2).astype(np.float32)
    z.add("Slice", "rope_low", "bn_up", [0], [4], [3])
    z.add("Slice", "rope_high", "bn_up", [4], [8], [3])
    z.add("Neg", "rope_neg", "rope_high")
    z.add("Concat", "rope_turned", "rope_neg", "rope_low", axis=3)
    z.add("Mul", "rope_cos", "bn_up", np.cos(angles))
    z.add("Mul", "rope_sin", "rope_turned", np.sin(angles))
    z.add("Add", "rope", "rope_cos", "rope_sin")
    z.add("Transpose", "t1", "rope", perm=[0, 2, 3, 1])
    z.add("Transpose", "t2", "t1", perm=[0, 3, 2, 1])
    z.add("Pad", "padded", "t2", [0, 0, 1, 0, 0, 0, 0, 1], number(0))
    z.add("AveragePool", "pooled", "padded", kernel_shape=[2, 2], count_include_pad=1, pads=[0, 1, 1, 0])
    z.add("MaxPool", "max", "pooled", kernel_shape=[2, 2], strides=[2, 2])
    z.add("ReduceMean", "mean", "max", axes=[3], keepdims=0)
    z.add("Reshape", "flat", "mean", [0, -1])
    z.add("MatMul", "fc", "flat", n(24, 8, scale=0.2))
    z.add("Add", "fc_bias", "fc", n(8))
    z.add("Mul", "half", "fc_bias", number(0.5))
    z.add("Div", "rooted", "fc_bias", number(2**0.5))
    z.add("Erf", "erf", "rooted")
    z.add("Add", "one_more", "erf", number(1))
    z.add("Mul", "gelu", "half", "one_more")
    z.add("Gemm", "gemm", "gelu", n(8, 8, scale=0.4), n(8), transB=1, alpha=0.5, beta=2.0)
    z.add("LayerNormalization", "ln", "gemm", n(8), n(8), axis=-1, epsilon=1e-3)
    z.add("Cast", "wide", "ln", to=TensorProto.DOUBLE)
    z.add("Cast", "narrow", "wide", to=TensorProto.FLOAT)
    z.add("Slice", "left", "narrow", [0], [3], [1])
    z.add("Slice", "right", "narrow", [3], [8], [1])
    z.add("Concat", "swapped", "right", "left", axis=1)
    z.add("Gather", "picked", "swapped", [7, 1, 2, 5, 4, 3, 0, 6], axis=1)
    z.add("Gather", "again", "picked", [2, 0, 1, 4, 3, 7, 5, 6], axis=1)
    z.add("Exp", "table", n(8))
    z.add("Mul", "scaled", "again", "table")
    z.add("Softmax", "probabilities", "scaled", axis=1)
    branch = [
        helper.make_graph(
            [helper.make_node("Mul", ["scaled", held], [f"{side}_mul"], name=f"{side}_mul")],
            side,
            [],
            [helper.make_tensor_value_info(f"{side}_mul", TensorProto.FLOAT, [None, 8])],
        )
        for side, held in (("then", "captured"), ("else", "fc_bias"))
    ]
    z.stored += [numpy_helper.from_array(n(8), "captured"), numpy_helper.from_array(np.ones((), bool), "yes")]
    z.stored.append(numpy_helper.from_array(n(8), "lookalike"))
    z.nodes.append(helper.make_node("If", ["yes"], ["either"], "either", then_branch=branch[0], else_branch=branch[1]))
    z.add("Add", "offset", "either", "lookalike")
    z.add("Identity", "logits", "offset")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8])
        for name in ("logits", "probabilities", "gelu")
    ]
    whole = helper.make_graph(z.nodes, "zoo", inputs, outputs, z.stored)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
