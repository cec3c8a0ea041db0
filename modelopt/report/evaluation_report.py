"""What `evaluate` found: the scores of one model on labelled data, as versioned data and as tables."""

from __future__ import annotations

import msgspec

from modelopt.core.tables import Section
from modelopt.measure.metric import Score
from modelopt.report import FileInfo, GateResult
from modelopt.report.summary import gate_sections
from modelopt.report.units import size

SCHEMA = "modelopt-evaluation/1"
_MOST_CLASSES = 40


class ClassScore(msgspec.Struct, frozen=True, kw_only=True):
    """How many samples of one class are right.

    Attributes:
        label: The class number.
        right: Samples of the class that are right.
        n: Samples of the class.
        recall: Their share.
        low: Lower end of its 95 % interval (Wilson).
        high: Upper end.
    """

    label: int
    right: int
    n: int
    recall: float
    low: float
    high: float


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `evaluate` found.

    Attributes:
        schema: The version of this structure.
        verdict: The result in one sentence.
        model: The file.
        source: The data.
        data_sha256: Their digest (hex).
        n: Samples run.
        scores: The score of each metric, with its interval.
        classes: Each class, the one of least recall first; empty where the labels are no classes of single samples.
        gates: The gates, in order.
        notes: What the reader should know.
    """

    schema: str = SCHEMA
    verdict: str
    model: FileInfo
    source: str
    data_sha256: str | None
    n: int
    scores: tuple[Score, ...]
    classes: tuple[ClassScore, ...]
    gates: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()


def score_text(score: Score) -> str:
    """A score with its interval."""
    if score.value is None:
        return score.note or "no value"
    between = (
        ""
        if score.low is None or score.high is None
        else f" ({_number(score, score.low)} to {_number(score, score.high)})"
    )
    return f"{_number(score, score.value)}{between}"


def _number(score: Score, value: float) -> str:
    return f"{value:.2%}" if score.unit == "share" else f"{value:.4g}{f' {score.unit}' if score.unit else ''}"


def evaluation_sections(report: EvaluationReport) -> list[Section]:
    """`evaluation_tables` and the gates."""
    return [*evaluation_tables(report), *gate_sections(report.gates)]


def evaluation_tables(report: EvaluationReport) -> list[Section]:
    """The verdict, the scores, and the classes."""
    rows = tuple((score.name, f"{score.n:,}", score_text(score)) for score in report.scores)
    about = (f"{report.model.path}, {size(report.model.size_bytes)}, on {report.source}",)
    sections = [
        Section("", None, (), (report.verdict,)),
        Section(
            "", ("metric", "n", "value, 95 % interval"), rows, (*about, *(f"note: {each}" for each in report.notes))
        ),
    ]
    if report.classes:
        shown = report.classes[:_MOST_CLASSES]
        classes = tuple(
            (str(each.label), f"{each.right:,} of {each.n:,}", f"{each.recall:.2%} ({each.low:.2%} to {each.high:.2%})")
            for each in shown
        )
        left = len(report.classes) - len(shown)
        notes = (f"{left} more classes with a higher recall",) if left else ()
        sections.append(Section("classes, worst first", ("class", "right", "recall, 95 % interval"), classes, notes))
    return sections
