"""Which kernels are slower in int8, by measurement: profiles of the float and the int8 model, compared by region.

A region is a connected set of nodes that computed in integers, with the Q/DQ inside it and at its boundary. It replaced
the float kernels of the same nodes. Where it takes longer than they did, its kernels should stay in float.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.static.kernels import KERNELS
from modelopt.runtime.coverage import Coverage, Kind, NodeCost

MARGIN = 0.05
"""How much longer a region may take in int8, as a fraction, before it counts as slower: profiles are noisy."""

LEAST_NS = 5_000
"""Differences below this are within the resolution of onnxruntime's profiler, which counts microseconds."""


@dataclass(frozen=True)
class IntegerRegion:
    """Nodes that compute in integers together.

    Attributes:
        kernels: The names of its convolutions and products, in graph order.
        float_ns: Median time of the same nodes in the float model.
        integer_ns: Median time of the region with its Q/DQ.
    """

    kernels: tuple[str, ...]
    float_ns: int
    integer_ns: int

    @property
    def loses(self) -> bool:
        """Whether int8 is slower, by more than `MARGIN`."""
        return self.integer_ns > self.float_ns * (1 + MARGIN) and self.integer_ns - self.float_ns > LEAST_NS


def losing(before: Coverage, after: Coverage, quantized: ir.Model) -> tuple[str, ...]:
    """The kernels to leave in float, by name, in graph order.

    Args:
        before: The float model that was quantized, profiled as `after` was.
        after: The quantized model.
        quantized: The quantized model.
    """
    found = regions(before, after, quantized)
    return tuple(name for region in found if region.loses for name in region.kernels)


def regions(before: Coverage, after: Coverage, quantized: ir.Model) -> tuple[IntegerRegion, ...]:
    """The regions of `quantized` in graph order, with their times in float and in int8."""
    was = {cost.node: cost for cost in before.nodes}
    now = {cost.node: cost for cost in after.nodes}
    held = {graph.name_of(node) for node in graph.all_nodes(quantized)}
    groups = _groups(quantized, was, now)
    overhead_now, overhead_before = _LayoutOverhead(after, held), _LayoutOverhead(before, frozenset(was) & held)
    found = []
    for group in groups:
        names = [graph.name_of(node) for node in group]
        kernels = tuple(graph.name_of(node) for node in group if node.op_type in KERNELS and graph.name_of(node) in was)
        source = [name for name in names if name in was]
        fused_before = [*source, *(name for name in _boundary_nodes(group) if _split_off(name, was, now))]
        integers = overhead_now.spread(_run_sums(now, dict.fromkeys([*names, *fused_before])))
        floats = overhead_before.spread(_run_sums(was, source))
        if kernels:
            found.append(IntegerRegion(kernels, _median(floats), _median(integers)))
    return tuple(found)


def _groups(model: ir.Model, was: Mapping[str, NodeCost], now: Mapping[str, NodeCost]) -> list[list[ir.Node]]:
    """Nodes that computed in integers and those that quantization added, joined where one reads the other."""
    nodes = list(graph.all_nodes(model))
    taking = {node for node in nodes if _takes_part(node, was, now)}
    group_of: dict[ir.Node, list[ir.Node]] = {}
    for node in nodes:
        if node not in taking:
            continue
        merged = [node]
        for near in _neighbours(node):
            if near in taking and near in group_of and group_of[near] is not merged:
                merged = [*group_of[near], *merged]
                group_of.update(dict.fromkeys(merged, merged))
        group_of.update(dict.fromkeys(merged, merged))
    place = {node: i for i, node in enumerate(nodes)}
    unique = {id(group): sorted(group, key=place.__getitem__) for group in group_of.values()}
    return sorted(unique.values(), key=lambda group: place[group[0]])


def _takes_part(node: ir.Node, was: Mapping[str, NodeCost], now: Mapping[str, NodeCost]) -> bool:
    name = graph.name_of(node)
    if name in was:
        return name in now and now[name].kind is Kind.INTEGER
    return name in now or node.op_type in {"QuantizeLinear", "DequantizeLinear"}


def _neighbours(node: ir.Node) -> list[ir.Node]:
    makers = [made for read in node.inputs if read is not None and (made := read.producer()) is not None]
    return [*makers, *(use.node for out in node.outputs for use in out.uses())]


def _boundary_nodes(group: Sequence[ir.Node]) -> list[str]:
    """The names of the nodes outside of a region that read it or that it reads."""
    inside = set(group)
    return [graph.name_of(near) for node in group for near in _neighbours(node) if near not in inside]


def _split_off(name: str, was: Mapping[str, NodeCost], now: Mapping[str, NodeCost]) -> bool:
    """Whether a node that was fused with another has a kernel of its own now, because Q/DQ came between them."""
    return name in was and name in now and was[name].within is not None and now[name].within is None


def _run_sums(costs: Mapping[str, NodeCost], names: Sequence[str] | Mapping[str, None]) -> list[int]:
    """The time of the nodes `names` together, in each profiled run."""
    rows = [costs[name].runs_ns for name in names if name in costs and costs[name].runs_ns]
    return [sum(run) for run in zip(*rows, strict=False)]


def _median(runs_ns: Sequence[float]) -> int:
    return int(statistics.median(runs_ns)) if runs_ns else 0


class _LayoutOverhead:
    """The time of nodes that the runtime adds to change layouts, spread over all nodes in proportion to their time."""

    def __init__(self, coverage: Coverage, held: frozenset[str] | set[str]) -> None:
        own = sum(cost.median_ns for cost in coverage.nodes if cost.node in held)
        added = sum(cost.median_ns for cost in coverage.nodes if cost.node not in held)
        self._factor = 1 + added / own if own else 1.0

    def spread(self, runs_ns: Sequence[int]) -> list[float]:
        """The times with their part of the overhead."""
        return [each * self._factor for each in runs_ns]
