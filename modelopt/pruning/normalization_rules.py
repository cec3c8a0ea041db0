"""Rules for normalizations: over channels they let all stay, because each is in the statistics of the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.dependencies import Dependencies, Rule
from modelopt.pruning.unproven import axis_in, in_rows, require

_FIRST_GROUP_NORM_BY_CHANNEL = 21


def _over(node: ir.Node) -> str:
    return f"{node.op_type} computes statistics over it: without one channel the others would change"


def normalized_from(node: ir.Node, found: Dependencies) -> None:
    """LayerNormalization and RMSNormalization: all axes from `axis` on are in the statistics; those before pass."""
    value = node.inputs[0]
    given = found.axes(value)
    if not given:
        return
    rank = len(found.shape(value))
    first = axis_in(graph.attribute_int(node, "axis", -1), rank)
    for axis, labels in given.items():
        if axis >= first:
            found.atoms.keep(labels, _over(node))
        else:
            for output in node.outputs:
                found.put(output, axis, labels)


def normalized_sum(node: ir.Node, found: Dependencies) -> None:
    """Operators that add, or look up, and normalize over the last axis: nothing of what they read can go."""
    for value in node.inputs:
        found.keep(value, _over(node))


def group_normalized(node: ir.Node, found: Dependencies) -> None:
    """GroupNormalization: X is (N, C, …); whole groups of channels go.

    Scale and bias have C numbers, before opset 21 one for each group.
    """
    groups = graph.attribute_int(node, "num_groups", 1)
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis == 0:
            found.put(node.outputs[0], 0, labels)
        elif axis > 1:
            found.atoms.keep(labels, _over(node))
    labels_in = found.axes(node.inputs[0]).get(1)
    if labels_in is None:
        return
    require(groups > 0 and len(labels_in) % groups == 0, "its groups are not alike")
    why = f"{node.op_type} has a group with a channel that cannot shrink"
    whole = np.array([found.atoms.unite_all(part, why) for part in in_rows(labels_in, groups)], np.int64)
    each = np.repeat(whole, len(labels_in) // groups)
    for parameter in node.inputs[1:]:
        mine = found.of(parameter, 0)
        by_group = found.opset < _FIRST_GROUP_NORM_BY_CHANNEL
        found.unite(whole if by_group else each, mine, f"{node.op_type} has numbers that cannot shrink")
    found.put(node.outputs[0], 1, each)
    found.edit(whole, lambda kept, _: node.attributes.add(ir.AttrInt64("num_groups", kept.count(whole))))


def neighbours(node: ir.Node, found: Dependencies) -> None:
    """LRN: each channel is divided by what the neighbouring channels hold."""
    for axis, labels in found.axes(node.inputs[0]).items():
        if axis == 1:
            found.atoms.keep(labels, "LRN divides it by its neighbours")
        else:
            found.put(node.outputs[0], axis, labels)


RULES: Mapping[tuple[str, str], Rule] = {
    **{("", op_type): normalized_from for op_type in ("LayerNormalization", "RMSNormalization")},
    ("", "SimplifiedLayerNormalization"): normalized_from,  # onnxruntime's own, in the standard domain
    ("", "GroupNormalization"): group_normalized,
    ("", "LRN"): neighbours,
    **{
        (graph.CONTRIB_DOMAIN, op_type): normalized_sum
        for op_type in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization")
    },
}
