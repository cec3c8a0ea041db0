"""Finds how many channels of each group to keep: those go whose time on this machine is large for what they lose.

1. What each group loses when some of its channels go is measured once, as the error of the outputs.
2. What its widths save is known from a table of layer times (`pruning.latency_table`), or from multiply-accumulates.
3. A greedy path (`pruning_path`) orders all widths by what they save for what they lose.
4. A few models on that path are made, repaired, and compared with the input: the farthest one that keeps the contract
   is the result. What it loses is checked on samples that had no part in the choice.

Residual blocks go in the order of their importance, one by one: their path needs no measured errors.

Where that takes longer than `SECONDS`, groups that save little are not measured and keep their channels, and the best
model so far is the result; the notes say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import msgspec

from modelopt.core.errors import InputError
from modelopt.engine.request import Request
from modelopt.passes.prune_channels import PruneChannels
from modelopt.passes.prune_layers import PruneLayers
from modelopt.recipe.recipe import Recipe, Step
from modelopt.search import pruning_evidence, pruning_path
from modelopt.search.candidates import Candidates, opened
from modelopt.search.prunable import Prunable
from modelopt.search.pruning_models import PrunedModels
from modelopt.search.pruning_path import PathStep
from modelopt.search.removable_blocks import RemovableBlocks, Shrinkable
from modelopt.search.search_result import SearchResult
from modelopt.search.sensitivity_scan import scan
from modelopt.search.time_budget import TimeBudget, time_left
from modelopt.search.utility import Preference

MAX_CHECKS = 7
"""How many models on the path are made and compared with the input: a guess."""

MAX_STEPS_BACK = 3
"""How often the choice goes back where the check on other samples says no: a guess."""

MAX_TIMINGS = 3
"""How often models are timed to reach ``--target-speedup``: a guess."""

SECONDS = 150.0
"""How long a search may take before it begins nothing new: a guess at what people wait for."""

_FIRST_ERROR = 0.02
"""The squared error over the squared output at which the first model is tried where no target says it: a guess."""

_METADATA_BYTES = 4096
"""What the record of how a model was made takes in its file: a guess, above what was seen."""


def choose_widths(request: Request, budget: TimeBudget | None = None) -> SearchResult:
    """Recipes for `request`, best first: the pruned model, the float model after the exact passes, the input.

    Args:
        request: What the user asked for; its recipe has the pass prune-channels or prune-layers once.
        budget: How long the search may take; None for `SECONDS`.

    Raises:
        ModeloptError: As `engine.optimize.run`.
    """
    with opened(request) as candidates:
        return WidthSearch(candidates, budget or TimeBudget(SECONDS)).run()


def split_at_pruning(recipe: Recipe) -> tuple[tuple[Step, ...], PruneChannels | PruneLayers, tuple[Step, ...]]:
    """The steps before the pass prune-channels or prune-layers, that pass, and the steps behind it."""
    (place,) = [i for i, step in enumerate(recipe.steps) if isinstance(step, PruneChannels | PruneLayers)]
    step = recipe.steps[place]
    if not isinstance(step, PruneChannels | PruneLayers):
        raise TypeError("the recipe has no such step")
    return recipe.steps[:place], step, recipe.steps[place + 1 :]


class WidthSearch:
    """One search; see the module.

    Args:
        candidates: Builds, judges and times models.
        budget: How long it may take.
    """

    def __init__(self, candidates: Candidates, budget: TimeBudget) -> None:
        self.candidates = candidates
        self.budget = budget
        self.recipe = candidates.request.recipe
        self.before, self.asked, self.behind = split_at_pruning(self.recipe)
        targets = self.recipe.targets
        given = candidates.input
        self.floats = candidates.build(given, self.before) if self.before else given
        self.preference = Preference(candidates, for_speed=True)
        timed = self.preference.measures and self._on_cpu()
        self.prunable: Shrinkable
        if isinstance(self.asked, PruneLayers):
            self.prunable = RemovableBlocks(candidates, self.floats, self.asked, timed=timed)
        else:
            self.prunable = Prunable(
                candidates, self.floats, self.asked, targets.align, timed=timed, tabulated=targets.sparsity is None
            )
        held_out = self.recipe.evaluate is None
        self.evidence = pruning_evidence.evidence_of(candidates.data, self.recipe.seed, held_out=held_out)
        self.models = PrunedModels(candidates, self.prunable, self.evidence, self.recipe.gates.max_drop)
        self.missed: list[str] = []
        self.ended: list[str] = []

    def run(self) -> SearchResult:
        """Find the widths."""
        share = self.recipe.targets.sparsity
        if share is not None and isinstance(self.asked, PruneChannels) and isinstance(self.prunable, Prunable):
            return self._at(self.asked, share, self.prunable)
        self.models.path = self._path()
        return self._result(self._choose() if self.models.path else 0)

    def _path(self) -> list[PathStep]:
        """The models to choose from, from the whole one on; none where nothing can go."""
        channels = self.prunable
        if isinstance(channels, RemovableBlocks):
            return channels.path()
        if not any(channels.choices.values()):
            return []
        found = scan(self.candidates, channels, self.evidence.scan, self.budget)
        self.models.scanned |= found.tried
        self.ended += found.ended
        curves, widths = found.curves, channels.widths
        return pruning_path.path(
            widths,
            {name: channels.choices[name] for name in curves},
            channels.saving,
            lambda group, width: curves[group].at(1 - width / widths[group]),
            channels.whole_cost,
        )

    def _at(self, asked: PruneChannels, sparsity: float, channels: Prunable) -> SearchResult:
        """The same share of each group goes, and what stays is a multiple that this machine's kernels like."""
        step = dataclasses.replace(asked, sparsity=sparsity, align=channels.align)
        said = f"numbers of channels are kept at multiples of {step.align}"
        measured = channels.align_measured
        said += ", as measured on this machine" if measured else ": layers are timed on the CPU, with a benchmark"
        recipe = dataclasses.replace(self.recipe, steps=(*self.before, step, *self.behind))
        return SearchResult((recipe,), notes=(said,))

    # The choice

    def _choose(self) -> int:
        """The place on the path that is the result; 0 is the float model."""
        goal, last = self._goal(), len(self.models.path) - 1
        if goal is None and (self._wants_something() or not last):
            goal = last
        if self.recipe.gates.max_drop is None or self.evidence.choice is None:
            place = last if goal is None else goal
            self.models.judge(place)
            return place
        start = goal if goal is not None else self._first_try(last)
        end = last if goal is None else goal
        place = self._farthest(start, end) if last else 0
        place = self._checked(place)
        if goal is not None and place < goal:
            self.missed += self._targets()
        return place

    def _farthest(self, start: int, end: int) -> int:
        """The farthest place that keeps the contract, as far as the time goes."""
        began, done = self.budget.spent, 0

        def keeps(place: int) -> bool:
            nonlocal done
            left = self.budget.seconds - self.budget.spent
            self.models.time_left = time_left(self.budget.spent - began, done, MAX_CHECKS, left)
            done += 1
            return self.models.keeps(place)

        def is_over() -> bool:
            if not self.budget.is_over():
                return False
            self.ended.append(f"the search ended after {done} models: it may take {self.budget.seconds:.0f} s")
            return True

        return pruning_path.farthest(self.models.path, start, end, keeps, MAX_CHECKS, is_over)

    def _first_try(self, last: int) -> int:
        found = pruning_path.first_within(self.models.path, lambda step: step.error >= _FIRST_ERROR)
        return last if found is None else max(found, 1)

    def _checked(self, place: int) -> int:
        """The place, or one before it where samples that had no part in the choice break the contract."""
        for _ in range(MAX_STEPS_BACK):
            if not place or self.models.keeps_on_others(place):
                return place
            lower = pruning_path.between(self.models.path, 0, place)
            place = lower if lower and self.models.keeps(lower) else 0
        return place if self.models.keeps_on_others(place) else 0

    def _goal(self) -> int | None:
        """The first place on the path that meets all targets; None where there is none, or no target."""
        targets, gates, prunable = self.recipe.targets, self.recipe.gates, self.prunable
        limits = [
            gates.max_size_bytes or math.inf,
            (gates.max_size_ratio or math.inf) * self.candidates.input.size_bytes,
        ]
        wanted_bytes, wanted_macs = min(limits) - _METADATA_BYTES, targets.macs or math.inf

        def meets(step: PathStep) -> bool:
            return (
                prunable.size_bytes(step.widths) <= wanted_bytes
                and (prunable.macs_left(step.widths) or 0) <= wanted_macs
            )

        if not self._wants_something():
            return None
        small = pruning_path.first_within(self.models.path, meets)
        if small is None:
            self.missed += self._targets(speed=False)
        if targets.speedup is None:
            return small
        fast = self._fast_enough(targets.speedup)
        return None if small is None or fast is None else max(small, fast)

    def _fast_enough(self, wanted: float) -> int | None:
        """The first place that is so many times as fast as the input, as measured; None where there is none."""
        if not self.prunable.timed:
            hint = "--target-macs, which needs no measurement"
            raise InputError("--target-speedup cannot be measured here", note="layers are timed on the CPU", hint=hint)
        whole, last = self.prunable.whole_cost, len(self.models.path) - 1
        saved, place = 1 - 1 / wanted, None
        for _ in range(MAX_TIMINGS):
            most = whole * (1 - saved)
            found = next((place for place, step in enumerate(self.models.path) if step.cost <= most), None)
            place = last if found is None else found
            ratio = self.models.times_as_fast(place)
            if ratio >= wanted or (found is None and place == last):
                return place if ratio >= wanted else None
            predicted = 1 - self.models.path[place].cost / whole
            saved = (1 - 1 / wanted) * predicted / max(1 - 1 / ratio, predicted / 4)
        return place

    def _wants_something(self) -> bool:
        targets, gates = self.recipe.targets, self.recipe.gates
        return any(
            each is not None for each in (targets.speedup, targets.macs, gates.max_size_bytes, gates.max_size_ratio)
        )

    def _targets(self, *, speed: bool = True) -> list[str]:
        """The targets, as clauses."""
        targets = self.recipe.targets
        found = [] if targets.macs is None else [f"--target-macs {targets.macs:.0%}"]
        return [*found, *([f"--target-speedup {targets.speedup:g}"] if speed and targets.speedup is not None else [])]

    # The result

    def _on_cpu(self) -> bool:
        bench = self.recipe.bench
        return bench is not None and bench.provider == "cpu"

    def _result(self, place: int) -> SearchResult:
        floats, given, must_gain = self.before, (), self.preference.must_gain()
        steps: list[Sequence[Step]] = [floats]
        if place:
            pruned = (*self.before, self.models.step(place), *self.behind)
            steps = [pruned, floats] if must_gain else [pruned]
        if must_gain:
            steps.append(given)
        gates = msgspec.structs.replace(self.recipe.gates, must_gain=True) if must_gain else self.recipe.gates
        recipes = tuple(
            dataclasses.replace(self.recipe, steps=tuple(each), gates=gates)
            for each in dict.fromkeys(map(tuple, steps))
        )
        data = self.candidates.data
        judged = bool(self.models.drops)
        notes = (*data.notes_for(calibrated=data.calibration is not None, compared=judged), *self.models.notes)
        missed = tuple(f"{each} is not met" for each in dict.fromkeys(self.missed))
        found = msgspec.structs.replace(self.models.found(place), missed=missed)
        return SearchResult(
            recipes,
            self.models.trials(place),
            notes=(*notes, *self.models.said(place), *self.ended, *missed),
            pruning=found,
        )
