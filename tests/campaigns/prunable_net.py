"""Collects the nodes and weights of random models with channels that may go, see `prunable_models`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Flow:
    """A value: its name and its shape for one sample, (1, …)."""

    name: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """The size of axis 1: channels of images."""
        return self.shape[1]

    @property
    def last(self) -> int:
        """The size of the last axis: what a position of a sequence holds."""
        return self.shape[-1]


class Net:
    """A model under construction; everything random is drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = 17
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self.rng.random() < share)

    def name(self, stem: str) -> str:
        """A name that is free."""
        self._count += 1
        return f"{stem}_{self._count}"

    def add_input(self, shape: Sequence[int | str]) -> Flow:
        """An input of the model; its first axis is the batch."""
        self.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]]))
        return Flow("x", tuple(size if isinstance(size, int) else 5 for size in shape))

    def weight(self, *shape: int, positive: bool = False) -> str:
        """A stored tensor of random numbers, so small that sums keep their size."""
        drawn = self.rng.normal(size=shape) / max(1.0, float(np.prod(shape[1:]))) ** 0.5
        name = self.name("w")
        self.weights[name] = np.asarray(np.abs(drawn) + 0.5 if positive else drawn, np.float32)
        return name

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        """A stored constant."""
        name = self.name("c")
        self.weights[name] = np.asarray(array, dtype)
        return name

    def op(self, op_type: str, *inputs: Flow | str, shape: Sequence[int], **attributes: Any) -> Flow:
        """Add a node with one output."""
        return self.ops(op_type, *inputs, shapes=[shape], **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Flow | str, shapes: Sequence[Sequence[int]], domain: str = "", **attributes: Any
    ) -> list[Flow]:
        """Add a node with several outputs."""
        outputs = [self.name(op_type.lower()) for _ in shapes]
        names = [value.name if isinstance(value, Flow) else value for value in inputs]
        self.nodes.append(
            helper.make_node(op_type, names, outputs, name=f"n_{outputs[0]}", domain=domain, **attributes)
        )
        return [Flow(name, tuple(shape)) for name, shape in zip(outputs, shapes, strict=True)]

    def finished(self, output: Flow) -> onnx.ModelProto:
        """The model."""
        stored = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        outputs = [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None)]
        whole = helper.make_graph(self.nodes, "prunable", self.inputs, outputs, stored)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(whole, opset_imports=imports, ir_version=10)


def reshape(n: Net, x: Flow, shape: Sequence[int], *, copied: int = 1) -> Flow:
    """Reshape with the sizes in one of the forms that exporters write.

    Args:
        n: The model.
        x: What is reshaped.
        shape: For one sample.
        copied: How many axes at the front stay as they are: the batch, and the steps of a sequence.
    """
    form, sizes = n.pick(["minus", "zero", "computed"]), list(shape[copied:])
    target: Flow | str
    if form == "computed":
        every = n.op("Shape", x, shape=(len(x.shape),))
        parts: list[Flow | str] = []
        for axis in range(copied):
            size = n.op("Gather", every, n.const(axis), shape=(), axis=0)
            parts.append(n.op("Unsqueeze", size, n.const([0]), shape=(1,)))
        target = n.op("Concat", *parts, n.const(sizes), shape=(len(shape),), axis=0)
    else:
        target = n.const([-1 if form == "minus" else 0, *[0] * (copied - 1), *sizes])
    return n.op("Reshape", x, target, shape=shape)


def transpose(n: Net, x: Flow, perm: Sequence[int]) -> Flow:
    """Transpose."""
    return n.op("Transpose", x, shape=[x.shape[axis] for axis in perm], perm=list(perm))


def activation(n: Net, x: Flow, channels: int = 1) -> Flow:
    """One of the usual ones, or none; some do not map 0 to 0. PRelu has a slope for each entry of axis `channels`."""
    kind = n.pick(["Relu", "LeakyRelu", "HardSwish", "Sigmoid", "Softplus", "Tanh", "Elu", "Clip", "PRelu", "Silu", ""])
    if not kind:
        return x
    if kind == "PRelu":
        sizes = [x.shape[channels]] + [1] * (len(x.shape) - 1 - channels)
        return n.op("PRelu", x, n.weight(*sizes), shape=x.shape)
    if kind == "Clip":
        return n.op("Clip", x, n.const(-0.5, np.float32), n.const(2.0, np.float32), shape=x.shape)
    if kind == "Silu":
        return n.op("Mul", x, n.op("Sigmoid", x, shape=x.shape), shape=x.shape)
    return n.op(kind, x, shape=x.shape)
