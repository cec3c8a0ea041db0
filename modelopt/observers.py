"""What watches passes, never inside them: verification, dumps, progress."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from modelopt import io
from modelopt.errors import Refused, VerificationFailed
from modelopt.measure import noise
from modelopt.measure.closeness import FLOAT32, FLOOR, NOISIEST, OutputMismatch, Tolerance, compare_outputs
from modelopt.passes.base import Effect, Pass
from modelopt.report import PassResult
from modelopt.runtime.session import Optimization, SessionSpec
from modelopt.runtime.worker import Worker

Feeds = Sequence[dict[str, np.ndarray]]


class Observer(Protocol):
    """Watches the engine's loop."""

    def before(self, step: Pass, model: ir.Model) -> None:
        """Called before each application of a pass."""
        ...

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Called after it."""
        ...

    def end(self, model: ir.Model) -> None:
        """Called after the last pass."""
        ...


@dataclass
class Dump:
    """Writes the model after every pass that changed it.

    Attributes:
        folder: Where to; created.
    """

    folder: Path
    _count: int = 0

    def before(self, step: Pass, model: ir.Model) -> None:
        """Nothing to do."""

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Write ``NN-pass-name.onnx``; an older dump of that name is replaced."""
        self._count += 1
        if not result.rewrites:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._count:02d}-{re.sub(r'[^a-z0-9-]', '-', step.name)}.onnx"
        io.remove_aside(path)
        io.write_aside(model, path)

    def end(self, model: ir.Model) -> None:
        """Nothing to do."""


