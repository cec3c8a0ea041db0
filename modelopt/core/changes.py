"""What a pass reports: what it claims, what it rewrote, and what it left alone and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec


class Effect(Enum):
    """What a pass claims about the outputs of the model it leaves; the engine checks the claim.

    Attributes:
        EXACT: Same outputs up to the rounding of a reordered floating-point sum.
        APPROXIMATE: Close outputs: numbers are stored or computed in fewer bits.
        LOSSY: Information is thrown away (weights set to zero).
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"
    LOSSY = "lossy"


class Skip(msgspec.Struct, frozen=True):
    """A place where a pass could have acted and did not, and why.

    Attributes:
        node: The node's (or tensor's) name.
        reason: One clause without a final period, e.g. ``"its output is also a graph output"``.
    """

    node: str
    reason: str


Fact = str | int | float | bool


class TensorError(msgspec.Struct, frozen=True):
    """The range and the error of one tensor that was quantized or pruned.

    Attributes:
        name: The tensor's name.
        kind: What the error is measured on: ``activation`` or ``weight``; for a pruned weight also ``outputs``,
            what the weight gives on calibration data.
        low: The smallest number that the integers represent, in any channel; of a pruned weight its smallest number.
        high: The largest one.
        sqnr_db: The signal-to-noise ratio in decibels; None where there is no error, or no value.
        sparsity: The share of zeros in a pruned weight; None where it was not pruned.
    """

    name: str
    kind: str
    low: float
    high: float
    sqnr_db: float | None
    sparsity: float | None = None


@dataclass(frozen=True)
class Changes:
    """What a pass reports.

    Attributes:
        rewrites: How many places were rewritten; 0 promises that the model is untouched.
        skipped: The refusals, for ``--explain``.
        facts: Named figures for the report, e.g. ``{"sparsity": 0.5}``; units are in the names.
        tensors: The tensors that were quantized or pruned, with their errors.
    """

    rewrites: int = 0
    skipped: tuple[Skip, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    tensors: tuple[TensorError, ...] = ()
