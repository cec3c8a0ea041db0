"""Which nodes cause the error of a quantized model, found in few evaluations.

The squared error of a model in which only a group of nodes is quantized is about the sum of its members' errors: they
are nearly independent. So the group with the largest error is halved again and again, and the worst nodes come out
after about 2 · log2(n) evaluations each, instead of n (group testing; Dorfman 1943).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_EVALUATIONS = 24
"""How many models are built and run to rank nodes: a guess, enough for the two or three worst of some hundred."""


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
