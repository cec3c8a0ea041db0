"""What passes left alone, grouped by the reason, with the flag that would change it where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelopt.core.changes import Skip
from modelopt.core.tables import Section
from modelopt.report import Report

_CURES = (
    (r"estimated (not to pay|to save less)", "--everywhere"),
    (r"more than max-growth leaves", "fold --max-growth 50%"),
    (r"opset \S+ has no ", "leave out --keep-opset"),
    (r"fewer than min-elements", "min-elements of the pass, in a recipe"),
    (r"(rank|size|shape|dimension|ends?)\b.* not known", "fold --freeze-dim NAME=N, or --input-shape"),
    (r"\bexcluded\b", "leave out --exclude"),
    (r"\bnot included\b", "leave out --include"),
)
"""By a part of the reason, what changes it. A pass may still refuse the place for another reason."""

_MOST_GROUPS = 30


@dataclass(frozen=True)
class RefusalGroup:
    """Places that a pass left alone for one reason.

    Attributes:
        step: The pass.
        reason: The reason of the first of them; names and numbers of the others may differ.
        places: The places.
        cure: The flag that would change it; None where none is known.
    """

    step: str
    reason: str
    places: tuple[str, ...]
    cure: str | None


def groups(report: Report) -> list[RefusalGroup]:
    """The refusals of the last application of each pass, those of most places first."""
    found: dict[tuple[str, str], list[Skip]] = {}
    for step, skip in refusals(report):
        found.setdefault((step, _general(skip)), []).append(skip)
    made = [
        RefusalGroup(step, skips[0].reason, tuple(skip.node for skip in skips), _cure(skips[0].reason))
        for (step, _), skips in found.items()
    ]
    return sorted(made, key=lambda each: -len(each.places))


def refusals(report: Report) -> Iterator[tuple[str, Skip]]:
    """Each refusal with its pass; of trials those that were not measured, for the others say it themselves."""
    for result in {result.step: result for result in report.passes}.values():
        yield from ((result.name, skip) for skip in result.skipped)
    for trial in report.trials:
        if not trial.kept and trial.ratio is None and trial.drop is None:
            yield from ((trial.group.split("(")[0], skip) for skip in trial.skipped)


def section(report: Report) -> Section:
    """The groups as a table."""
    found = groups(report)
    if not found:
        return Section("left alone", None, (), ("Nothing was refused.",))
    rows = tuple((each.step, str(len(each.places)), each.reason, each.cure or "") for each in found[:_MOST_GROUPS])
    left = len(found) - len(rows)
    notes = (
        "-v lists the nodes.",
        *([f"{left} more reasons, of {sum(len(e.places) for e in found[len(rows) :])} places"] if left else []),
    )
    return Section("left alone", ("pass", "places", "reason", "what changes it"), rows, notes)


def _general(skip: Skip) -> str:
    """The reason without what is special to one place: numbers, and names of nodes and tensors."""
    text = re.sub(rf"(?<!\w){re.escape(skip.node)}(?!\w)", "…", skip.reason) if skip.node else skip.reason
    text = re.sub(r"'[^']*'", "…", text)
    text = re.sub(r"\S+ \(([A-Z]\w*)\)", r"… (\1)", text)  # a node as `graph.label` writes it
    return re.sub(r"\d[\d,.]*", "…", text)


def _cure(reason: str) -> str | None:
    return next((cure for pattern, cure in _CURES if re.search(pattern, reason)), None)
