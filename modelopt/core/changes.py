"""What a pass reports: what it claims, what it rewrote, and what it left alone and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


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


@dataclass(frozen=True)
class Skip:
    """A place where a pass could have acted and did not, and why.

    Attributes:
        node: The node's (or tensor's) name.
        reason: One clause without a final period, e.g. ``"its output is also a graph output"``.
    """

    node: str
    reason: str


Fact = str | int | float | bool


@dataclass(frozen=True)
class TensorError:
    """How well the integers of one tensor hold its numbers.

    Attributes:
        name: The tensor's.
        kind: ``activation`` or ``weight``.
        low: The smallest number that the integers stand for, in any channel.
        high: The largest.
        sqnr_db: Signal over quantization noise in decibels; None where nothing is lost, or nothing is there.
    """

    name: str
    kind: str
    low: float
    high: float
    sqnr_db: float | None


@dataclass(frozen=True)
class Changes:
    """What a pass reports.

    Attributes:
        rewrites: How many places were rewritten; 0 promises that the model is untouched.
        skipped: The refusals, for ``--explain``.
        facts: Named figures for the report, e.g. ``{"sparsity": 0.5}``; units are in the names.
        tensors: What was quantized, and how well integers hold it.
    """

    rewrites: int = 0
    skipped: tuple[Skip, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    tensors: tuple[TensorError, ...] = ()
