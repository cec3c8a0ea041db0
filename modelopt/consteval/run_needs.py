"""What a run of a model takes at least, from its graph alone: nothing is allocated and nothing runs.

A model of 200 bytes can ask for 2^62 numbers, or for 2^62 turns of a loop. Sizes come from the shapes of inputs and
stored tensors and from the numbers that shapes are computed with. Open dimensions count as 1. A shape that the model
declares is believed only where no rule computes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import consteval, graph
from modelopt.consteval.call import NotEvaluable
from modelopt.consteval.known_inputs import KnownInputs
from modelopt.consteval.run_loops import goes_on, parts_of
from modelopt.consteval.run_shapes import element_bytes, shape_of
from modelopt.consteval.sizes import Shape, shape_part

MAX_EXECUTIONS = 10_000_000
"""A run that executes more nodes than this, because of a loop with a fixed number of turns, counts as endless."""

_FEW_BYTES = 1024
_MOST_EVALUATED = 20_000
_MOST_TURNS = 64
_MOST_TURNED_NODES = 20_000
_PART_BYTES = 128  # what one tensor of a sequence takes beside its numbers
_BOOLEANS = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"}
)
_TYPED_BY = {"OneHot": 2, "Where": 1}
_INT64 = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin"})


@dataclass(frozen=True)
class RunNeeds:
    """What a run of a model takes at least.

    Attributes:
        memory_bytes: Of the largest value, or of all outputs together where these take more.
        of: What takes that, in words.
        total_bytes: Of all values together, each counted once.
        input_bytes: Of the inputs.
        endless: Why a run would not end in a time that anyone waits; None where nothing says so.
    """

    memory_bytes: int = 0
    of: str = ""
    total_bytes: int = 0
    input_bytes: int = 0
    endless: str | None = None


def run_needs(model: ir.Model) -> RunNeeds:
    """The needs of a model."""
    walk = _Walk(model)
    walk.scope(model.graph, graph.opset(model), 1)
    outputs = sum(walk.bytes_of(value) for value in set(model.graph.outputs))
    for function in model.functions.values():
        walk.scope(function, graph.standard_version(function.opset_imports), 1)
    memory, of = walk.largest
    if outputs > memory:
        memory, of = outputs, "the outputs"
    inputs = sum(walk.bytes_of(value) for value in model.graph.inputs)
    return RunNeeds(memory, of, walk.total_bytes, inputs, walk.endless)


class _Walk:
    """Goes through scopes in order; see `run_needs`."""

    def __init__(self, model: ir.Model) -> None:
        self.largest = (0, "")
        self.total_bytes = 0
        self.endless: str | None = None
        self._functions = model.functions
        self._shapes: dict[ir.Value, Shape | None] = {}
        self._numbers: dict[ir.Value, np.ndarray | None] = {}
        self._widths: dict[ir.Value, int] = {}  # bytes of an element
        self._evaluated = self._turned = 0

    def scope(self, scope: ir.Graph | ir.Function, opset: int, times: int) -> None:
        """Go through one scope that is executed `times` times."""
        for node in scope:
            self._visit(node, opset, times)

    def bytes_of(self, value: ir.Value) -> int:
        """Of one value, as far as it is known."""
        shape = self._shape(value)
        return 0 if shape is None else math.prod(shape) * self._width(value)

    # What is known of a value

    def _shape(self, value: ir.Value) -> Shape | None:
        if value not in self._shapes:
            tensor = graph.constant_tensor(value)
            self._shapes[value] = _declared(value) if tensor is None else tuple(tensor.shape.numpy())
        return self._shapes[value]

    def _number(self, value: ir.Value) -> np.ndarray | None:
        if value not in self._numbers:
            tensor = graph.constant_tensor(value)
            few = tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes <= _FEW_BYTES
            self._numbers[value] = tensor.numpy() if few and tensor is not None else None
        return self._numbers[value]

    def _width(self, value: ir.Value) -> int:
        if value not in self._widths:
            tensor = graph.constant_tensor(value)
            dtype = value.dtype if tensor is None else tensor.dtype
            if tensor is not None and dtype == ir.DataType.STRING:
                self._widths[value] = max(map(len, tensor.numpy().reshape(-1)[:16]), default=1)
            else:
                self._widths[value] = element_bytes(dtype)
        return self._widths[value]

    # One node

    def _visit(self, node: ir.Node, opset: int, times: int) -> None:
        standard = node.domain in graph.STANDARD_DOMAINS and node.op_identifier() not in self._functions
        if standard and node.op_type in {"Loop", "Scan", "If"}:
            getattr(self, f"_{node.op_type.lower()}")(node, opset, times)
        elif standard:
            self._ordinary(node, opset)
        else:
            for body in graph.bodies(node):
                self.scope(body, opset, times)
        for value in node.outputs:
            self._count(node, self.bytes_of(value))

    def _count(self, node: ir.Node, size: int) -> None:
        self.total_bytes += size
        if size > self.largest[0]:
            self.largest = size, graph.label(node)

    def _ordinary(self, node: ir.Node, opset: int) -> None:
        inputs = node.inputs
        shapes = [None if value is None else self._shape(value) for value in inputs]
        numbers = [None if value is None else self._number(value) for value in inputs]
        if not node.outputs or node.op_type == "Constant":
            return
        output = node.outputs[0]
        self._set_width(node, output)
        if node.op_type == "SplitToSequence" and shapes[0]:
            self._shapes[output] = parts_of(node, shapes[0], numbers)
            self._widths[output] = _PART_BYTES
            return
        self._evaluate(node, shapes, numbers, opset)
        if self._numbers.get(output) is not None:
            return
        made = shape_of(KnownInputs(node, shapes, numbers, opset))
        if made is not None:
            self._shapes[output] = made

    def _evaluate(
        self, node: ir.Node, shapes: Sequence[Shape | None], numbers: Sequence[np.ndarray | None], opset: int
    ) -> None:
        """Compute the outputs where they are few numbers that are known."""
        if node.op_type in {"Shape", "Size"} and shapes and shapes[0] is not None:
            known = np.array(shapes[0] if node.op_type == "Shape" else math.prod(shapes[0]), object)
            if any(dim >= 2**63 for dim in known.reshape(-1)):
                return
            known = known.astype(np.int64)
            if node.op_type == "Shape":
                known = np.array(shape_part(node, known.tolist()), np.int64)
            self._learn(node.outputs[0], known)
            return
        present = [number for number, value in zip(numbers, node.inputs, strict=True) if value is not None]
        if not present or any(number is None for number in present) or self._evaluated >= _MOST_EVALUATED:
            return
        self._evaluated += 1
        try:
            size = consteval.output_bytes(node, numbers, opset)
            made = consteval.evaluate(node, numbers, opset) if size is not None and size <= _FEW_BYTES else None
        except NotEvaluable:
            return
        for value, array in zip(node.outputs, made or (), strict=False):
            self._learn(value, array)

    def _learn(self, value: ir.Value, array: np.ndarray) -> None:
        self._numbers[value], self._shapes[value] = array, array.shape

    def _set_width(self, node: ir.Node, output: ir.Value) -> None:
        of = graph.input_at(node, _TYPED_BY.get(node.op_type, 0))
        dtype = graph.attribute_int(node, "to" if node.op_type == "Cast" else "dtype", 0)
        if output.dtype is not None and output.dtype != ir.DataType.STRING:
            return  # its type is declared
        if dtype in ir.DataType.__members__.values() and node.op_type != "SequenceEmpty" and dtype:
            self._widths[output] = element_bytes(ir.DataType(dtype))
        elif node.op_type == "StringConcat":
            self._widths[output] = sum(self._width(value) for value in node.inputs if value is not None)
        elif node.op_type in _BOOLEANS:
            self._widths[output] = 1
        elif node.op_type in _INT64:
            self._widths[output] = 8
        elif node.op_type != "ConstantOfShape" and of is not None:
            self._widths[output] = self._width(of)

    # Bodies

    def _if(self, node: ir.Node, opset: int, times: int) -> None:
        condition = None if not node.inputs or node.inputs[0] is None else self._number(node.inputs[0])
        skipped = None
        if condition is not None and condition.size == 1:
            skipped = "else_branch" if bool(condition.reshape(())) else "then_branch"
        for key, attribute in node.attributes.items():
            if key != skipped and attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                self.scope(attribute.as_graph(), opset, times)
                self._hand_out(node, attribute.as_graph().outputs)

    def _hand_out(self, node: ir.Node, results: Iterable[ir.Value]) -> None:
        """Give outputs of a node the shapes of what a body gives, the larger where two bodies give them."""
        for value, result in zip(node.outputs, results, strict=False):
            shape = self._shape(result)
            if shape is not None and math.prod(shape) >= math.prod(self._shapes.get(value) or (0,)):
                self._shapes[value], self._widths[value] = shape, self._width(result)

    def _loop(self, node: ir.Node, opset: int, times: int) -> None:
        body = next(iter(graph.bodies(node)), None)
        if body is None or len(body.inputs) < 2:
            return
        trips = self._trips(node, body)
        self._bind(body.inputs[2:], [None if value is None else self._shape(value) for value in node.inputs[2:]])
        turns = min(trips, _MOST_TURNS) if trips is not None else 1
        self._turn(node, body, opset, times * (trips or 1), turns)
        carried = len(body.inputs) - 2
        self._hand_out(node, body.outputs[1 : 1 + carried])
        for value, result in zip(node.outputs[carried:], body.outputs[1 + carried :], strict=False):
            shape = self._shape(result)
            if shape is not None and trips is not None:
                self._shapes[value], self._widths[value] = (trips, *shape), self._width(result)

    def _trips(self, node: ir.Node, body: ir.Graph) -> int | None:
        """How often the body runs for certain; None where the body or an input decides."""
        bound = node.inputs[0] if node.inputs else None
        number = None if bound is None else self._number(bound)
        if bound is not None and (number is None or number.size != 1):
            return None
        if not body.outputs or not goes_on(body):
            return None
        return 2**63 if number is None else max(int(number.reshape(())), 0)

    def _turn(self, node: ir.Node, body: ir.Graph, opset: int, times: int, turns: int) -> None:
        """Go through the body of a Loop while what it carries changes its shape, `turns` times at most."""
        nodes = len(body)
        self._execute(node, nodes * times)
        carried = list(zip(body.inputs[2:], body.outputs[1:], strict=False))
        for _ in range(turns):
            for inner in body:
                self._forget(inner.outputs)
            self.scope(body, opset, times)
            self._turned += nodes
            before = [self._shape(start) for start, _ in carried]
            after = [self._shape(end) for _, end in carried]
            if after == before or None in after or self._turned > _MOST_TURNED_NODES:
                return
            self._bind([start for start, _ in carried], after)

    def _scan(self, node: ir.Node, opset: int, times: int) -> None:
        body = next(iter(graph.bodies(node)), None)
        scanned = graph.attribute_int(node, "num_scan_inputs", 0)
        if body is None or not 0 < scanned <= len(node.inputs):
            return
        given = [None if value is None else self._shape(value) for value in node.inputs]
        lengths = [shape[0] for shape in given[-scanned:] if shape]
        length = max(lengths, default=1)
        self._bind(body.inputs, [*given[:-scanned], *(shape[1:] if shape else None for shape in given[-scanned:])])
        self._execute(node, len(body) * times * length)
        self.scope(body, opset, times * length)
        states = len(node.inputs) - scanned
        self._hand_out(node, body.outputs[:states])
        for value, result in zip(node.outputs[states:], body.outputs[states:], strict=False):
            shape = self._shape(result)
            if shape is not None:
                self._shapes[value], self._widths[value] = (length, *shape), self._width(result)

    def _bind(self, values: Sequence[ir.Value], shapes: Sequence[Shape | None]) -> None:
        for value, shape in zip(values, shapes, strict=False):
            if shape is not None:
                self._shapes[value] = shape

    def _forget(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            self._shapes.pop(value, None)
            self._numbers.pop(value, None)

    def _execute(self, node: ir.Node, count: int) -> None:
        if count > MAX_EXECUTIONS and self.endless is None:
            self.endless = f"{graph.label(node)} executes {count:.1e} nodes, so that a run would not end"


def _declared(value: ir.Value) -> Shape | None:
    """What the model says of a value; open dimensions are 1."""
    dims = graph.known_dims(value)
    return None if dims is None else tuple(1 if dim is None else dim for dim in dims)
