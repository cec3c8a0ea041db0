"""From a profile to the nodes of the model: which run as integer kernels, as float kernels, or only convert."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import msgspec
import onnx_ir as ir

from modelopt import graph
from modelopt.runtime.session import NodeRun


class Kind(Enum):
    """What a kernel does.

    Attributes:
        INTEGER: Computes in, or moves, 8-bit integers.
        FLOAT: Anything else that the model asks for.
        OVERHEAD: Quantizes, dequantizes or reorders: the model would not need it without integers, or the runtime
            added it.
    """

    INTEGER = "integer"
    FLOAT = "float"
    OVERHEAD = "overhead"


class NodeCost(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        node: Its name in the model, or that of its first output; the runtime's name for what the runtime added.
        op_type: Its operator in the model; the runtime's for what the runtime added.
        kind: What the kernel that computes it does.
        kernel: The operator that the runtime executes.
        within: The node with whose kernel this one is fused, which carries the time; None when it has its own.
        runs_ns: Nanoseconds in each profiled run; empty when `within` is set.
    """

    node: str
    op_type: str
    kind: Kind
    kernel: str
    within: str | None = None
    runs_ns: tuple[int, ...] = ()

    @property
    def median_ns(self) -> int:
        """The median over the profiled runs; 0 for a node within another."""
        return int(statistics.median_low(self.runs_ns)) if self.runs_ns else 0


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime executed for each node of a model.

    Attributes:
        nodes: Nodes that were executed, in order of execution, and those fused with them.
        executed: Kernels executed, by kind.
        median_ns: The sum of their medians, by kind.
    """

    nodes: tuple[NodeCost, ...]
    executed: dict[str, int]
    median_ns: dict[str, int]

    def share(self, kind: Kind) -> float:
        """The part of the time in kernels of this kind, 0 to 1."""
        return self.median_ns[kind.value] / (sum(self.median_ns.values()) or 1)


class NodeTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long each node of a model takes, in profiled runs.

    The figures are means over the fastest quarter of the runs, the same for all nodes and for the whole: other programs
    only make a run longer.

    Attributes:
        layers: The nodes that have a kernel of their own, in order of execution, and what the runtime added.
        run_ns: Nanoseconds of each whole run, with the profiler on.
    """

    layers: tuple[NodeCost, ...]
    run_ns: tuple[int, ...]

    @property
    def whole_ns(self) -> float:
        """A whole run."""
        return self._mean(self.run_ns)

    def layer_ns(self, layer: NodeCost) -> float:
        """One of the `layers`."""
        return self._mean(layer.runs_ns)

    @property
    def between_ns(self) -> float:
        """What of a run no kernel takes: scheduling, allocation, the profiler itself; at least 0."""
        return max(0.0, self.whole_ns - sum(map(self.layer_ns, self.layers)))

    def _mean(self, runs_ns: Sequence[int]) -> float:
        fastest = sorted(range(len(self.run_ns)), key=lambda run: self.run_ns[run])[: max(1, len(self.run_ns) // 4)]
        return statistics.fmean(runs_ns[run] for run in fastest)


_HEAVY = ("ConvTranspose", "Conv", "Gemm", "MatMul", "Attention", "LSTM", "GRU")
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})
_INTEGER_OP = re.compile(r"^QLinear|^QGemm|^QAttention|^QEmbed|Integer|^DynamicQuantize(?!Linear$)|NBits$")
_INTEGER_TYPES = frozenset({"int8", "uint8", "int4", "uint4"})
_ADDED = re.compile(r"(_token_\d+|_nchwc|_q|_dq|/\w*Fusion/?)$")


def coverage_of(model: ir.Model, runs: Sequence[NodeRun]) -> Coverage:
    """Match what ran with the nodes of the model.

    The runtime keeps a node's name, adds a suffix to it, or names a fused kernel after what it writes. A node that has
    no kernel of its own was fused with a neighbour: the one behind it, or before it where a float kernel or a
    conversion follows.

    Args:
        model: The model that was profiled.
        runs: The profile, with `SessionSpec.trace`.
    """
    nodes = [node for node in graph.all_nodes(model) if graph.constant_node_tensor(node) is None]
    by_name = {graph.name_of(node): node for node in reversed(nodes)}
    by_output = {out.name: node for node in nodes for out in node.outputs if out.name}
    kernel_of: dict[ir.Node, NodeRun] = {}
    added: list[NodeRun] = []
    for run in runs:
        node = _source(run, by_name, by_output)
        if node is None or node in kernel_of:
            added.append(run)
        else:
            kernel_of[node] = run
    owners = {node: owner for node in nodes if (owner := _owner(node, kernel_of)) is not None}
    carriers = _carriers(nodes, owners, kernel_of)
    costs = [_cost(node, owners[node], carriers, kernel_of) for node in nodes if node in owners]
    costs += [
        NodeCost(
            node=run.name or run.op_type, op_type=run.op_type, kind=_kind(run), kernel=run.op_type, runs_ns=run.runs_ns
        )
        for run in added
    ]
    return _sum_up(costs)


