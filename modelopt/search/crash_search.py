"""Finds the nodes that make onnxruntime crash, or refuse the model, once they are half; they stay in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.core.plural import counted
from modelopt.engine.request import Request
from modelopt.passes.convert_half import ConvertHalf
from modelopt.report import Outcome, Trial
from modelopt.runtime.installation import runtime_version
from modelopt.search import exclusions
from modelopt.search.candidates import Candidate, Candidates, opened
from modelopt.search.search_result import SearchResult

MAX_LOADS = 200
"""How many models are loaded to find the nodes: a guess."""

_NAMED = 4
"""How many of them a note names."""


def without_crash(request: Request, error: ModeloptError) -> SearchResult:
    """The recipe of `request` with those nodes in float32 without which onnxruntime loads the result.

    Args:
        request: Its recipe ends with `ConvertHalf`.
        error: How onnxruntime failed on the result.

    Raises:
        ModeloptError: `error` itself where no such nodes are found.
    """
    *before, step = request.recipe.steps
    if not isinstance(step, ConvertHalf):
        raise error
    with opened(request) as candidates:
        floats = candidates.build(candidates.input, before) if before else candidates.input
        found = culprits(candidates, floats, step)
        if not found:
            raise error
        kept = exclusions.without(step, found)
        recipe = dataclasses.replace(request.recipe, steps=(*before, kept))
    label = f"{step.name}, {counted(len(found), 'node')} in float32"
    trials = (
        Trial(group=str(step), rewrites=0, kept=False, outcome=Outcome.FAILED, reason=why_failed(error)),
        Trial(group=label, rewrites=0, kept=True, outcome=Outcome.KEPT, reason="onnxruntime loads it"),
    )
    return SearchResult((recipe,), trials, (), (note_on(found),))


def culprits(candidates: Candidates, floats: Candidate, step: ConvertHalf) -> tuple[str, ...]:
    """Names of nodes with which in float32 onnxruntime loads what `step` makes of `floats`; none where none are found.

    The nodes are in graph order, and the search bisects for the shortest beginning of the graph that must not be half.
    The last node of that beginning is to blame, or a node that makes one of its inputs.
    """
    if not candidates.loads(floats):
        return ()
    trial = _Trial(candidates, floats, step)
    in_float: tuple[str, ...] = ()
    while not trial.loads(len(trial.names), in_float):
        # Bisect: with the first `low` nodes in half the model loads, with the first `high` it does not.
        low, high = 0, len(trial.names)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if trial.loads(middle, in_float) else (low, middle)
        # Leave in float32 the first set of suspects without which that beginning loads.
        suspects = trial.suspects(high - 1, in_float)
        more = next((names for names in suspects if trial.loads(high, (*in_float, *names))), ())
        if not more or trial.count > MAX_LOADS:
            return ()
        # Other nodes behind it may crash onnxruntime as well: search on with these in float32.
        in_float += more
    return in_float


class _Trial:
    """Tries which nodes may be half at the same time.

    Attributes:
        names: The nodes that the pass converts, in graph order.
        count: How many models were tried.
    """

    def __init__(self, candidates: Candidates, floats: Candidate, step: ConvertHalf) -> None:
        self._candidates = candidates
        self._floats = floats
        self._step = step
        self.count = 0
        model = candidates.load(floats)
        self.names = step.converts(model, candidates.context)
        self._nodes = {graph.name_of(node): node for node in graph.all_nodes(model)}

    def loads(self, count: int, in_float: Sequence[str]) -> bool:
        """Whether onnxruntime loads the model with the first `count` nodes in half, except those of `in_float`."""
        left = dict.fromkeys((*in_float, *self.names[count:]))
        self._candidates.request.progress("looking for nodes that make onnxruntime crash", self.count, None)
        self.count += 1
        try:
            candidate = self._candidates.build(self._floats, (exclusions.without(self._step, left),))
        except (Refused, WorkerDied):
            return False
        found = self._candidates.loads(candidate)
        self._candidates.discard(candidate)
        return found

    def suspects(self, index: int, in_float: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Sets of nodes to leave in float32 for the sake of the node at `index`.

        First those that make its inputs, where they have no weights: those cost no memory in float32. Last the node
        itself. Each brings all nodes that stand between the same operators: they are likely to fail as it does.
        """
        node = self._nodes[self.names[index]]
        makers = (value.producer() for value in node.inputs if value is not None)
        known = set(self.names).difference(in_float)
        light = (maker for maker in makers if maker is not None and not any(map(graph.constant_tensor, maker.inputs)))
        for one in (*light, node):
            if graph.name_of(one) in known:
                kind = _kind(one)
                yield tuple(name for name in self.names if name in known and _kind(self._nodes[name]) == kind)


def why_failed(error: ModeloptError) -> str:
    """How onnxruntime failed on a model, as one clause."""
    what = "crashes" if isinstance(error, WorkerDied) else "refuses it"
    return f"onnxruntime {runtime_version()} {what}: {error.note or error.fact}"


def note_on(found: Sequence[str]) -> str:
    """A note on the nodes that stay in float32."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    listed = f"{', '.join(found[:_NAMED])}{more}"
    return f"onnxruntime {runtime_version()} does not load the model with these nodes in half precision: {listed}"


def _kind(node: ir.Node) -> tuple[object, ...]:
    """A node's operator, and those of the nodes before and behind it."""
    makers = (None if value is None else value.producer() for value in node.inputs)
    users = sorted(user.op_type for out in node.outputs for user, _ in out.uses())
    return node.op_type, *("" if maker is None else maker.op_type for maker in makers), *users
