"""Finds the recipe for a quantized model that keeps the contract: accurate enough, and better than the float model.

The float model always keeps the contract. A quantized model is taken where it is accurate enough. To become so it may
need another way to choose ranges or to round, a correction, or some nodes left in float: those that cost the most
accuracy. An integer model must also be better by speed and size together (`utility`). Half precision and weights of few
bits are asked for by name, mostly for their size, and need only be smaller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from modelopt import graph
from modelopt.core.changes import Effect
from modelopt.core.plural import counted
from modelopt.engine.request import Request
from modelopt.passes.base import Pass
from modelopt.passes.convert_half import ConvertHalf
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static.selection import UNPROFITABLE
from modelopt.report import Offender, Outcome
from modelopt.search import crash_search, exclusions, fallbacks, sensitivity
from modelopt.search.attempts import Attempt, Attempts
from modelopt.search.candidates import Candidate, Candidates, opened
from modelopt.search.search_result import SearchResult
from modelopt.search.utility import Preference

_NOT_PAYING = "that did not pay in float"

_LEAST_SHARE = 0.05
"""The part of the float model's time that nodes must take for int8 to be tried there against the estimate; a guess."""


def keep_contract(request: Request, also: Sequence[Pass] = ()) -> SearchResult:
    """Recipes for `request`, best first: the integer model, the float model of the steps before it, the input.

    Each recipe is deterministic; which of them comes first depends on what was measured here.

    Args:
        request: What the user asked for; the last step of its recipe is a pass that quantizes.
        also: Passes to try in its place too.

    Raises:
        ModeloptError: As `engine.optimize.run`.
    """
    with opened(request) as candidates:
        return _Search(candidates, also).run()


