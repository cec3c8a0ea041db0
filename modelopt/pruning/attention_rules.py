"""Rules for fused attention: whole heads go, each with its part of the query, key and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.dependencies import Dependencies, Kept, Labels, Rule
from modelopt.pruning.product_rules import contract
from modelopt.pruning.unproven import Unproven, in_rows, require
from modelopt.pruning.weight_axes import Consumer, Producer

_WHY = "a head reads a part that cannot shrink"


_FACTORS = 3


def packed_attention(node: ir.Node, found: Dependencies) -> None:
    """com.microsoft Attention: X (B, S, K), W (K, Q + K + V) and a bias, with `num_heads` heads in each part."""
    data, weight = node.inputs[0], node.inputs[1]
    heads = graph.attribute_int(node, "num_heads", 0)
    _refuse_caches(node, past=4)
    if graph.attribute_int(node, "do_rotary", 0):
        raise Unproven("it turns its queries and keys")
    shape = graph.static_shape(weight)
    if data is None or weight is None or shape is None or graph.constant_tensor(weight) is None or not heads:
        raise Unproven("its weights are not constant")
    require(len(shape) == 2)
    sizes = graph.attribute_ints(node, "qkv_hidden_sizes") or (shape[1] // _FACTORS,) * _FACTORS
    require(len(sizes) == _FACTORS and sum(sizes) == shape[1] and min(sizes) > 0)
    if found.axes(data).get(2) is not None:
        contract(node, found, Consumer(node, data, 2, weight, 0))
    made = found.of(weight, 1)
    if made is None:
        raise Unproven("its weights cannot shrink")
    whole = _united(found, [(part, heads) for part in np.split(made, np.cumsum(sizes)[:-1])], heads)
    bias = graph.input_at(node, 2)
    if bias is not None:
        found.unite(made, found.of(bias, 0), _WHY)
    _by_head(node, found, 5, whole)
    found.producers.append(Producer(node, weight, 1, bias))
    found.put(node.outputs[0], 2, np.repeat(whole, sizes[2] // heads))
    found.heads.append(whole)

    def change(kept: Kept, _: graph.NameSource) -> None:
        left = kept.count(whole)
        node.attributes.add(ir.AttrInt64("num_heads", left))
        if "qkv_hidden_sizes" in node.attributes:
            node.attributes.add(ir.AttrInt64s("qkv_hidden_sizes", [size // heads * left for size in sizes]))

    found.edit(whole, change)


def multi_head_attention(node: ir.Node, found: Dependencies) -> None:
    """com.microsoft MultiHeadAttention: query (B, S, D), key (B, L, D), value (B, L, V) and a bias of D + D + V."""
    heads = graph.attribute_int(node, "num_heads", 0)
    _refuse_caches(node, past=6)
    values = [graph.input_at(node, index) for index in range(3)]
    if not heads or any(value is None or len(found.shape(value)) != 3 for value in values):
        raise Unproven("its query, key and value are packed")
    parts = _parts(found, values, 2)
    if parts is None:
        return
    whole = _united(found, [(part, heads) for part in parts], heads)
    bias = graph.input_at(node, 3)
    if bias is not None:
        found.unite(np.concatenate(parts), found.of(bias, 0), _WHY)
    _by_head(node, found, 5, whole)
    found.put(node.outputs[0], 2, np.repeat(whole, len(parts[2]) // heads))
    found.heads.append(whole)
    found.edit(whole, lambda kept, _: node.attributes.add(ir.AttrInt64("num_heads", kept.count(whole))))


def attention(node: ir.Node, found: Dependencies) -> None:
    """ONNX Attention (opset 23): Q, K and V are (B, heads, S, size), or (B, S, heads · size) with two attributes.

    Where there are more heads of queries than of keys, a head of keys goes with all queries that read it.
    """
    _refuse_caches(node, past=4)
    rank = len(found.shape(node.inputs[0]))
    require(rank in {3, 4})
    axis = 1 if rank == 4 else 2
    parts = _parts(found, node.inputs[:3], axis)
    for value in node.inputs[:3]:
        for each in found.axes(value):
            if each != axis:
                found.keep(value, "Attention sums over it in both factors, without weights", each)
    if parts is None:
        return
    if rank == 4:
        queries, heads = len(parts[0]), len(parts[1])
    else:
        queries, heads = graph.attribute_int(node, "q_num_heads", 0), graph.attribute_int(node, "kv_num_heads", 0)
    if not heads or queries % heads:
        raise Unproven("its heads are not known")
    whole = _united(found, [(part, heads) for part in parts], heads)
    many = np.repeat(whole, queries // heads)
    _by_head(node, found, 3, many)
    found.put(node.outputs[0], axis, many if rank == 4 else np.repeat(many, len(parts[2]) // heads))
    found.heads.append(whole)

    def change(kept: Kept, _: graph.NameSource) -> None:
        for name, labels in (("q_num_heads", many), ("kv_num_heads", whole)):
            if name in node.attributes:
                node.attributes.add(ir.AttrInt64(name, kept.count(labels)))

    found.edit(whole, change)


def _refuse_caches(node: ir.Node, past: int) -> None:
    """Keys of earlier steps are inputs and outputs of the model, which must stay."""
    given = node.inputs[past : past + (1 if node.op_type == "Attention" and node.domain else 2)]
    if any(value is not None for value in given) or any(out.name and out.uses() for out in node.outputs[1:]):
        raise Unproven("it keeps the keys of earlier steps")
    if any(out.is_graph_output() for out in node.outputs[1:]):
        raise Unproven("it keeps the keys of earlier steps")


def _parts(found: Dependencies, values: Sequence[ir.Value | None], axis: int) -> list[Labels] | None:
    """The labels of query, key and value; None where one has none, and then all must stay."""
    parts = [found.of(value, axis) for value in values]
    known = [part for part in parts if part is not None]
    require(len(parts) == _FACTORS, "its query, key and value are packed")
    if len(known) == len(parts):
        return known
    for part in known:
        found.atoms.keep(part, _WHY)
    return None


def _united(found: Dependencies, parts: Sequence[tuple[Labels, int]], heads: int) -> Labels:
    """One atom a head, for all that it reads."""
    whole: Labels | None = None
    for part, count in parts:
        require(count > 0 and len(part) % count == 0, "its heads are not alike")
        mine = np.array([found.atoms.unite_all(row, _WHY) for row in in_rows(part, heads)], np.int64)
        whole = mine if whole is None else found.unite(whole, mine, _WHY)
    if whole is None:
        raise Unproven("it has no heads")
    return whole


def _by_head(node: ir.Node, found: Dependencies, index: int, heads: Labels) -> None:
    """A mask or bias (…, heads, S, L) that is added to the scores; its axis of heads may be of size 1."""
    value = graph.input_at(node, index)
    if value is None:
        return
    shape = found.shape(value)
    if len(shape) >= 3 and shape[-3] != 1:
        found.unite(heads, found.of(value, len(shape) - 3), "its mask has a part for each head that cannot shrink")


def rotated(node: ir.Node, found: Dependencies) -> None:
    """RotaryEmbedding: (B, heads, S, size) passes by heads; of (B, S, heads · size) whole heads go."""
    data = node.inputs[0]
    given = found.axes(data)
    if not given:
        return
    rank = len(found.shape(data))
    for axis, labels in given.items():
        if axis != (1 if rank == 4 else 2):
            found.atoms.keep(labels, "RotaryEmbedding turns pairs of it")
    labels_in = given.get(1 if rank == 4 else 2)
    if labels_in is None:
        return
    if rank == 4:
        found.put(node.outputs[0], 1, labels_in)
        return
    heads = graph.attribute_int(node, "num_heads", 0)
    if not heads:
        raise Unproven("its heads are not known")
    whole = _united(found, [(labels_in, heads)], heads)
    found.put(node.outputs[0], 2, np.repeat(whole, len(labels_in) // heads))
    found.edit(whole, lambda kept, _: node.attributes.add(ir.AttrInt64("num_heads", kept.count(whole))))


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotated,
    (graph.CONTRIB_DOMAIN, "Attention"): packed_attention,
    (graph.CONTRIB_DOMAIN, "MultiHeadAttention"): multi_head_attention,
    (graph.CONTRIB_DOMAIN, "RotaryEmbedding"): rotated,
}
