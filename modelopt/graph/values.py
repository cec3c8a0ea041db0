"""What a value or a node is: constant or not, its shape, who uses it, its attributes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt.core.signature import Dim
from modelopt.graph.walking import STANDARD_DOMAINS

_STRIP = 64
_SMALL_BYTES = 4096


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether `node` is one of the standard operators `op_types` (not one of the same name in another domain)."""
    return node.op_type in op_types and node.domain in STANDARD_DOMAINS


def is_overridable(value: ir.Value) -> bool:
    """Whether `value` is an initializer that a caller may override because it is also a graph input."""
    return value.is_graph_input()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a value that never changes, without reading its bytes.

    A value is constant when it is an initializer that is not also a graph input, or the output of a Constant node
    that holds a tensor or plain numbers. Values captured from an outer scope count.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is not None:
        return constant_node_tensor(producer) if is_standard(producer, "Constant") else None
    if is_overridable(value):
        return None
    return value.const_value


def constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor that a Constant node holds, or None where it holds something else."""
    for key, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if key == "value" and attribute.type == ir.AttributeType.TENSOR:
            tensor: ir.TensorProtocol = attribute.value  # as_tensor() checks a protocol's members, at 0.1 ms each
            return tensor
        if key in {"value_float", "value_floats"}:
            return ir.tensor(np.array(attribute.value, np.float32))
        if key in {"value_int", "value_ints"}:
            return ir.tensor(np.array(attribute.value, np.int64))
    return None


def constant(value: ir.Value | None, *, max_bytes: int | None = None) -> np.ndarray | None:
    """The array behind a constant value, else None.

    Args:
        value: Any value, or None for an omitted optional input.
        max_bytes: Return None for larger tensors instead of reading them.
    """
    tensor = constant_tensor(value)
    if tensor is None or (max_bytes is not None and tensor.nbytes > max_bytes):
        return None
    return tensor.numpy()


def holder_of(value: ir.Value) -> ir.Graph:
    """The graph that makes or stores `value`: each node that can read it can read what is added there.

    Raises:
        ValueError: It is in no graph, or in a function.
    """
    producer = value.producer()
    holder = value.graph if producer is None else producer.graph
    if not isinstance(holder, ir.Graph):
        raise ValueError(f"{value.name} belongs to no graph")
    return holder


def scope_of(node: ir.Node) -> ir.Graph:
    """The graph or body that holds `node`; or the function, which onnx_ir types as a graph here.

    Raises:
        ValueError: It is in none.
    """
    if node.graph is None:
        raise ValueError(f"{label(node)} belongs to no graph")
    return node.graph


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input; None where it is omitted, or where the node has fewer."""
    return node.inputs[index] if index < len(node.inputs) else None


def operator_of(node: ir.Node) -> tuple[str, str]:
    """Domain and operator type; the standard domain is the empty text, however the model writes it."""
    return "" if node.domain in STANDARD_DOMAINS else node.domain, node.op_type


def known_dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The declared size of each axis, None for one that is not known; None as a whole without a rank."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in value.shape)


def known_size(value: ir.Value | None, axis: int) -> int | None:
    """The declared size of an axis (negative: from the last); None where it is not known, or there is no such axis."""
    sizes = known_dims(value)
    return None if sizes is None or not -len(sizes) <= axis < len(sizes) else sizes[axis]


def ints_of(node: ir.Node, index: int, name: str) -> tuple[int, ...] | None:
    """Integers that are an input in newer opsets, at `index`, and the attribute `name` in older ones.

    None where they are not given, or are no constant.
    """
    return constant_ints(node.inputs[index]) if index < len(node.inputs) else attribute_ints(node, name)


def ints_by_opset(node: ir.Node, opset: int, name: str, index: int, *, since: int) -> tuple[int, ...] | None:
    """Integers that are the attribute `name` before opset `since`, and a constant input at `index` from there on."""
    if opset < since:
        return attribute_ints(node, name)
    return constant_ints(input_at(node, index))


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The integers of a small constant, in order: axes, pads, shapes. None where it is no constant of integers.

    Some exporters write a tensor without axes where the operator asks for a vector of one number.
    """
    array = constant(value, max_bytes=_SMALL_BYTES)
    return tuple(int(number) for number in array.ravel()) if array is not None and array.dtype.kind in "iu" else None


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """The single number behind a constant value with one element, else None."""
    array = constant(value, max_bytes=64)
    if array is None or array.size != 1 or array.dtype.kind not in "fiub":
        return None
    number: float | int | bool = array.reshape(()).item()
    return number


def rank(value: ir.Value | None) -> int | None:
    """The number of axes, None when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known integer, else None. Some exporters write -1 for one that is not."""
    if value is None or value.shape is None:
        return None
    known = tuple(dim for dim in value.shape if isinstance(dim, int) and dim >= 0)
    return known if len(known) == len(value.shape) else None


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """The dimensions as plain data, None when even their number is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that uses `value`, when it uses it once and `value` is not a graph output; else None.

    Uses inside If/Loop/Scan bodies count as uses.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def why_not_sole(value: ir.Value) -> str:
    """Why `sole_consumer` is None for `value`, as a clause for `Skip`."""
    if value.is_graph_output():
        return "its output is also a graph output"
    return f"its output has {len(value.uses())} consumers"


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_float()


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list-of-integers attribute, or None."""
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else tuple(attribute.as_ints())


def attribute_string(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_string()


def makes_empty(reshape: ir.Node) -> bool:
    """Whether a 0 in the shape of a Reshape may be a dimension of 0, not one that is copied: with allowzero."""
    if not attribute_int(reshape, "allowzero", 0):
        return False
    target = constant(reshape.inputs[1], max_bytes=1024)
    return target is None or 0 in target


def name_of(node: ir.Node) -> str:
    """What patterns and profiles call a node: its name, or that of its first output; empty where it has neither."""
    return node.name or next((out.name for out in node.outputs if out.name), "") or ""


def label(node: ir.Node) -> str:
    """How messages call a node: its name, else its first output's, always with its operator."""
    return f"{name_of(node) or 'unnamed'} ({node.op_type})"


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy where it is contiguous."""
    if not array.size:
        return memoryview(b"")
    return _dense(array).reshape(-1).view(np.uint8).data


def _dense(array: np.ndarray) -> np.ndarray:
    """A C-contiguous array. A transposed matrix is copied in strips that stay in the cache: ten times as fast."""
    if array.flags.c_contiguous:
        return array
    if array.ndim != 2 or array.shape[1] < 2 * _STRIP:
        return np.array(array, order="C")
    copy = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _STRIP):
        copy[:, start : start + _STRIP] = array[:, start : start + _STRIP]
    return copy
