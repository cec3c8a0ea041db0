"""Which of two models is worth having: the faster one, or the smaller of two that are as fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelopt import engine
from modelopt.measure.speed import Ratio, Verdict
from modelopt.quant.coverage import losing
from modelopt.report import Outcome
from modelopt.runtime import cpu
from modelopt.tuning import nodes
from modelopt.tuning.workshop import Built, Workshop

MUCH_SMALLER = 0.9
"""A model that is as fast is taken if it has at most this share of the other's size."""

_AS_FAST = {Verdict.NO_DIFFERENCE: "as fast", Verdict.UNDECIDED: "not measurably slower"}
_NO_GAIN = {
    Verdict.NO_DIFFERENCE: "no measurable gain in speed",
    Verdict.UNDECIDED: "not timed enough to say that it is faster",
}


@dataclass(frozen=True)
class Race:
    """How two models compared.

    Attributes:
        outcome: `Outcome.KEPT` where the second is worth having in place of the first.
        reason: Why, as one clause.
        ratio: How many times as fast it is; None where only its size counts.
        on_one_thread: How many times as fast as the float model it is on one thread; None where that was not measured.
    """

    outcome: Outcome
    reason: str
    ratio: Ratio | None = None
    on_one_thread: Ratio | None = None

    @property
    def won(self) -> bool:
        """Whether the second is worth having in place of the first."""
        return self.outcome is Outcome.KEPT


@dataclass(frozen=True)
class Track:
    """Where models race.

    Attributes:
        shop: Times them.
        for_speed: Whether speed is what the user is after; else a smaller model wins.
    """

    shop: Workshop
    for_speed: bool

    def race(self, best: Built, made: Built, floats: Built) -> Race:
        """`made` against `best`; `floats` is the float model that it comes from."""
        if not self.measures or not self.for_speed or self.wants_size(best):
            return self._by_size(best, made)
        ratio = self.shop.time(best, made).ratio
        smaller = made.size_bytes <= MUCH_SMALLER * best.size_bytes
        if ratio.verdict is Verdict.SLOWER:
            return Race(Outcome.SLOWER, "slower than the best before", ratio)
        if ratio.verdict is not Verdict.FASTER and not smaller:
            least = 1 - MUCH_SMALLER
            return Race(Outcome.NO_GAIN, f"{_NO_GAIN[ratio.verdict]}, and not {least:.0%} smaller", ratio)
        alone = self._on_one_thread(floats, made)
        if alone is not None and alone.verdict is Verdict.SLOWER:
            return Race(Outcome.SLOWER, "slower than the float model on one thread", ratio, alone)
        faster = ratio.verdict is Verdict.FASTER
        gain = "faster" if faster else f"{_AS_FAST[ratio.verdict]}, and {_smaller(best, made)} smaller"
        return Race(Outcome.KEPT, gain, ratio, alone)

    def _by_size(self, best: Built, made: Built) -> Race:
        beside = f"; speed {self.shop.not_timed}" if self.for_speed and self.shop.not_timed else ""
        if made.size_bytes >= best.size_bytes:
            return Race(Outcome.NO_GAIN, f"not smaller{beside}")
        return Race(Outcome.KEPT, f"{_smaller(best, made)} smaller{beside}")

    @property
    def measures(self) -> bool:
        """Whether what this machine takes says something: the user wants it measured, and for this machine."""
        return self.shop.request.recipe.bench is not None and self.shop.not_timed is None

    def _on_one_thread(self, floats: Built, made: Built) -> Ratio | None:
        """Beside the float model on one thread; None where the user named the number of threads.

        Cores that a host lends to others for a while are no cores. Float kernels suffer more from that, and a model
        that is faster only then is not.
        """
        bench = self.shop.request.recipe.bench
        if bench is None or bench.threads or bench.provider != "cpu" or cpu.usable_cores() == 1:
            return None
        return self.shop.time(floats, made, threads=1).ratio

    def not_paying(self, base: Built, made: Built) -> Sequence[str]:
        """The kernels in regions that take longer in integers, by the profiler; none where all of them do."""
        bench = self.shop.request.recipe.bench
        if bench is None or not self.measures or bench.provider != "cpu":
            return ()
        if max(base.size_bytes, made.size_bytes) > engine.MAX_PROFILED_BYTES:
            return ()
        model = self.shop.load(made)
        names = losing(self.shop.profile(base), self.shop.profile(made), model)
        return () if set(names) >= set(nodes.changed(self.shop.load(base), model)) else names

    def must_gain(self) -> bool:
        """Whether a result that is no gain over the input is no result."""
        return self.shop.request.recipe.bench is not None and self.for_speed and not self.wants_size(self.shop.input)

    def wants_size(self, built: Built) -> bool:
        """Whether the user asked for a size that this model does not have."""
        gates = self.shop.request.recipe.gates
        limits = [gates.max_size_bytes or math.inf]
        if gates.max_size_ratio is not None:
            limits.append(gates.max_size_ratio * self.shop.input.size_bytes)
        return built.size_bytes > min(limits)


def _smaller(best: Built, made: Built) -> str:
    return f"{1 - made.size_bytes / best.size_bytes:.1%}"
