"""Store equal tensors once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.io import mmap_files
from modelopt.passes.base import Pass

_CHUNK_BYTES = 2**20
_ENDS_ELEMENTS = 2**10


@dataclass(frozen=True, kw_only=True)
class DedupInitializers(Pass):
    """Make initializers of equal type, shape and bytes one, and likewise Constant nodes of the same graph.

    An initializer of a body becomes one of an outer scope where that holds the same bytes. Those that are also graph
    inputs or outputs stay as they are: their values, or their names, belong to the caller.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Read bytes only where type and shape agree, in chunks that leave mapped files where they are."""
        visible = dict(_visible_scopes(model))
        skipped: list[Skip] = []
        rewrites = saved_bytes = 0
        for group in _equal(list(_items(model))):
            kept: list[_Item] = []
            for item in group:
                role = _role(item.value)
                if role is not None:
                    skipped.append(Skip(item.value.name or "", f"equal to another tensor, but also a graph {role}"))
                    continue
                equal = next((other for other in kept if _stands_in(other, item, visible)), None)
                if equal is None:
                    kept.append(item)
                    continue
                item.value.replace_all_uses_with(equal.value)
                graph.drop_unused_constants([item.value])
                rewrites += 1
                saved_bytes += item.tensor.nbytes
        return Changes(rewrites, tuple(skipped), {"saved_bytes": saved_bytes} if rewrites else {})


@dataclass(frozen=True)
class _Item:
    value: ir.Value
    tensor: ir.TensorProtocol


def _items(model: ir.Model) -> Iterator[_Item]:
    """Every stored tensor, outer scopes and earlier nodes first."""
    for scope in graph.all_graphs(model):
        if isinstance(scope, ir.Graph):
            for value in scope.initializers.values():
                if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                    yield _Item(value, value.const_value)
        for node in scope:
            tensor = graph.constant_tensor(node.outputs[0]) if graph.is_standard(node, "Constant") else None
            if tensor is not None and tensor.dtype != ir.DataType.STRING:
                yield _Item(node.outputs[0], tensor)


def _role(value: ir.Value) -> str | None:
    if value.is_graph_input():
        return "input"
    return "output" if value.is_graph_output() else None


def _visible_scopes(model: ir.Model) -> Iterator[tuple[ir.Graph, frozenset[ir.Graph]]]:
    """Each graph and those whose values it sees, itself included."""
    waiting = [(model.graph, frozenset[ir.Graph]())]
    waiting += [(function.graph, frozenset[ir.Graph]()) for function in model.functions.values()]
    while waiting:
        scope, outer = waiting.pop()
        chain = outer | {scope}
        yield scope, chain
        waiting += [(body, chain) for node in scope for body in graph.bodies(node)]


def _stands_in(kept: _Item, item: _Item, visible: dict[ir.Graph, frozenset[ir.Graph]]) -> bool:
    ours, theirs = kept.value.graph, item.value.graph
    if ours is None or theirs is None or kept.value.is_initializer() != item.value.is_initializer():
        return False
    if _is_hidden(kept.value, item.value, visible):
        return False
    if kept.value.is_initializer():
        return ours in visible[theirs]
    return ours is theirs  # a Constant node of an outer scope may stand after the body


def _is_hidden(kept: ir.Value, value: ir.Value, visible: dict[ir.Graph, frozenset[ir.Graph]]) -> bool:
    """Whether the name of `kept` means something else where `value` is used: a body may give it to its own weight."""
    inner = {use.node.graph for use in value.uses()} - {kept.graph, None}
    scopes = {scope for user in inner for scope in visible[user] - visible[kept.graph]}  # type: ignore[index]
    return any(kept.name == name for scope in scopes for name in _names(scope))


def _names(scope: ir.Graph) -> Iterator[str | None]:
    yield from scope.initializers
    yield from (value.name for value in scope.inputs)
    yield from (value.name for node in scope for value in node.outputs)


def _equal(items: list[_Item]) -> Iterator[list[_Item]]:
    """Groups of two or more with the same type, shape and bytes.

    Each key is computed only where the cheaper ones before it agree: a tensor like no other is not read.
    """
    groups = [items]
    for key in (_type_and_shape, _ends, _digest):
        groups = [group for wider in groups for group in _grouped(wider, key)]
    for group in groups:
        same = [item for item in group if _same_bytes(group[0].tensor, item.tensor)]
        if len(same) > 1:
            yield same


def _grouped(items: list[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    groups: dict[Hashable, list[_Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [group for group in groups.values() if len(group) > 1]


def _type_and_shape(item: _Item) -> Hashable:
    return item.tensor.dtype, tuple(item.tensor.shape)


def _ends(item: _Item) -> Hashable:
    elements = item.tensor.numpy().flat  # `flat` reads a transposed matrix without a copy
    return elements[:_ENDS_ELEMENTS].tobytes(), elements[-_ENDS_ELEMENTS:].tobytes()


def _digest(item: _Item) -> Hashable:
    digest = hashlib.blake2b(digest_size=32)
    for chunk in _chunks(item.tensor):
        digest.update(chunk)
    return digest.digest()


def _same_bytes(left: ir.TensorProtocol, right: ir.TensorProtocol) -> bool:
    return all(a == b for a, b in zip(_chunks(left), _chunks(right), strict=True))


def _chunks(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
    view = graph.raw_bytes(tensor.numpy())
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]
    mmap_files.release()
