"""A model under changes by rounding steps: the differences in its outputs are the noise of its own arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt.core.errors import Refused
from modelopt.measure import rounding_noise
from modelopt.measure.stability import blanked
from modelopt.runtime.session import Optimization, SessionSpec
from modelopt.runtime.worker import Worker

Outputs = list[np.ndarray]
"""The outputs for one feed, in the model's order."""

_NUDGES = 2


@dataclass
class Variants:
    """The outputs of a model without the runtime's fusions, and for feeds and weights changed by a rounding step.

    They are computed when they are first needed.

    Attributes:
        worker: Runs the model.
        path: Its file.
        feeds: The feeds.
        load: Gives the model, to change its weights.
        write: Writes a model to a file and returns that.
        blank: Positions of outputs that are not compared; they are emptied.
    """

    worker: Worker
    path: Path
    feeds: Sequence[dict[str, np.ndarray]]
    load: Callable[[], ir.Model]
    write: Callable[[ir.Model], Path]
    blank: frozenset[int] = frozenset()
    _found: list[list[Outputs | None]] = field(default_factory=list)

    def all(self) -> list[list[Outputs | None]]:
        """For each variant the outputs by feed; None where the runtime does not run the model like this."""
        if not self._found:
            rng = np.random.default_rng(0)
            nudged = [rounding_noise.nudged_feeds(feed, rng) for feed in self.feeds]
            self._found.append(run_leniently(self.worker, self.path, self.feeds, Optimization.DISABLED))
            self._found.append(run_leniently(self.worker, self.path, nudged))
            model = self.load()
            for _ in range(_NUDGES):
                rounding_noise.nudge_weights(model, rng)
                moved = self.write(model)
                self._found.append(run_leniently(self.worker, moved, self.feeds))
                moved.unlink()
            self._found = [[each and blanked(each, self.blank) for each in variant] for variant in self._found]
        return self._found

    def of(self, position: int) -> list[Outputs]:
        """The outputs of the variants for one feed."""
        return [found for variant in self.all() if (found := variant[position]) is not None]

    def unfused(self, position: int) -> Outputs | None:
        """The outputs for one feed without the runtime's fusions."""
        return self.all()[0][position]


def run_leniently(
    worker: Worker,
    path: Path,
    feeds: Sequence[dict[str, np.ndarray]],
    optimization: Optimization = Optimization.ALL,
) -> list[Outputs | None]:
    """The outputs of the model at `path` for each feed; None where the runtime does not run it."""
    found: list[Outputs | None] = [None] * len(feeds)
    with contextlib.suppress(Refused):
        session = worker.open(path, SessionSpec(spin=False, optimization=optimization), what="original")
        for position, feed in enumerate(feeds):
            with contextlib.suppress(Refused):
                found[position] = session.run(feed)
        session.close()
    return found
