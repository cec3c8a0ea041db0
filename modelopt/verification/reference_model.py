"""The model before a run of exact passes, and whether the model after them gives the same outputs up to rounding.

Outputs are compared in three steps, because each costs more than the one before: within the tolerance of plain float32
rounding, then within the noise of the reference model's own arithmetic, and for extreme values without the runtime's
fusions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt.core.errors import Refused
from modelopt.measure import rounding_noise, sigmoid
from modelopt.measure.precision import Precision
from modelopt.measure.slices import SliceErrors
from modelopt.measure.stability import REPEATS, blanked, unstable
from modelopt.measure.tolerance import NOISIEST, Difference, OutputMismatch, Tolerance, compare_outputs
from modelopt.runtime.session import Optimization, SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.feeds import Feed
from modelopt.verification.prepare import Prepared
from modelopt.verification.variants import Outputs, Variants, run_leniently

OPTIMIZED_AWAY = "the original runs on constructed inputs only where the runtime's optimizer removes what refuses them"
"""Why nothing was compared."""

_ALL_OUTPUTS = "all of them"


@dataclass(frozen=True)
class RunFailure:
    """What differs, and on which feed.

    Attributes:
        mismatch: What differs.
        feed: The feed's position; None where it is not one feed that differs.
    """

    mismatch: OutputMismatch
    feed: int | None = None


@dataclass
class ReferenceModel:
    """The model before a run of exact passes.

    Attributes:
        path: Its file.
        is_original: Whether it is the model that the user gave.
        prepared: The feeds, and what the original answers to them.
        worker: Runs models.
        load: Gives the model, to change its weights by rounding steps.
        write: Writes a model to a file and returns that.
        precisions: In what precision each array that is compared is computed.
        sigmoids: Positions of arrays that hold values of a Sigmoid.
        unstable: Positions of arrays that the model gives differently from run to run; they are not compared.
        void: Positions of constructed feeds that the model answers with the runtime's optimizations only; a result that
            refuses them is not wrong.
    """

    path: Path
    is_original: bool
    prepared: Prepared
    worker: Worker
    load: Callable[[], ir.Model]
    write: Callable[[ir.Model], Path]
    precisions: Sequence[Precision]
    sigmoids: frozenset[int]
    unstable: frozenset[int]
    void: set[int] = field(default_factory=set)
    _outputs: Sequence[Outputs] | None = None
    _variants: Variants | None = None

    def outputs(self) -> Sequence[Outputs]:
        """What the model answers to each feed."""
        if self._outputs is None:
            if self.is_original:
                self._outputs = self.prepared.outputs
                self.worker.forget(self.path)
            else:
                session = self.worker.open(self.path, SessionSpec(spin=False), what="original")
                self._outputs = [blanked(session.run(feed.arrays), self.unstable) for feed in self.prepared.feeds]
                session.close()
        return self._outputs

    def is_unstable(self, failure: RunFailure) -> bool:
        """Whether outputs were found now that differ from run to run; from here on they are not compared."""
        feeds = [feed.arrays for feed in self.prepared.feeds]
        session = self.worker.open(self.path, SessionSpec(spin=False), what="original")
        found = self.unstable
        for position in range(len(feeds)) if failure.feed is None else [failure.feed]:
            again = partial(session.run, feeds[position])
            found |= unstable(again, again(), REPEATS)
        session.close()
        if found == self.unstable:
            return False
        self.unstable, self._variants = found, None
        self._outputs = [blanked(outputs, found) for outputs in self.outputs()]
        return True

    def compare(self, path: Path, left_out: Collection[int] = ()) -> RunFailure | float:
        """What differs in the model in a file, or the largest relative error.

        Args:
            path: The file.
            left_out: Positions of feeds that are not compared.
        """
        expected = self.outputs()
        names = self.prepared.names
        slices = SliceErrors(names)
        worst = 0.0
        try:
            session = self.worker.open(path, SessionSpec(spin=False), what="result")
            outputs = [output.name for output in session.info.outputs]
            if outputs != list(names):
                return RunFailure(OutputMismatch(output=_ALL_OUTPUTS, reason=f"they are called {', '.join(outputs)}"))
            for position, feed in enumerate(self.prepared.feeds):
                if position in left_out:
                    continue
                try:
                    answer = session.run(feed.arrays)
                except Refused:
                    if self._is_void(position):
                        continue
                    raise
                found = blanked(answer, self.unstable)
                found = sigmoid.settled(expected[position], found, self.sigmoids)
                error = self._compare_feed(position, found, path)
                if isinstance(error, OutputMismatch):
                    error = msgspec.structs.replace(error, reason=f"{error.reason}, on {feed}")
                    return RunFailure(error, position)
                worst = max(worst, error)
                self._add_slices(slices, feed, expected[position], found)
            session.close()
        except Refused as refusal:
            return RunFailure(OutputMismatch(output=_ALL_OUTPUTS, reason=refusal.note or refusal.fact))
        beyond = self._beyond_noise(slices)
        return worst if beyond is None else RunFailure(beyond)

    def _is_void(self, position: int) -> bool:
        """Whether the model answers a constructed feed only because the runtime's optimizer removes what refuses it.

        Of two Reshape in a row, for example, onnxruntime runs the second one only.
        """
        feed = self.prepared.feeds[position]
        if position not in self.void and not feed.is_real:
            plain = run_leniently(self.worker, self.path, [feed.arrays], Optimization.DISABLED)[0]
            self.void |= {position} if plain is None else set()
        return position in self.void

    def _compare_feed(self, position: int, outputs: Outputs, path: Path) -> OutputMismatch | float:
        """Compare the outputs of one feed."""
        feed, reference = self.prepared.feeds[position], self.outputs()[position]

        def compare(
            tolerances: Sequence[Tolerance], before: Outputs = reference, after: Outputs = outputs
        ) -> OutputMismatch | float:
            return compare_outputs(before, after, self.prepared.names, tolerances=tolerances, nonfinite=feed.nonfinite)

        found = compare([precision.tolerance.times(feed.slack) for precision in self.precisions])
        if isinstance(found, float):
            return found
        # What no noise can excuse is a mismatch whatever the noise is, and measuring that takes five runs.
        if found.kind is Difference.ROUNDING and not feed.is_extreme:
            most = [NOISIEST if each.has_noise else each.tolerance for each in self.precisions]
            if isinstance(beyond := compare(most), OutputMismatch):
                return beyond
        noisy = self._noise().of(position)
        tolerances = rounding_noise.tolerances([reference], [[variant] for variant in noisy], self.precisions)
        if found.kind is Difference.ROUNDING:
            found = compare(tolerances)
        elif self._is_noise(found, feed, reference, noisy):
            return 0.0
        if isinstance(found, float) or not feed.is_extreme:
            return found
        # The runtime's fused kernels answer differently to extreme values. Where the two models are equal without
        # fusions, the passes are not the cause.
        before = self._noise().unfused(position)
        after = run_leniently(self.worker, path, [feed.arrays], Optimization.DISABLED)[0]
        after = after and blanked(after, self.unstable)
        if before is not None and after is not None and isinstance(compare(tolerances, before, after), float):
            return 0.0
        return found

    def _is_noise(self, found: OutputMismatch, feed: Feed, reference: Outputs, noisy: Sequence[Outputs]) -> bool:
        """Whether the reference's own noise makes such a difference: a tie decided otherwise, one more NaN."""
        at, most = self.prepared.names.index(found.output), rounding_noise.FACTOR
        for variant in noisy:
            own = compare_outputs(
                [reference[at]], [variant[at]], [found.output], tolerances=[NOISIEST], nonfinite=feed.nonfinite
            )
            if isinstance(own, OutputMismatch) and own.kind is found.kind and found.share <= most * own.share:
                return True
        return False

    def _add_slices(self, slices: SliceErrors, feed: Feed, reference: Outputs, outputs: Outputs) -> None:
        """Take in the outputs that are computed in float32 throughout; in others rounding moves single values far."""
        if not feed.is_extreme:
            empty = np.zeros(0)
            smooth = [precision.is_smooth for precision in self.precisions]
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
            for feed, reference, moved in zip(self.prepared.feeds, self.outputs(), variant, strict=True):
                if moved is not None:
                    self._add_slices(own, feed, reference, moved)
            variants.append(own)
        found = slices.worst(variants)
        if found is None:
            return None
        return OutputMismatch(output=found.output, reason=str(found), kind=Difference.ROUNDING)

    def _noise(self) -> Variants:
        if self._variants is None:
            feeds = [feed.arrays for feed in self.prepared.feeds]
            self._variants = Variants(self.worker, self.path, feeds, self.load, self.write, self.unstable)
        return self._variants
