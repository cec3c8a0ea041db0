"""Store equal tensors once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.passes.base import Changes, Context, Effect, Pass, Skip

_CHUNK_BYTES = 2**20
_ENDS_BYTES = 2**12


@dataclass(frozen=True, kw_only=True)
class DedupInitializers(Pass):
    """Make initializers of equal type, shape and bytes one, and likewise Constant nodes of the same graph.

    An initializer of a body becomes one of an outer scope where that holds the same bytes. Those that are also graph
    inputs or outputs stay as they are: their values, or their names, belong to the caller.
    """

    name: ClassVar[str] = "dedup-initializers"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:  # noqa: ARG002 - the interface of all passes
        """Compare bytes only among tensors of the same type and shape, in chunks of mapped files."""
        skipped: list[Skip] = []
        visible = {scope: chain for scope, chain in _scopes(model)}
        rewrites = saved_bytes = 0
        for same in _equal(list(_candidates(model, skipped))):
            kept: list[ir.Value] = []
            for item in same:
                twin = next((other for other in kept if _may_stand_in(other, item.value, visible)), None)
                if twin is None:
                    kept.append(item.value)
                    continue
                item.value.replace_all_uses_with(twin)
                graph.drop_unused_constants([item.value])
                rewrites += 1
                saved_bytes += item.tensor.nbytes
        return Changes(rewrites, tuple(skipped), {"saved_bytes": saved_bytes} if rewrites else {})


@dataclass(frozen=True)
class _Item:
    value: ir.Value
    tensor: ir.TensorProtocol


def _scopes(model: ir.Model) -> Iterator[tuple[ir.Graph, frozenset[ir.Graph]]]:
    """Each graph and those whose values it sees, itself included."""

    def walk(scope: ir.Graph, outer: frozenset[ir.Graph]) -> Iterator[tuple[ir.Graph, frozenset[ir.Graph]]]:
        chain = outer | {scope}
        yield scope, chain
        for node in scope:
            for body in graph.bodies(node):
                yield from walk(body, chain)

    yield from walk(model.graph, frozenset())
    for function in model.functions.values():
        yield from walk(function.graph, frozenset())


def _candidates(model: ir.Model, skipped: list[Skip]) -> Iterator[_Item]:
    """Tensors that may become one, outer scopes and earlier nodes first."""
    for scope in graph.all_graphs(model):
        values = list(scope.initializers.values()) if isinstance(scope, ir.Graph) else []
        values += [node.outputs[0] for node in scope if graph.is_standard(node, "Constant")]
        for value in values:
            tensor = value.const_value if value.is_initializer() else graph.constant_tensor(value)
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if value.is_graph_input() or value.is_graph_output():
                role = "input" if value.is_graph_input() else "output"
                skipped.append(Skip(value.name or "", f"it is also a graph {role}"))
                continue
            yield _Item(value, tensor)


def _may_stand_in(kept: ir.Value, value: ir.Value, visible: dict[ir.Graph, frozenset[ir.Graph]]) -> bool:
    if kept.graph is None or value.graph is None or kept.is_initializer() != value.is_initializer():
        return False
    if kept.is_initializer():
        return kept.graph in visible[value.graph]
    return kept.graph is value.graph  # an outer Constant node may come after the body


def _equal(items: list[_Item]) -> Iterator[list[_Item]]:
    """Groups of two or more with the same type, shape and bytes.

    Each key is computed only where the cheaper one before it was shared, so that a tensor like no other is not read.
    """
    groups: Iterable[list[_Item]] = [items]
    for key in (_type_and_shape, _ends, _digest):
        groups = [group for old in groups for group in _grouped(old, key)]
    for group in groups:
        # blake2b is trusted to find unlikes; that two likes are equal is checked.
        first = group[0]
        yield [item for item in group if item is first or _same_bytes(first.tensor, item.tensor)]


def _grouped(items: list[_Item], key: object) -> list[list[_Item]]:
    raise NotImplementedError


def _type_and_shape(item: _Item) -> tuple[int, tuple[object, ...]]:
    return item.tensor.dtype.value, tuple(item.tensor.shape)
