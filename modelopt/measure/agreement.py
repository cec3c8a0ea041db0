"""How often the candidate decides as the reference does, without labels."""

from __future__ import annotations

import numpy as np

from modelopt.errors import InputError
from modelopt.measure.fidelity import Fidelity
from modelopt.measure.metric import Outputs, Score, Tally, clipped, is_float

_CLASSES = range(2, 100_001)


class ArgmaxAgreement(Fidelity):
    """The share of rows of class scores whose highest class is the same in both models."""

    name = "argmax-agreement"
    unit = "share"
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally()

    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """See `Fidelity.compare`; rows of a sequence hang together, rows of a batch do not."""
        position = class_scores(reference)
        if position is None:
            raise InputError(
                "no output looks like class scores",
                note="wanted: floats with at most 3 axes, the last of 2 to 100000 classes",
                hint="choose another --metric",
            )
        a, b = reference[position], candidate[position]
        together = a.ndim > 2
        if a.shape != b.shape:
            self._tally.add(np.zeros(a.size // a.shape[-1]), together=together)
            return
        same_nan = np.all(np.isnan(a) == np.isnan(b), axis=-1)
        same = (np.argmax(a, axis=-1) == np.argmax(b, axis=-1)) & same_nan
        self._tally.add(np.ravel(same).astype(np.float64), together=together)

    def score(self) -> Score:
        """See `Metric.score`."""
        return self.made(self._tally.units.mean, clipped(self._tally.interval(), 0.0, 1.0), n=self._tally.n)


class Agreement(Fidelity):
    """The share of equal elements in outputs that are not floating-point numbers: classes, tokens, masks, strings."""

    name = "agreement"
    unit = "share"
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally()

    def compare(self, reference: Outputs, candidate: Outputs) -> None:
        """See `Fidelity.compare`."""
        found = [
            np.ravel(a == b) if a.shape == b.shape else np.zeros(max(a.size, 1))
            for a, b in zip(reference, candidate, strict=True)
            if not is_float(a)
        ]
        if not found:
            raise InputError("all outputs are floating-point numbers", hint="--metric cosine compares these")
        self._tally.add(np.concatenate(found).astype(np.float64), together=True)

    def score(self) -> Score:
        """See `Metric.score`."""
        return self.made(self._tally.units.mean, clipped(self._tally.interval(), 0.0, 1.0), n=self._tally.n)


def class_scores(outputs: Outputs) -> int | None:
    """The position of the first output that looks like class scores, else None."""
    for position, out in enumerate(outputs):
        if is_float(out) and 1 <= out.ndim <= 3 and out.size and out.shape[-1] in _CLASSES:
            return position
    return None
