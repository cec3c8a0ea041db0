"""Finds the recipe for a quantized model that keeps the contract: no less accurate than asked, and worth having.

The float model always keeps it. The quantized model is taken where it is accurate enough, perhaps after other ways to
choose ranges or to round, corrections, or with the nodes left in float that cost the most accuracy. An integer model
must also be worth more by speed and size (`pace`); half precision and weights of few bits are asked for by name, mostly
for their size, and need only be smaller.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modelopt.core.changes import Effect
from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.core.plural import counted
from modelopt.engine import error_notes, optimize
from modelopt.engine.findings import keeps
from modelopt.passes.base import Pass
from modelopt.passes.convert_half import ConvertHalf
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.recipe.recipe import Recipe
from modelopt.report import Offender, Outcome, Trial, verdict
from modelopt.search import crash_search, exclusions, fallbacks
from modelopt.search.accuracy import Judgement
from modelopt.search.candidates import Built, Workshop, opened, with_steps
from modelopt.search.chosen import Chosen
from modelopt.search.diagnosis import causes
from modelopt.search.sensitivity import Suspect, rank
from modelopt.search.utility import Track

MAX_RESTORING = 8
"""How many sets of nodes are tried in float."""

_PASSED_OVER = "it keeps the contract; fewer nodes in float do too"

_SHOWN = 12
_RESTORED_ALONE = 4

_Info = TypeVar("_Info", Trial, Offender)


@dataclass
class _Attempt:
    """An integer model.

    Attributes:
        label: How reports call it.
        base: The float model that it is made of.
        step: The pass that quantizes.
        built: The model.
        drop: How much accuracy it loses; None where that is not asked.
        no_evidence: Why the data say nothing about accuracy, None where they do.
        crashed: onnxruntime crashes on it, or does not load it.
    """

    label: str
    base: Built
    step: Any
    built: Built
    drop: float | None
    no_evidence: str | None = None
    crashed: bool = False


def keep_contract(request: optimize.Request, also: Sequence[Pass] = ()) -> Chosen:
    """Recipes for `request`, best first: the integer model, the float model of the steps before it, the input.

    Each recipe is deterministic; which of them comes first depends on what was measured here.

    Args:
        request: What the user asked for; the last step of its recipe is a pass that quantizes.
        also: Passes to try in its place too.

    Raises:
        ModeloptError: As `engine.run`.
    """
    with opened(request) as shop:
        return _Search(shop, also).run()


@dataclass
class _Search:
    shop: Workshop
    also: Sequence[Pass]
    trials: list[Trial] = field(default_factory=list)
    offenders: list[Offender] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    restored: Path | None = None
    made: set[str] = field(default_factory=set)
    calibrated: bool = False
    advice: str | None = None

    def __post_init__(self) -> None:
        self.recipe = self.shop.request.recipe
        self.limit = self.recipe.gates.max_drop
        last = self.recipe.steps[-1]
        if not isinstance(last, Pass):
            raise TypeError("the last step of the recipe does not quantize")
        self.asked = last
        self.track = Track(self.shop, for_speed=isinstance(last, QuantizeStatic | QuantizeDynamic))

    def run(self) -> Chosen:
        before = self.recipe.steps[:-1]
        floats = self.shop.build(self.shop.input, before) if before else self.shop.input
        best = floats
        for step in (self.asked, *filter(self._may_pay, self.also)):
            attempt = self._accurate(floats, step)
            if attempt is None:
                continue
            better = self._better(best, attempt, floats)
            paying = self._paying(attempt) if better is best else None
            best = better if paying is None else self._better(best, paying, floats)
        if best.path != self.restored:
            self.offenders = [_with(one, restored=False) for one in self.offenders]
        found = [best, floats, self.shop.input] if self.track.must_gain() else [best]
        found = [self.shop.input if self._only_prepares(built) else built for built in found]
        recipes = [with_steps(self.recipe, built) for built in {built.path: built for built in found}.values()]
        if self.track.must_gain():
            recipes = [_gaining(recipe) for recipe in recipes]
        judged = any(trial.drop is not None for trial in self.trials)
        told = self.shop.data.notes_for(calibrated=self.calibrated, compared=judged)
        return Chosen(tuple(recipes), tuple(self.trials), tuple(self.offenders), (*told, *self.notes), self.advice)

    def _only_prepares(self, built: Built) -> bool:
        """Whether a model was made fit to be quantized, and was not: nobody asked for that alone."""
        steps = [step for step in built.steps if isinstance(step, Pass) and step.effect is not Effect.EXACT]
        return bool(steps) and steps[-1].prepares and built.size_bytes > self.shop.input.size_bytes

    def _may_pay(self, step: Pass) -> bool:
        """Whether to try a pass of `also`: one that goes against the estimate of what pays needs a measurement."""
        against = isinstance(step, QuantizeDynamic) and step.everywhere
        return self.track.measures or not against or self.track.wants_size(self.shop.input)

    # Accuracy

    def _accurate(self, floats: Built, step: Pass) -> _Attempt | None:
        """The model that `step` makes, or a variant of it that keeps the contract; None where there is none."""
        best = self._attempt(floats, step)
        if best is not None and best.crashed and isinstance(step, ConvertHalf):
            step, best = self._loading(floats, step)
        if best is None or self._keeps(best):
            return best
        if best.crashed:
            return None
        if best.no_evidence is not None:
            return None  # what the data do not say of one candidate they say of none
        calibrated, model = self.shop.data.calibration is not None, self.shop.load(floats)
        for before, variant in fallbacks.repairs(step, with_data=calibrated, with_tables=exclusions.has_tables(model)):
            base = floats if before is None else self._prepared(floats, before)
            attempt = None if base is None else self._attempt(base, variant, before=before)
            if attempt is not None and _loss(attempt) < _loss(best):
                best = attempt
            if self._keeps(best):
                return best
        return self._restored(best)

    def _loading(self, floats: Built, step: ConvertHalf) -> tuple[Pass, _Attempt | None]:
        """The pass with those nodes in float32 that make onnxruntime crash, and what it makes."""
        found = crash_search.culprits(self.shop, floats, step)
        if not found:
            return step, None
        self.notes[crash_search.said_of(found)] = None
        kept = exclusions.without(step, found)
        return kept, self._attempt(floats, kept, label=f"{step.name}, {len(found)} nodes in float32")

    def _prepared(self, floats: Built, before: Pass) -> Built | None:
        """The float model after a pass that makes it easier to quantize; None where that finds nothing to do."""
        built = self.shop.build(floats, (before,))
        return built if built.rewrites else None

    def _attempt(
        self, base: Built, step: Pass, *, before: Pass | None = None, label: str | None = None
    ) -> _Attempt | None:
        """Build and judge; None where nothing was quantized, the runtime does not take it, or it was made before."""
        label = label or (str(step) if before is None else f"{before} + {step}")
        self.shop.request.progress(f"trying {label}", len(self.trials), None)
        try:
            built = self.shop.build(base, (step,))
        except (Refused, WorkerDied) as error:
            if not self.trials:
                raise
            self._note(label, Outcome.FAILED, f"it could not be made: {error.fact}")
            return None
        if not built.rewrites:
            reason = verdict.nothing_to_do([skip.reason for skip in built.skipped])
            self._note(label, Outcome.NOTHING_TO_DO, f"nothing to do: {reason}", built)
            return None
        self.calibrated |= any(made.calibrates() for made in (before, step) if made is not None)
        digest = self.shop.digest(built)
        if digest in self.made:
            self.shop.discard(built)
            return None
        self.made.add(digest)
        if self.limit is None:
            self._note(label, Outcome.SURPASSED, _PASSED_OVER, built)
            return _Attempt(label, base, step, built, None)
        found = self._judgement(built, label)
        self._note(label, *self._judged(found), built, _finite(found.drop))
        self.notes.update(dict.fromkeys(found.notes))
        return _Attempt(label, base, step, built, found.drop, found.no_evidence, found.does_not_run is not None)

    def _judgement(self, built: Built, label: str) -> Judgement:
        try:
            with error_notes.explained(self.shop.input.path, [label]):
                return self.shop.judge.judge(built.path)
        except WorkerDied as died:
            if not died.is_of_result or died.reason != "signal":
                raise
            self.shop.renew()
            return Judgement(math.inf, does_not_run=crash_search.why_failed(died))

    def _judged(self, found: Judgement) -> tuple[Outcome, str]:
        """What becomes of a model by its accuracy, as long as it was not held against others."""
        if found.does_not_run is not None:
            return Outcome.FAILED, f"it does not run: {found.does_not_run}"
        if found.no_evidence is not None:
            return Outcome.NO_EVIDENCE, f"accuracy cannot be judged: {found.no_evidence}"
        if self.limit is None or keeps(found.drop, self.limit):
            return Outcome.SURPASSED, _PASSED_OVER
        fell = f"fell by {found.drop:.2%}" if found.drop < math.inf else "is lost"
        return Outcome.INACCURATE, f"accuracy {fell}: {self.limit:.2%} is allowed"

    def _note(
        self, label: str, outcome: Outcome, reason: str, built: Built | None = None, drop: float | None = None
    ) -> None:
        """Remember what was tried; whether it is kept shows later."""
        rewrites, skipped = (0, ()) if built is None else (built.rewrites, built.skipped)
        trial = Trial(
            group=label, rewrites=rewrites, drop=drop, kept=False, outcome=outcome, reason=reason, skipped=skipped
        )
        self.trials.append(trial)

    def _keeps(self, attempt: _Attempt) -> bool:
        return self.limit is None or keeps(_loss(attempt), self.limit)

    def _restored(self, attempt: _Attempt) -> _Attempt | None:
        """The attempt with as few of its worst nodes in float as the contract needs."""
        names = exclusions.changed(self.shop.load(attempt.base), self.shop.load(attempt.built), tables=True)
        suspects = rank(names, lambda group: self._error_of(attempt, group))
        whole = sum(suspect.error for suspect in suspects)
        shown = [_offender(one, whole) for one in suspects if one.error > 0][:_SHOWN]
        self.offenders = self._explained(attempt, shown)
        found: tuple[_Attempt, int] | None = None
        most = len(suspects) - 1
        count, tried = 1, 0
        while found is None and 0 < count <= most and tried < MAX_RESTORING:
            found = self._without(attempt, suspects[:count])
            count, tried = most if count < most < count * 2 else count * 2, tried + 1
        if found is None:
            return None
        few, enough = found[1] // 2, found[1]
        while enough - few > 1 and tried < MAX_RESTORING:
            middle = (few + enough) // 2
            better = self._without(attempt, suspects[:middle])
            found, few, enough = (better, few, middle) if better else (found, middle, enough)
            tried += 1
        self.offenders = [_with(one, restored=i < found[1]) for i, one in enumerate(self.offenders)]
        self.restored = found[0].built.path
        return found[0]

    def _without(self, attempt: _Attempt, suspects: Sequence[Suspect]) -> tuple[_Attempt, int] | None:
        """The attempt with the suspects in float, and how many they are, if that keeps the contract."""
        names = [name for suspect in suspects for name in suspect.nodes]
        found = self._excluding(attempt, names, "in float")
        return None if found is None else (found, len(suspects))

    def _excluding(self, attempt: _Attempt, names: Sequence[str], why: str) -> _Attempt | None:
        step = exclusions.without(attempt.step, names)
        label = f"{step.name}, {counted(len(names), 'node')} {why}"
        found = self._attempt(attempt.base, step, label=label)
        return found if found is not None and self._keeps(found) else None

    def _explained(self, attempt: _Attempt, offenders: Sequence[Offender]) -> list[Offender]:
        """The offenders with their causes, and the worst with what restoring each alone would gain."""
        single = [one.nodes[0] for one in offenders if len(one.nodes) == 1]
        data, runner = self.shop.data, self.shop.context.runner
        found = causes(self.shop.load(attempt.base), single, runner, data.calibration, data.evaluation)
        whole = self.shop.judge.error(attempt.built.path)
        explained = []
        for i, one in enumerate(offenders):
            gain = self._gain(attempt, one.nodes, whole) if i < _RESTORED_ALONE else None
            cause = found.get(one.nodes[0]) if len(one.nodes) == 1 else None
            explained.append(_with(one, cause=cause, gain=gain))
        return explained

    def _gain(self, attempt: _Attempt, names: Sequence[str], whole: float) -> float | None:
        """The share of the error that is gone when only these nodes are in float again."""
        left = self._error(attempt.base, exclusions.without(attempt.step, names))
        return 1 - left / whole if 0 < whole < math.inf and left < math.inf else None

    def _error_of(self, attempt: _Attempt, names: Sequence[str]) -> float:
        """The error of the model in which only these nodes are quantized."""
        return self._error(attempt.base, exclusions.only(attempt.step, names))

    def _error(self, base: Built, step: Pass) -> float:
        try:
            built = self.shop.build(base, (step,))
        except ModeloptError:
            return math.inf
        try:
            error = self.shop.judge.error(built.path) if built.rewrites else 0.0
        except WorkerDied as died:
            if died.reason != "signal":
                raise
            self.shop.renew()
            error = math.inf
        self.shop.discard(built)
        return error

    # Speed

    def _better(self, best: Built, attempt: _Attempt, floats: Built) -> Built:
        """The one of two models that is worth having."""
        race = self.track.race(best, attempt.built, floats)
        if race.won:
            self.advice = race.advice
        for i, trial in enumerate(self.trials):
            if trial.group == attempt.label:
                changes = {"ratio": race.ratio, "on_one_thread": race.on_one_thread, "kept": race.won}
                self.trials[i] = _with(trial, outcome=race.outcome, reason=race.reason, **changes)
            elif race.won and trial.kept:
                reason = f"{attempt.label} is better: {race.reason}"
                self.trials[i] = _with(trial, kept=False, outcome=Outcome.SURPASSED, reason=reason)
        return attempt.built if race.won else best

    def _paying(self, attempt: _Attempt) -> _Attempt | None:
        """The attempt without the regions that do not pay; None where there are none, or no others."""
        names = self.track.not_paying(attempt.base, attempt.built) if isinstance(attempt.step, QuantizeStatic) else ()
        return self._excluding(attempt, names, "that did not pay in float") if names else None


def _loss(attempt: _Attempt) -> float:
    return math.inf if attempt.drop is None else attempt.drop


def _finite(drop: float | None) -> float | None:
    return None if drop is None or math.isinf(drop) else drop


def _with(info: _Info, **changes: Any) -> _Info:
    return msgspec.structs.replace(info, **changes)


def _gaining(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, gates=msgspec.structs.replace(recipe.gates, must_gain=True))


def _offender(suspect: Suspect, whole: float) -> Offender:
    share = suspect.error / whole if 0 < whole < math.inf else float(math.isinf(suspect.error))
    return Offender(nodes=suspect.nodes, share=share)
