"""The data of a search over widths: those that the choice is made with, and those that it is checked with."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.data import Dataset, split
from modelopt.data.splits import joined
from modelopt.engine.datasets import Data

MIN_TO_CHECK = 16
"""Fewer samples than this are not split into a part for the choice and a part for the check: a guess."""

CHECKED = 0.5
"""The share of the evaluation data that the check is made with, where the rest serves the choice: a guess."""


@dataclass(frozen=True)
class Evidence:
    """What models are compared with the input on.

    Attributes:
        scan: What the sensitivity of groups is measured on; None for random inputs.
        choice: What the choice is made with; None where there are no data.
        check: What the choice is checked with; None where there are too few samples for a part of their own.
    """

    scan: Dataset | None
    choice: Dataset | None
    check: Dataset | None


def evidence_of(data: Data, seed: int, *, held_out: bool) -> Evidence:
    """How the data of a run serve a search.

    Args:
        data: The data.
        seed: Decides which samples the check gets.
        held_out: Whether the evaluation data are a part of the calibration data, as without ``--eval``: then the
            choice may be made with the rest of those, too.
    """
    given = data.evaluation
    if given is None:
        return Evidence(data.calibration, data.calibration, None)
    if len(given) < MIN_TO_CHECK:
        return Evidence(data.calibration or given, given, None)
    choice, check = split(given, CHECKED, seed)
    if held_out and data.calibration is not None:
        choice = joined(data.calibration, choice)
    return Evidence(data.calibration or choice, choice, check)
