"""Expands attention masks to a row for each query: onnxruntime's operators do not broadcast one row over them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import known_equal
from modelopt.patterns.attention import Fill


@dataclass
class Masks:
    """Expands masks of shape (batch, heads, 1, keys), each once where it can be shared.

    Attributes:
        names: Names for the values that it makes.
    """

    names: graph.NameSource
    _shared: dict[tuple[ir.Value, ir.Graph | ir.Function], ir.Value] = field(default_factory=dict)
    _added: dict[tuple[ir.Value, Fill, ir.Graph | ir.Function], ir.Value] = field(default_factory=dict)

    def for_itself(self, user: ir.Node, mask: ir.Value) -> ir.Value:
        """The mask for `user`, where keys are as many as queries: all users of the mask in a graph share the result."""
        scope, shape = graph.scope_of(user), graph.dims(mask)
        if shape is not None and shape[2] != 1 and known_equal(shape[2], shape[3]):
            return mask
        if (mask, scope) not in self._shared:
            expanded, nodes = self._expand(mask, mask, axis=3)
            _insert_behind(mask, scope, nodes)
            self._shared[mask, scope] = expanded
        return self._shared[mask, scope]

    def for_queries(self, user: ir.Node, mask: ir.Value, queries: ir.Value) -> ir.Value:
        """The mask for `user`, with as many rows as `queries` of shape (batch, length, width) have."""
        rows, length = graph.dims(mask), graph.dims(queries)
        if rows is not None and length is not None and rows[2] != 1 and known_equal(rows[2], length[1]):
            return mask
        expanded, nodes = self._expand(mask, queries, axis=1)
        graph.scope_of(user).insert_before(user, nodes)
        return expanded

    def added(self, user: ir.Node, condition: ir.Value, fill: Fill, like: ir.Value) -> ir.Value:
        """A mask to add in place of one that replaces scores: 0, or the number of `fill`, in the type of `like`."""
        scope = graph.scope_of(user)
        found = self._added.get((condition, fill, scope))
        if found is not None:
            return found
        dtype = (like.dtype or ir.DataType.FLOAT).numpy()
        numbers = (fill.number, 0.0) if fill.where else (0.0, fill.number)
        names = [self.names(f"{condition.name}_{end}") for end in ("true", "false", "added")]
        nodes = [
            ir.node("Constant", [], {"value": ir.tensor(np.array(one, dtype))}, name=name)
            for one, name in zip(numbers, names, strict=False)
        ]
        nodes.append(ir.node("Where", [condition, *(node.outputs[0] for node in nodes)], name=names[2]))
        for node, name in zip(nodes, names, strict=True):
            node.outputs[0].name = name
        added = nodes[-1].outputs[0]
        added.shape, added.type = condition.shape, like.type
        _insert_behind(condition, scope, nodes)
        self._added[condition, fill, scope] = added
        return added

    def _expand(self, mask: ir.Value, like: ir.Value, *, axis: int) -> tuple[ir.Value, list[ir.Node]]:
        """``Expand(mask, (1, 1, size of axis in like, 1))`` and the nodes that compute it."""
        stem = f"{mask.name}_rows"
        nodes: list[ir.Node] = []

        def make(op_type: str, inputs: list[ir.Value], **attributes: int | ir.TensorProtocol) -> ir.Value:
            output = ir.Value(name=self.names(f"{stem}_{op_type.lower()}"))
            nodes.append(ir.node(op_type, inputs, attributes, outputs=[output], name=output.name))
            return output

        index = make("Constant", [], value=ir.tensor(np.array([axis], np.int64)))
        ones = make("Constant", [], value=ir.tensor(np.ones(2, np.int64)))
        one = make("Constant", [], value=ir.tensor(np.ones(1, np.int64)))
        rows = make("Gather", [make("Shape", [like]), index], axis=0)
        expanded = make("Expand", [mask, make("Concat", [ones, rows, one], axis=0)])
        expanded.type = mask.type
        if mask.shape is not None and like.shape is not None:
            expanded.shape = ir.Shape([mask.shape[0], mask.shape[1], like.shape[axis], mask.shape[3]])
        return expanded, nodes


def _insert_behind(value: ir.Value, scope: ir.Graph | ir.Function, nodes: list[ir.Node]) -> None:
    """Put nodes where all users of `value` in this scope see them."""
    producer = value.producer()
    if producer is not None and producer.graph is scope:
        scope.insert_after(producer, nodes)
    else:
        scope.insert_before(scope[0], nodes)
