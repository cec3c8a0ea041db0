"""What is said to be left of the multiply-accumulates is what the pruned model has."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt.graph import all_nodes, macs
from modelopt.io import serialize
from modelopt.pruning import channel_removal
from modelopt.pruning.channel_groups import channels_of
from modelopt.pruning.channel_macs import ChannelMacs
from modelopt.pruning.channel_work import ChannelWork
from modelopt.pruning.dependencies import analyse
from modelopt.pruning.dependency_rules import RULES
from tests.campaigns import prunable_models
from tests.campaigns.pruned import drawn


def with_shapes(model: ir.Model) -> ir.Model:
    """The model with all shapes, for a batch of one and five steps."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            sizes = [{"batch": 1, "steps": 5}.get(str(dim), dim) for dim in value.shape]
            value.shape = ir.Shape(sizes) if value.is_graph_input() else None
    for node in all_nodes(model):
        for value in node.outputs:
            value.shape = None
    inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    return serialize.from_bytes(inferred.SerializeToString())


def counts(model: ir.Model) -> dict[str, int]:
    """By node the MACs, where they are known."""
    return {node.name or "": count for node in all_nodes(model) if (count := macs.macs(node))}


@pytest.mark.parametrize("seed", range(24))
def test_what_is_left_is_what_the_pruned_model_has(seed: int) -> None:
    model = with_shapes(serialize.from_bytes(prunable_models.model(seed).SerializeToString()))
    found = analyse(model, RULES)
    channels = channels_of(found)
    rng = np.random.default_rng(seed)
    removed = {group.name: drawn(group, 0.5, rng) for group in channels.groups if group.width > 1}
    gone = [atom for atoms in removed.values() for atom in atoms]
    counted, before = ChannelMacs.of(model, found), counts(model)
    said, total = counted.without(gone), counted.total
    widths = {group.name: group.width - len(removed.get(group.name, ())) for group in channels.groups}
    by_width = ChannelWork(model, found, channels).macs(widths)
    channel_removal.remove(model, found, gone)
    after = counts(with_shapes(model))
    assert total == sum(before.values())
    assert before.keys() == after.keys()
    assert gone
    assert said == sum(after.values())
    assert by_width == pytest.approx(said)
