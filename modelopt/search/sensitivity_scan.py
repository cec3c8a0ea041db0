"""Measures how the error of the outputs grows as the channels of each group go, one group at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelopt.core.errors import InputError, ModeloptError
from modelopt.data import Dataset
from modelopt.search import pruning_path
from modelopt.search.candidates import Candidates
from modelopt.search.prunable import Prunable
from modelopt.search.pruning_path import ErrorCurve
from modelopt.search.time_budget import TimeBudget, time_left

_OF_SCAN = 0.5
"""The share of the search's time after which no other group is measured: a guess."""


@dataclass(frozen=True)
class Scan:
    """What was measured.

    Attributes:
        curves: By group, its error by the share of channels that are gone; without the groups that cannot go.
        tried: By group, the last width that was measured and its error.
        ended: Where time ended the scan, what was left out, as a clause.
    """

    curves: dict[str, ErrorCurve]
    tried: dict[str, tuple[int, float]]
    ended: tuple[str, ...]


def scan(candidates: Candidates, channels: Prunable, data: Dataset | None, budget: TimeBudget) -> Scan:
    """Measure the groups, those first whose channels save most time.

    Args:
        candidates: Builds and runs the models.
        channels: The groups and their widths.
        data: What the outputs are compared on; None for constructed inputs.
        budget: Of the whole search.
    """
    whole = channels.widths
    choices = {name: each for name, each in channels.choices.items() if each}
    saved = {name: channels.saving(whole, name, each[-1]) for name, each in choices.items()}
    order = sorted(choices, key=lambda name: -saved[name])  # where time ends, what saves least is not measured
    points: dict[str, list[tuple[float, float]]] = {}
    tried: dict[str, tuple[int, float]] = {}
    ended: tuple[str, ...] = ()
    started = budget.spent
    for done, name in enumerate(order):
        if done and budget.is_over(_OF_SCAN):
            count = f"{len(order) - done} of {len(order)} groups were not measured and keep all channels"
            ended = (f"the search had no time to measure all groups: {count}",)
            break
        left = time_left(budget.spent - started, done, len(order), budget.seconds * _OF_SCAN - budget.spent)
        candidates.request.progress(f"measuring what each layer loses{left}", done, len(order))
        for width in pruning_path.scanned_widths(choices[name], whole[name]):
            error = _error(candidates, channels, data, name, width)
            tried[name] = (width, error)
            points.setdefault(name, []).append((1 - width / whole[name], error))
    finite = {name: each for name, each in points.items() if all(math.isfinite(error) for _, error in each)}
    curves = {name: ErrorCurve.through(finite[name]) for name in choices if name in finite}
    return Scan(curves, tried, ended)


def _error(candidates: Candidates, channels: Prunable, data: Dataset | None, name: str, width: int) -> float:
    """The squared error over the squared output with one group at another width; infinite where that fails."""
    try:
        candidate = channels.build_one(name, width)
    except InputError:
        raise
    except ModeloptError:
        return math.inf
    error = candidates.error_of(candidate, data or candidates.inputs())
    candidates.discard(candidate)
    return error
