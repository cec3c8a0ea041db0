"""What the engine lends to a pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from modelopt.calibration.cache import Calibrations
from modelopt.calibration.histogram import Observed
from modelopt.core.progress import Progress, silent
from modelopt.core.runner import Runner
from modelopt.core.targets import Target
from modelopt.data import Dataset


class CountingRunner(Runner, Protocol):
    """A `Runner` that counts the values of tensors where the model runs."""

    def observe(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Mapping[str, str], *, bins: int
    ) -> Observed:
        """Count the values of some tensors over all feeds, where the model runs: they do not come back.

        Args:
            model: The model; it is not changed.
            feeds: Input arrays by name.
            outputs: By key, the name of the value of the main graph to count.
            bins: See `Collector`.

        Raises:
            Refused: onnxruntime does not load or run the model.
            WorkerDied: The child crashed or exceeded its limits.
        """
        ...


@dataclass(frozen=True)
class Context:
    """What the engine lends to a pass.

    Attributes:
        runner: Runs models in the limited child process.
        target: The machine that the result is for.
        calibration: Samples for passes that need data, else None.
        seed: The seed for whatever is random.
        progress: Called with (what, done, total or None) during long work.
        calibrations: Remembers what was observed, so that passes share it; None to observe each time.
    """

    runner: CountingRunner
    target: Target
    calibration: Dataset | None = None
    seed: int = 0
    progress: Progress = silent
    calibrations: Calibrations | None = None
