"""What the work and the size of a model become without some of its residual blocks, without making the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.graph import macs
from modelopt.pruning.residual_blocks import ResidualBlock


class BlockWork:
    """The work of a model by the blocks that are gone.

    Args:
        model: The model, with the shapes of its values.
        blocks: Its blocks.
    """

    def __init__(self, model: ir.Model, blocks: Sequence[ResidualBlock]) -> None:
        self._model = model
        self._blocks = {block.name: block for block in blocks}
        self._macs = {node: count for node in model.graph if (count := macs.macs(node))}
        self._left: dict[frozenset[str], frozenset[ir.Node]] = {}

    def macs(self, gone: Collection[str] = ()) -> int:
        """The multiply-accumulates that are left without blocks of these names; 0 where none are known."""
        left = self.left(gone)
        return sum(count for node, count in self._macs.items() if node in left)

    def ns(self, node_ns: Mapping[str, float], gone: Collection[str] = ()) -> float:
        """What is left of the nanoseconds that nodes take, by name; what names no node is left as it is."""
        left = {graph.name_of(node) for node in self.left(gone)}
        dead = {graph.name_of(node) for node in self._model.graph} - left
        return sum(taken for name, taken in node_ns.items() if name not in dead)

    def bytes_saved(self, gone: Collection[str] = ()) -> int:
        """The bytes of stored tensors that nothing reads any more."""
        return self._stored(self.left()) - self._stored(self.left(gone))

    def left(self, gone: Collection[str] = ()) -> frozenset[ir.Node]:
        """The nodes of the main graph that the outputs still need."""
        key = frozenset(gone)
        if key not in self._left:
            self._left[key] = frozenset(self._needed(key))
        return self._left[key]

    def _needed(self, gone: frozenset[str]) -> Iterator[ir.Node]:
        skips = {self._blocks[name].add.outputs[0]: self._blocks[name].skip for name in gone}
        waiting: list[ir.Value | None] = list(self._model.graph.outputs)
        seen: set[ir.Node] = set()
        while waiting:
            value = waiting.pop()
            while value in skips:
                value = skips[value]
            node = None if value is None else value.producer()
            if node is None or node in seen or node.graph is not self._model.graph:
                continue
            seen.add(node)
            yield node
            waiting += _read(node)

    def _stored(self, nodes: Collection[ir.Node]) -> int:
        values = {value for node in nodes for value in _read(node)}
        tensors = (graph.constant_tensor(value) for value in values)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _read(node: ir.Node) -> Iterator[ir.Value | None]:
    """What a node and its bodies read, values that the bodies make themselves among it."""
    yield from node.inputs
    for body in graph.bodies(node):
        for below in graph.nodes_below(body):
            yield from below.inputs
        yield from body.outputs
