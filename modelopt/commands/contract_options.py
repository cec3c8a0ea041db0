"""The limits of a contract as options, and the error where a result breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelopt.core.errors import GateFailed, GateInconclusive
from modelopt.report import GateOutcome, GateResult


@dataclass(frozen=True, kw_only=True)
class MeasuredGateOptions:
    """The limits that a benchmark judges.

    Attributes:
        min_speedup: How many times as fast a model must at least be as the one that it is compared with.
        max_latency_ns: The longest latency allowed, in nanoseconds.
        max_memory_bytes: The largest peak memory allowed of a process that runs the model, in bytes.
        max_load_ns: The longest time allowed for creating a session, in nanoseconds.
        on_inconclusive: ``pass`` or ``fail``: what becomes of a result where a gate cannot be decided on what was
            measured. None passes `max_drop`, with a warning, where the loss on the samples at hand is within it, and
            fails otherwise.
    """

    min_speedup: float | None = None
    max_latency_ns: int | None = None
    max_memory_bytes: int | None = None
    max_load_ns: int | None = None
    on_inconclusive: str | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedGateOptions(MeasuredGateOptions):
    """The limits that a comparison of two models judges.

    Attributes:
        max_drop: The most that the metric may fall, as a fraction: 0.01 is one point of accuracy.
        max_size: The largest size allowed: a float is a fraction of the first model's size, an int is bytes.
    """

    max_drop: float | None = None
    max_size: float | int | None = None


@dataclass(frozen=True, kw_only=True)
class GateOptions(ComparedGateOptions):
    """The contract: a result that breaks it is not written.

    Attributes:
        require_verified: Refuse a result that could not be compared with the input after exact passes.
        keep: Write the output even when a gate fails.
    """

    require_verified: bool = False
    keep: bool = False


_FIELDS = ("max_drop", "min_speedup", "max_latency_ns", "max_memory_bytes", "max_load_ns", "on_inconclusive")


def gate_fields(options: MeasuredGateOptions) -> dict[str, Any]:
    """The limits that were given, as fields of `Gates`."""
    found = {name: getattr(options, name, None) for name in _FIELDS}
    given = {name: value for name, value in found.items() if value is not None}
    size = getattr(options, "max_size", None)
    if size is not None:  # a fraction of the input's size, or bytes; one of them replaces the other
        given["max_size_ratio"] = size if isinstance(size, float) else None
        given["max_size_bytes"] = size if isinstance(size, int) else None
    return given


def stop_at(gates: Sequence[GateResult], report: Any, *, note: str | None = None, hint: str | None = None) -> None:
    """Raise the error of the gates that stop a result, if there are any.

    Args:
        gates: The gates.
        report: What the error carries.
        note: The note of the error.
        hint: Its hint where the gates have none.

    Raises:
        GateFailed: A gate failed; the error's `report` is the report.
        GateInconclusive: None failed, and one that stops the result is not decided.
    """
    stopping = [gate for gate in gates if gate.stops]
    if not stopping:
        return
    failed = any(gate.outcome is GateOutcome.FAILED for gate in stopping)
    error = (GateFailed if failed else GateInconclusive)(
        "; ".join(map(_said, stopping)), note=note, hint=next((gate.hint for gate in stopping if gate.hint), hint)
    )
    error.report = report
    raise error


def _said(gate: GateResult) -> str:
    state = "not met" if gate.outcome is GateOutcome.FAILED else "not decided"
    return f"{f'--{gate.gate} {gate.limit}'.rstrip()} is {state}: found {gate.found}"
