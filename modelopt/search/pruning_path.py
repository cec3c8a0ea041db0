"""The greedy path from the whole model to the narrowest: each step gives up what costs least for what it saves.

Nothing here runs a model: savings and errors are functions, so the same functions give the same path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_LEAST_ERROR = 1e-9
"""What a narrower width costs at least, so that groups whose removal shows no error are still compared."""

LEAST_TRIES = 2
"""So many places are tried whatever time that takes: after one try there may be nothing to keep."""

_SCANNED = (0.25, 0.5)
"""The shares of a group's channels whose removal is measured."""

_EXPONENTS = (1.0, 4.0)
"""Between what the exponent of an error is: see `ErrorCurve`."""


@dataclass(frozen=True)
class ErrorCurve:
    """The squared error by the share of a group's channels that is removed: a power of that share.

    It goes through what was measured. Removing the weakest channels first makes it grow faster than the share.

    Attributes:
        share: The largest share at which it was measured.
        error: The squared error there.
        exponent: The power.
    """

    share: float
    error: float
    exponent: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> ErrorCurve:
        """The curve through (share removed, squared error), rising; with one point the power is 2.

        Raises:
            ValueError: There is no point.
        """
        share, error = points[-1]
        if len(points) < 2 or not 0 < points[0][1] < error or math.isinf(error):
            return cls(share, error, 2.0)
        ratio = math.log(error / points[0][1]) / math.log(share / points[0][0])
        return cls(share, error, min(max(ratio, _EXPONENTS[0]), _EXPONENTS[1]))

    def at(self, share: float) -> float:
        """The squared error where this share is removed."""
        return self.error * (share / self.share) ** self.exponent if share else 0.0


@dataclass(frozen=True)
class PathStep:
    """A place on the path.

    Attributes:
        widths: By group, how many channels stay.
        cost: What the model costs there, as the savings count it.
        error: The sum of the squared errors that the curves say.
    """

    widths: Mapping[str, int]
    cost: float
    error: float


def path(
    widths: Mapping[str, int],
    candidates: Mapping[str, Sequence[int]],
    saving: Callable[[Mapping[str, int], str, int], float],
    error: Callable[[str, int], float],
    cost: float,
) -> list[PathStep]:
    """The path from the whole model, which is its first place.

    Args:
        widths: The whole widths.
        candidates: By group, narrower widths in falling order; groups without stay whole.
        saving: What another width of one group saves, where the others have the widths of the first argument.
        error: The squared error of a group at a width.
        cost: What the whole model costs.
    """
    found = [PathStep(dict(widths), cost, 0.0)]
    while True:
        now = found[-1]
        moves = list(_moves(now.widths, candidates, saving, error))
        if not moves:
            return found
        _, gain, group, width = max(moves, key=lambda move: (move[0], move[1]))
        changed = {**now.widths, group: width}
        total = now.error + error(group, width) - error(group, now.widths[group])
        found.append(PathStep(changed, now.cost - gain, total))


def _moves(
    widths: Mapping[str, int],
    candidates: Mapping[str, Sequence[int]],
    saving: Callable[[Mapping[str, int], str, int], float],
    error: Callable[[str, int], float],
) -> Iterator[tuple[float, float, str, int]]:
    """(what is saved for each unit of error, what is saved, group, width) of each narrower width that saves."""
    for group, others in candidates.items():
        before = error(group, widths[group])
        for width in others:
            if width >= widths[group]:
                continue
            gain, lost = saving(widths, group, width), error(group, width) - before
            if gain > 0 and math.isfinite(lost):
                yield gain / max(lost, _LEAST_ERROR), gain, group, width


def first_within(steps: Sequence[PathStep], *conditions: Callable[[PathStep], bool]) -> int | None:
    """The first place on the path that meets all conditions; None where no place does."""
    return next((place for place, step in enumerate(steps) if all(each(step) for each in conditions)), None)


def between(steps: Sequence[PathStep], low: int, high: int) -> int:
    """The place between two places whose cost is about halfway; `low` where none is between."""
    if high - low < 2:
        return low
    middle = (steps[low].cost + steps[high].cost) / 2
    return next((i for i in range(low + 1, high) if steps[i].cost <= middle), high - 1)


def farthest(
    steps: Sequence[PathStep],
    start: int,
    last: int,
    keeps: Callable[[int], bool],
    max_tries: int,
    is_over: Callable[[], bool] = lambda: False,
) -> int:
    """The farthest place that keeps the contract, by bisection over the cost; 0, the whole model, always does.

    Args:
        steps: The path.
        start: The place to try first.
        last: The farthest place to try.
        keeps: Whether a place keeps the contract.
        max_tries: How often that is asked.
        is_over: Whether the time for that is over; it is not asked before `LEAST_TRIES`.
    """
    low, high = 0, last + 1  # `high` breaks the contract, or lies behind what is wanted
    place = start
    for tries in range(max_tries):
        if tries >= LEAST_TRIES and is_over():
            break
        if keeps(place):
            low = place
        else:
            high = place
        if high - low < 2:
            break
        place = between(steps, low, min(high, last))
        if place == low:
            place = min(high, last)  # nothing but the last place lies between
    return low


def scanned_widths(choices: Sequence[int], whole: int) -> list[int]:
    """The widths of a group whose loss is measured, in falling order: those nearest to the shares of `_SCANNED`."""
    if not choices:
        return []
    nearest = [min(choices, key=lambda width: abs(width - (1 - share) * whole)) for share in _SCANNED]
    return list(dict.fromkeys(nearest))
