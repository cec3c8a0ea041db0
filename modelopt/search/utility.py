"""The utility of one model beside another: speed on all threads, speed on one thread, and size, as one figure.

Figures are added as logarithms, so that "a tenth faster" counts the same whatever the model takes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from modelopt.core import targets
from modelopt.engine import measurements
from modelopt.measure.speed import FLOOR, Ratio, Verdict
from modelopt.quant.static.measured_cost import losing
from modelopt.recipe.recipe import BenchSpec
from modelopt.report import Latency, Outcome
from modelopt.report.units import milliseconds
from modelopt.search import exclusions
from modelopt.search.candidates import Candidate, Candidates

_ONE_THREAD_SHARE = 1 / 3
"""The part of the speed that is speed on one thread; a guess. A host may lend the cores of a virtual machine to others
for a while, and float kernels lose more by that than integer kernels."""

_SIZE_SHARE = 0.1
"""What the logarithm of the size counts beside that of the speed; a guess. A third smaller is worth 4 % of speed."""

_HYSTERESIS = 0.05
"""The utility that a second quantized model needs to take the place of the first; a guess. Two that are nearly equal,
such as static and dynamic int8 of the same products, would otherwise change places with the noise of each run."""

_LEAST_GAIN = 0.02
"""The utility that the first quantized model needs to take the place of the float model; a guess. The noise of a short
comparison asks for more than that, and of a long one for less: then the least gain would change with the noise."""

_CLOSE = 1.5
"""A value nearer to what is needed than this many margins is timed again. Two independent measurements differ by more
than 1.5 times the half-width of a 95 % interval in 4 % of cases, so one that is not close has a 2 % chance to fall on
the other side when it is repeated."""

_HARDLY_LONGER = 1.1
"""Up to this factor one thread takes hardly longer than all of them; a guess."""


_SLOWER = 1 / (1 + FLOOR)
"""The ratio below which a model counts as slower."""


@dataclass(frozen=True)
class Utility:
    """How much better one model is than another: the logarithm of a factor in speed, size counted in.

    Attributes:
        value: 0.05 is as good as 5 % faster and as large.
        margin: The half-width of its interval. A value within it is no gain: so the same machine chooses the same.
    """

    value: float
    margin: float

    def is_more(self, least: float) -> bool:
        """Whether it is more than `least`, and more than the noise."""
        return self.value > max(self.margin, least)

    def is_close(self, least: float) -> bool:
        """Whether another measurement may well say the opposite of `is_more`."""
        return abs(self.value - max(self.margin, least)) < _CLOSE * self.margin

    def __str__(self) -> str:
        return f"worth {math.expm1(self.value):+.1%} (±{math.expm1(self.margin):.1%})"


def utility(ratio: Ratio, one_thread: Ratio | None, size_ratio: float) -> Utility:
    """The utility of a model beside another one.

    Args:
        ratio: How many times as fast it is on the threads asked for.
        one_thread: The same on one thread; None where that is what was asked for.
        size_ratio: Its size over the other's.
    """
    parts = [(1.0, ratio)] if one_thread is None else [(1 - _ONE_THREAD_SHARE, ratio), (_ONE_THREAD_SHARE, one_thread)]
    value = sum(share * math.log(each.point) for share, each in parts) - _SIZE_SHARE * math.log(size_ratio)
    margin = math.hypot(*(share * math.log(each.high / each.low) / 2 for share, each in parts))
    return Utility(value, margin)


@dataclass(frozen=True)
class Comparison:
    """How a candidate compares with the best model before it.

    Attributes:
        outcome: `Outcome.KEPT` where it takes that one's place.
        reason: Why, as one clause.
        ratio: How many times as fast it is; None where only its size counts.
        on_one_thread: The same on one thread; None where that was not measured.
        advice: What to set where more threads do not make the candidate faster; None where they do.
    """

    outcome: Outcome
    reason: str
    ratio: Ratio | None = None
    on_one_thread: Ratio | None = None
    advice: str | None = None

    @property
    def is_better(self) -> bool:
        """Whether the candidate takes the place of the best before it."""
        return self.outcome is Outcome.KEPT


@dataclass(frozen=True)
class _Timed:
    """Two models timed beside each other, on the threads asked for and on one thread."""

    on_all: Latency
    on_one: Latency | None

    @property
    def ratio(self) -> Ratio:
        return self.on_all.ratio

    @property
    def one_thread(self) -> Ratio | None:
        return None if self.on_one is None else self.on_one.ratio

    def utility(self, size_ratio: float) -> Utility:
        return utility(self.ratio, self.one_thread, size_ratio)

    def is_close(self, size_ratio: float, least: float, *, beside_floats: bool) -> bool:
        """Whether a repetition may well end in another choice."""
        if beside_floats and any(ratio.high < _SLOWER for ratio in self._ratios()):
            return False
        found = self.utility(size_ratio)
        if found.is_close(least):
            return True
        unclear = any(ratio.low < _SLOWER < ratio.high for ratio in self._ratios())
        return beside_floats and found.is_more(least) and unclear

    def slower_on(self) -> str | None:
        """Where the second model is slower, as words that end a clause; None where it is slower nowhere."""
        if self.ratio.verdict is Verdict.SLOWER:
            return ""
        one_thread = self.one_thread
        return " on one thread" if one_thread is not None and one_thread.verdict is Verdict.SLOWER else None

    def advice(self) -> str | None:
        """See `thread_advice`."""
        return None if self.on_one is None else thread_advice(self.on_all.after.median_ns, self.on_one.after.median_ns)

    def _ratios(self) -> list[Ratio]:
        return [ratio for ratio in (self.ratio, self.one_thread) if ratio is not None]


@dataclass(frozen=True)
class Preference:
    """Which of two models the user wants.

    Attributes:
        candidates: Times and profiles them.
        for_speed: Whether the user wants speed; else the smaller model is better.
    """

    candidates: Candidates
    for_speed: bool

    def compare(self, best: Candidate, candidate: Candidate, floats: Candidate) -> Comparison:
        """Compare `candidate` with `best`; nothing slower than `floats`, the float model, is better than it."""
        if not self.measures or not self.for_speed or self.wants_size(best):
            return self._by_size(best, candidate)
        beside_floats = best is floats
        least = _LEAST_GAIN if beside_floats else _HYSTERESIS
        size_ratio = candidate.size_bytes / best.size_bytes
        timed = self._time(best, candidate, beside_floats=beside_floats)
        if timed.is_close(size_ratio, least, beside_floats=beside_floats):
            timed = self._time(best, candidate, beside_floats=beside_floats, closely=True)
        found, ratio, one_thread = timed.utility(size_ratio), timed.ratio, timed.one_thread
        size = f"{size_ratio:.0%} of the size"
        if beside_floats and (threads := timed.slower_on()) is not None:
            return Comparison(Outcome.SLOWER, f"slower than the float model{threads}, {size}", ratio, one_thread)
        if not found.is_more(least):
            noise, little = "no gain beyond the noise", "too little for another choice"
            why = noise if found.value <= found.margin else little
            return Comparison(Outcome.NO_GAIN, f"{found}, {size}: {why}", ratio, one_thread)
        if not beside_floats and self._is_slower_than(floats, candidate, (ratio, one_thread)):
            return Comparison(Outcome.SLOWER, f"slower than the float model, {size}", ratio, one_thread)
        return Comparison(Outcome.KEPT, f"{found}, {size}", ratio, one_thread, timed.advice())

    def _time(self, best: Candidate, candidate: Candidate, *, beside_floats: bool, closely: bool = False) -> _Timed:
        on_all = self.candidates.time(best, candidate, closely=closely)
        if not self._counts_one_thread() or (beside_floats and on_all.ratio.verdict is Verdict.SLOWER):
            return _Timed(on_all, None)
        return _Timed(on_all, self.candidates.time(best, candidate, threads=1, closely=closely))

    def _is_slower_than(self, floats: Candidate, candidate: Candidate, beside_best: tuple[Ratio, Ratio | None]) -> bool:
        """Whether a model is slower than the float model.

        The best model before it is not: so that is only measured for threads on which it is slower than the best.
        """
        doubtful = [
            threads
            for ratio, threads in zip(beside_best, (None, 1), strict=True)
            if ratio is not None and ratio.verdict is Verdict.SLOWER
        ]
        timed = (self.candidates.time(floats, candidate, threads=threads, closely=True) for threads in doubtful)
        return any(each.ratio.verdict is Verdict.SLOWER for each in timed)

    def _by_size(self, best: Candidate, candidate: Candidate) -> Comparison:
        beside = f"; speed {self.candidates.not_timed}" if self.for_speed and self.candidates.not_timed else ""
        if candidate.size_bytes >= best.size_bytes:
            return Comparison(Outcome.NO_GAIN, f"not smaller{beside}")
        smaller = f"{1 - candidate.size_bytes / best.size_bytes:.1%}"
        return Comparison(Outcome.KEPT, f"{smaller} smaller{beside}")

    @property
    def _bench(self) -> BenchSpec | None:
        return self.candidates.request.recipe.bench

    @property
    def measures(self) -> bool:
        """Whether latency is measured: the user wants it, and the result is for this machine."""
        return self._bench is not None and self.candidates.not_timed is None

    def _counts_one_thread(self) -> bool:
        """Whether speed on one thread counts too: the user did not name the number of threads."""
        bench = self._bench
        return bench is not None and not bench.threads and bench.provider == "cpu" and targets.usable_cores() > 1

    def slower_in_integers(self, base: Candidate, candidate: Candidate) -> Sequence[str] | None:
        """Kernels in regions that take longer in integers than in float, by the profiler.

        Returns:
            Their names; None where all kernels are slower, or where the models cannot be profiled.
        """
        if not self.profiles(base) or not self.profiles(candidate):
            return None
        model = self.candidates.load(candidate)
        names = losing(self.candidates.profile(base), self.candidates.profile(candidate), model)
        return None if set(names) >= set(exclusions.changed(self.candidates.load(base), model)) else names

    def share_of_time(self, model: Candidate, names: Collection[str]) -> float:
        """The part of a model's time that these nodes take, by the profiler; 0 where it cannot be profiled."""
        if not names or not self.profiles(model):
            return 0.0
        costs = self.candidates.profile(model).nodes
        together = sum(cost.median_ns for cost in costs)
        return sum(cost.median_ns for cost in costs if cost.node in names) / max(1, together)

    def profiles(self, model: Candidate) -> bool:
        """Whether a model can be profiled: speed counts, it runs on the CPU provider, and it is not too large."""
        bench = self._bench
        on_cpu = bench is not None and self.measures and bench.provider == "cpu"
        return on_cpu and model.size_bytes <= measurements.MAX_PROFILED_BYTES

    def must_gain(self) -> bool:
        """Whether a result that is no gain over the input is no result."""
        return self._bench is not None and self.for_speed and not self.wants_size(self.candidates.input)

    def wants_size(self, model: Candidate) -> bool:
        """Whether the user asked for a smaller size than this model has."""
        gates = self.candidates.request.recipe.gates
        limits = [gates.max_size_bytes or math.inf]
        if gates.max_size_ratio is not None:
            limits.append(gates.max_size_ratio * self.candidates.input.size_bytes)
        return model.size_bytes > min(limits)


def thread_advice(all_ns: float, one_ns: float) -> str | None:
    """What to set where one thread takes hardly longer than all of them; None where it takes longer."""
    if one_ns > all_ns * _HARDLY_LONGER:
        return None
    times = f"{milliseconds(one_ns)} on one thread, {milliseconds(all_ns)} on all {targets.usable_cores()}"
    return f"more threads hardly make the result faster ({times}): intra_op_num_threads=1 leaves the other cores free"
