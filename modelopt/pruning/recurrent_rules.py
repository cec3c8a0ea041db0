"""Rules for GRU, LSTM and RNN: a hidden unit goes with its rows in all gates, and its column in the recurrence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.dependencies import Dependencies, Labels, Rule
from modelopt.pruning.product_rules import contract
from modelopt.pruning.unproven import Unproven
from modelopt.pruning.weight_axes import Consumer, Producer

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(node: ir.Node, found: Dependencies) -> None:
    """X is (T, B, I), W (D, G·H, I), R (D, G·H, H), B (D, 2·G·H), P (D, 3·H), with G gates of H units in D directions.

    Both directions have as many units, so that unit i of one goes with unit i of the other. Without the column in R the
    other units do not read what goes, so that removing it is what zeroing its columns there and in later weights is.
    """
    gates = _GATES[node.op_type]
    data, weight, back = node.inputs[0], node.inputs[1], node.inputs[2]
    if data is None or weight is None:
        raise Unproven("its weights are missing")
    if graph.constant_tensor(weight) is None or graph.constant_tensor(back) is None:
        raise Unproven("its weights are not constant")
    for axis in found.axes(data):
        if axis != 2:
            found.keep(data, f"{node.op_type} goes along it", axis)
    if found.axes(data).get(2) is not None:
        contract(node, found, Consumer(node, data, 2, weight, 2))
    units = found.of(back, 2)
    if units is None:
        raise Unproven("its weights cannot shrink")
    why = f"{node.op_type} has numbers that cannot shrink"
    found.unite(np.tile(units, gates), found.of(weight, 1), why)
    found.unite(np.tile(units, gates), found.of(back, 1), why)
    bias = graph.input_at(node, 3)
    if bias is not None:
        found.unite(np.tile(units, 2 * gates), found.of(bias, 1), why)
    for state in (graph.input_at(node, 5), graph.input_at(node, 6)):
        if state is not None:
            found.unite(units, found.of(state, 2), f"{node.op_type} begins with a state that cannot shrink")
    peepholes = graph.input_at(node, 7)
    if peepholes is not None:
        found.unite(np.tile(units, 3), found.of(peepholes, 1), why)
    _register(node, found, units)


def _register(node: ir.Node, found: Dependencies, units: Labels) -> None:
    """The weights that make the units and sum over them, the outputs, and the number of units."""
    weight, back = node.inputs[1], node.inputs[2]
    if weight is None or back is None:
        return
    found.producers.append(Producer(node, weight, 1))
    found.consumers.append(Consumer(node, node.outputs[0], 3, back, 2))
    for output, axis in zip(node.outputs, (3, 2, 2), strict=False):
        if output.name:
            found.put(output, axis, units)
    found.edit(units, lambda kept, _: node.attributes.add(ir.AttrInt64("hidden_size", kept.count(units))))


RULES: Mapping[tuple[str, str], Rule] = {("", op_type): recurrent for op_type in _GATES}
