"""Makes values inside If, Loop and Scan bodies outputs of the main graph, so that calibration can observe them.

A value leaves its body flat, for ranges need no shape. So executions of different shapes can be joined, and a body that
is never executed gives an empty value.

- If: the branch returns the flat value, every other branch an empty one.
- Loop: a loop-carried value that starts empty; each iteration appends its value.
- Scan: one more scan output; all iterations have equal shapes.

Values of bodies inside bodies are passed outwards step by step in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph

NEVER_RUN = "is in a body that no calibration sample executed"
_AMBIGUOUS = "has a name that another graph of the model uses as well"
_SCAN_WITH_BATCH = 8  # Scan of this opset runs over a batch
_Path = tuple[tuple[ir.Node, ir.Graph], ...]


@dataclass(frozen=True)
class Exposed:
    """A model to run, and the outputs to ask it for.

    Attributes:
        model: What to run: the model itself when no body's value is asked for, else a copy that shares its weights.
        outputs: By key, the value of its main graph to ask for. Keys are the names to observe, and counters.
        counters: By the name of a body's value, the key of its body's counter: one element 1.0 for each execution.
        hidden: By name, why a value cannot be observed.
    """

    model: ir.Model
    outputs: Mapping[str, str]
    counters: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)


def expose(model: ir.Model, names: Sequence[str]) -> Exposed:
    """Make values of bodies, in any depth, outputs of the main graph.

    Args:
        model: It is not changed.
        names: Names of float32 values outside functions.
    """
    wanted = set(names) - {value.name for value in _values(model.graph)}
    if not wanted:
        return Exposed(model, {name: name for name in names})
    copy = model.clone()
    writer = _SubgraphWriter(copy)
    outputs = {name: name for name in names if name not in wanted}
    counters: dict[str, str] = {}
    hidden = dict.fromkeys(wanted & _ambiguous(copy), _AMBIGUOUS)
    for body, path in list(_bodies(copy.graph, ())):
        asked = [value for value in _values(body) if value.name in wanted and value.name not in hidden]
        problem = _why_hidden(path, graph.opset(copy))
        if problem is not None:
            hidden.update({value.name or "": problem for value in asked})
            continue
        key = f"runs of {asked[0].name}" if asked else ""
        for value in asked:
            outputs[value.name or ""] = writer.lift(writer.flat(value, body), path)
            counters[value.name or ""] = key
        if asked:
            outputs[key] = writer.lift(writer.constant(body, np.ones(1, np.float32)), path)
    return Exposed(copy, outputs, counters, hidden)


def named_apart(model: ir.Model) -> ir.Model:
    """The model itself if no two values outside functions have the same name, else a copy with different names.

    Two bodies of one graph may use the same names, and calibration finds values by name.
    """
    if not _ambiguous(model):
        return model
    copy = model.clone()
    fresh, taken = graph.NameSource(copy), set[str]()
    for scope in graph.with_bodies(copy.graph):
        stored = scope.initializers.values() if isinstance(scope, ir.Graph) else ()
        for value in dict.fromkeys([*scope.inputs, *stored, *(value for node in scope for value in node.outputs)]):
            if value.name in taken:
                value.name = fresh(value.name or "")
            taken.add(value.name or "")
    return copy


def _values(scope: ir.Graph) -> Iterator[ir.Value]:
    yield from scope.inputs
    for node in scope:
        yield from (value for value in node.outputs if value.name)


def _ambiguous(model: ir.Model) -> set[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for scope in graph.with_bodies(model.graph):
        if isinstance(scope, ir.Graph):
            names = {value.name or "" for value in _values(scope)} | set(scope.initializers)
            twice |= names & seen
            seen |= names
    return twice


def _bodies(scope: ir.Graph, path: _Path) -> Iterator[tuple[ir.Graph, _Path]]:
    for node in scope:
        for body in graph.bodies(node):
            inner = (*path, (node, body))
            yield body, inner
            yield from _bodies(body, inner)


def _why_hidden(path: _Path, opset: int) -> str | None:
    for depth, (node, _) in enumerate(path):
        if not any(graph.is_standard(node, kind) for kind in ("If", "Loop", "Scan")):
            return f"is inside {graph.label(node)}, whose body cannot be observed"
        if node.op_type == "Scan" and opset <= _SCAN_WITH_BATCH:
            return f"is inside {graph.label(node)} of opset {opset}, whose body cannot be observed"
        if node.op_type == "Scan" and depth < len(path) - 1:
            return f"is in a body inside the Scan {node.name or ''}".rstrip() + ", which shows equal shapes only"
    return None


class _SubgraphWriter:
    """Adds outputs to the scopes of one model."""

    def __init__(self, model: ir.Model) -> None:
        self._main = model.graph
        self._names = graph.NameSource(model)

    def lift(self, value: ir.Value, path: _Path) -> str:
        """Pass a flat value of the innermost body of `path` out to the main graph; returns its name there."""
        for node, body in reversed(path):
            if node.op_type == "If":
                value = self._through_if(node, body, value)
            elif node.op_type == "Loop":
                value = self._through_loop(node, body, value)
            else:
                value = self._through_scan(node, body, value)
        return value.name or ""

    def flat(self, value: ir.Value, scope: ir.Graph) -> ir.Value:
        """The elements of `value`, in one dimension."""
        shape = self.constant(scope, np.array([-1], np.int64))
        made = self._value(f"{value.name}_flat")
        node = ir.Node("", "Reshape", [value, shape], outputs=[made], name=made.name)
        producer = value.producer()
        if producer is None:
            shape.producer().append([node])  # type: ignore[union-attr]
        else:
            scope.insert_after(producer, [node])
        return made

    def constant(self, scope: ir.Graph, array: np.ndarray) -> ir.Value:
        """A Constant node at the beginning of `scope`."""
        tensor = ir.tensor(array)
        made = ir.Value(name=self._names("observed"), shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        node = ir.node("Constant", [], {"value": tensor}, outputs=[made], name=made.name)
        if len(scope):
            scope.insert_before(scope[0], [node])
        else:
            scope.append(node)
        return made

    def _through_if(self, node: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        for branch in graph.bodies(node):
            empty = None if branch is body else self.constant(branch, np.zeros(0, np.float32))
            branch.outputs.append(value if empty is None else empty)
        return self._output(node, value)

    def _through_loop(self, node: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        """Loop reads (M, condition, carried …) and gives (carried …, scanned …); its body (condition, carried …, …)."""
        node.resize_inputs(max(len(node.inputs), 2))
        carried = len(node.inputs) - 2
        holder = node.graph
        if not isinstance(holder, ir.Graph):
            raise ValueError("the Loop belongs to no graph")
        node.resize_inputs(carried + 3)
        node.replace_input_with(carried + 2, self.constant(holder, np.zeros(0, np.float32)))
        before, after = self._value(f"{value.name}_before"), self._value(f"{value.name}_after")
        body.inputs.append(before)
        joined = ir.Node("", "Concat", [before, value], [ir.AttrInt64("axis", 0)], outputs=[after], name=after.name)
        body.append(joined)
        body.outputs.insert(carried + 1, after)
        # The outputs behind it move by one position, with their names and users.
        self._output(node, value)
        for index in range(len(node.outputs) - 1, carried, -1):
            moved, place = node.outputs[index - 1], node.outputs[index]
            moved.replace_all_uses_with(place, replace_graph_outputs=True)
            moved.name, place.name = place.name, moved.name
            place.type, place.shape = moved.type, moved.shape
        made = node.outputs[carried]
        made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), None
        return made

    def _through_scan(self, node: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
        body.outputs.append(value)
        for name in ("scan_output_directions", "scan_output_axes"):
            listed = graph.attribute_ints(node, name)
            if listed is not None:
                node.attributes.add(ir.AttrInt64s(name, (*listed, 0)))
        holder = node.graph
        if not isinstance(holder, ir.Graph):
            raise ValueError("the Scan belongs to no graph")
        return self.flat(self._output(node, value), holder)

    def _output(self, node: ir.Node, value: ir.Value) -> ir.Value:
        node.resize_outputs(len(node.outputs) + 1)
        made = node.outputs[-1]
        made.name, made.type = self._names(f"{value.name}_outside"), ir.TensorType(ir.DataType.FLOAT)
        return made

    def _value(self, prefix: str) -> ir.Value:
        return ir.Value(name=self._names(prefix), type=ir.TensorType(ir.DataType.FLOAT))