@dataclass
class Verify:
    """Compares each run of exact passes with the model before it, on the runtime.

    Outputs that differ by more than float32 rounds by itself are held against the noise of the model before those
    passes, measured then. A mismatch is traced to the pass that caused it by replaying the passes one by one; they are
    deterministic.

    Attributes:
        source: The original's file.
        feeds: What both are run on.
        worker: Runs them.
        replay: Gives the model after the first n applications of passes.
        scratch: A directory for candidates.
        names: The outputs' names.
        last_from_file: The last run of exact passes is closed by `finish`, on the file that will be the output,
            instead of `end`.
    """

    source: Path
    feeds: Feeds
    worker: Worker
    replay: Callable[[int], ir.Model]
    scratch: Path
    names: Sequence[str]
    last_from_file: bool = False
    segments: int = 0
    max_relative_error: float | None = None
    _reference: Path | None = None
    _expected: list[list[np.ndarray]] | None = None
    _tolerances: list[Tolerance] | None = None
    _applied: list[str] = field(default_factory=list)
    _segment_start: int = 0
    _dirty: bool = False
    _snapshots: int = 0

    def __post_init__(self) -> None:
        self._reference = self.source

    def before(self, step: Pass, model: ir.Model) -> None:
        """Close a run of exact passes before the first that is not, and open one after it."""
        if step.effect is not Effect.EXACT:
            self._close(model)
        elif self._reference is None:
            self._reference = self._snapshot(model)
            self._segment_start = len(self._applied)

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Note what was applied."""
        self._applied.append(str(step))
        if step.effect is Effect.EXACT:
            self._dirty |= result.rewrites > 0
        elif result.rewrites:
            self._reference, self._expected, self._tolerances = None, None, None

    def end(self, model: ir.Model) -> None:
        """Close the last run of exact passes."""
        if not self.last_from_file:
            self._close(model)

    def finish(self, path: Path) -> None:
        """Close the last run of exact passes on the model in this file.

        Raises:
            VerificationFailed: It computes something else than the model before that run.
        """
        len(self.feeds)  # makes them: an original that runs on nothing is refused even where nothing changed
        if self._dirty:
            self._settle(self._compare_file(path))

    def _close(self, model: ir.Model) -> None:
        if self._dirty:
            self._settle(self._compare(model))

    def _settle(self, found: OutputMismatch | float) -> None:
        if isinstance(found, OutputMismatch):
            raise self._culprit(found)
        self.segments += 1
        self.max_relative_error = max(self.max_relative_error or 0.0, found)
        self._dirty = False

    def _compare(self, model: ir.Model) -> OutputMismatch | float:
        path = self._snapshot(model)
        try:
            return self._compare_file(path)
        finally:
            path.unlink()

    def _compare_file(self, path: Path) -> OutputMismatch | float:
        """How far the outputs are from the reference's: a mismatch, or the largest relative error."""
        expected = self._reference_outputs()
        worst = 0.0
        try:
            session = self.worker.open(path, SessionSpec(spin=False), what="result")
            outputs = [output.name for output in session.info.outputs]
            if outputs != list(self.names):
                return OutputMismatch(output="all of them", reason=f"they are called {', '.join(outputs)}")
            for feed, reference in zip(self.feeds, expected, strict=True):
                found = self._compare_outputs(reference, session.run(feed))
                if isinstance(found, OutputMismatch):
                    return found
                worst = max(worst, found)
            session.close()
        except Refused as refusal:
            return OutputMismatch(output="all of them", reason=refusal.note or refusal.fact)
        return worst

    def _compare_outputs(self, reference: list[np.ndarray], outputs: list[np.ndarray]) -> OutputMismatch | float:
        given = self._tolerances or [FLOOR] * len(self.names)
        found = compare_outputs(reference, outputs, self.names, tolerances=given)
        if isinstance(found, float) or self._tolerances is not None:
            return found
        most = [NOISIEST] * len(self.names)
        if isinstance(beyond := compare_outputs(reference, outputs, self.names, tolerances=most), OutputMismatch):
            return beyond
        self._tolerances = self._calibrated()
        return compare_outputs(reference, outputs, self.names, tolerances=self._tolerances)

    def _calibrated(self) -> list[Tolerance]:
        """What rounding may do to each output of the reference, from running it in ways that differ by rounding."""
        model = self.replay(self._segment_start)
        expected = self._reference_outputs()
        if not noise.is_smooth(model):
            return [FLOAT32] * len(self.names)
        rng = np.random.default_rng(0)
        path = self._reference or self.source
        variants = [self._variant(path, self.feeds, Optimization.DISABLED)]
        variants += [self._variant(path, [noise.nudged_feeds(feed, rng) for feed in self.feeds])]
        for _ in range(2):
            noise.nudge_weights(model, rng)
            nudged = self._snapshot(model)
            variants.append(self._variant(nudged, self.feeds))
            nudged.unlink()
        return noise.tolerances(expected, [variant for variant in variants if variant is not None])

    def _variant(
        self, path: Path, feeds: Feeds, optimization: Optimization = Optimization.ALL
    ) -> list[list[np.ndarray]] | None:
        """The outputs; None where the runtime does not run the model like this."""
        with contextlib.suppress(Refused):
            session = self.worker.open(path, SessionSpec(spin=False, optimization=optimization), what="original")
            outputs = [session.run(feed) for feed in feeds]
            session.close()
            return outputs
        return None

    def _reference_outputs(self) -> list[list[np.ndarray]]:
        if self._expected is None:
            if self._reference is None:
                raise ValueError("no reference: `before` was not called")
            session = self.worker.keep(self._reference, SessionSpec(spin=False), what="original")
            self._expected = [session.run(feed) for feed in self.feeds]
            self.worker.forget(self._reference)
        return self._expected

    def _culprit(self, mismatch: OutputMismatch) -> VerificationFailed:
        for count in range(self._segment_start + 1, len(self._applied) + 1):
            if isinstance(self._compare(self.replay(count)), OutputMismatch):
                return VerificationFailed(
                    f"the pass {self._applied[count - 1]} changed what the model computes",
                    note=f"the output '{mismatch.output}': {mismatch.reason}",
                    hint="this is a bug of ours, please report it; nothing was written",
                )
        return VerificationFailed(
            "the result differs from the original", note=f"the output '{mismatch.output}': {mismatch.reason}"
        )

    def _snapshot(self, model: ir.Model) -> Path:
        self._snapshots += 1
        path = self.scratch / f"verify-{self._snapshots}.onnx"
        io.write_aside(model, path)
        return path
