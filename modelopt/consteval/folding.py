"""Constant folding: what is known before the model runs is computed once, in all scopes, within a limit of growth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.by_runtime import answer
from modelopt.consteval.control_flow import inline_constant_ifs, remove_idle_loops
from modelopt.consteval.region import ConstantRegion, FoldingLimits
from modelopt.core.changes import Changes, Skip
from modelopt.core.errors import Refused
from modelopt.core.runner import Runner
from modelopt.graph import consistency

FREE_BYTES = 128
"""A result up to this size is worth storing even where it repeats one number."""

MIN_GROWTH_BYTES = 8 * 2**10
"""Every model may grow by this much, so that small models fold too."""

GREW_KEY = "modelopt.folded_bytes"
"""The metadata entry that remembers what folding added, so that a second run does not spend the allowance again."""

_EVALUATED_AT_ONCE = 16
_MOST_DIGITS = 18
_FIELD_BYTES = 8


@dataclass(frozen=True)
class Folding:
    """How far to fold.

    Attributes:
        max_tensor_bytes: Never read, compute or store a larger tensor.
        max_growth: How much of its weights' bytes the model may grow by, or `MIN_GROWTH_BYTES` if that is more; 0
            forbids growth.
    """

    max_tensor_bytes: int
    max_growth: float

    def apply(self, model: ir.Model, runner: Runner) -> Changes:
        """Fold `model` in place until nothing is left to fold; `runner` computes what numpy has no kernel for."""
        weights_before = graph.weight_bytes(model)
        folded = inlined = removed = 0
        while True:
            branches, kept_branches = inline_constant_ifs(model)
            loops, kept_loops = remove_idle_loops(model)
            region, failed = self._evaluate(model, runner)
            plan = _Plan(region, self._allowance(model), _grown(model))
            nodes = plan.carry_out(model)
            folded, inlined, removed = folded + nodes, inlined + branches, removed + loops
            if not nodes and not branches and not loops:
                break
        skipped = _skips(kept_branches | kept_loops, failed, region.refused, plan.refused)
        rewrites = folded + inlined + removed
        if not rewrites:
            return Changes(skipped=skipped)
        growth = graph.weight_bytes(model) - weights_before
        facts = {"folded_nodes": folded, "inlined_branches": inlined, "removed_loops": removed, "grown_bytes": growth}
        return Changes(rewrites, skipped, facts)

    def _evaluate(self, model: ir.Model, runner: Runner) -> tuple[ConstantRegion, dict[ir.Node, str]]:
        """The constant region, evaluated by numpy or else onnxruntime; and why onnxruntime did not evaluate a node."""
        total = _EVALUATED_AT_ONCE * self.max_tensor_bytes + graph.weight_bytes(model)
        limits = FoldingLimits(self.max_tensor_bytes, total)
        answers: dict[ir.Node, list[np.ndarray]] = {}
        failed: dict[ir.Node, str] = {}
        while True:
            region = ConstantRegion(model, limits, answers)
            unasked = [pending for pending in region.pending if pending.node not in failed]
            if not unasked:
                return region, failed
            found, not_found = answer(unasked, runner, self.max_tensor_bytes)
            answers.update(found)
            failed.update(not_found)

    def _allowance(self, model: ir.Model) -> int:
        if self.max_growth <= 0:
            return 0
        return max(MIN_GROWTH_BYTES, int(self.max_growth * (graph.weight_bytes(model) - _grown(model))))


class _Plan:
    """Which nodes of a region are removed, and which of their outputs are stored as constants.

    Consumers are decided before producers. Where only removed nodes read the outputs of a node, it is removed too, and
    nothing is stored. Any other node is removed where its outputs may be stored (`_why_not`). Where they may not, the
    node stays, and its inputs have to be there for it.
    """

    def __init__(self, region: ConstantRegion, allowance: int, grown: int) -> None:
        self.refused: dict[ir.Node, str] = {}
        self._region = region
        self._allowance = allowance
        self._grown = grown
        self._going: dict[ir.Node, list[ir.Value]] = {}
        for node in reversed(region.nodes):
            needed = [value for value in node.outputs if self._is_needed(value)]
            reason = self._why_not(node, needed)
            if reason is None:
                self._going[node] = needed
            else:
                self.refused[node] = reason

    def _is_needed(self, value: ir.Value) -> bool:
        return value.is_graph_output() or any(use.node not in self._going for use in value.uses())

    def _why_not(self, node: ir.Node, needed: Sequence[ir.Value]) -> str | None:
        if any(value.is_graph_output() for value in needed):
            return "its output is a graph output, which must be made by a node"
        arrays = [self._region.results[value] for value in needed]
        cost, free = sum(array.nbytes for array in arrays), min(FREE_BYTES, _text_bytes(node))
        if cost > free:
            cost -= self._region.freed_bytes(node)
        if cost <= free:
            return None
        if cost > FREE_BYTES and all(_is_uniform(array) for array in arrays):
            return f"it repeats one number; stored, it would take {cost} more bytes"
        if self._grown + cost > self._allowance:
            return f"stored, its result would make the model {cost} bytes larger, more than max-growth leaves"
        self._grown += cost
        return None

    def carry_out(self, model: ir.Model) -> int:
        """Store what is needed and remove the nodes, last ones first; returns how many.

        Raises:
            Refused: What was computed does not fit the operator that reads it: the model was never valid.
        """
        spent = _grown(model)
        for scope, opset, in_function in graph.scopes(model):
            as_nodes = in_function or not graph.allows_plain_initializers(model)
            for node in list(scope):
                for value in self._going.get(node, ()):
                    stored = _store(node, value, self._region.results[value], as_node=as_nodes)
                    _require_fitting(stored, opset)
        for node in self._going:
            graph.remove_with_constants(node)
        if self._grown > spent:
            model.metadata_props[GREW_KEY] = str(self._grown)
        return len(self._going)


def _text_bytes(node: ir.Node) -> int:
    """About the bytes that the node takes in the file beyond those of an initializer with the name of its output."""
    names = [node.name, node.op_type, *(value.name for value in node.inputs if value is not None), *node.attributes]
    return sum(len(name or "") + _FIELD_BYTES for name in names)


def _is_uniform(array: np.ndarray) -> bool:
    return array.size > 1 and bool((array == array.reshape(-1)[0]).all())


def _grown(model: ir.Model) -> int:
    """The bytes that earlier folding added; 0 where the entry, which anyone may write, is not a number of bytes."""
    text = model.metadata_props.get(GREW_KEY, "")
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else 0


def _store(node: ir.Node, value: ir.Value, array: np.ndarray, *, as_node: bool) -> ir.Value:
    """Give the users of `value` a constant of the same name; returns that."""
    owner = node.graph
    if owner is None or value.name is None:
        raise ValueError(f"{value!r} is in no graph or has no name")
    tensor = ir.tensor(array, name=value.name)
    new = ir.Value(name=value.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    if as_node:
        owner.insert_before(node, ir.node("Constant", [], {"value": tensor}, outputs=[new], name=value.name))
    else:
        new.const_value = tensor
        owner.register_initializer(new)
    value.replace_all_uses_with(new)
    return new


def _require_fitting(stored: ir.Value, opset: int) -> None:
    """Refuse a model in which an operator reads a constant that does not fit it, now that the constant is known."""
    for node in stored.consumers():
        problem = consistency.why_inconsistent(node, opset) if node.domain in graph.STANDARD_DOMAINS else None
        if problem is not None:
            raise Refused("the model is not valid", note=f"{graph.label(node)}: {problem}")


def _skips(branches: dict[str, str], *refusals: dict[ir.Node, str]) -> tuple[Skip, ...]:
    found = [Skip(name, reason) for name, reason in branches.items()]
    found += [Skip(graph.label(node), reason) for refused in refusals for node, reason in refused.items()]
    return tuple(found)