def _source(run: NodeRun, by_name: Mapping[str, ir.Node], by_output: Mapping[str, ir.Node]) -> ir.Node | None:
    for text in (run.name, *run.writes):
        for name in _without_suffixes(text):
            found = by_name.get(name) or by_output.get(name)
            if found is not None:
                return found
    return None


def _without_suffixes(text: str) -> Iterable[str]:
    """The text, and what is left of it as the runtime's suffixes are taken off."""
    yield text
    while _ADDED.search(text):
        text = _ADDED.sub("", text)
        yield text


def _owner(node: ir.Node, kernel_of: Mapping[ir.Node, NodeRun]) -> ir.Node | None:
    """The node whose kernel computes `node`; None when it was folded away."""
    if node.op_type in _CONVERSIONS and node not in kernel_of:
        return None
    return _ahead(node, kernel_of) or _behind(node, kernel_of)


def _ahead(node: ir.Node, kernel_of: Mapping[ir.Node, NodeRun]) -> ir.Node | None:
    heavy, seen = node.op_type in _HEAVY, {node}
    while node not in kernel_of:
        readers = [use.node for out in node.outputs for use in out.uses()]
        fit = [each for each in readers if each.op_type not in _CONVERSIONS and (heavy or each.op_type not in _HEAVY)]
        if not fit or fit[0] in seen:
            return None
        node = fit[0]
        seen.add(node)
    return node


def _behind(node: ir.Node, kernel_of: Mapping[ir.Node, NodeRun]) -> ir.Node | None:
    while node not in kernel_of:
        makers = [made for read in node.inputs if read is not None and (made := read.producer()) is not None]
        makers = [maker for maker in makers if maker.op_type not in _CONVERSIONS and maker.op_type != "Constant"]
        if not makers:
            return None
        node = makers[0]
    return node


def _carriers(
    nodes: Sequence[ir.Node], owners: Mapping[ir.Node, ir.Node], kernel_of: Mapping[ir.Node, NodeRun]
) -> dict[ir.Node, ir.Node]:
    """Which node the time of each kernel counts for: the convolution or product in it, however the runtime names it.

    So it is the same node in the float model, where the kernel has the name of the Relu behind the convolution, and in
    the integer model, where it has that of the convolution.
    """
    carriers = {node: node for node in kernel_of}
    for node in nodes:
        owner = owners.get(node)
        if owner is None or node.op_type not in _HEAVY or owner.op_type in _HEAVY:
            continue
        if node.op_type in kernel_of[owner].op_type:
            carriers[owner] = node
    return carriers


def _cost(
    node: ir.Node, owner: ir.Node, carriers: Mapping[ir.Node, ir.Node], kernel_of: Mapping[ir.Node, NodeRun]
) -> NodeCost:
    run, carrier = kernel_of[owner], carriers[owner]
    return NodeCost(
        node=graph.name_of(node),
        op_type=node.op_type,
        kind=_kind(run),
        kernel=run.op_type,
        within=None if carrier is node else graph.name_of(carrier),
        runs_ns=run.runs_ns if carrier is node else (),
    )


def _kind(run: NodeRun) -> Kind:
    if run.op_type in _CONVERSIONS | _LAYOUT:
        return Kind.OVERHEAD
    if _INTEGER_OP.search(run.op_type) or (run.reads and run.reads[0] in _INTEGER_TYPES):
        return Kind.INTEGER
    return Kind.FLOAT


def _sum_up(costs: list[NodeCost]) -> Coverage:
    executed = {kind.value: 0 for kind in Kind}
    spent = {kind.value: 0 for kind in Kind}
    for cost in costs:
        executed[cost.kind.value] += cost.within is None
        spent[cost.kind.value] += cost.median_ns
    return Coverage(nodes=tuple(costs), executed=executed, median_ns=spent)
