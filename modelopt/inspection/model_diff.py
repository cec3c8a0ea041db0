"""Finds what two models differ in: interface, operators, nodes with their attributes, initializers with their values.

Nodes are aligned by the name of their first output, then by their own name, then by what they are: the operator, its
attributes, and its inputs. Values of initializers are compared in pieces, so that memory does not grow with the file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.types import dtype_name
from modelopt.inspection.difference import Change, ChangeKind, ModelDiff, OperatorChange
from modelopt.io import Loaded

_PIECE = 1 << 20
"""Elements that are compared at a time."""

_SHOWN_ITEMS = 8
"""Numbers of an attribute that are shown."""


def differences(first: Loaded, second: Loaded) -> ModelDiff:
    """Compare two models. Nothing is run.

    Raises:
        InputError: A stored tensor is broken.
    """
    before, after = first.model, second.model
    counts = [Counter(map(_operator, _computing(model))) for model in (before, after)]
    operators = sorted(counts[0].keys() | counts[1].keys(), key=lambda op: -abs(counts[0][op] - counts[1][op]))
    return ModelDiff(
        first=first.shown,
        second=second.shown,
        size_bytes=(first.size_bytes, second.size_bytes),
        nodes=(counts[0].total(), counts[1].total()),
        operators=tuple(
            OperatorChange(op=op, before=counts[0][op], after=counts[1][op])
            for op in operators
            if counts[0][op] != counts[1][op]
        ),
        changes=(
            *_headers(before, after),
            *_interface(before, after),
            *_entries(
                "opset", *({d or "ai.onnx": str(v) for d, v in m.opset_imports.items()} for m in (before, after))
            ),
            *_entries(
                "function", *({f"{d}::{n}": _body(f) for (d, n, _), f in m.functions.items()} for m in (before, after))
            ),
            *_nodes(before, after),
            *_initializers(before, after),
            *_entries("metadata", dict(before.metadata_props), dict(after.metadata_props)),
        ),
    )


def _computing(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of all scopes, without those that only hold a tensor: their tensors are compared."""
    return (node for node in graph.all_nodes(model) if graph.constant_node_tensor(node) is None)


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in graph.STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"


def _body(function: ir.Function) -> str:
    return f"{len(list(graph.nodes_below(function)))} nodes"


