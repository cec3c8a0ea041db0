"""Judges a stored report beside an earlier one: whether a model became slower, larger or less accurate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from modelopt.core.errors import InputError
from modelopt.core.quantities import Allowed
from modelopt.engine import evidence, judging
from modelopt.engine.bounds import at_most
from modelopt.engine.figure_gates import MAX_LATENCY, MAX_LOAD, MAX_MEMORY, FigureGate
from modelopt.engine.findings import keeps
from modelopt.measure.environment import Environment
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.measure.loss import loss_of
from modelopt.measure.process_figures import Figure
from modelopt.measure.stats import Delta, paired_difference_interval
from modelopt.measure.task_score import TaskScore
from modelopt.recipe.recipe import Gates, OnInconclusive
from modelopt.report import GateOutcome, GateResult
from modelopt.report.check_report import CheckedModel, CheckReport, verdict_of
from modelopt.report.stored import Stored, Subject

ACROSS = "--across-machines compares how each model does beside its own float model instead"

_MACHINE = ("cpu", "machine", "cores", "threads", "onnxruntime")
"""What must be the same where times are compared."""


@dataclass(frozen=True)
class CheckLimits:
    """How much worse than its baseline a model may be; None is not judged.

    Attributes:
        latency: Of a run, in nanoseconds.
        memory: Peak memory of a process, in bytes.
        load: The time to create a session, in nanoseconds.
        size: Of the file, in bytes.
        drop: The fall of the task's metric, or of what outputs have in common with the original's, as a fraction.
        are_defaults: Nobody asked for them: what a report does not hold is passed over.
        on_inconclusive: What a gate does that cannot be decided; None fails.
    """

    latency: Allowed | None = None
    memory: Allowed | None = None
    load: Allowed | None = None
    size: Allowed | None = None
    drop: float | None = None
    on_inconclusive: OnInconclusive | None = None
    are_defaults: bool = False


def check(new: Stored, old: Stored, limits: CheckLimits, *, across_machines: bool = False) -> CheckReport:
    """Judge each model of a report beside that of its baseline.

    Args:
        new: The report.
        old: Its baseline.
        limits: How much worse a model may be.
        across_machines: Compare ratios to the model that each was timed beside, in place of times.

    Raises:
        InputError: The reports are not of the same models, machine, versions or data; the note says which.
    """
    if len(new.subjects) != len(old.subjects):
        counts = f"{len(new.subjects)} and {len(old.subjects)}"
        raise InputError(f"{new.path} and {old.path} judge {counts} models", hint="measure the same models for both")
    models = []
    for subject, before in zip(new.subjects, old.subjects, strict=True):
        pair = _Pair(subject, before, limits, across_machines)
        judged = judging.with_consequences(Gates(on_inconclusive=limits.on_inconclusive), pair.gates())
        models.append(CheckedModel(model=subject.name, baseline=before.name, gates=judged))
    found = tuple(models)
    return CheckReport(verdict=verdict_of(found), report=str(new.path), baseline=str(old.path), models=found)


@dataclass(frozen=True)
class _Pair:
    new: Subject
    old: Subject
    limits: CheckLimits
    across: bool

    def gates(self) -> Iterator[GateResult]:
        limits = self.limits
        if limits.size is not None:
            yield self._size(limits.size)
        for gate, allowed in ((MAX_LATENCY, limits.latency), (MAX_MEMORY, limits.memory), (MAX_LOAD, limits.load)):
            if allowed is None:
                continue
            if self.new.result is None or self.old.result is None:
                self._miss(f"--{gate.name} needs latencies", self.new.result, "measure without --no-bench")
            elif allowed.absolute is not None:
                yield judging.judge_figure(gate, allowed.absolute, self.new.result)
            else:
                yield self._figure(gate, allowed, self.new.result, self.old.result)
        if limits.drop is None:
            return
        if self.new.accuracy is None or self.old.accuracy is None:
            self._miss("--max-drop needs accuracy", self.new.accuracy, "measure it: --eval DATA")
        else:
            yield _drop(limits.drop, self.new.accuracy, self.old.accuracy)

    def _miss(self, needed: str, part: object | None, hint: str) -> None:
        """Pass over a gate that nobody asked for, where a report does not hold what it needs.

        Raises:
            InputError: The user asked for it.
        """
        if not self.limits.are_defaults:
            which = "report" if part is None else "baseline"
            raise InputError(f"{needed}, which the {which} does not hold", hint=hint)

    def _size(self, allowed: Allowed) -> GateResult:
        now, before = self.new.size_bytes, self.old.size_bytes
        most = allowed.most(before)
        outcome = GateOutcome.PASSED if now <= most else GateOutcome.FAILED
        return GateResult(
            gate="max-size", limit=str(allowed), found=f"{now:,} bytes ({before:,} before)", outcome=outcome
        )

    def _figure(self, gate: FigureGate, allowed: Allowed, now: BenchResult, before: BenchResult) -> GateResult:
        figures = gate.measured(now), gate.measured(before)
        seconds = now.wall_ns / 1e9
        if not self.across:
            _require_same_machine(now.env, before.env)
            shown = f"{gate.text(figures[0].point)} ({gate.text(figures[1].point)} before)"
            return _judged(gate.name, allowed, _over(*figures), shown, seconds)
        if self.new.beside is None or self.old.beside is None:
            raise InputError(
                f"{self.new.name} was not timed beside another model in both reports",
                note="across machines, ratios are compared",
                hint="modelopt bench --report FILE.json float.onnx model.onnx",
            )
        ratios = (
            _over(figures[0], gate.measured(self.new.beside)),
            _over(figures[1], gate.measured(self.old.beside)),
        )
        shown = f"{ratios[0].point:.3f}× that of the first model ({ratios[1].point:.3f}× before)"
        return _judged(gate.name, allowed, _over(*ratios), shown, seconds)


def _drop(most: float, now: Accuracy, before: Accuracy) -> GateResult:
    """Judge how much accuracy fell."""
    limit = f"{most:.2%}"
    if now.data_sha256 != before.data_sha256:
        raise InputError(
            "accuracy was measured on other data than that of the baseline",
            note=f"the hash of the data is {_short(now.data_sha256)}, and was {_short(before.data_sha256)}",
            hint="measure both on the same data",
        )
    names = [each.tasks[0].candidate.name if each.tasks else "agreement with the original" for each in (now, before)]
    if names[0] != names[1]:
        raise InputError(f"accuracy was measured as {names[0]}, and as {names[1]} for the baseline")
    if now.tasks and before.tasks:
        return _by_difference(most, limit, names[0], now.n, _fall(now.tasks[0], before.tasks[0]))
    losses = [loss_of(each) for each in (now, before)]
    if losses[0] is None or losses[1] is None:
        return GateResult(gate="max-drop", limit=limit, found="nothing was compared", outcome=GateOutcome.FAILED)
    ends = [(loss.lost, loss.low, loss.high) for loss in losses if loss is not None]
    return _by_difference(most, limit, names[0], now.n, _independent(*ends))


def _short(digest: str | None) -> str:
    return "not known" if digest is None else digest[:12]


def _require_same_machine(now: Environment, before: Environment) -> None:
    """Refuse to compare times that were measured on other machines, with other threads or by other versions.

    Raises:
        InputError: As said; the note says what differs.
    """
    differing = [name for name in _MACHINE if getattr(now, name) != getattr(before, name)]
    if differing:
        told = "; ".join(f"{name} {getattr(now, name)}, and was {getattr(before, name)}" for name in differing)
        raise InputError("times of different machines, threads or versions are not compared", note=told, hint=ACROSS)


def _over(now: Figure, before: Figure) -> Figure:
    """How many times a figure is another one; both were measured independently."""
    half = None
    if now.low is not None and now.high is not None and before.low is not None and before.high is not None:
        half = math.hypot(math.log(now.high / now.low) / 2, math.log(before.high / before.low) / 2)
    point = now.point / before.point
    low, high = (None, None) if half is None else (point * math.exp(-half), point * math.exp(half))
    return Figure(point=point, low=low, high=high, processes=min(now.processes, before.processes))


def _judged(name: str, allowed: Allowed, ratio: Figure, shown: str, wall_seconds: float) -> GateResult:
    """Judge how many times a figure is what it was."""
    most = 1 + (allowed.share or 0.0)
    if ratio.low is None or ratio.high is None:
        hint = "one process shows no spread: measure with --processes 5 or more"
        return GateResult(gate=name, limit=str(allowed), found=shown, outcome=GateOutcome.INCONCLUSIVE, hint=hint)
    found = f"{ratio.point:.3f}× what it was ({ratio.low:.3f}–{ratio.high:.3f}): {shown}"
    outcome = at_most(ratio.low, ratio.high, most)
    if outcome is not GateOutcome.INCONCLUSIVE:
        return GateResult(gate=name, limit=str(allowed), found=found, outcome=outcome)
    seconds = evidence.seconds_needed(ratio.point, ratio.low, ratio.high, most, wall_seconds)
    hint = evidence.AT_LIMIT
    if seconds is not None:
        hint = f"measuring both for about {seconds:.0f} s would decide: --budget {seconds:.0f}"
    return GateResult(gate=name, limit=str(allowed), found=found, outcome=outcome, hint=hint)


def _fall(now: TaskScore, before: TaskScore) -> Delta | None:
    """How much worse a score is than it was, as a contract bounds it: see `TaskScore.relative`."""
    fall, original = _absolute_fall(now, before), before.candidate.value
    if fall is None or not now.relative:
        return fall
    if not original:
        return None if fall.point else Delta(point=0.0, low=None, high=None)
    ends = [None if end is None else end / abs(original) for end in (fall.low, fall.high)]
    return Delta(point=fall.point / abs(original), low=ends[0], high=ends[1])


def _absolute_fall(now: TaskScore, before: TaskScore) -> Delta | None:
    """How much worse a score is than it was; sample by sample where both reports keep the scores of all samples."""
    sign = -1 if now.candidate.higher_is_better else 1
    if now.units is not None and before.units is not None and len(now.units.sums) == len(before.units.sums):
        found = paired_difference_interval(before.units.units(), now.units.units())
        ends = [None if end is None else sign * end for end in (found.low, found.high)]
        low, high = sorted(end for end in ends if end is not None) if None not in ends else (None, None)
        return Delta(point=sign * found.point, low=low, high=high)
    scores = [now.candidate, before.candidate]
    known = [(sign * each.value, each.low, each.high) for each in scores if each.value is not None]
    if len(known) < len(scores):
        return None
    return _independent(*((value, low, high) for value, low, high in known))


def _independent(
    now: tuple[float, float | None, float | None], before: tuple[float, float | None, float | None]
) -> Delta:
    """The difference of two figures with their intervals, measured independently."""
    halves = [None if low is None or high is None else (high - low) / 2 for _, low, high in (now, before)]
    point = now[0] - before[0]
    if halves[0] is None or halves[1] is None:
        return Delta(point=point, low=None, high=None)
    half = math.hypot(halves[0], halves[1])
    return Delta(point=point, low=point - half, high=point + half)


def _by_difference(most: float, limit: str, name: str, n: int, lost: Delta | None) -> GateResult:
    """Judge how much more is lost than with the baseline."""
    if lost is None:
        return GateResult(gate="max-drop", limit=limit, found="a score has no value", outcome=GateOutcome.FAILED)
    found = f"{lost.point + 0.0:.2%} ({name})"
    if lost.low is None or lost.high is None:
        hint = "one sample shows no spread: give more"
        return GateResult(gate="max-drop", limit=limit, found=found, outcome=GateOutcome.INCONCLUSIVE, hint=hint)
    found = f"{lost.point + 0.0:.2%} ({name}, {lost.low + 0.0:.2%} to {lost.high + 0.0:.2%})"
    outcome = at_most(lost.low, lost.high, most, within=keeps)
    if outcome is not GateOutcome.INCONCLUSIVE:
        return GateResult(gate="max-drop", limit=limit, found=found, outcome=outcome)
    half = lost.high - lost.point if keeps(lost.point, most) else lost.point - lost.low
    needed = evidence.differing_needed(lost.point, half, n, most)
    told = f"{n:,} samples resolve {100 * half:.2g} points"
    hint = told if needed is None else f"{told}; {100 * most:g} % needs about {needed:,}"
    return GateResult(gate="max-drop", limit=limit, found=found, outcome=outcome, hint=hint)
