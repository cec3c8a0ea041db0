"""How long each node of a model takes, by operator and by node; of two models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelopt.core.tables import Section
from modelopt.report.bench_report import BenchReport
from modelopt.report.units import milliseconds
from modelopt.runtime.coverage import Kind, NodeTimes

BETWEEN = "between kernels"
"""What of a run no kernel takes."""

_MOST_LAYERS = 20


def layer_sections(report: BenchReport, *, verbose: bool = False) -> list[Section]:
    """The tables; none where nothing was profiled.

    Args:
        report: The report.
        verbose: All nodes, in place of the slowest.
    """
    if not report.layers:
        return []
    names = [Path(model.path).name for model in report.models]
    names = names if len(set(names)) == len(names) else [model.path for model in report.models]
    conversions = tuple(_conversions(name, found) for name, found in zip(names, report.layers, strict=True))
    return [
        _table("time by operator", "operator", names, [by_operator(each) for each in report.layers], None, conversions),
        _table(
            "time by layer",
            "layer",
            names,
            [by_layer(each) for each in report.layers],
            None if verbose else _MOST_LAYERS,
        ),
    ]


def by_operator(found: NodeTimes) -> dict[str, float]:
    """Nanoseconds by operator of the model, with `BETWEEN`: they add up to the whole run, or to the kernels' time."""
    sums: dict[str, float] = {}
    for layer in found.layers:
        sums[layer.op_type] = sums.get(layer.op_type, 0.0) + found.layer_ns(layer)
    return {**sums, BETWEEN: found.between_ns}


def by_layer(found: NodeTimes) -> dict[str, float]:
    """Nanoseconds by node; nodes that share a name add up."""
    sums: dict[str, float] = {}
    for layer in found.layers:
        text = f"{layer.node} ({layer.op_type})"
        sums[text] = sums.get(text, 0.0) + found.layer_ns(layer)
    return {**sums, BETWEEN: found.between_ns}


def _conversions(name: str, found: NodeTimes) -> str:
    converting = sum(found.layer_ns(layer) for layer in found.layers if layer.kind is Kind.OVERHEAD)
    whole = sum(by_operator(found).values()) or 1
    return (
        f"{name}: {converting / whole:.0%} of the time quantizes, dequantizes or changes the layout; "
        f"{found.between_ns / whole:.0%} is {BETWEEN} ({len(found.run_ns)} profiled runs)"
    )


def _table(
    title: str,
    what: str,
    names: Sequence[str],
    columns: Sequence[Mapping[str, float]],
    most: int | None,
    notes: tuple[str, ...] = (),
) -> Section:
    """One row for each name, the slowest in any model first."""
    wholes = [sum(column.values()) or 1 for column in columns]
    keys = dict.fromkeys(key for column in columns for key in column)
    ranked = sorted(keys, key=lambda key: -max(column.get(key, 0) for column in columns))
    shown = ranked if most is None else ranked[:most]
    rows = tuple(
        (
            key,
            *(
                "" if key not in column else f"{milliseconds(column[key])}  {column[key] / whole:.0%}"
                for column, whole in zip(columns, wholes, strict=True)
            ),
        )
        for key in shown
    )
    left = len(ranked) - len(shown)
    notes = (*notes, *([f"{left} more: -v lists them"] if left else []))
    return Section(title, (what, *names), rows, notes)
