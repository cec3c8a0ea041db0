"""What a search over widths of channels, or over blocks, found, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from modelopt.core.tables import Section
from modelopt.report.pruning_curve import GroupWidth, PruningFound, PruningStep
from modelopt.report.units import fell, milliseconds, size

_MAX_GROUPS = 40
_MAX_REASONS = 12


def pruning_sections(found: PruningFound, *, explain: bool = False) -> Iterator[Section]:
    """The curve, and the widths; with `explain` the reasons why channels or blocks must stay too.

    Args:
        found: What the search found.
        explain: Whether to list groups that keep their width, and all reasons.
    """
    yield _curve(found)
    yield from _widths(found, explain=explain)
    if explain and found.refused:
        yield _refused(found)


def _curve(found: PruningFound) -> Section:
    whole = next((step.kernels_ns for step in found.steps if not step.removed), None)
    rows = tuple(_step(step, whole) for step in found.steps)
    how = (
        "measured: the smallest multiple at which this machine's kernels lose nothing"
        if found.align_measured
        else "given"
    )
    notes = (f"Widths are multiples of {found.align} ({how}).",) if found.align > 1 or found.align_measured else ()
    header = (f"{found.unit}s removed", "accuracy", "on held-back samples", "time in kernels", "MACs", "size", "")
    return Section("pruned models that were tried", header, rows, notes)


def _step(step: PruningStep, whole_ns: float | None) -> tuple[str, ...]:
    taken = ""
    if step.kernels_ns is not None:
        times = f" ({whole_ns / step.kernels_ns:.2f}× as fast)" if whole_ns and step.removed else ""
        taken = f"{milliseconds(step.kernels_ns)}{times}"
    macs = "" if step.macs is None else f"{step.macs:.1%}"
    kept = "kept" if step.kept else ""
    return f"{step.removed:.1%}", fell(step.drop), fell(step.checked), taken, macs, size(step.size_bytes), kept


def _widths(found: PruningFound, *, explain: bool) -> Iterator[Section]:
    changed = [group for group in found.widths if explain or group.after < group.before]
    if not changed:
        return
    rows = tuple(_width(group) for group in changed[:_MAX_GROUPS])
    more = len(changed) - len(rows)
    stay = len(found.widths) - sum(group.after < group.before for group in found.widths)
    notes = [f"… and {more} more: --json has all of them"] if more else []
    if found.unit == "block":
        notes += [f"{stay} of {len(found.widths)} blocks stay"] if stay and not explain else []
        yield Section("blocks", ("block", "importance", "before", "after"), rows, tuple(notes))
        return
    notes += [f"{stay} of {len(found.widths)} groups keep all their channels"] if stay and not explain else []
    yield Section("widths", ("group", "kind", "before", "after", "error if only it is narrower"), rows, tuple(notes))


def _width(group: GroupWidth) -> tuple[str, ...]:
    if group.kind == "block":
        importance = "" if group.importance is None else f"{group.importance:.3g}"
        return group.group, importance, str(group.before), str(group.after)
    error = "" if group.error is None else f"{group.error:.2%} at {group.error_at}"
    return group.group, group.kind, str(group.before), str(group.after), error


def _refused(found: PruningFound) -> Section:
    ordered = sorted(found.refused.items(), key=lambda each: -each[1])
    rows = tuple((f"{count:,}", why) for why, count in ordered[:_MAX_REASONS])
    rest = ordered[_MAX_REASONS:]
    notes = (f"… and {sum(count for _, count in rest):,} more for {len(rest)} other reasons",) if rest else ()
    what = "sums" if found.unit == "block" else "channels"
    return Section(f"{what} that must stay", (what, "reason"), rows, notes)
