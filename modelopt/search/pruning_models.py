"""The models on a path of widths that were made: what each loses, and how fast it is."""

from __future__ import annotations

import math

from modelopt.core.errors import ModeloptError, WorkerDied
from modelopt.data import Dataset
from modelopt.engine import error_notes
from modelopt.engine.findings import keeps
from modelopt.passes.prune_channels import PruneChannels
from modelopt.passes.prune_layers import PruneLayers
from modelopt.report import Outcome, PruningFound, PruningStep, Trial
from modelopt.search import crash_search
from modelopt.search.accuracy import Judgement
from modelopt.search.attempts import within_contract
from modelopt.search.candidates import Candidate, Candidates
from modelopt.search.pruning_evidence import Evidence
from modelopt.search.pruning_path import PathStep
from modelopt.search.removable_blocks import Shrinkable


class PrunedModels:
    """Makes models of places on a path, each once, and remembers what was found of them.

    Args:
        candidates: Builds, judges and times models.
        prunable: The groups.
        evidence: What models are compared with the input on.
        limit: How much accuracy may fall; None where the contract does not ask.

    Attributes:
        path: The path; place 0 is the whole model.
        scanned: By group, a width and the squared error with only that group narrower.
        drops: By place, how much accuracy falls on the samples of the choice.
        checked: The same on the samples of the check.
        notes: What the reader should know where the data say nothing.
        time_left: What progress says behind the model that is made, as a clause.
    """

    def __init__(self, candidates: Candidates, prunable: Shrinkable, evidence: Evidence, limit: float | None) -> None:
        self.path: list[PathStep] = []
        self.scanned: dict[str, tuple[int, float]] = {}
        self.drops: dict[int, float] = {}
        self.checked: dict[int, float] = {}
        self.notes: dict[str, None] = {}
        self.time_left = ""
        self._candidates = candidates
        self._prunable = prunable
        self._evidence = evidence
        self._limit = limit
        self._models: dict[int, Candidate] = {}
        self._judged: dict[int, Judgement] = {}
        self._unrepaired: set[int] = set()

    def keeps(self, place: int) -> bool:
        """Whether a place keeps the contract on the samples that the choice is made with."""
        self.judge(place)
        return self._limit is not None and keeps(self.drops.get(place, math.inf), self._limit)

    def judge(self, place: int) -> None:
        """Compare the model of a place with the input, as far as there are data.

        A repair fits the calibration data, which may be unlike the samples of the choice: where it breaks the contract,
        the model without repair stands in if it loses less.
        """
        if place in self._judged or self._evidence.choice is None:
            self._model(place)
            return
        found = self._compared(place, self._evidence.choice)
        if self._limit is not None and not keeps(found.drop, self._limit) and self._can_do_without_repair(place):
            repaired = self._models[place]
            plain = self._compared_without_repair(place, self._evidence.choice)
            found = plain if plain.drop < found.drop else self._repaired_again(place, repaired, found)
        self._note_judged(place, found)

    def _note_judged(self, place: int, found: Judgement) -> None:
        self._judged[place] = found
        self.drops[place] = found.drop
        self.notes.update(dict.fromkeys(found.notes))

    def keeps_on_others(self, place: int) -> bool:
        """Whether a place keeps the contract on samples that had no part in the choice; True where there are none."""
        if not place or self._evidence.check is None or self._limit is None:
            return True
        if place not in self.checked:
            self.checked[place] = self._compared(place, self._evidence.check).drop
            if not keeps(self.checked[place], self._limit) and self._can_do_without_repair(place):
                self._check_without_repair(place, self._evidence.check, self._limit)
        return keeps(self.checked[place], self._limit)

    def step(self, place: int) -> PruneChannels | PruneLayers:
        """The pass that makes the model of a place."""
        return self._prunable.step(self.path[place].widths, repair=place not in self._unrepaired)

    # Without repair

    def _can_do_without_repair(self, place: int) -> bool:
        return self._prunable.repairs and place in self._models and place not in self._unrepaired

    def _compared_without_repair(self, place: int, dataset: Dataset) -> Judgement:
        """Compare the model of a place without repair, which is its model from then on."""
        self._models[place] = self._prunable.build(self.path[place].widths, repair=False)
        self._unrepaired.add(place)
        return self._compared(place, dataset)

    def _repaired_again(self, place: int, model: Candidate, found: Judgement) -> Judgement:
        self._models[place] = model
        self._unrepaired.discard(place)
        return found

    def _check_without_repair(self, place: int, check: Dataset, limit: float) -> None:
        """Take the model of a place without repair if it keeps the contract on the samples of choice and check."""
        repaired, before = self._models[place], self._judged[place]
        on_check = self._compared_without_repair(place, check)
        on_choice = self._compared(place, self._evidence.choice) if self._evidence.choice is not None else before
        if keeps(on_check.drop, limit) and keeps(on_choice.drop, limit):
            self.checked[place] = on_check.drop
            self._note_judged(place, on_choice)
        else:
            self._repaired_again(place, repaired, before)

    def times_as_fast(self, place: int) -> float:
        """How many times as fast as the input the model of a place is, as measured."""
        if not place:
            return 1.0
        return self._candidates.time(self._candidates.input, self._model(place)).ratio.point

    def said(self, place: int) -> tuple[str, ...]:
        """What the reader should know of the model of a place."""
        if place not in self._unrepaired:
            return ()
        return ("the layers behind are not repaired: the model that was repaired on --calib is less accurate",)

    def found(self, place: int) -> PruningFound:
        """What the search found, where a place is its result."""
        widths = self.path[place].widths if self.path else self._prunable.widths
        return PruningFound(
            steps=tuple(self._step(each, kept=each == place) for each in sorted({0, *self._models})),
            widths=self._prunable.groups_found(widths, self.scanned),
            unit=self._prunable.unit,
            align=self._prunable.align,
            align_measured=self._prunable.align_measured,
            refused=dict(self._prunable.refused),
        )

    def trials(self, place: int) -> tuple[Trial, ...]:
        """The models that were judged, as trials of a report."""
        return tuple(
            self._trial(each, found, kept=each == place) for each, found in sorted(self._judged.items()) if each
        )

    def _trial(self, place: int, found: Judgement, *, kept: bool) -> Trial:
        outcome, reason = Outcome.SURPASSED, "it was made"
        if self._limit is not None:
            outcome, reason = within_contract(found, self._limit)
            if outcome is Outcome.SURPASSED:
                reason = f"it keeps the contract; one with fewer {self._prunable.unit}s does too"
            fell = self.checked.get(place)
            if outcome is Outcome.SURPASSED and fell is not None and not keeps(fell, self._limit):
                outcome, reason = Outcome.INACCURATE, f"accuracy fell by {fell:.2%} on samples that were held back"
        if kept:
            outcome, reason = (
                Outcome.KEPT,
                "it saves most within the contract" if self._limit is not None else "as asked",
            )
        return Trial(
            group=f"{self.step(place).name}({self._share(place)}{self._repair_said(place)})",
            rewrites=sum(width < self.path[0].widths[name] for name, width in self.path[place].widths.items()),
            drop=None if math.isinf(found.drop) else found.drop,
            kept=kept,
            outcome=outcome,
            reason=reason,
        )

    def _repair_said(self, place: int) -> str:
        return ", not repaired" if place in self._unrepaired else ""

    def _step(self, place: int, *, kept: bool) -> PruningStep:
        widths = self.path[place].widths if self.path else self._prunable.widths
        model = self._model(place)
        drop, fell = self.drops.get(place, None if place else 0.0), self.checked.get(place)
        return PruningStep(
            removed=self._prunable.removed(widths),
            macs=self._prunable.macs_left(widths),
            size_bytes=model.size_bytes,
            kernels_ns=self._prunable.kernels_ns(model) if self._runs(place) else None,
            drop=None if drop is None or math.isinf(drop) else drop,
            checked=None if fell is None or math.isinf(fell) else fell,
            kept=kept,
        )

    def _runs(self, place: int) -> bool:
        return place not in self._judged or self._judged[place].does_not_run is None

    def _model(self, place: int) -> Candidate:
        if place not in self._models:
            self._candidates.request.progress(f"{self._label(place)}{self.time_left}", len(self._models), None)
            self._models[place] = self._prunable.build(self.path[place].widths) if place else self._prunable.whole
        return self._models[place]

    def _label(self, place: int) -> str:
        return f"trying {self._share(place)}"

    def _share(self, place: int) -> str:
        share = self._prunable.removed(self.path[place].widths) if self.path else 0.0
        return f"{share:.0%} of the {self._prunable.unit}s removed"

    def _compared(self, place: int, dataset: Dataset) -> Judgement:
        if not place:
            return Judgement(0.0)
        try:
            model = self._model(place)
        except ModeloptError as error:
            return Judgement(math.inf, does_not_run=error.note or error.fact)
        try:
            with error_notes.explained(self._candidates.input.path, [self._label(place)]):
                return self._candidates.judge_on(dataset).judge(model.path)
        except WorkerDied as died:
            if not died.is_of_result or died.reason != "signal":
                raise
            self._candidates.renew_worker()
            return Judgement(math.inf, does_not_run=crash_search.why_failed(died))