def _headers(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    headers = [
        {
            "IR version": str(model.ir_version),
            "producer": f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        }
        for model in (before, after)
    ]
    yield from _entries("header", *headers)


def _interface(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    first, second = graph.signature(before), graph.signature(after)
    for what, were, are in (("input", first.inputs, second.inputs), ("output", first.outputs, second.outputs)):
        yield from _entries(what, *({spec.name: str(spec) for spec in specs} for specs in (were, are)))
        names = [spec.name for spec in were], [spec.name for spec in are]
        if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
            yield Change(
                what=what, kind=ChangeKind.CHANGED, name="order", before=", ".join(names[0]), after=", ".join(names[1])
            )


def _entries(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """Differences of two mappings of texts."""
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        kind = ChangeKind.ADDED if was is None else ChangeKind.REMOVED if now is None else ChangeKind.CHANGED
        yield Change(what=what, kind=kind, name=name, before=was or "", after=now or "")


# Nodes


def _nodes(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    left, right = list(_computing(before)), list(_computing(after))
    pairs = _aligned(left, right)
    taken = {id(node) for node in pairs.values()}
    for node in left:
        other = pairs.get(node)
        if other is None:
            yield Change(what="node", kind=ChangeKind.REMOVED, name=graph.label(node), before=_node_text(node))
            continue
        was, now = _parts(node), _parts(other)
        if was != now:
            changed = [key for key in dict.fromkeys((*was, *now)) if was.get(key) != now.get(key)]
            before_text, after_text = (
                ", ".join(f"{key}={part[key]}" for key in changed if key in part) for part in (was, now)
            )
            yield Change(
                what="node", kind=ChangeKind.CHANGED, name=graph.label(node), before=before_text, after=after_text
            )
    for node in right:
        if id(node) not in taken:
            yield Change(what="node", kind=ChangeKind.ADDED, name=graph.label(node), after=_node_text(node))


def _aligned(left: Sequence[ir.Node], right: Sequence[ir.Node]) -> dict[ir.Node, ir.Node]:
    """Nodes of the first model with those of the second that they are."""
    pairs: dict[ir.Node, ir.Node] = {}
    taken: set[int] = set()
    keys: tuple[Callable[[ir.Node], object], ...] = (
        lambda node: (_operator(node), node.outputs[0].name) if node.outputs and node.outputs[0].name else None,
        lambda node: (_operator(node), node.name) if node.name else None,
        lambda node: tuple(_parts(node).items()),
        lambda node: (_operator(node), tuple(_attributes(node).items())),
    )
    for key in keys:
        free: dict[object, list[ir.Node]] = defaultdict(list)
        for node in right:
            if id(node) not in taken and (known := key(node)) is not None:
                free[known].append(node)
        for node in left:
            known = None if node in pairs else key(node)
            if known is not None and free.get(known):
                pairs[node] = free[known].pop(0)
                taken.add(id(pairs[node]))
    return pairs


def _parts(node: ir.Node) -> dict[str, str]:
    """The operator, its inputs, and its attributes as texts."""
    inputs = ", ".join((value.name or "") if value is not None else "" for value in node.inputs)
    return {"operator": _operator(node), "inputs": f"({inputs})", **_attributes(node)}


def _node_text(node: ir.Node) -> str:
    return ", ".join(f"{key}={text}" for key, text in _parts(node).items() if key != "operator")


def _attributes(node: ir.Node) -> dict[str, str]:
    return {
        attribute.name: _attribute_text(attribute)
        for attribute in sorted(node.attributes.values(), key=lambda a: a.name)
    }


def _attribute_text(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_text(attribute.as_tensor())
    if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        return "a body"  # its nodes are compared themselves
    value = attribute.value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        shown = ", ".join(map(_item, value[:_SHOWN_ITEMS]))
        return f"[{shown}{', …' if len(value) > _SHOWN_ITEMS else ''}]" + (
            f" of {len(value)}" if len(value) > _SHOWN_ITEMS else ""
        )
    return _item(value)


def _item(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:80]


# Initializers


def _initializers(before: ir.Model, after: ir.Model) -> Iterator[Change]:
    first, second = (dict(graph.tensors(model)) for model in (before, after))
    for name, was in first.items():
        now = second.get(name)
        if now is None:
            yield Change(what="initializer", kind=ChangeKind.REMOVED, name=name, before=_tensor_text(was))
        elif (text := _tensor_difference(was, now)) is not None:
            yield Change(what="initializer", kind=ChangeKind.CHANGED, name=name, before=_tensor_text(was), after=text)
    for name, now in second.items():
        if name not in first:
            yield Change(what="initializer", kind=ChangeKind.ADDED, name=name, after=_tensor_text(now))


def _tensor_text(tensor: ir.TensorProtocol) -> str:
    dims = ", ".join(map(str, tensor.shape.numpy()))
    text = f"{dtype_name(tensor.dtype)}[{dims}]"
    if 0 < tensor.size <= _SHOWN_ITEMS and tensor.dtype != ir.DataType.STRING:
        text += f" {{{', '.join(f'{value:.6g}' for value in np.asarray(tensor.numpy()).ravel().astype(np.float64))}}}"
    return text


def _tensor_difference(was: ir.TensorProtocol, now: ir.TensorProtocol) -> str | None:
    """How a tensor differs from what it was; None where it does not."""
    if was.dtype != now.dtype or tuple(was.shape.numpy()) != tuple(now.shape.numpy()):
        return _tensor_text(now)
    if was.dtype == ir.DataType.STRING:
        return None if list(was.numpy().ravel()) == list(now.numpy().ravel()) else "other strings"
    first, second = was.numpy().reshape(-1), now.numpy().reshape(-1)
    count, largest = 0, 0.0
    for start in range(0, first.size, _PIECE):
        a, b = first[start : start + _PIECE], second[start : start + _PIECE]
        if graph.raw_bytes(a) == graph.raw_bytes(b):
            continue
        wide = [np.asarray(part).astype(np.complex128 if part.dtype.kind == "c" else np.float64) for part in (a, b)]
        with np.errstate(invalid="ignore"):
            apart = np.abs(wide[0] - wide[1])
        count += int(np.count_nonzero(~(apart == 0)))
        largest = max(largest, float(np.nanmax(apart, initial=0.0)))
    return f"{count:,} of {first.size:,} values differ, by at most {largest:.3g}" if count else None
