"""The half types, and which inputs and outputs of a node hold float32 and may hold one of them instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
        """Up to where it holds every whole number."""
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
class Tie:
    """Places of a control-flow node that hold the same state: they have one type.

    Attributes:
        input: The node's input.
        body_inputs: The inputs of its bodies.
        body_outputs: The bodies and the positions of their outputs.
        output: The node's output.
    """

    input: int | None
    body_inputs: tuple[ir.Value, ...]
    body_outputs: tuple[tuple[ir.Graph, int], ...]
    output: int | None


@dataclass(frozen=True)
class Ports:
    """What changes its type when a node is converted.

    Attributes:
        inputs: Positions of inputs.
        outputs: Positions of outputs.
        ties: States of a control-flow node.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    ties: tuple[Tie, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


class Elements:
    """The element types of all values outside functions: what the model states, else what the specification implies."""

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

    def ports(self, node: ir.Node, half: HalfType) -> Ports | str:
        """What changes when `node` is converted, or why it cannot be; without float32 the ports are empty."""
        floats = [i for i, value in enumerate(node.inputs) if self.is_float(value)]
        made = [i for i, value in enumerate(node.outputs) if self.is_float(value)]
        if node.op_identifier() in self._functions:
            return "it calls a function, and functions stay in float32" if floats or made else Ports()
        unknown = [value for value in (*node.inputs, *node.outputs) if value is not None and self._is_open(value)]
        if unknown and (floats or made):
            return f"the type of {unknown[0].name} is not known, or it is not a tensor"
        if any(True for _ in graph.bodies(node)):
            return self._control_ports(node)
        if not floats and not made:
            return Ports()
        if node.domain not in graph.STANDARD_DOMAINS:
            return _contrib_ports(node, floats, made, half)
        variables = schemas.type_variables(node, self._version)
        if variables is None:
            return f"onnx does not know {node.op_type} in opset {self._version}"
        allowed = {name for name, types in variables.allowed.items() if f"tensor({half.title})" in types}
        kept_in = _FLOAT32_INPUTS.get(node.op_type, frozenset())
        kept_out = _FLOAT32_OUTPUTS.get(node.op_type, frozenset())
        ports = Ports(
            frozenset(i for i in floats if variables.inputs[i] in allowed and i not in kept_in | any_input(node)),
            frozenset(i for i in made if variables.outputs[i] in allowed and i not in kept_out),
        )
        if not ports and not any_input(node):
            return f"{node.op_type} takes no {half.title} in opset {self._version}"
        return ports

    def _is_open(self, value: ir.Value) -> bool:
        return bool(value.name) and self.of(value) is None

    def _control_ports(self, node: ir.Node) -> Ports | str:
        found = ties(node, self._version)
        if found is None:
            return "it has a body whose types are not followed"
        floats = tuple(tie for tie in found if all(self.is_float(value) for value in _places(node, tie)))
        return Ports(
            frozenset(tie.input for tie in floats if tie.input is not None),
            frozenset(tie.output for tie in floats if tie.output is not None),
            floats,
        )

    def _scope(self, scope: ir.Graph) -> None:
        for node in scope:
            found = ties(node, self._version) or ()
            for tie in found:
                for value in tie.body_inputs if tie.input is not None else ():
                    given = node.inputs[tie.input] if tie.input is not None else None
                    if _stated(value) is None and given is not None:
                        self._known[value] = self.of(given)
            for body in graph.bodies(node):
                self._scope(body)
            for index, value in enumerate(node.outputs):
                self._known[value] = _stated(value) if value.type is not None else self._implied(node, index, found)

    def _implied(self, node: ir.Node, index: int, found: Iterable[Tie]) -> ir.DataType | None:
        for tie in found:
            if tie.output == index:
                return next((self.of(body.outputs[place]) for body, place in tie.body_outputs), None)
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


def any_input(node: ir.Node) -> frozenset[int]:
    """Positions of inputs that may have any float type as they come."""
    return frozenset({0}) if node.op_type in _ANY_INPUT and node.domain in graph.STANDARD_DOMAINS else frozenset()


def fill(node: ir.Node) -> ir.TensorProtocol | None:
    """The number that a ConstantOfShape fills its output with; None for the default, a float32 zero."""
    attribute = node.attributes.get("value")
    return None if attribute is None or attribute.is_ref() else attribute.as_tensor()


def ties(node: ir.Node, opset: int) -> tuple[Tie, ...] | None:
    """The states of If, Loop and Scan; None for other nodes, and for the Scan of opset 8, which runs over a batch."""
    if node.domain not in graph.STANDARD_DOMAINS:
        return None
    outputs = range(len(node.outputs))
    bodies = tuple(graph.bodies(node))
    if node.op_type == "If":
        return tuple(Tie(None, (), tuple((body, i) for body in bodies), i) for i in outputs)
    if node.op_type == "Loop":
        states, first_in, first_out = len(node.inputs) - 2, 2, 1
    elif node.op_type == "Scan" and opset > 8:
        states, first_in, first_out = len(node.inputs) - graph.attribute_int(node, "num_scan_inputs", 0), 0, 0
    else:
        return None
    (body,) = bodies
    found = [
        Tie(first_in + i, (body.inputs[first_in + i],), ((body, first_out + i),), i if i in outputs else None)
        for i in range(states)
    ]
    found += [Tie(i, (body.inputs[i],), (), None) for i in range(first_in + states, len(node.inputs))]
    found += [Tie(None, (), ((body, first_out + i),), i) for i in range(states, len(node.outputs))]
    return tuple(found)


def _places(node: ir.Node, tie: Tie) -> Iterable[ir.Value]:
    given = node.inputs[tie.input] if tie.input is not None else None
    if given is not None:
        yield given
    yield from tie.body_inputs
    yield from (body.outputs[place] for body, place in tie.body_outputs)
    if tie.output is not None and node.outputs[tie.output].name:
        yield node.outputs[tie.output]


def _contrib_ports(node: ir.Node, floats: list[int], made: list[int], half: HalfType) -> Ports | str:
    taken = _CONTRIB if half is HalfType.FP16 else _CONTRIB_BF16
    if node.domain != graph.CONTRIB_DOMAIN or node.op_type not in taken:
        return f"operators of the domain {node.domain} stay in float32, except those known to take {half.title}"
    kept = _CONTRIB_FLOAT32_OUTPUTS.get(node.op_type, frozenset())
    return Ports(frozenset(floats), frozenset(i for i in made if i not in kept))


def _stated(value: ir.Value) -> ir.DataType | None:
    return value.type.dtype if isinstance(value.type, ir.TensorType) else None


def _parsed(written: str) -> ir.DataType | None:
    name = written.removeprefix("tensor(").removesuffix(")").upper()
    return ir.DataType.__members__.get(name)
