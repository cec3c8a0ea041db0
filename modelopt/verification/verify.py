"""The observer that compares the model after each run of exact passes with the model before it.

Where they differ it names the pass that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from modelopt import io
from modelopt.core.changes import Effect
from modelopt.core.errors import VerificationFailed
from modelopt.measure import sigmoid
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.measure.precision import Precision, precisions
from modelopt.measure.stability import UNSTABLE
from modelopt.measure.tolerance import OutputMismatch
from modelopt.passes.base import Pass
from modelopt.report import PassResult, Verification
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.nothing_runs import NothingRuns
from modelopt.verification.prepare import Prepared
from modelopt.verification.reference_model import OPTIMIZED_AWAY, ReferenceModel, RunFailure


@dataclass
class Verify:
    """Compares each run of exact passes with the model before it, on the runtime.

    `ReferenceModel` says what counts as rounding. A mismatch is traced to the pass that caused it: the passes are
    applied again one by one, and each result is compared. They are deterministic.

    Attributes:
        source: The original's file.
        prepare: Gives the feeds and what the original answers; it is called when they are first needed, because the
            original loads in the background.
        worker: Runs models.
        replay: Gives the model after the first n applications of passes.
        scratch: A directory for candidates.
        last_from_file: The last run of exact passes is closed by `finish`, on the file that will be the output,
            instead of `end`.
        segments: How many runs of exact passes were compared and agreed.
        compared: Positions of the feeds that were compared in the last of them: those that give output elements.
        max_relative_error: The largest difference, relative to the output's scale; None where nothing was compared.
        finite_only: Passes that declare that outputs for NaN or infinities may change, and that changed them.
        exact_only: All passes are exact. Where the original runs on no feed the output is written all the same, and the
            report says that nothing was verified.
        nothing_runs: Why nothing was compared although something changed; None where the original runs.
    """

    source: Path
    prepare: Callable[[], Prepared]
    worker: Worker
    replay: Callable[[int], ir.Model]
    scratch: Path
    last_from_file: bool = False
    segments: int = 0
    compared: tuple[int, ...] = ()
    max_relative_error: float | None = None
    finite_only: list[str] = field(default_factory=list)
    exact_only: bool = False
    nothing_runs: NothingRuns | None = None
    _unstable: frozenset[int] = frozenset()
    _prepared: Prepared | None = None
    _reference: Path | None = None
    _model: ReferenceModel | None = None
    _precisions: tuple[Precision, ...] = ()
    _sigmoids: frozenset[int] = frozenset()
    _applied: list[Pass] = field(default_factory=list)
    _left_out: set[int] = field(default_factory=set)
    _segment_start: int = 0
    _dirty: bool = False
    _snapshots: int = 0

    def __post_init__(self) -> None:
        self._reference = self.source

    @property
    def prepared(self) -> Prepared:
        """The feeds, and what the original answers to them.

        Raises:
            InputError: The original runs on none of them.
            Refused: onnxruntime does not load the original.
        """
        return self._prepare_once()

    def _prepare_once(self) -> Prepared:
        if self._prepared is None:
            self._prepared = self.prepare()
            self._unstable = self._prepared.unstable
        return self._prepared

    def before(self, step: Pass, model: ir.Model) -> None:
        """End a run of exact passes before a pass that is not exact, and begin one before an exact pass."""
        if step.effect is not Effect.EXACT:
            self._close(model)
            return
        if self._reference is None:
            self._reference = self._snapshot(model)
            self._segment_start = len(self._applied)
        if not self._precisions:
            self._precisions = precisions(model)
            self._sigmoids = sigmoid.positions(model)

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Note what was applied."""
        self._applied.append(step)
        if step.effect is Effect.EXACT:
            self._dirty |= result.rewrites > 0
        elif result.rewrites:
            self._reference, self._model, self._precisions = None, None, ()

    def end(self, model: ir.Model) -> None:
        """Close the last run of exact passes."""
        if not self.last_from_file:
            self._close(model)

    def finish(self, path: Path, *, changed: bool = True) -> None:
        """Close the last run of exact passes on the model in this file.

        Args:
            path: The file.
            changed: Whether it holds the result of the passes; a copy of the input needs no verification.

        Raises:
            InputError: The original runs on no feed, and not all passes are exact.
            Refused: onnxruntime does not load the original, or the model in the file.
            VerificationFailed: It computes something else than the model before that run.
        """
        try:
            self._prepare_once()  # an original that does not load is refused even where nothing changed
        except NothingRuns as nothing:
            if not self.exact_only:
                raise
            self.nothing_runs = nothing
            self.worker.open(path, SessionSpec(spin=False), what="result").close()
            return
        if not changed:
            self._dirty, self.segments, self.compared, self.max_relative_error = False, 0, (), None
        if self._dirty:
            self._settle(lambda: self._compared_with.compare(path, self._left_out))

    def found(self, source: str | None) -> Verification:
        """What was verified, for the report.

        Args:
            source: Where the user's data came from; None without.
        """
        if self.nothing_runs is not None:
            nothing, changed = self.nothing_runs, self._dirty  # a copy needs no verification
            return Verification(
                source=source,
                unproved="the original does not run on constructed inputs" if changed else None,
                why=nothing.note if changed else None,
                hint=nothing.feed if changed else None,
            )
        feeds = self.prepared.feeds
        moving = tuple(name for position, name in enumerate(self.prepared.names) if position in self._unstable)
        real = sum(feeds[position].is_real for position in self.compared)
        return Verification(
            real=real,
            constructed=len(self.compared) - real,
            source=source,
            exact_segments=self.segments,
            empty=sum(1 for outputs in self.prepared.outputs if not any(output.size for output in outputs)),
            max_relative_error=self.max_relative_error,
            not_executed=self.prepared.not_executed,
            finite_only=tuple(self.finite_only),
            unstable=moving,
            unproved=self._unproved() if self.segments else None,
        )

    def _unproved(self) -> str | None:
        """Why exact passes changed something and nothing was compared; None where something was."""
        if self.compared:
            return None
        if self._unstable:
            return UNSTABLE
        return OPTIMIZED_AWAY if self._compared_with.void else NOTHING_COMPARED

    def _close(self, model: ir.Model) -> None:
        if self._dirty:
            self._settle(lambda: self._compare(model))

    def _settle(self, compare: Callable[[], RunFailure | float]) -> None:
        while isinstance(found := compare(), RunFailure):
            if self._compared_with.is_unstable(found):
                self._unstable = self._compared_with.unstable
                continue
            step = self._culprit()
            feed = found.feed
            if step is None or not step.finite_only or feed is None or not self.prepared.feeds[feed].is_nonfinite:
                raise _error(step, found.mismatch)
            self._left_out.add(feed)
            self.finite_only = list(dict.fromkeys((*self.finite_only, str(step))))
        self.segments += 1
        self.compared = tuple(
            position
            for position, outputs in enumerate(self._compared_with.outputs())
            if position not in self._left_out | self._compared_with.void and any(output.size for output in outputs)
        )
        if self.compared:
            self.max_relative_error = max(self.max_relative_error or 0.0, found)
        self._dirty = False

    @property
    def _compared_with(self) -> ReferenceModel:
        """The model before the exact passes that are compared now."""
        if self._model is None:
            if self._reference is None:
                raise ValueError("no reference: `before` was not called")
            prepared, start = self.prepared, self._segment_start
            self._model = ReferenceModel(
                path=self._reference,
                is_original=self._reference == self.source,
                prepared=prepared,
                worker=self.worker,
                load=lambda: self.replay(start),
                write=self._snapshot,
                precisions=[self._precisions[whole] for whole in prepared.whole],
                sigmoids=frozenset(at for at, whole in enumerate(prepared.whole) if whole in self._sigmoids),
                unstable=self._unstable,
            )
        return self._model

    def _compare(self, model: ir.Model) -> RunFailure | float:
        path = self._snapshot(model)
        try:
            return self._compared_with.compare(path, self._left_out)
        finally:
            path.unlink()

    def _culprit(self) -> Pass | None:
        """The first pass of this run after which the model computes something else."""
        for count in range(self._segment_start + 1, len(self._applied) + 1):
            if isinstance(self._compare(self.replay(count)), RunFailure):
                return self._applied[count - 1]
        return None

    def _snapshot(self, model: ir.Model) -> Path:
        self._snapshots += 1
        path = self.scratch / f"verify-{self._snapshots}.onnx"
        io.write_aside(model, path)
        return path


def _error(step: Pass | None, mismatch: OutputMismatch) -> VerificationFailed:
    fact = (
        "the result differs from the original" if step is None else f"the pass {step} changed what the model computes"
    )
    error = VerificationFailed(
        fact,
        note=f"the output '{mismatch.output}': {mismatch.reason}",
        hint="this is a bug of ours, please report it; nothing was written",
    )
    error.step = None if step is None else step.name
    return error
