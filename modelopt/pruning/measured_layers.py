"""Layers alone, at other widths: small models in which onnxruntime's profile times many of them in one go."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.runtime.session import NodeRun

_MODEL_BYTES = 64 * 2**20
"""How many bytes the tensors of one model with layers may take; a guess. All of them are in memory at once."""

_OPSET = 17
_NAME = re.compile(r"^L(\d+)L")


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer as far as its time depends on it.

    Attributes:
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        attributes: Its attributes but the number of groups, by name.
        data: The shape of the data.
        weight: The shape of the weight.
        depthwise: Whether each channel has its own filter.
    """

    op_type: str
    attributes: tuple[tuple[str, int | float | str | tuple[int, ...]], ...]
    data: tuple[int, ...]
    weight: tuple[int, ...]
    depthwise: bool = False

    def __str__(self) -> str:
        """What tells it from other layers, as text."""
        attributes = ",".join(f"{name}={value}" for name, value in self.attributes)
        kind = "depthwise " if self.depthwise else ""
        return f"{kind}{self.op_type}({attributes}) {list(self.data)} {list(self.weight)}"

    @property
    def nbytes(self) -> int:
        """The bytes of its data and weight."""
        return 4 * (int(np.prod(self.data)) + int(np.prod(self.weight)))

    def at(self, axis: int, width: int) -> MeasuredLayer:
        """The layer with another width of an axis of its weight, and data to match."""
        weight = (*self.weight[:axis], width, *self.weight[axis + 1 :])
        data_axis = self._data_axis(axis)
        if data_axis is None:
            return dataclasses.replace(self, weight=weight)
        place = data_axis % len(self.data)
        data = (*self.data[:place], width, *self.data[place + 1 :])
        return dataclasses.replace(self, weight=weight, data=data)

    def _data_axis(self, axis: int) -> int | None:
        """The axis of the data that has the width of an axis of the weight; None where that is one of the output."""
        given = dict(self.attributes)
        if self.op_type == "Conv":
            return 1 if (self.depthwise and axis == 0) or (not self.depthwise and axis == 1) else None
        if self.op_type == "ConvTranspose":
            return 1 if axis == 0 else None
        if self.op_type == "MatMul":
            return -1 if axis == 0 else None
        inner = 1 if given.get("transB") else 0
        return None if axis != inner else 0 if given.get("transA") else 1


def layer_of(node: ir.Node) -> MeasuredLayer | None:
    """A node as a layer to measure; None where it is of another kind, or its shapes are not known."""
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"} or node.domain not in graph.STANDARD_DOMAINS:
        return None
    data, weight = node.inputs[0], node.inputs[1]
    shape, tensor = graph.static_shape(data), graph.constant_tensor(weight)
    if shape is None or 0 in shape or tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    sizes = tuple(tensor.shape.numpy())
    group = graph.attribute_int(node, "group", 1)
    depthwise = node.op_type == "Conv" and group > 1 and group == sizes[0] and sizes[1] == 1
    if (group > 1 and not depthwise) or (node.op_type == "MatMul" and len(sizes) != 2):
        return None
    attributes = tuple(sorted((name, _plain(each)) for name, each in node.attributes.items() if name != "group"))
    return MeasuredLayer(node.op_type, attributes, shape, sizes, depthwise)


def models(layers: Sequence[MeasuredLayer]) -> Iterator[tuple[ir.Model, dict[str, np.ndarray]]]:
    """Models that hold these layers side by side, with inputs; the kernels have the layers' numbers: see `times`."""
    numbered = list(enumerate(layers))
    while numbered:
        some = [numbered.pop(0)]
        total = some[0][1].nbytes
        while numbered and (total := total + numbered[0][1].nbytes) <= _MODEL_BYTES:
            some.append(numbered.pop(0))
        yield _model(some)


def times(runs: Iterable[NodeRun]) -> dict[int, float]:
    """The nanoseconds of each layer in a profile of one of `models`, by number: that of the fastest run.

    Other programs only add to a time, and all layers of a search are timed in the same way.

    The runtime keeps the name of a node, or names the kernel after what it writes.
    """
    found: dict[int, float] = {}
    for run in runs:
        match = _NAME.match(run.name)
        if match is not None and not run.op_type.startswith("Reorder") and run.runs_ns:
            number = int(match[1])
            found[number] = max(found.get(number, 0.0), float(min(run.runs_ns)))
    return found


def _plain(attribute: ir.Attr) -> int | float | str | tuple[int, ...]:
    value = attribute.value
    return tuple(value) if isinstance(value, list | tuple) else value


def _model(layers: Sequence[tuple[int, MeasuredLayer]]) -> tuple[ir.Model, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    inputs: dict[tuple[int, ...], ir.Value] = {}
    nodes, weights, outputs = [], [], []
    for number, layer in layers:
        if layer.data not in inputs:
            name = f"x{len(inputs)}"
            inputs[layer.data] = ir.Value(name=name, shape=ir.Shape(layer.data), type=ir.TensorType(ir.DataType.FLOAT))
        array = rng.standard_normal(layer.weight, np.float32)
        tensor = ir.tensor(array, name=f"w{number}")
        weight = ir.Value(
            name=f"w{number}", shape=ir.Shape(layer.weight), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
        )
        attributes = dict(layer.attributes) | ({"group": layer.weight[0]} if layer.depthwise else {})
        node = ir.node(layer.op_type, [inputs[layer.data], weight], attributes, name=f"L{number}L")
        node.outputs[0].name = f"L{number}Ly"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        nodes.append(node)
        weights.append(weight)
        outputs.append(node.outputs[0])
    body = ir.Graph(
        list(inputs.values()), outputs, nodes=nodes, initializers=weights, opset_imports={"": _OPSET}, name="layers"
    )
    feeds = {str(value.name): rng.standard_normal(shape, np.float32) for shape, value in inputs.items()}
    return ir.Model(body, ir_version=8), feeds


def by_text(layers: Iterable[MeasuredLayer]) -> Mapping[str, MeasuredLayer]:
    """The layers without repetition, by their text."""
    return {str(layer): layer for layer in layers}
