"""The observer that holds each run of exact passes against the model before it, and names the pass that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import io
from modelopt.core.changes import Effect
from modelopt.core.errors import Refused, VerificationFailed
from modelopt.measure import rounding_noise, sigmoid
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.measure.precision import Precision, precisions
from modelopt.measure.slices import SliceErrors
from modelopt.measure.stability import REPEATS, UNSTABLE, blanked, unstable
from modelopt.measure.tolerance import NOISIEST, Difference, OutputMismatch, Tolerance, compare_outputs
from modelopt.passes.base import Pass
from modelopt.report import PassResult, Verification
from modelopt.runtime.session import Optimization, SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.feeds import Feed
from modelopt.verification.prepare import NothingRuns, Prepared
from modelopt.verification.variants import Outputs, Variants, run_leniently


@dataclass(frozen=True)
class Failure:
    """What differs, and on which feed.

    Attributes:
        mismatch: What differs.
        feed: The feed's position; None where it is not one feed that differs.
    """

    mismatch: OutputMismatch
    feed: int | None = None


@dataclass
class Verify:
    """Compares each run of exact passes with the model before it, on the runtime.

    Outputs that differ by more than float32 rounds by itself are held against the noise of the model before those
    passes, measured then. A mismatch is traced to the pass that caused it by replaying the passes one by one; they are
    deterministic.

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
        finite_only: Passes that changed what the model answers to NaN or infinities, as they say they may.
        exact_only: All passes are exact: where the original runs on nothing they are believed, and the report says so.
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
    _expected: Sequence[Outputs] | None = None
    _precisions: tuple[Precision, ...] = ()
    _sigmoids: frozenset[int] = frozenset()
    _variants: Variants | None = None
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
        """Close a run of exact passes before the first that is not, and open one after it."""
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
            self._reference, self._expected, self._precisions, self._variants = None, None, (), None

    def end(self, model: ir.Model) -> None:
        """Close the last run of exact passes."""
        if not self.last_from_file:
            self._close(model)

    def finish(self, path: Path, *, changed: bool = True) -> None:
        """Close the last run of exact passes on the model in this file.

        Args:
            path: The file.
            changed: Whether it holds what the passes made; else nothing of what was compared is said of it.

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
            self._settle(lambda: self._compare_file(path))

    def found(self, source: str | None) -> Verification:
        """What was verified, for the report.

        Args:
            source: Where the user's data came from; None without.
        """
        if self.nothing_runs is not None:
            nothing, changed = self.nothing_runs, self._dirty  # a copy needs no proof
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
        return UNSTABLE if self._unstable else NOTHING_COMPARED

    def _close(self, model: ir.Model) -> None:
        if self._dirty:
            self._settle(lambda: self._compare(model))

    def _settle(self, compare: Callable[[], Failure | float]) -> None:
        while isinstance(found := compare(), Failure):
            if self._is_unstable(found):
                continue
            step = self._culprit()
            if step is None or not step.finite_only or found.feed is None or not self._feed(found.feed).is_nonfinite:
                raise _error(step, found.mismatch)
            self._left_out.add(found.feed)
            self.finite_only = list(dict.fromkeys((*self.finite_only, str(step))))
        self.segments += 1
        self.compared = tuple(
            position
            for position, outputs in enumerate(self._reference_outputs())
            if position not in self._left_out and any(output.size for output in outputs)
        )
        if self.compared:
            self.max_relative_error = max(self.max_relative_error or 0.0, found)
        self._dirty = False

    def _is_unstable(self, failure: Failure) -> bool:
        """Whether the model before these passes differs from itself there, which was not seen until now."""
        path = self._reference or self.source
        feeds = [feed.arrays for feed in self.prepared.feeds]
        positions = range(len(feeds)) if failure.feed is None else [failure.feed]
        session = self.worker.open(path, SessionSpec(spin=False), what="original")
        found = self._unstable
        for position in positions:
            again = partial(session.run, feeds[position])
            found |= unstable(again, again(), REPEATS)
        session.close()
        if found == self._unstable:
            return False
        self._unstable, self._variants = found, None
        self._expected = [blanked(outputs, found) for outputs in self._reference_outputs()]
        return True

    def _feed(self, position: int) -> Feed:
        return self.prepared.feeds[position]

    # One model against the reference

    def _compare(self, model: ir.Model) -> Failure | float:
        path = self._snapshot(model)
        try:
            return self._compare_file(path)
        finally:
            path.unlink()

    def _compare_file(self, path: Path) -> Failure | float:
        """How far the outputs are from the reference's: what differs, or the largest relative error."""
        expected = self._reference_outputs()
        names = self.prepared.names
        slices, sigmoids = SliceErrors(names), self._sigmoid_parts()
        worst = 0.0
        try:
            session = self.worker.open(path, SessionSpec(spin=False), what="result")
            outputs = [output.name for output in session.info.outputs]
            if outputs != list(names):
                return Failure(OutputMismatch(output="all of them", reason=f"they are called {', '.join(outputs)}"))
            for position, feed in enumerate(self.prepared.feeds):
                if position in self._left_out:
                    continue
                found = blanked(session.run(feed.arrays), self._unstable)
                found = sigmoid.settled(expected[position], found, sigmoids)
                error = self._compare_outputs(position, feed, expected[position], found, path)
                if isinstance(error, OutputMismatch):
                    error = msgspec.structs.replace(error, reason=f"{error.reason}, on {feed}")
                    return Failure(error, position)
                worst = max(worst, error)
                self._add_slices(slices, feed, expected[position], found)
            session.close()
        except Refused as refusal:
            return Failure(OutputMismatch(output="all of them", reason=refusal.note or refusal.fact))
        beyond = self._beyond_noise(slices)
        return worst if beyond is None else Failure(beyond)

    def _compare_outputs(
        self, position: int, feed: Feed, reference: Outputs, outputs: Outputs, path: Path
    ) -> OutputMismatch | float:
        """Compare what one feed gives, first within plain rounding, then within the noise of the reference."""
        nonfinite = feed.nonfinite

        def compare(
            tolerances: Sequence[Tolerance], before: Outputs = reference, after: Outputs = outputs
        ) -> OutputMismatch | float:
            return compare_outputs(before, after, self.prepared.names, tolerances=tolerances, nonfinite=nonfinite)

        known = self._of_parts()
        plain = [precision.tolerance.times(feed.slack) for precision in known]
        found = compare(plain)
        if isinstance(found, float):
            return found
        if found.kind is Difference.ROUNDING and not feed.is_extreme:
            most = [NOISIEST if each.has_noise else each.tolerance for each in known]
            if isinstance(beyond := compare(most), OutputMismatch):
                return beyond
        noisy = self._noise().of(position)
        tolerances = rounding_noise.tolerances([reference], [[variant] for variant in noisy], known)
        if found.kind is Difference.ROUNDING:
            found = compare(tolerances)
        elif self._is_noise(found, feed, reference, noisy):
            return 0.0
        if isinstance(found, float) or not feed.is_extreme:
            return found
        # The runtime's kernels differ in what they make of extremes: of two that are equal without its own rewrites
        # neither is wrong.
        before = self._noise().unfused(position)
        after = run_leniently(self.worker, path, [feed.arrays], Optimization.DISABLED)[0]
        after = after and blanked(after, self._unstable)
        if before is not None and after is not None and isinstance(compare(tolerances, before, after), float):
            return 0.0
        return found

    def _is_noise(self, found: OutputMismatch, feed: Feed, reference: Outputs, noisy: Sequence[Outputs]) -> bool:
        """Whether the reference's own noise makes such a difference: a tie that falls the other way, a NaN more."""
        position = self.prepared.names.index(found.output)
        for variant in noisy:
            own = compare_outputs(
                [reference[position]],
                [variant[position]],
                [found.output],
                tolerances=[NOISIEST],
                nonfinite=feed.nonfinite,
            )
            if (
                isinstance(own, OutputMismatch)
                and own.kind is found.kind
                and found.share <= rounding_noise.FACTOR * own.share
            ):
                return True
        return False

    def _add_slices(self, slices: SliceErrors, feed: Feed, reference: Outputs, outputs: Outputs) -> None:
        """Take in the outputs that are computed in float32 throughout; elsewhere rounding moves single values far."""
        if not feed.is_extreme:
            empty = np.zeros(0)
            smooth = [precision.is_smooth for precision in self._of_parts()]
            slices.add(
                [array if keep else empty for array, keep in zip(reference, smooth, strict=True)],
                [array if keep else empty for array, keep in zip(outputs, smooth, strict=True)],
            )

    def _beyond_noise(self, slices: SliceErrors) -> OutputMismatch | None:
        """The slice that differs by more than the reference's own noise, if one does."""
        if slices.worst() is None:
            return None
        variants = []
        for variant in self._noise().all():
            own = SliceErrors(self.prepared.names)
            for feed, reference, moved in zip(self.prepared.feeds, self._reference_outputs(), variant, strict=True):
                if moved is not None:
                    self._add_slices(own, feed, reference, moved)
            variants.append(own)
        found = slices.worst(variants)
        return (
            None if found is None else OutputMismatch(output=found.output, reason=str(found), kind=Difference.ROUNDING)
        )

    def _of_parts(self) -> list[Precision]:
        """In what each of the arrays that are compared is computed."""
        return [self._precisions[position] for position in self.prepared.whole]

    def _sigmoid_parts(self) -> frozenset[int]:
        """Which of the arrays that are compared hold values of a Sigmoid."""
        return frozenset(at for at, whole in enumerate(self.prepared.whole) if whole in self._sigmoids)

    def _noise(self) -> Variants:
        if self._variants is None:
            path = self._reference or self.source
            feeds = [feed.arrays for feed in self.prepared.feeds]
            start = self._segment_start
            self._variants = Variants(
                self.worker, path, feeds, lambda: self.replay(start), self._snapshot, self._unstable
            )
        return self._variants

    def _reference_outputs(self) -> Sequence[Outputs]:
        if self._expected is None:
            if self._reference is None:
                raise ValueError("no reference: `before` was not called")
            if self._reference == self.source:
                self._expected = self.prepared.outputs
                self.worker.forget(self.source)
            else:
                session = self.worker.open(self._reference, SessionSpec(spin=False), what="original")
                self._expected = [blanked(session.run(feed.arrays), self._unstable) for feed in self.prepared.feeds]
                session.close()
        return self._expected

    # Blame

    def _culprit(self) -> Pass | None:
        """The first pass of this run after which the model computes something else."""
        for count in range(self._segment_start + 1, len(self._applied) + 1):
            if isinstance(self._compare(self.replay(count)), Failure):
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
