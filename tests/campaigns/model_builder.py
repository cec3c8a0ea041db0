"""Collects the nodes and weights of a random model, in the forms that files have at each opset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MIN_OPSET = 9
MAX_OPSET = min(26, onnx.defs.onnx_opset_version())
_ODD_NAMES = ("a:b/c", "[red]d", "\x1b[31me", "späße", "with space", "-1", "?", "x.y::z", "%s{0}")
_ODD_NUMBERS = (np.nan, np.inf, -np.inf, 1e-40, -1e-42, 1e30, 0.0, -0.0)

BATCH = 2
OTHER_BATCH = 3


@dataclass(frozen=True)
class Value:
    """A value of the graph: name, sizes at batch 2, and the axes that follow the batch."""

    name: str
    shape: tuple[int, ...]


class Builder:
    """Collects nodes, weights and outputs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.integers(MIN_OPSET, MAX_OPSET + 1))
        self.dynamic = self.chance(0.5)
        self.odd_numbers = self.chance(0.1)
        self.odd_names = self.chance(0.15)
        self.old_ir = self.opset == MIN_OPSET and self.chance(0.3)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.overridable: list[str] = []
        self.outputs: list[Value] = []
        self._count = 0
        self._outer: Builder | None = None
        self._captured: list[Value] = []

    def body(self) -> Builder:
        """A builder for a body: it sees this one's weights and has nodes of its own."""
        inner = Builder.__new__(Builder)
        inner.__dict__.update(self.__dict__)
        inner.nodes, inner._outer = [], self
        inner._count = self._count + 1000
        self._count += 100
        return inner

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self.rng.random() < share)

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]

    def name(self, stem: str) -> str:
        """A name that is free."""
        self._count += 1
        odd = self.pick(_ODD_NAMES) if self.odd_names else ""
        return f"{odd}{stem}_{self._count}"

    def op(self, op_type: str, *inputs: Value | str, shape: Sequence[int], **attributes: Any) -> Value:
        """Add a node with one output."""
        out = self.name(op_type.lower())
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        label = "" if self.chance(0.1) else f"n_{out}"
        self.nodes.append(helper.make_node(op_type, names, [out], name=label, **attributes))
        return Value(out, tuple(shape))

    def numbers(self, *shape: int, scale: float = 1.0, positive: bool = False) -> np.ndarray:
        """Random weights, with odd ones among them in some models."""
        drawn = self.rng.normal(size=shape) * scale
        if positive:
            drawn = np.abs(drawn) + 0.3
        array = np.asarray(drawn, np.float32)
        if self.odd_numbers and array.size > 1 and self.chance(0.3):
            array.reshape(-1)[int(self.rng.integers(array.size))] = self.pick(_ODD_NUMBERS)
        return array

    def const(self, array: Any, dtype: Any = np.float32, *, plain: bool = False) -> str:
        """Store a constant in one of the ways that files do.

        Args:
            array: The numbers.
            dtype: Their type.
            plain: Never overridable: shape inference needs it.
        """
        array = np.asarray(array, dtype)
        twins = [name for name, held in self.weights.items() if held.dtype == array.dtype and held.shape == array.shape]
        if twins and not plain and self.chance(0.2):
            return str(self.pick(twins))  # shared; the numbers change, the shape does not
        name = self.name("w")
        if self.chance(0.25) and not self.old_ir:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            return name
        self.weights[name] = array
        if not plain and self.chance(0.03):
            self.overridable.append(name)
        if not plain and self.chance(0.05):
            copy = self.name("same")
            self.nodes.append(helper.make_node("Identity", [name], [copy]))
            return copy
        return name

    def ints(self, *numbers: int) -> str:
        """A vector of int64: shapes, axes."""
        return self.const(np.array(numbers, np.int64), np.int64, plain=True)


Block = Callable[[Builder, Value], Value]


def add_reshape(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    """Reshape to sizes at batch 2 whose first is the batch."""
    wanted = list(shape)
    wanted[0] = b.pick([-1, 0]) if b.dynamic and x.shape[0] == shape[0] == BATCH else (-1 if b.dynamic else shape[0])
    return b.op("Reshape", x, b.ints(*wanted), shape=shape)


def add_flatten(b: Builder, x: Value) -> Value:
    return b.op("Flatten", x, shape=(x.shape[0], int(np.prod(x.shape[1:]))))


def add_reduce(b: Builder, op_type: str, x: Value, axes: Sequence[int]) -> Value:
    shape = list(x.shape)
    for axis in axes:
        shape[axis] = 1
    if b.opset < 18:
        return b.op(op_type, x, shape=shape, axes=list(axes), keepdims=1)
    return b.op(op_type, x, b.ints(*axes), shape=shape, keepdims=1)


def add_slice(b: Builder, x: Value, axis: int, start: int, end: int) -> Value:
    shape = list(x.shape)
    shape[axis] = end - start
    if b.opset < 10:
        return b.op("Slice", x, shape=shape, starts=[start], ends=[end], axes=[axis])
    return b.op("Slice", x, b.ints(start), b.ints(end), b.ints(axis), shape=shape)


def add_split(b: Builder, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    names = [b.name("split") for _ in sizes]
    if b.opset < 13:
        b.nodes.append(helper.make_node("Split", [x.name], names, axis=axis, split=list(sizes)))
    else:
        b.nodes.append(helper.make_node("Split", [x.name, b.ints(*sizes)], names, axis=axis))
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return [Value(name, shape) for name, shape in zip(names, shapes, strict=True)]


def add_squeezed(b: Builder, x: Value, op_type: str) -> Value:
    shape = (x.shape[0], 1, *x.shape[1:]) if op_type == "Unsqueeze" else (x.shape[0], *x.shape[2:])
    if b.opset < 13:
        return b.op(op_type, x, shape=shape, axes=[1])
    return b.op(op_type, x, b.ints(1), shape=shape)
