"""Which of two models is worth more: by speed on the threads asked for, speed on one thread, and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelopt.core import targets
from modelopt.engine import optimize
from modelopt.measure.speed import Ratio, Verdict
from modelopt.quant.static.measured_cost import losing
from modelopt.report import Outcome
from modelopt.report.summary import milliseconds
from modelopt.search import exclusions
from modelopt.search.candidates import Built, Workshop

_ALONE_SHARE = 1 / 3
"""What speed on one thread counts of all speed: cores that a host lends to others for a while are no cores, and float
kernels suffer more from that."""

_SIZE_SHARE = 0.1
"""What the logarithm of the size counts beside that of the speed: a third smaller is worth 4 % of speed."""

_HYSTERESIS = 0.05
"""How much more than one quantized model another must be worth to take its place. Two that are nearly equal, such as
static and dynamic int8 of the same products, would otherwise be chosen between by what little a measurement is off."""

_HARDLY_LONGER = 1.1


@dataclass(frozen=True)
class Worth:
    """How much more one model is worth than another: the logarithm of a factor in speed, size counted in.

    Attributes:
        value: 0.05 is as good as 5 % faster and as large.
        margin: The half-width of its interval. A model within it stays the second: the same machine chooses the same.
    """

    value: float
    margin: float

    def is_more(self, least: float = 0.0) -> bool:
        """Whether it is more than `least`, and by more than the noise."""
        return self.value > max(self.margin, least)

    def __str__(self) -> str:
        return f"worth {math.expm1(self.value):+.1%} (±{math.expm1(self.margin):.1%})"


def worth(ratio: Ratio, alone: Ratio | None, size_ratio: float) -> Worth:
    """What a model is worth beside another one.

    Args:
        ratio: How many times as fast it is on the threads asked for.
        alone: The same on one thread; None where that is what was asked for.
        size_ratio: Its size over the other's.
    """
    parts = [(1.0, ratio)] if alone is None else [(1 - _ALONE_SHARE, ratio), (_ALONE_SHARE, alone)]
    value = sum(share * math.log(each.point) for share, each in parts) - _SIZE_SHARE * math.log(size_ratio)
    margin = math.hypot(*(share * math.log(each.high / each.low) / 2 for share, each in parts))
    return Worth(value, margin)


@dataclass(frozen=True)
class Race:
    """How two models compared.

    Attributes:
        outcome: `Outcome.KEPT` where the second is worth having in place of the first.
        reason: Why, as one clause.
        ratio: How many times as fast it is; None where only its size counts.
        on_one_thread: The same on one thread; None where that was not measured.
        advice: What to set where more threads do not make the second faster; None where they do.
    """

    outcome: Outcome
    reason: str
    ratio: Ratio | None = None
    on_one_thread: Ratio | None = None
    advice: str | None = None

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
        """`made` against `best`; `floats` is the float model that it comes from, and nothing slower than that wins."""
        if not self.measures or not self.for_speed or self.wants_size(best):
            return self._by_size(best, made)
        on_all = self.shop.time(best, made)
        ratio = on_all.ratio
        size = f"{made.size_bytes / best.size_bytes:.0%} of the size"
        if best is floats and ratio.verdict is Verdict.SLOWER:
            return Race(Outcome.SLOWER, f"slower than the float model, {size}", ratio)
        on_one = self.shop.time(best, made, threads=1) if self._counts_one_thread() else None
        alone = None if on_one is None else on_one.ratio
        if best is floats and alone is not None and alone.verdict is Verdict.SLOWER:
            return Race(Outcome.SLOWER, f"slower than the float model on one thread, {size}", ratio, alone)
        found = worth(ratio, alone, made.size_bytes / best.size_bytes)
        if not found.is_more():
            return Race(Outcome.NO_GAIN, f"{found}, {size}: no gain beyond the noise", ratio, alone)
        if best is not floats and not found.is_more(_HYSTERESIS):
            return Race(Outcome.NO_GAIN, f"{found}, {size}: too little for another choice", ratio, alone)
        if best is not floats and self._is_slower_than(floats, made, (ratio, alone)):
            return Race(Outcome.SLOWER, f"slower than the float model, {size}", ratio, alone)
        advice = None if on_one is None else thread_advice(on_all.after.median_ns, on_one.after.median_ns)
        return Race(Outcome.KEPT, f"{found}, {size}", ratio, alone, advice)

    def _is_slower_than(self, floats: Built, made: Built, beside_best: tuple[Ratio, Ratio | None]) -> bool:
        """Whether a model is slower than the float one; it is not where it is not slower than one that was not."""
        doubtful = [
            threads
            for ratio, threads in zip(beside_best, (None, 1), strict=True)
            if ratio is not None and ratio.verdict is Verdict.SLOWER
        ]
        return any(
            self.shop.time(floats, made, threads=threads).ratio.verdict is Verdict.SLOWER for threads in doubtful
        )

    def _by_size(self, best: Built, made: Built) -> Race:
        beside = f"; speed {self.shop.not_timed}" if self.for_speed and self.shop.not_timed else ""
        if made.size_bytes >= best.size_bytes:
            return Race(Outcome.NO_GAIN, f"not smaller{beside}")
        return Race(Outcome.KEPT, f"{_smaller(best, made)} smaller{beside}")

    @property
    def measures(self) -> bool:
        """Whether what this machine takes says something: the user wants it measured, and for this machine."""
        return self.shop.request.recipe.bench is not None and self.shop.not_timed is None

    def _counts_one_thread(self) -> bool:
        """Whether speed on one thread counts too: the user did not name the number of threads."""
        bench = self.shop.request.recipe.bench
        return bench is not None and not bench.threads and bench.provider == "cpu" and targets.usable_cores() > 1

    def not_paying(self, base: Built, made: Built) -> Sequence[str]:
        """The kernels in regions that take longer in integers, by the profiler; none where all of them do."""
        bench = self.shop.request.recipe.bench
        if bench is None or not self.measures or bench.provider != "cpu":
            return ()
        if max(base.size_bytes, made.size_bytes) > optimize.MAX_PROFILED_BYTES:
            return ()
        model = self.shop.load(made)
        names = losing(self.shop.profile(base), self.shop.profile(made), model)
        return () if set(names) >= set(exclusions.changed(self.shop.load(base), model)) else names

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


def thread_advice(all_ns: float, one_ns: float) -> str | None:
    """What to set where one thread takes hardly longer than all of them; None where it takes longer."""
    if one_ns > all_ns * _HARDLY_LONGER:
        return None
    times = f"{milliseconds(one_ns)} on one thread, {milliseconds(all_ns)} on all {targets.usable_cores()}"
    return f"more threads hardly make the result faster ({times}): intra_op_num_threads=1 leaves the other cores free"


def _smaller(best: Built, made: Built) -> str:
    return f"{1 - made.size_bytes / best.size_bytes:.1%}"
