"""What two models differ in, as tables."""

from __future__ import annotations

from modelopt.core.tables import Section
from modelopt.inspection.difference import Change, ModelDiff

_MOST_CHANGES = 20
_TITLES = {
    "header": "file",
    "input": "inputs",
    "output": "outputs",
    "opset": "opsets",
    "function": "functions",
    "node": "nodes",
    "initializer": "initializers",
    "metadata": "metadata",
}


def diff_sections(found: ModelDiff, *, verbose: bool = False) -> list[Section]:
    """The tables.

    Args:
        found: The differences.
        verbose: All changes, in place of the first of each kind.
    """
    if found.is_equal:
        return [Section("", None, (), (f"{found.first} and {found.second} hold the same model.",))]
    size, nodes = found.size_bytes, found.nodes
    rows = (
        ("size, bytes", f"{size[0]:,}", f"{size[1]:,}", f"{size[1] - size[0]:+,}"),
        ("nodes", f"{nodes[0]:,}", f"{nodes[1]:,}", f"{nodes[1] - nodes[0]:+,}"),
    )
    sections = [Section("", ("", found.first, found.second, "change"), rows)]
    if found.operators:
        ops = tuple(
            (each.op, f"{each.before:,}", f"{each.after:,}", f"{each.after - each.before:+,}")
            for each in found.operators
        )
        sections.append(Section("operators", ("operator", "before", "after", "change"), ops))
    for what, title in _TITLES.items():
        changes = [change for change in found.changes if change.what == what]
        if changes:
            sections.append(_section(title, changes, verbose=verbose))
    return sections


def _section(title: str, changes: list[Change], *, verbose: bool) -> Section:
    shown = changes if verbose else changes[:_MOST_CHANGES]
    rows = tuple((each.kind.value, each.name, each.before, each.after) for each in shown)
    left = len(changes) - len(shown)
    return Section(title, ("", "name", "before", "after"), rows, (f"{left:,} more: -v lists them",) if left else ())
