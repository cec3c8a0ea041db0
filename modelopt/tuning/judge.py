"""How much accuracy a candidate loses against the input; the input's outputs are computed once."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

from modelopt.data import Dataset
from modelopt.errors import InputError, Refused
from modelopt.measure.evaluate import Reference, score
from modelopt.measure.fidelity import Sqnr
from modelopt.measure.metrics import parse
from modelopt.measuring import Findings
from modelopt.progress import Progress
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker

REMEMBERED_BYTES = 512 * 2**20
"""How many bytes of the input's outputs are kept; beyond that it runs again for each candidate."""

ERROR_SAMPLES = 8
"""How many samples an error is measured on: it is a mean over many numbers, not a share of few answers."""


class Judge:
    """Compares candidates with the input.

    Args:
        worker: Opens both.
        original: The input.
        dataset: What they run on.
        spec: How sessions are opened.
        metric: What the user named, None to choose by the data.
        class_scores: See `measuring.Data`.
        progress: Told of samples done.
    """

    def __init__(
        self,
        worker: Worker,
        original: Path,
        dataset: Dataset,
        spec: SessionSpec,
        *,
        metric: str | None,
        class_scores: bool,
        progress: Progress,
    ) -> None:
        self._worker = worker
        self._spec = spec
        self._metric = metric
        self._class_scores = class_scores
        self._progress = progress
        self._reference = Reference(worker.keep(original, spec, what="original"), dataset, REMEMBERED_BYTES)

    def drop(self, candidate: Path) -> float:
        """How much accuracy falls, as a fraction: see `Findings.drop`; infinite where the candidate does not run."""
        asked = None if self._metric is None else parse(self._metric)
        try:
            session = self._worker.open(candidate, self._spec, what="candidate")
            accuracy = score(self._reference, session, asked, self._progress)
            session.close()
        except Refused:
            return math.inf
        drop = Findings(unchanged=False, accuracy=accuracy, class_scores=self._class_scores).drop()
        return math.inf if drop is None or math.isnan(drop) else drop

    def error(self, candidate: Path) -> float:
        """Squared error over squared output of the worst output, on the first samples; infinite where it fails."""
        metric = Sqnr()
        try:
            session = self._worker.open(candidate, self._spec, what="candidate")
            for sample, outputs in islice(self._reference, ERROR_SAMPLES):
                metric.update(outputs, session.run(sample.feeds), None)
            session.close()
        except (Refused, InputError):  # it does not run, or has no output of floats
            return math.inf
        decibels = metric.score().value
        return 0.0 if decibels is None else float(10 ** (-decibels / 10))
