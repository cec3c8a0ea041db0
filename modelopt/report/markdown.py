"""A report as Markdown, for pull requests and CI summaries: the verdict and the figures first, details folded."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from modelopt.core.printable import printable
from modelopt.core.tables import Section
from modelopt.report import GateResult, Report
from modelopt.report.bench_report import BenchReport
from modelopt.report.bench_tables import measured_tables
from modelopt.report.check_report import CheckReport, check_sections
from modelopt.report.evaluation_report import EvaluationReport, evaluation_tables
from modelopt.report.summary import detail_sections, gate_sections, outcome_section


def to_markdown(report: Report) -> str:
    """The report's tables and its recipe as GitHub-flavoured Markdown."""
    parts = [f"# {_escape(report.input.path)} → {_escape(report.output.path)}"]
    parts += [f"**{_escape(report.verdict)}**"] if report.verdict else []
    parts += [f"Next: {_escape(report.next)}"] if report.next is not None else []
    parts += [section_to_markdown(section) for section in (outcome_section(report), *gate_sections(report.gates))]
    parts += [_folded_section(section) for section in detail_sections(report, explain=True)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    origin = f"Target {report.target}; seed {report.seed}; {versions}."
    parts.append(_folded("recipe and versions", f"{_escape(origin)}\n\n{_yaml(report.recipe)}"))
    return _joined(parts)


def measured_to_markdown(report: BenchReport) -> str:
    """The tables of `bench` or `compare` as GitHub-flavoured Markdown."""
    names = " → ".join(_escape(model.path) for model in report.models)
    tables = measured_tables(report)
    return _joined([f"# modelopt {report.command}: {names}", *_figures_first(tables, report.gates)])


def evaluation_to_markdown(report: EvaluationReport) -> str:
    """The tables of `evaluate` as GitHub-flavoured Markdown."""
    return _joined(["# modelopt evaluate", *_figures_first(evaluation_tables(report), report.gates)])


def check_to_markdown(report: CheckReport) -> str:
    """The verdict and the gates of `check` as GitHub-flavoured Markdown."""
    return _joined(["# modelopt check", *map(section_to_markdown, check_sections(report))])


def section_to_markdown(section: Section) -> str:
    """One table with its notes."""
    lines = [f"## {_escape(section.title)}", ""] if section.title else []
    return "\n".join([*lines, *_content(section)])


def _figures_first(tables: Sequence[Section], gates: Sequence[GateResult]) -> Iterator[str]:
    """The tables without a title, which hold the figures, and the gates; the others come last, and are folded."""
    yield from (section_to_markdown(table) for table in tables if not table.title)
    yield from map(section_to_markdown, gate_sections(gates))
    yield from (_folded_section(table) for table in tables if table.title)


def _folded_section(section: Section) -> str:
    count = f" ({len(section.rows)})" if section.rows else ""
    return _folded(f"{section.title or 'passes'}{count}", "\n".join(_content(section)))


def _folded(summary: str, content: str) -> str:
    """GitHub shows Markdown inside of HTML only after an empty line."""
    return f"<details>\n<summary>{html.escape(printable(summary))}</summary>\n\n{content.rstrip()}\n\n</details>"


def _yaml(text: str) -> str:
    """A block of code that nothing in the text ends."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}{fence}"


def _content(section: Section) -> Iterator[str]:
    if section.rows:
        header = section.header or ("",) * len(section.rows[0])
        yield _row(header)
        yield _row(("---",) * len(header))
        yield from (_row(tuple(_escape(cell) for cell in row)) for row in section.rows)
        yield ""
    yield from (f"- {_escape(note)}" for note in section.notes)


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    escaped = printable(text)
    for char in "\\`*_[]<>|":
        escaped = escaped.replace(char, "\\" + char)
    return escaped
