"""The constant region of a model: every node whose outputs are known before it runs, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import consteval, graph
from modelopt.consteval.facts import shape_fact

_MOST_GOING = 1000
"""At most so many nodes are followed from one: without it the time would grow with the square of a chain's length."""


@dataclass(frozen=True)
class FoldingLimits:
    """What evaluating may cost.

    Attributes:
        max_tensor_bytes: Larger inputs are not read, larger outputs not computed.
        max_total_bytes: The bytes of all outputs together.
    """

    max_tensor_bytes: int
    max_total_bytes: int


@dataclass(frozen=True)
class Pending:
    """A node on constant inputs that numpy does not evaluate.

    Attributes:
        node: The node.
        inputs: Its inputs; None where one is omitted.
        opset: The version of the standard operator set.
    """

    node: ir.Node
    inputs: tuple[np.ndarray | None, ...]
    opset: int


class ConstantRegion:
    """Nodes with known outputs, in an order in which producers come before consumers, through all scopes.

    Nothing in the model changes. Values computed here are held in memory.

    Args:
        model: The model.
        limits: What evaluating may cost.
        answers: Outputs of nodes without a kernel, evaluated elsewhere.

    Attributes:
        nodes: The nodes.
        results: Their outputs by value.
        pending: Nodes on constant inputs without a kernel.
        refused: Why a node on constant inputs was not evaluated.
    """

    def __init__(self, model: ir.Model, limits: FoldingLimits, answers: Mapping[ir.Node, list[np.ndarray]]) -> None:
        self.nodes: list[ir.Node] = []
        self.results: dict[ir.Value, np.ndarray] = {}
        self.pending: list[Pending] = []
        self.refused: dict[ir.Node, str] = {}
        self._limits = limits
        self._answers = answers
        self._total_bytes = 0
        for scope, opset, _ in graph.scopes(model):
            for node in scope:
                if node.op_identifier() not in model.functions and consteval.is_foldable(node):
                    self._visit(node, opset)

    def _visit(self, node: ir.Node, opset: int) -> None:
        fact = shape_fact(node, opset)
        if fact is not None:
            self._record(node, [fact])
            return
        if not node.inputs or not all(value is None or self._is_known(value) for value in node.inputs):
            return
        try:
            outputs = self._evaluate(node, opset)
        except consteval.NotEvaluable as error:
            self.refused[node] = str(error)
            return
        if outputs is not None:
            self._record(node, outputs)

    def _is_known(self, value: ir.Value) -> bool:
        return value in self.results or graph.constant_tensor(value) is not None

    def _evaluate(self, node: ir.Node, opset: int) -> list[np.ndarray] | None:
        inputs = tuple(None if value is None else self._read(value) for value in node.inputs)
        size = consteval.output_bytes(node, inputs, opset)
        if size is not None and size > self._limits.max_tensor_bytes:
            raise consteval.NotEvaluable(f"its result would take {size} bytes, more than max-tensor-bytes")
        outputs = None if size is None else consteval.evaluate(node, inputs, opset)
        if outputs is not None:
            return outputs
        if node not in self._answers:
            self.pending.append(Pending(node, inputs, opset))
        return self._answers.get(node)

    def _read(self, value: ir.Value) -> np.ndarray:
        if value in self.results:
            return self.results[value]
        tensor = graph.constant_tensor(value)
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            raise consteval.NotEvaluable(f"its input '{value.name}' holds strings")
        if tensor.nbytes > self._limits.max_tensor_bytes:
            raise consteval.NotEvaluable(
                f"its input '{value.name}' takes {tensor.nbytes} bytes, more than max-tensor-bytes"
            )
        return tensor.numpy()

    def _record(self, node: ir.Node, outputs: list[np.ndarray]) -> None:
        reason = _contradiction(node, outputs)
        self._total_bytes += sum(output.nbytes for output in outputs)
        if reason is None and self._total_bytes > self._limits.max_total_bytes:
            reason = "too much memory is taken by what was evaluated before it"
        if reason is not None:
            self.refused[node] = reason
            return
        self.nodes.append(node)
        self.results.update(zip(node.outputs, outputs, strict=True))

    def freed_bytes(self, node: ir.Node) -> int:
        """The bytes of the stored tensors that go when `node` goes.

        Nodes of the region whose outputs only it reads, directly or through others of them, go with it. A tensor goes
        where only these nodes read it: the weight of an LSTM that is cut into its gates and joined again in another
        order is stored once before and once after.
        """
        going = {node}
        waiting = [node]
        tensors: dict[ir.Value, int] = {}
        while waiting and len(going) < _MOST_GOING:
            for value in filter(None, waiting.pop().inputs):
                if value.is_graph_output() or any(use.node not in going for use in value.uses()):
                    continue  # visited again when its last reader joins `going`
                producer = value.producer()
                if producer is None or value not in self.results:
                    tensor = graph.constant_tensor(value)
                    tensors[value] = 0 if tensor is None else tensor.nbytes
                elif producer not in going and _is_read_by(producer, going):
                    going.add(producer)
                    waiting.append(producer)
        return sum(tensors.values())


def _is_read_by(node: ir.Node, going: set[ir.Node]) -> bool:
    """Whether nothing but the nodes in `going` reads any output of `node`."""
    return not any(out.is_graph_output() or any(use.node not in going for use in out.uses()) for out in node.outputs)


def _contradiction(node: ir.Node, outputs: list[np.ndarray]) -> str | None:
    """Why the model cannot mean what was computed, else None."""
    if len(outputs) != len(node.outputs):
        return f"it has {len(node.outputs)} outputs where {len(outputs)} were computed"
    for value, array in zip(node.outputs, outputs, strict=True):
        declared = graph.static_shape(value)
        if declared is not None and declared != array.shape:
            return f"'{value.name}' is declared as {list(declared)} and computed as {list(array.shape)}"
        if value.dtype is not None and value.dtype != ir.DataType.from_numpy(array.dtype):
            return f"'{value.name}' is declared as {value.dtype.name} and computed as {array.dtype}"
    return None
