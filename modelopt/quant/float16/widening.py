"""float16, bfloat16 and float64 become float32; the model's inputs and outputs keep their types.

float32 holds all float16 and bfloat16 numbers, so these weights do not change, and results are rounded less. float64
weights are rounded. Functions stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.types import HALVES
from modelopt.quant.float16.operator_types import Elements, fill, outside_functions

_READ_AS_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN"})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
_FLOAT = ir.TensorType(ir.DataType.FLOAT)
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class WideningCounts:
    """What was changed.

    Attributes:
        nodes: Nodes that make float32 now, the removed Casts included.
        constants: Constants stored in float32.
        casts: Casts at the model's inputs and outputs.
    """

    nodes: int = 0
    constants: int = 0
    casts: int = 0


def weight_types(model: ir.Model) -> frozenset[ir.DataType]:
    """Which of float16, bfloat16 and float64 the operators with weights read them in, directly or through a Cast."""
    found: set[ir.DataType] = set()
    for node in graph.all_nodes(model):
        if node.op_type in _READ_AS_WEIGHTS and node.domain in graph.STANDARD_DOMAINS:
            tensors = (_behind_cast(value) for value in node.inputs)
            found.update(tensor.dtype for tensor in tensors if tensor is not None and len(tensor.shape) >= 2)
    return frozenset(found & {*HALVES, ir.DataType.DOUBLE})


def _behind_cast(value: ir.Value | None) -> ir.TensorProtocol | None:
    producer = None if value is None else value.producer()
    if producer is not None and graph.is_standard(producer, "Cast"):
        value = producer.inputs[0]
    return graph.constant_tensor(value)


def why_not(model: ir.Model, types: frozenset[ir.DataType]) -> str | None:
    """A reason against the whole model, as a clause; None where there is none."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.type is not None and not isinstance(value.type, ir.TensorType) and value.type.dtype in types:
            return f"'{value.name}' is no tensor"
    for function in model.functions.values():
        for node in function:
            if any(_mentions(node, one) for one in types):
                return f"the function {function.name} names a type of its own: {graph.label(node)}"
    for node in outside_functions(model):
        touched = any(_has_type(value, types) for value in (*node.inputs, *node.outputs))
        if touched and graph.is_standard(node, "BitCast"):
            return f"{graph.label(node)} reads the bits"
        known = (
            node.domain in {*graph.STANDARD_DOMAINS, graph.CONTRIB_DOMAIN} or node.op_identifier() in model.functions
        )
        if touched and not known:
            return f"it is not known whether {graph.label(node)} of the domain {node.domain} takes float32"
    return None


def _mentions(node: ir.Node, dtype: ir.DataType) -> bool:
    attributes = (one for one in node.attributes.values() if not one.is_ref())
    return any(
        (one.name in _TYPE_ATTRIBUTES and one.value == dtype.value)
        or (one.type == ir.AttributeType.TENSOR and one.value.dtype == dtype)
        for one in attributes
    )


