"""The gates on one figure of a model alone: which they are, what each measures, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from modelopt.core import quantities
from modelopt.measure.latency import BenchResult
from modelopt.measure.process_figures import Figure, over_processes
from modelopt.recipe.recipe import Gates
from modelopt.report.units import milliseconds, size


class FigureGate(NamedTuple):
    """A gate that bounds a figure of a model.

    Attributes:
        name: Of its flag, without the dashes.
        field: The field of `Gates` that holds the limit.
        measured: The figure, of what was timed.
        limit_text: How a limit is written.
        text: How the figure is written.
    """

    name: str
    field: str
    measured: Callable[[BenchResult], Figure]
    limit_text: Callable[[int], str]
    text: Callable[[float], str]


MAX_LATENCY = FigureGate(
    "max-latency", "max_latency_ns", lambda result: result.latency, quantities.time_text, milliseconds
)
MAX_MEMORY = FigureGate(
    "max-memory", "max_memory_bytes", lambda result: over_processes(result.peaks_bytes), quantities.bytes_text, size
)
MAX_LOAD = FigureGate(
    "max-load", "max_load_ns", lambda result: over_processes(result.loads_ns), quantities.time_text, milliseconds
)


def asked(contract: Gates) -> list[tuple[FigureGate, int]]:
    """Those that a contract asks for, with their limits."""
    limits = ((gate, getattr(contract, gate.field)) for gate in (MAX_LATENCY, MAX_MEMORY, MAX_LOAD))
    return [(gate, limit) for gate, limit in limits if limit is not None]
