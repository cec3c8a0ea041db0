"""Which nodes cause the error of a quantized model, found in few evaluations, and how much of it each causes.

The squared error of a model in which only a group of nodes is quantized is about the sum of its members' errors: they
are nearly independent. So the group with the largest error is halved again and again, and the worst nodes come out
after about 2 · log2(n) evaluations each, instead of n (group testing; Dorfman 1943).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from modelopt.core.errors import ModeloptError
from modelopt.passes.base import Pass
from modelopt.report import Offender
from modelopt.search import exclusions
from modelopt.search.attempts import Attempt
from modelopt.search.candidates import Candidate, Candidates
from modelopt.search.diagnosis import causes

MAX_EVALUATIONS = 24
"""How many models are built and run to rank nodes: a guess, enough for the two or three worst of some hundred."""

_SHOWN = 12
"""How many offenders a report lists at most."""

_RESTORED_ALONE = 4
"""For how many of them the gain in float is measured: each takes another model."""


@dataclass(frozen=True)
class Suspect:
    """A node, or several that were not measured one by one, and the error that they cause.

    Attributes:
        nodes: Their names.
        error: The squared error over the squared output when only they are quantized.
    """

    nodes: tuple[str, ...]
    error: float


def rank(
    nodes: Sequence[str], error_of: Callable[[Sequence[str]], float], max_evaluations: int = MAX_EVALUATIONS
) -> list[Suspect]:
    """The nodes in the order of the error that they cause, worst first.

    Args:
        nodes: All quantized nodes, in graph order: neighbours share a group.
        error_of: The error of the model in which only these nodes are quantized.
        max_evaluations: How often that may be asked.
    """
    if not nodes:
        return []
    order = itertools.count()
    whole = tuple(nodes)
    waiting = [(0.0, next(order), whole)]
    single: list[Suspect] = []
    evaluations = 0
    while waiting and evaluations + 2 <= max_evaluations:
        error, _, group = heapq.heappop(waiting)
        if len(group) == 1:
            single.append(Suspect(group, -error))
            continue
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            heapq.heappush(waiting, (-error_of(half), next(order), half))
            evaluations += 1
    rest = [Suspect(group, -error) for error, _, group in waiting]
    return sorted([*single, *rest], key=lambda suspect: -suspect.error / len(suspect.nodes))


def suspects_of(candidates: Candidates, attempt: Attempt) -> list[Suspect]:
    """The nodes that an attempt quantizes, in the order of the error that they cause, worst first."""
    base, quantized = candidates.load(attempt.base), candidates.load(attempt.candidate)

    def error_of(names: Sequence[str]) -> float:
        """The error of the model in which only these nodes are quantized."""
        return _error(candidates, attempt.base, exclusions.only(attempt.step, names))

    return rank(exclusions.changed(base, quantized, tables=True), error_of)


def described(candidates: Candidates, attempt: Attempt, suspects: Sequence[Suspect]) -> list[Offender]:
    """The worst suspects for the report: share of the error, cause, and what leaving them in float would gain."""
    whole = sum(suspect.error for suspect in suspects)
    shown = [one for one in suspects if one.error > 0][:_SHOWN]
    single = [one.nodes[0] for one in shown if len(one.nodes) == 1]
    data, runner = candidates.data, candidates.context.runner
    found = causes(candidates.load(attempt.base), single, runner, data.calibration, data.evaluation)
    error = candidates.judge.error(attempt.candidate.path)
    return [
        Offender(
            nodes=one.nodes,
            share=one.error / whole if 0 < whole < math.inf else float(math.isinf(one.error)),
            cause=found.get(one.nodes[0]) if len(one.nodes) == 1 else None,
            gain=_gain(candidates, attempt, one.nodes, error) if i < _RESTORED_ALONE else None,
        )
        for i, one in enumerate(shown)
    ]


def marked(offenders: Sequence[Offender], restored: int) -> list[Offender]:
    """The offenders, of which the first `restored` stay in float."""
    return [msgspec.structs.replace(one, restored=i < restored) for i, one in enumerate(offenders)]


def _gain(candidates: Candidates, attempt: Attempt, names: Sequence[str], error: float) -> float | None:
    """The share of the error that is gone when only these nodes are in float again."""
    left = _error(candidates, attempt.base, exclusions.without(attempt.step, names))
    return 1 - left / error if 0 < error < math.inf and left < math.inf else None


def _error(candidates: Candidates, base: Candidate, step: Pass) -> float:
    """The squared error over the squared output of what a pass makes; infinite where that cannot be made or run."""
    try:
        candidate = candidates.build(base, (step,))
    except ModeloptError:
        return math.inf
    error = candidates.error_of(candidate, candidates.inputs()) if candidate.rewrites else 0.0
    candidates.discard(candidate)
    return error
