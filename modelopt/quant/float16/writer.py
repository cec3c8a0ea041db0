"""Write a plan into a model: types change, constants are stored in half, and Casts are added where types differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.quant.float16.operator_types import Elements, HalfType, TypeChanges, any_input, fill
from modelopt.quant.float16.planning import HalfPlan
from modelopt.quant.float16.ranges import converted

_SMALL = 1024  # elements: a constant up to this is stored in both types rather than cast (a choice)
_BOUNDS = frozenset({"Clip", "Max", "Min"})


@dataclass
class HalfCounts:
    """What was written.

    Attributes:
        casts: Cast nodes added.
        constants: Constants stored in the half type.
        clamped: Numbers in them that were beyond the type's range.
        vanished: Numbers in them that became 0.
    """

    casts: int = 0
    constants: int = 0
    clamped: int = 0
    vanished: int = 0


@dataclass
class _ConstantUse:
    """Where a constant is read: an input of a node, or an output of a graph."""

    holder: ir.Node | ir.Graph
    index: int
    half: bool

    def put(self, value: ir.Value) -> None:
        """Let the node or graph read `value` instead."""
        if isinstance(self.holder, ir.Node):
            self.holder.replace_input_with(self.index, value)
        else:
            self.holder.outputs[self.index] = value


class HalfWriter:
    """Rewrites one model; use it once.

    Args:
        model: The model, changed in place.
        elements: Its types before the change.
        half: The type.
        limit: The magnitude that replaces masks beyond the range, where they are added to something.
        half_io: The model's float32 inputs and outputs become half as well.
    """

    def __init__(
        self, model: ir.Model, elements: Elements, half: HalfType, limit: float, *, half_io: bool = False
    ) -> None:
        self.figures = HalfCounts()
        self._model = model
        self._elements = elements
        self._half = half
        self._limit = limit
        self._half_io = half_io
        self._names = graph.NameSource(model)
        self._halves: set[ir.Value] = set()
        self._casts: dict[ir.Value, ir.Value] = {}
        self._constants: dict[ir.Value, list[_ConstantUse]] = {}

    def write(self, plan: HalfPlan) -> None:
        """Convert the nodes of the plan; the model's inputs and outputs keep their names."""
        if self._half_io:
            for value in self._model.graph.inputs:
                if self._elements.is_float(value) and not value.is_initializer():
                    self._become_half(value)
        for node, changes in plan.chosen.items():
            self._convert(node, changes)
        for scope, _, inside in list(graph.scopes(self._model)):
            if isinstance(scope, ir.Graph) and not inside:
                self._connect(scope, plan)
        for value, places in self._constants.items():
            self._convert_constant(value, places)

    def store(self, value: ir.Value) -> None:
        """Store a constant in the half type, and cast it to float32 for all that read it; outputs keep their names."""
        places = [_ConstantUse(node, index, half=False) for node, index in value.uses()]
        outputs = list(self._outputs_of(value))
        self._narrow(value, [*places, *outputs])
        wide = self._cast(value, ir.DataType.FLOAT)
        for place in (*places, *outputs):
            place.put(wide)
        if outputs:
            self._exchange_names(value, wide, self._half.title)

    def _outputs_of(self, value: ir.Value) -> Iterator[_ConstantUse]:
        for scope in graph.all_graphs(self._model) if value.is_graph_output() else ():
            if isinstance(scope, ir.Graph):
                yield from (_ConstantUse(scope, i, half=False) for i, out in enumerate(scope.outputs) if out is value)

    # Nodes

    def _convert(self, node: ir.Node, changes: TypeChanges) -> None:
        for index in changes.outputs:
            self._become_half(node.outputs[index])
        for shared_type in changes.shared:
            for value in shared_type.body_inputs:
                self._become_half(value)
        if graph.is_standard(node, "Cast"):
            node.attributes.add(ir.AttrInt64("to", int(self._half.element)))
        if graph.is_standard(node, "ConstantOfShape"):
            filled = fill(node)
            array = np.zeros(1, np.float32) if filled is None else filled.numpy()
            narrow, clamped, vanished = converted(array, self._half, self._half.largest)
            self.figures.clamped += clamped
            self.figures.vanished += vanished
            node.attributes.add(ir.AttrTensor("value", ir.tensor(narrow)))

    def _become_half(self, value: ir.Value) -> None:
        self._halves.add(value)
        value.type = ir.TensorType(self._half.element)

    # Between nodes

    def _connect(self, scope: ir.Graph, plan: HalfPlan) -> None:
        halves = {
            (body, place)
            for changes in plan.chosen.values()
            for shared_type in changes.shared
            for body, place in shared_type.body_outputs
            if body is scope
        }
        for node in list(scope):
            changes = plan.chosen.get(node, TypeChanges())
            for index, value in enumerate(node.inputs):
                if index not in any_input(node):
                    self._read_as(value, _ConstantUse(node, index, half=index in changes.inputs))
        for index, value in enumerate(scope.outputs):
            if scope is not self._model.graph:
                self._read_as(value, _ConstantUse(scope, index, half=(scope, index) in halves))
            elif graph.constant_tensor(value) is not None:
                self._read_as(value, _ConstantUse(scope, index, half=False))
            elif self._elements.is_float(value) and not value.is_graph_input():
                self._convert_output(value, index)

    def _read_as(self, value: ir.Value | None, place: _ConstantUse) -> None:
        if value is None or not self._elements.is_float(value):
            return
        if graph.constant_tensor(value) is not None:
            self._constants.setdefault(value, []).append(place)
        elif place.half != (value in self._halves):
            place.put(self._cast(value, self._half.element if place.half else ir.DataType.FLOAT))

    def _convert_output(self, value: ir.Value, index: int) -> None:
        """Give an output of the model its type; it keeps its name, and the value before the Cast gets another."""
        scope = self._model.graph
        if (value in self._halves) == self._half_io:
            return
        other = self._cast(value, self._half.element if self._half_io else ir.DataType.FLOAT)
        if not other.is_graph_output():
            self._exchange_names(value, other, "float32" if self._half_io else self._half.title)
            other.shape = value.shape
        scope.outputs[index] = other

    def _exchange_names(self, value: ir.Value, cast: ir.Value, title: str) -> None:
        """Give the name of the output `value` to the result of its Cast, and another name to `value`."""
        name = value.name
        value.name = self._names(f"{name}_{title}")
        cast.name = name

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        """`value` in the other type, by one Cast behind the node that makes it."""
        if value not in self._casts:
            title = "float32" if to == ir.DataType.FLOAT else self._half.title
            name = self._names(f"{value.name}_{title}")
            out = ir.Value(name=name, shape=value.shape, type=ir.TensorType(to))
            node = ir.node("Cast", [value], {"to": int(to)}, outputs=[out], name=name)
            graph.insert_behind(value, [node])
            self._casts[value] = out
            self.figures.casts += 1
        return self._casts[value]

    # Constants

    def _convert_constant(self, value: ir.Value, places: list[_ConstantUse]) -> None:
        wanted = [place for place in places if place.half]
        if not wanted:
            return
        if len(wanted) == len(places):
            self._narrow(value, places)
            return
        tensor = graph.constant_tensor(value)
        copy = self._half_copy(value, wanted) if tensor is not None and tensor.size <= _SMALL else None
        for place in wanted:
            place.put(copy or self._cast(value, self._half.element))

    def _narrow(self, value: ir.Value, places: list[_ConstantUse]) -> None:
        graph.set_constant(value, self._converted(value, places))

    def _half_copy(self, value: ir.Value, places: list[_ConstantUse]) -> ir.Value:
        """A copy of a constant in the half type; others read the constant in float32."""
        array = self._converted(value, places)
        name = self._names(f"{value.name}_{self._half.title}")
        if value.producer() is None and isinstance(value.graph, ir.Graph):
            return graph.add_initializer(value.graph, name, array)
        tensor = ir.tensor(array)
        out = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        graph.insert_behind(value, [ir.node("Constant", [], {"value": tensor}, outputs=[out], name=name)])
        return out

    def _converted(self, value: ir.Value, places: list[_ConstantUse]) -> np.ndarray:
        array = graph.constant(value)
        if array is None:
            raise ValueError(f"{value!r} is not a constant")
        bounds = all(isinstance(place.holder, ir.Node) and place.holder.op_type in _BOUNDS for place in places)
        narrow, clamped, vanished = converted(array, self._half, self._half.largest if bounds else self._limit)
        self.figures.constants += 1
        self.figures.clamped += clamped
        self.figures.vanished += vanished
        return narrow
