"""Refusals are grouped by their reason, whatever node or number it names, with the flag that changes it."""

from __future__ import annotations

from modelopt.core.changes import Skip
from modelopt.report import PassResult, Report, refusals
from modelopt.report.summary import report_sections
from tests.report_tools import STATS, report


def _refusing(*skips: Skip) -> PassResult:
    return PassResult(
        step="fold", effect="exact", rewrites=0, skipped=skips, facts={}, wall_ns=1, before=STATS, after=STATS
    )


def _found() -> Report:
    return report(
        _refusing(
            Skip("a", "it is large"),
            Skip("b", "stored, its result would make the model 12 bytes larger, more than max-growth leaves"),
            Skip("c", "stored, its result would make the model 7,000 bytes larger, more than max-growth leaves"),
            Skip("d", "Conv_3 (Conv) is part of it"),
            Skip("e", "Conv_4 (Conv) is part of it"),
            Skip("f", "Gemm_4 (Gemm) is part of it"),
        )
    )


def test_groups() -> None:
    found = refusals.groups(_found())
    assert [(each.places, each.cure) for each in found] == [
        (("b", "c"), "fold --max-growth 50%"),
        (("d", "e"), None),
        (("a",), None),
        (("f",), None),
    ]


def test_the_tables() -> None:
    titles = [section.title for section in report_sections(_found(), explain=True)]
    assert "left alone" in titles
    assert "left alone, by node" not in titles
    assert "left alone, by node" in [section.title for section in report_sections(_found(), explain=True, verbose=True)]
    assert refusals.section(report()).notes == ("Nothing was refused.",)
