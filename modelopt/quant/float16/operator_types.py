"""The half types, and which inputs and outputs of a node change from float32 to one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import ml_dtypes
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import schemas


class HalfType(Enum):
    """A floating-point type of 16 bits.

    Attributes:
        FP16: 11 bits of precision, up to 65504; runs on most accelerators.
        BF16: 8 bits of precision, the range of float32.
    """

    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def element(self) -> ir.DataType:
        """The ONNX type."""
        return ir.DataType.FLOAT16 if self is HalfType.FP16 else ir.DataType.BFLOAT16

    @property
    def title(self) -> str:
        """Its name in messages."""
        return "float16" if self is HalfType.FP16 else "bfloat16"

    @property
    def dtype(self) -> np.dtype:
        """The array type."""
        return np.dtype(np.float16) if self is HalfType.FP16 else np.dtype(ml_dtypes.bfloat16)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return 65504.0 if self is HalfType.FP16 else 255 * 2.0**120

    @property
    def smallest(self) -> float:
        """The smallest positive number with full precision."""
        return 2.0**-14 if self is HalfType.FP16 else 2.0**-126

    @property
    def whole(self) -> int:
        """The largest number up to which it holds every integer."""
        return 2048 if self is HalfType.FP16 else 256


_ANY_INPUT = frozenset({"Cast", "Shape", "Size"})
"""Operators whose result does not depend on which float type they read."""

_FLOAT32_INPUTS: Mapping[str, frozenset[int]] = {
    "Resize": frozenset({1, 2}),  # roi, scales
    "Upsample": frozenset({1}),
    "Dropout": frozenset({1, 2}),
    "GridSample": frozenset({1}),
}
_FLOAT32_OUTPUTS: Mapping[str, frozenset[int]] = {"LayerNormalization": frozenset({1, 2})}
"""stash_type says which type these have, and it is float32."""

_CONTRIB_BF16 = frozenset({"FastGelu", "QuickGelu", "RotaryEmbedding", "GroupQueryAttention", "MatMulNBits"})
_CONTRIB = _CONTRIB_BF16 | frozenset(
    {"Attention", "MultiHeadAttention", "BiasGelu", "Gelu", "FusedMatMul", "SkipLayerNormalization"}
    | {"SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "BiasSoftmax"}
)
_CONTRIB_FLOAT32_OUTPUTS: Mapping[str, frozenset[int]] = {
    "SkipLayerNormalization": frozenset({1, 2}),
    "SkipSimplifiedLayerNormalization": frozenset({1, 2}),
}
_CONTRIB_INTEGER_OUTPUTS: Mapping[str, frozenset[int]] = {"EmbedLayerNormalization": frozenset({1})}


@dataclass(frozen=True)
class SharedType:
    """Inputs and outputs of a control-flow node and of its bodies that must have one type.

    They are a state variable of Loop or Scan, an input or output that Scan runs over, or an output of If.

    Attributes:
        input: The position of the node's input.
        body_inputs: The inputs of its bodies.
        body_outputs: The bodies and the positions of their outputs.
        output: The position of the node's output.
    """

    input: int | None
    body_inputs: tuple[ir.Value, ...]
    body_outputs: tuple[tuple[ir.Graph, int], ...]
    output: int | None


@dataclass(frozen=True)
class TypeChanges:
    """The inputs and outputs of a node that change their type when it is converted.

    Attributes:
        inputs: Positions of inputs.
        outputs: Positions of outputs.
        shared: For a control-flow node, what else has the same types.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    shared: tuple[SharedType, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


class Elements:
    """The element types of all values outside functions: as the model declares them, else by the ONNX specification."""

    def __init__(self, model: ir.Model) -> None:
        self._version = graph.opset(model)
        self._functions = model.functions
        self._known: dict[ir.Value, ir.DataType | None] = {}
        self._scope(model.graph)

    def of(self, value: ir.Value) -> ir.DataType | None:
        """The element type of a tensor; None for what is not a tensor or not known."""
        if value not in self._known:
            tensor = graph.constant_tensor(value)
            self._known[value] = _stated(value) if tensor is None else tensor.dtype
        return self._known[value]

    def is_float(self, value: ir.Value | None) -> bool:
        """Whether the value is a float32 tensor."""
        return value is not None and self.of(value) == ir.DataType.FLOAT

    def changes(self, node: ir.Node, half: HalfType) -> TypeChanges | str:
        """What changes its type when `node` is converted, or why it cannot be; nothing for a node without float32."""
        floats = [i for i, value in enumerate(node.inputs) if self.is_float(value)]
        made = [i for i, value in enumerate(node.outputs) if self.is_float(value)]
        if node.op_identifier() in self._functions:
            return "it calls a function, and functions stay in float32" if floats or made else TypeChanges()
        unknown = [value for value in (*node.inputs, *node.outputs) if value is not None and self._is_open(value)]
        if unknown and (floats or made):
            return f"the type of {unknown[0].name} is not known, or it is not a tensor"
        if graph.bodies(node):
            return self._control_flow_changes(node)
        if not floats and not made:
            return TypeChanges()
        if node.domain not in graph.STANDARD_DOMAINS:
            return _contrib_changes(node, floats, made, half)
        variables = schemas.type_variables(node, self._version)
        if variables is None:
            return f"onnx does not know {node.op_type} in opset {self._version}"
        allowed = {name for name, types in variables.allowed.items() if f"tensor({half.title})" in types}
        kept_in = _FLOAT32_INPUTS.get(node.op_type, frozenset())
        kept_out = _FLOAT32_OUTPUTS.get(node.op_type, frozenset())
        changes = TypeChanges(
            frozenset(i for i in floats if variables.inputs[i] in allowed and i not in kept_in | any_input(node)),
            frozenset(i for i in made if variables.outputs[i] in allowed and i not in kept_out),
        )
        if not changes and not any_input(node):
            return f"{node.op_type} takes no {half.title} in opset {self._version}"
        return changes

    def _is_open(self, value: ir.Value) -> bool:
        return bool(value.name) and self.of(value) is None

    def _control_flow_changes(self, node: ir.Node) -> TypeChanges | str:
        found = shared_types(node, self._version)
        if found is None:
            return "it has a body whose types are not followed"
        floats = tuple(
            shared_type for shared_type in found if all(self.is_float(value) for value in _places(node, shared_type))
        )
        return TypeChanges(
            frozenset(shared_type.input for shared_type in floats if shared_type.input is not None),
            frozenset(shared_type.output for shared_type in floats if shared_type.output is not None),
            floats,
        )

    def _scope(self, scope: ir.Graph) -> None:
        for node in scope:
            found = shared_types(node, self._version) or ()
            for shared_type in found:
                for value in shared_type.body_inputs if shared_type.input is not None else ():
                    given = node.inputs[shared_type.input] if shared_type.input is not None else None
                    if _stated(value) is None and given is not None:
                        self._known[value] = self.of(given)
            for body in graph.bodies(node):
                self._scope(body)
            for index, value in enumerate(node.outputs):
                self._known[value] = _stated(value) if value.type is not None else self._implied(node, index, found)

    def _implied(self, node: ir.Node, index: int, found: Iterable[SharedType]) -> ir.DataType | None:
        for shared_type in found:
            if shared_type.output == index:
                return next((self.of(body.outputs[place]) for body, place in shared_type.body_outputs), None)
        if node.domain == graph.CONTRIB_DOMAIN and node.op_type in _CONTRIB:
            if index in _CONTRIB_INTEGER_OUTPUTS.get(node.op_type, ()):
                return ir.DataType.INT32
            first = next((value for value in node.inputs if self.is_float(value)), None)
            return None if first is None else ir.DataType.FLOAT
        if node.domain not in graph.STANDARD_DOMAINS or node.op_identifier() in self._functions:
            return None
        return self._by_specification(node, index)

    def _by_specification(self, node: ir.Node, index: int) -> ir.DataType | None:
        if node.op_type == "Constant":
            tensor = graph.constant_node_tensor(node)
            return None if tensor is None else tensor.dtype
        if node.op_type == "Cast":
            return ir.DataType(graph.attribute_int(node, "to", 0))
        if node.op_type == "ConstantOfShape":
            filled = fill(node)
            return ir.DataType.FLOAT if filled is None else filled.dtype
        variables = schemas.type_variables(node, self._version)
        if variables is None:
            return None
        wanted = variables.outputs[index]
        for name, value in zip(variables.inputs, node.inputs, strict=True):
            if name == wanted and value is not None:
                return self.of(value)
        types = variables.allowed.get(wanted, frozenset({wanted}))
        return _parsed(next(iter(types))) if len(types) == 1 else None


def outside_functions(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the main graph and of control-flow bodies, outer scopes first."""
    for scope, _, in_function in graph.scopes(model):
        if not in_function:
            yield from scope


def any_input(node: ir.Node) -> frozenset[int]:
    """Positions of inputs that need no Cast: the operator takes any float type, and its result is the same."""
    return frozenset({0}) if node.op_type in _ANY_INPUT and node.domain in graph.STANDARD_DOMAINS else frozenset()


def fill(node: ir.Node) -> ir.TensorProtocol | None:
    """The number that a ConstantOfShape fills its output with; None for the default, a float32 zero."""
    attribute = node.attributes.get("value")
    return None if attribute is None or attribute.is_ref() else attribute.as_tensor()


def shared_types(node: ir.Node, opset: int) -> tuple[SharedType, ...] | None:
    """What of If, Loop and Scan has one type; None for other nodes, and for Scan of opset 8 (it runs over a batch)."""
    if node.domain not in graph.STANDARD_DOMAINS:
        return None
    outputs = range(len(node.outputs))
    bodies = tuple(graph.bodies(node))
    if node.op_type == "If":
        return tuple(SharedType(None, (), tuple((body, i) for body in bodies), i) for i in outputs)
    if node.op_type == "Loop":
        states, first_in, first_out = len(node.inputs) - 2, 2, 1
    elif node.op_type == "Scan" and opset > 8:
        states, first_in, first_out = len(node.inputs) - graph.attribute_int(node, "num_scan_inputs", 0), 0, 0
    else:
        return None
    (body,) = bodies
    found = [
        SharedType(first_in + i, (body.inputs[first_in + i],), ((body, first_out + i),), i if i in outputs else None)
        for i in range(states)
    ]
    found += [SharedType(i, (body.inputs[i],), (), None) for i in range(first_in + states, len(node.inputs))]
    found += [SharedType(None, (), ((body, first_out + i),), i) for i in range(states, len(node.outputs))]
    return tuple(found)


def _places(node: ir.Node, shared_type: SharedType) -> Iterable[ir.Value]:
    given = node.inputs[shared_type.input] if shared_type.input is not None else None
    if given is not None:
        yield given
    yield from shared_type.body_inputs
    yield from (body.outputs[place] for body, place in shared_type.body_outputs)
    if shared_type.output is not None and node.outputs[shared_type.output].name:
        yield node.outputs[shared_type.output]


def _contrib_changes(node: ir.Node, floats: list[int], made: list[int], half: HalfType) -> TypeChanges | str:
    taken = _CONTRIB if half is HalfType.FP16 else _CONTRIB_BF16
    if node.domain != graph.CONTRIB_DOMAIN or node.op_type not in taken:
        return f"operators of the domain {node.domain} stay in float32, except those known to take {half.title}"
    kept = _CONTRIB_FLOAT32_OUTPUTS.get(node.op_type, frozenset())
    return TypeChanges(frozenset(floats), frozenset(i for i in made if i not in kept))


def _stated(value: ir.Value) -> ir.DataType | None:
    return value.type.dtype if isinstance(value.type, ir.TensorType) else None


def _parsed(written: str) -> ir.DataType | None:
    name = written.removeprefix("tensor(").removesuffix(")").upper()
    return ir.DataType.__members__.get(name)