class Widener:
    """Rewrites one model; use it once.

    Args:
        model: The model, changed in place.
        types: The types that become float32; constants in the other half type, too, if only Casts to float32 read them.
    """

    def __init__(self, model: ir.Model, types: frozenset[ir.DataType]) -> None:
        self.figures = WideningCounts()
        self._model = model
        self._types = types
        self._names = graph.NameSource(model)
        self._elements = Elements(model)
        for node in outside_functions(model):  # look the types up before anything changes
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    self._elements.of(value)
        self._outputs = [(value, value.type) for value in model.graph.outputs]

    def write(self) -> None:
        """Rewrite the model."""
        for value in list(self._model.graph.inputs):
            if _has_type(value, self._types):
                self._cast_input(value)
        for scope, _, inside in list(graph.scopes(self._model)):
            if isinstance(scope, ir.Graph) and not inside:
                self._scope(scope)
        for index, (value, type_) in enumerate(self._outputs):
            if self._is_wanted(type_) and not value.is_graph_input():
                self._cast_output(value, index, type_)
        for node in list(outside_functions(self._model)):
            self._drop_cast(node)

    def _is_wanted(self, type_: ir.TypeProtocol | None) -> bool:
        return type_ is not None and type_.dtype in self._types

    def _cast_input(self, value: ir.Value) -> None:
        """Cast an input of the model, or a weight that a caller may replace: it keeps its type."""
        users = [(user, index) for user, index in value.uses() if not graph.is_standard(user, "Cast")]
        if users:
            self._cast(value, users, _FLOAT)

    def _cast_output(self, value: ir.Value, index: int, type_: ir.TypeProtocol | None) -> None:
        """Cast to an output of the model: it keeps its type and its name."""
        first = next(i for i, (other, _) in enumerate(self._outputs) if other is value)
        outputs = self._model.graph.outputs
        if first != index:
            outputs[index] = outputs[first]
            return
        shape = value.shape
        made = self._cast(value, [], type_)
        name = value.name
        value.name = self._names(f"{name}_float32")
        made.name, made.shape = name, shape
        outputs[index] = made

    def _cast(self, value: ir.Value, users: Sequence[tuple[ir.Node, int]], type_: ir.TypeProtocol | None) -> ir.Value:
        if type_ is None:
            raise ValueError(f"{value!r} has no type")
        name = self._names(f"{value.name}_{type_.dtype.name.lower()}")
        made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(type_.dtype))
        node = ir.node("Cast", [value], {"to": type_.dtype.value}, outputs=[made], name=name)
        graph.insert_behind(value, [node])
        for user, index in users:
            user.replace_input_with(index, made)
        self.figures.casts += 1
        return made

    def _scope(self, scope: ir.Graph) -> None:
        for value in list(scope.initializers.values()):
            self._constant(value)
        if scope is not self._model.graph:
            for value in scope.inputs:
                self._retype(value)
        for node in scope:
            if graph.is_standard(node, "Constant"):
                self._constant(node.outputs[0])
                continue
            changed = self._attributes(node)
            for value in node.outputs:
                changed |= self._retype(value)
            self.figures.nodes += changed

    def _constant(self, value: ir.Value) -> None:
        tensor = graph.constant_tensor(value)
        if tensor is None or not (tensor.dtype in self._types or _is_only_stored(value, tensor)):
            return
        array = tensor.numpy().astype(np.float32)
        graph.set_constant(value, array)
        self.figures.constants += 1

    def _attributes(self, node: ir.Node) -> bool:
        changed = False
        if graph.is_standard(node, "ConstantOfShape"):
            filled = fill(node)
            if filled is not None and filled.dtype in self._types:
                node.attributes.add(ir.AttrTensor("value", ir.tensor(filled.numpy().astype(np.float32))))
                changed = True
        for name in _TYPE_ATTRIBUTES & set(node.attributes):
            number = graph.attribute_int(node, name, 0) if node.domain in graph.STANDARD_DOMAINS else 0
            if number in {one.value for one in self._types}:
                node.attributes.add(ir.AttrInt64(name, ir.DataType.FLOAT.value))
                changed = True
        return changed

    def _retype(self, value: ir.Value) -> bool:
        if not self._is_wanted(value.type) or value.type is None:
            return False
        if isinstance(value.type, ir.SequenceType):
            value.type = ir.SequenceType(_FLOAT)
        else:
            value.type = ir.OptionalType(_FLOAT) if isinstance(value.type, ir.OptionalType) else _FLOAT
        return True

    def _drop_cast(self, node: ir.Node) -> None:
        """Remove a Cast from float32 to float32."""
        if not graph.is_standard(node, "Cast") or graph.attribute_int(node, "to", 0) != ir.DataType.FLOAT.value:
            return
        given, made = node.inputs[0], node.outputs[0]
        if given is None or made.is_graph_output():
            return
        was = self._elements.of(given)
        keeps_type = given.is_graph_input() and given.graph is self._model.graph
        is_float = was == ir.DataType.FLOAT or (was in self._types and not keeps_type)
        if not is_float and not _is_float_constant(given):
            return
        made.replace_all_uses_with(given)
        if node.graph is not None:
            node.graph.remove(node, safe=True)


def _is_float_constant(value: ir.Value) -> bool:
    tensor = graph.constant_tensor(value)
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT


def _is_only_stored(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Whether a constant in a half type is cast to float32 by all who read it."""
    if tensor.dtype not in HALVES or value.is_graph_output() or not value.uses():
        return False
    return all(
        graph.is_standard(user, "Cast") and graph.attribute_int(user, "to", 0) == ir.DataType.FLOAT.value
        for user, _ in value.uses()
    )


def _has_type(value: ir.Value | None, types: frozenset[ir.DataType]) -> bool:
    if value is None:
        return False
    tensor = graph.constant_tensor(value)
    dtype = tensor.dtype if tensor is not None else None if value.type is None else value.type.dtype
    return dtype in types


def is_beyond(model: ir.Model, types: frozenset[ir.DataType]) -> str | None:
    """The name of a float64 constant whose finite numbers float32 does not hold; None where there is none."""
    if ir.DataType.DOUBLE not in types:
        return None
    for name, tensor in graph.tensors(model):
        if tensor.dtype == ir.DataType.DOUBLE and tensor.size:
            array = tensor.numpy()
            if bool((np.isfinite(array) & (np.abs(array) > _LARGEST)).any()):
                return name
    return None