class _Search:
    def __init__(self, candidates: Candidates, also: Sequence[Pass]) -> None:
        self.candidates = candidates
        self.recipe = candidates.request.recipe
        last = self.recipe.steps[-1]
        if not isinstance(last, Pass):
            raise TypeError("the last step of the recipe does not quantize")
        self.asked = last
        self.also = also
        self.attempts = Attempts(candidates, self.recipe.gates.max_drop)
        self.preference = Preference(candidates, for_speed=isinstance(last, QuantizeStatic | QuantizeDynamic))
        self.offenders: list[Offender] = []
        self.in_float: frozenset[str] | None = None  # the patterns that keep the worst offenders in float
        self.advice: str | None = None

    def run(self) -> SearchResult:
        before = self.recipe.steps[:-1]
        floats = self.candidates.build(self.candidates.input, before) if before else self.candidates.input
        best = floats
        for step in (self.asked, *filter(self._may_pay, self.also)):
            attempt = self._accurate(floats, step)
            if attempt is not None:
                better = self._better(best, attempt, floats)
                paying = self._paying(attempt) if better is best else None
                best = better if paying is None else self._better(best, paying, floats)
            beyond = self._beyond_estimate(floats, step, attempt)
            best = best if beyond is None else self._better(best, beyond, floats)
        best = self._small_enough(best, floats)
        if not self._keeps_offenders_in_float(best):
            self.offenders = sensitivity.marked(self.offenders, 0)
        return self._result(best, floats)

    def _small_enough(self, best: Candidate, floats: Candidate) -> Candidate:
        """The best model, or a smaller one where that is larger than the contract allows."""
        for step in fallbacks.smaller(self.asked):
            if not self.preference.wants_size(best):
                break
            attempt = self._accurate(floats, step)
            if attempt is not None:
                best = self._better(best, attempt, floats)
        return best

    def _result(self, best: Candidate, floats: Candidate) -> SearchResult:
        must_gain, data = self.preference.must_gain(), self.candidates.data
        found = [best, floats, self.candidates.input] if must_gain else [best]
        found = [self.candidates.input if self._only_prepares(one) else one for one in found]
        gates = msgspec.structs.replace(self.recipe.gates, must_gain=True) if must_gain else self.recipe.gates
        recipes = [
            dataclasses.replace(self.recipe, steps=one.steps, gates=gates)
            for one in {one.path: one for one in found}.values()
        ]
        judged = any(trial.drop is not None for trial in self.attempts.trials)
        notes = (*data.notes_for(calibrated=self.attempts.calibrated, compared=judged), *self.attempts.notes)
        return SearchResult(tuple(recipes), tuple(self.attempts.trials), tuple(self.offenders), notes, self.advice)

    def _keeps_offenders_in_float(self, candidate: Candidate) -> bool:
        last = candidate.steps[-1] if candidate.steps else None
        return self.in_float is not None and self.in_float <= frozenset(getattr(last, "exclude", ()))

    def _only_prepares(self, candidate: Candidate) -> bool:
        """Whether passes only prepared the model to be quantized, and made it larger: nobody asked for that alone."""
        steps = [step for step in candidate.steps if isinstance(step, Pass) and step.effect is not Effect.EXACT]
        return bool(steps) and steps[-1].prepares and candidate.size_bytes > self.candidates.input.size_bytes

    def _may_pay(self, step: Pass) -> bool:
        """Whether to try a pass of `also`: one that quantizes what is estimated not to pay needs a measurement."""
        ignores_estimate = isinstance(step, QuantizeDynamic) and step.everywhere
        return self.preference.measures or not ignores_estimate or self.preference.wants_size(self.candidates.input)

    # Accuracy

    def _accurate(self, floats: Candidate, step: Pass) -> Attempt | None:
        """The model that `step` makes, or a variant of it that keeps the contract; None where there is none."""
        best = self.attempts.make(floats, step)
        if best is not None and best.fails and isinstance(step, ConvertHalf):
            step, best = self._loading(floats, step)
        if best is None or self.attempts.keeps(best):
            return best
        if best.fails or (best.judgement is not None and best.judgement.no_evidence is not None):
            return None  # what the data do not say of one candidate they say of none
        calibrated, tables = (
            self.candidates.data.calibration is not None,
            exclusions.has_tables(self.candidates.load(floats)),
        )
        for before, variant in fallbacks.repairs(step, with_data=calibrated, with_tables=tables):
            base = floats if before is None else self._prepared(floats, before)
            attempt = None if base is None else self.attempts.make(base, variant, before=before)
            if attempt is not None and attempt.drop < best.drop:
                best = attempt
            if self.attempts.keeps(best):
                return best
        return self._with_offenders_in_float(best)

    def _loading(self, floats: Candidate, step: ConvertHalf) -> tuple[Pass, Attempt | None]:
        """The pass with those nodes in float32 that make onnxruntime crash, and what it makes."""
        found = crash_search.culprits(self.candidates, floats, step)
        if not found:
            return step, None
        self.attempts.notes[crash_search.note_on(found)] = None
        kept = exclusions.without(step, found)
        return kept, self.attempts.make(floats, kept, label=f"{step.name}, {len(found)} nodes in float32")

    def _prepared(self, floats: Candidate, before: Pass) -> Candidate | None:
        """The float model after a pass that makes it easier to quantize; None where that finds nothing to do."""
        candidate = self.candidates.build(floats, (before,))
        return candidate if candidate.rewrites else None

    def _with_offenders_in_float(self, attempt: Attempt) -> Attempt | None:
        """The attempt with as few of its worst nodes in float as the contract needs; None where that is too many."""
        suspects = sensitivity.suspects_of(self.candidates, attempt)
        self.offenders = sensitivity.described(self.candidates, attempt, suspects)

        def with_worst(count: int) -> Attempt | None:
            names = [name for suspect in suspects[:count] for name in suspect.nodes]
            return self._excluding(attempt, names, "in float")

        # With all nodes in float nothing would be quantized, so one stays.
        found = exclusions.fewest(len(suspects) - 1, with_worst)
        if found is None:
            return None
        count, restored = found
        self.offenders = sensitivity.marked(self.offenders, count)
        self.in_float = frozenset(restored.step.exclude)
        return restored

    def _excluding(self, attempt: Attempt, names: Sequence[str], why: str) -> Attempt | None:
        """The attempt with these nodes in float; None where that does not keep the contract."""
        step = exclusions.without(attempt.step, names)
        label = f"{attempt.label}, {counted(len(names), 'node')} {why}"
        found = self.attempts.make(attempt.base, step, label=label)
        return found if found is not None and self.attempts.keeps(found) else None

    # Speed

    def _better(self, best: Candidate, attempt: Attempt, floats: Candidate) -> Candidate:
        """The better one of two models by speed and size."""
        comparison = self.preference.compare(best, attempt.candidate, floats)
        self.attempts.record_comparison(attempt, comparison)
        if not comparison.is_better:
            return best
        self.advice = comparison.advice
        return attempt.candidate

    def _paying(self, attempt: Attempt) -> Attempt | None:
        """The attempt without the regions that do not pay; None where there are none, or no others."""
        if not isinstance(attempt.step, QuantizeStatic):
            return None
        names = self.preference.slower_in_integers(attempt.base, attempt.candidate)
        return self._excluding(attempt, names, _NOT_PAYING) if names else None

    def _beyond_estimate(self, floats: Candidate, step: Pass, attempt: Attempt | None) -> Attempt | None:
        """The attempt with int8 wherever it pays by the profiler; None where the estimate left nothing of weight out.

        The cost model knows few shapes of kernels, and no machine like this one may have been measured for it.

        Args:
            floats: The float model.
            step: The pass that was asked for.
            attempt: What became of it: its options may be other ones. None where it quantized nothing, or too much.
        """
        base, skipped = floats, self.attempts.left_out_by(step)
        if attempt is not None:
            base, step, skipped = attempt.base, attempt.step, attempt.candidate.skipped
        if not isinstance(step, QuantizeStatic) or step.everywhere:
            return None
        labels = {skip.node for skip in skipped if skip.reason == UNPROFITABLE}
        names = {
            graph.name_of(node) for node in graph.all_nodes(self.candidates.load(base)) if graph.label(node) in labels
        }
        if self.preference.share_of_time(base, names) < _LEAST_SHARE:
            return None
        found = self.attempts.make(base, dataclasses.replace(step, everywhere=True))
        if found is None or not self.attempts.keeps(found):
            return None
        if self.preference.wants_size(floats):
            return found
        slower = self.preference.slower_in_integers(found.base, found.candidate)
        if slower is None:
            self.attempts.pass_over(found, Outcome.SLOWER, "none of it is faster in integers, by the profiler")
            return None
        if not slower:
            return found
        reason = f"by the profiler {counted(len(slower), 'node')} of it {'is' if len(slower) == 1 else 'are'} slower"
        self.attempts.pass_over(found, Outcome.SURPASSED, f"{reason} in integers")
        return self._excluding(found, slower, _NOT_PAYING)
