"""Compares each output with the original's by the measures of its kind; the output that loses most decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.measure.fidelity import EXACT, Fidelity
from modelopt.measure.heads import Head
from modelopt.measure.measures_by_kind import ERROR_BOUND, MEASURES, measures_for
from modelopt.measure.metric import Measure, Outputs, Score, Unfit, aligned, is_blank
from modelopt.measure.output_kinds import LOOK, OutputKind, Recognized, recognize
from modelopt.measure.relative_error import RelativeError

IGNORE = "ignore"
"""Given in place of a measure: the output is not compared."""

_BUFFERED_BYTES = 256 * 2**20


class OutputScore(msgspec.Struct, frozen=True, kw_only=True):
    """How one output compares with the original's.

    Attributes:
        output: Its name.
        kind: What it stands for, in words: see `OutputKind`.
        why: The evidence for the kind.
        scores: The scores of the measures that compared something.
        error: The error relative to the output's size; None where it has no numbers.
        bound: The largest `error` that is accepted where the answers agree; None where only the scores count.
    """

    output: str
    kind: str
    why: str
    scores: tuple[Score, ...]
    error: Score | None = None
    bound: float | None = None

    @property
    def decisive(self) -> Score | None:
        """The score by which most is lost, the error included where it exceeds its bound; None without scores."""
        scores = (*self.scores, self.error) if self.is_too_far and self.error is not None else self.scores
        known = [(lost, score) for score in scores if (lost := lost_by(score)) is not None]
        return max(known, key=lambda each: each[0])[1] if known else None

    @property
    def drop(self) -> float | None:
        """The share that is lost by the score that decides, at most 1."""
        lost = None if self.decisive is None else lost_by(self.decisive)
        return None if lost is None else min(1.0, lost)

    @property
    def is_too_far(self) -> bool:
        """Whether the error exceeds its bound."""
        lost = None if self.error is None else lost_by(self.error)
        return lost is not None and self.bound is not None and lost > self.bound


def lost_by(score: Score) -> float | None:
    """The loss that a score stands for, as a share: 0 for equal outputs; None where nothing was compared."""
    if score.unit == "dB":
        return relative_error(score)
    if score.value is None:
        return None
    return 1 - score.value if score.higher_is_better else score.value


def relative_error(sqnr: Score) -> float | None:
    """The root of noise over signal, from a score in dB: 0 without noise, infinite where the reference is zero."""
    if sqnr.value is not None:
        return float(10 ** (-sqnr.value / 20))
    if not sqnr.n:
        return None
    return 0.0 if (sqnr.note or "").startswith(EXACT) else math.inf


def parse_named(name: str) -> tuple[str, str] | None:
    """The output and the measure of ``OUTPUT=NAME``; None where the text is no such pair.

    Raises:
        InputError: No measure has that name.
    """
    output, equals, measure = name.rpartition("=")
    if not equals or measure.rpartition(":")[0].endswith(".py"):
        return None
    if measure not in MEASURES and measure != IGNORE:
        raise InputError(
            f"unknown metric '{measure}' for output '{output}'",
            note=f"metrics for an output: {', '.join((*MEASURES, IGNORE))}",
            hint=did_you_mean(measure, (*MEASURES, IGNORE)),
        )
    return output, measure


def require_outputs(named: Iterable[str], names: Sequence[str]) -> None:
    """Refuse names of outputs that the model does not have.

    Raises:
        InputError: There is one.
    """
    for name in named:
        if name not in names:
            raise InputError(
                f"the model has no output '{name}' to measure",
                note=f"outputs: {', '.join(names)}",
                hint=did_you_mean(name, names),
            )


class OutputScores:
    """Compares every output, sample by sample.

    Args:
        names: The outputs' names, in order.
        heads: How the graph ends at each output; nothing is known of outputs that are not among them.
        named: The measure that the user named for an output.

    Raises:
        InputError: A measure was named for an output that the model does not have.
    """

    def __init__(self, names: Sequence[str], heads: Mapping[str, Head], named: Mapping[str, str]) -> None:
        require_outputs(named, names)
        self._each = {
            position: _Output(name, heads.get(name, Head()), named.get(name))
            for position, name in enumerate(names)
            if named.get(name) != IGNORE
        }

    def keep_named(self) -> None:
        """Compare only the outputs that the user named a measure for, because other metrics decide."""
        self._each = {position: each for position, each in self._each.items() if each.is_named}

    def update(self, reference: Outputs, candidate: Outputs) -> None:
        """Take in one sample."""
        for position, each in self._each.items():
            each.update(reference[position], candidate[position])

    def scores(self) -> tuple[OutputScore, ...]:
        """Of the outputs that hold something to compare."""
        return tuple(score for each in self._each.values() if (score := each.score()) is not None)


class _Output:
    """One output. Its first samples are kept until its kind is known."""

    def __init__(self, name: str, head: Head, named: str | None) -> None:
        self.name = name
        self._head = head
        self._named = named
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting_bytes = 0
        self._known: Recognized | None = None
        self._measures: list[Measure | Fidelity] = []
        self._error = RelativeError()

    @property
    def is_named(self) -> bool:
        return self._named is not None

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        if self._known is not None:
            self._compare(a, b)
        elif not (is_blank(a) and is_blank(b)):
            self._waiting.append((a, b))
            self._waiting_bytes += a.nbytes + b.nbytes
            if len(self._waiting) >= LOOK or self._waiting_bytes > _BUFFERED_BYTES:
                self._settle()

    def _settle(self) -> None:
        """Find the kind from the original's outputs, or from the candidate's where the original's hold no element."""
        found = recognize(self._head, [a for a, _ in self._waiting]) or recognize(
            self._head, [b for _, b in self._waiting]
        )
        if found is None:
            return
        self._known = found
        if self._named is not None:
            self._measures = [MEASURES[self._named]()]
        else:
            shape = next((a.shape for a, _ in self._waiting if a.size), ())
            self._measures = measures_for(found, shape)
        for a, b in self._waiting:
            self._compare(a, b)
        self._waiting = []

    def _compare(self, a: np.ndarray, b: np.ndarray) -> None:
        pair = None if self._known is not None and self._known.kind is OutputKind.VALUES else aligned(a, b)
        for measure in self._measures:
            if isinstance(measure, Fidelity):
                self._by_fidelity(measure, a, b)
            elif pair is not None:
                measure.update(*pair)
        if pair is not None:
            self._error.update(*pair)

    def _by_fidelity(self, measure: Fidelity, a: np.ndarray, b: np.ndarray) -> None:
        try:
            measure.update([a], [b], None)
        except Unfit as unfit:
            raise InputError(f"output '{self.name}': {unfit.fact}", note=unfit.note, hint=unfit.hint) from unfit

    def score(self) -> OutputScore | None:
        if self._known is None and self._waiting:
            self._settle()
        if self._known is None:
            return None
        scores = [measure.score() for measure in self._measures]
        compared = tuple(score for score in scores if lost_by(score) is not None)
        error = None if self._known.kind is OutputKind.VALUES else self._error.score()
        if not compared and (error is None or error.value is None):
            return None
        bound = None if self._named is not None else ERROR_BOUND.get(self._known.kind)
        if not compared and error is not None:
            # Too few samples to compare answers: the error decides, as it does for a signal.
            compared, bound = (error,), None
        return OutputScore(
            output=self.name,
            kind=self._known.kind.value,
            why=self._known.why,
            scores=compared,
            error=error,
            bound=bound,
        )


def worst(scores: Sequence[OutputScore]) -> OutputScore | None:
    """The output that lost most; None where none compared anything."""
    known = [(score.drop, score) for score in scores if score.drop is not None]
    return max(known, key=lambda each: each[0])[1] if known else None
