"""How much accuracy a candidate loses against the input; the input's outputs are computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from modelopt.core.errors import InputError, Refused
from modelopt.core.progress import Progress
from modelopt.data import Dataset
from modelopt.engine.findings import Findings
from modelopt.measure.evaluate import score
from modelopt.measure.fidelity import Sqnr
from modelopt.measure.heads import Head
from modelopt.measure.metric import is_blank
from modelopt.measure.outputs import relative_error
from modelopt.measure.reference import Reference
from modelopt.measure.registry import parse_all
from modelopt.measure.stability import blanked
from modelopt.measure.structure import value_positions, values_beside
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker

REMEMBERED_BYTES = 512 * 2**20
"""How many bytes of the input's outputs are kept; beyond that it runs again for each candidate."""

ERROR_SAMPLES = 8
"""How many samples an error is measured on: it is a mean over many numbers, so that few samples do."""


@dataclass(frozen=True)
class Judgement:
    """How a candidate compares with the input.

    Attributes:
        drop: How much accuracy falls, as a fraction: see `Findings.drop`; infinite where that is not known.
        no_evidence: Why the data say nothing about accuracy: see `Findings.no_evidence`.
        does_not_run: Why the candidate does not run, None where it does.
        notes: What the reader should know where the data say nothing.
    """

    drop: float
    no_evidence: str | None = None
    does_not_run: str | None = None
    notes: tuple[str, ...] = ()


class Judge:
    """Compares candidates with the input.

    Args:
        worker: Opens both.
        original: The input.
        dataset: What they run on.
        spec: How sessions are opened.
        metrics: What the user named; none to choose by the data and the outputs.
        heads: How the input ends at each output: see `measure.heads`.
        progress: Called with the samples done.
    """

    def __init__(
        self,
        worker: Worker,
        original: Path,
        dataset: Dataset,
        spec: SessionSpec,
        *,
        metrics: Sequence[str],
        heads: Mapping[str, Head],
        progress: Progress,
    ) -> None:
        self._worker = worker
        self._spec = spec
        self._metrics = metrics
        self._progress = progress
        session = worker.keep(original, spec, what="original")
        self._reference = Reference(session, dataset, REMEMBERED_BYTES, heads=heads)

    def judge(self, candidate: Path) -> Judgement:
        """How much accuracy falls, and whether the data are evidence of that."""
        asked = parse_all(self._metrics)
        try:
            session = self._worker.open(candidate, self._spec, what="candidate")
            accuracy = score(self._reference, session, asked, self._progress)
            session.close()
        except Refused as refusal:
            return Judgement(math.inf, does_not_run=refusal.note or refusal.fact)
        findings = Findings(unchanged=False, accuracy=accuracy)
        drop, reason = findings.drop(), findings.no_evidence()
        known = drop is not None and reason is None and not math.isnan(drop)
        notes = () if reason is None else (*accuracy.notes, *accuracy.warnings)
        return Judgement(drop if known and drop is not None else math.inf, no_evidence=reason, notes=notes)

    def error(self, candidate: Path) -> float:
        """Squared error over squared output of the worst output, on the first samples whose outputs are not blank.

        Infinite where the candidate fails, or nothing is compared.
        """
        metric = Sqnr()
        whole = self._reference.session.info.whole
        places = value_positions(whole)
        with_values = (
            (sample, outputs)
            for sample, outputs in self._reference
            if not all(is_blank(outputs[place]) for place in places)
        )
        try:
            session = self._worker.open(candidate, self._spec, what="candidate")
            for sample, outputs in islice(with_values, ERROR_SAMPLES):
                ours, theirs, _ = values_beside(whole, outputs, session.run(sample.feeds))
                moving = self._reference.unstable(sample, outputs)
                metric.update(blanked(ours, moving), blanked(theirs, moving), None)
            session.close()
        except (Refused, InputError):  # it does not run, or has no output of floats
            return math.inf
        found = relative_error(metric.score())
        return math.inf if found is None else found**2
