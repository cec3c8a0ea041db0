"""A report as Markdown, for pull requests and CI summaries."""

from __future__ import annotations

from modelopt.core.printable import printable
from modelopt.core.tables import Section
from modelopt.report import Report
from modelopt.report.bench_report import BenchReport
from modelopt.report.bench_tables import bench_sections, compare_sections
from modelopt.report.summary import report_sections


def to_markdown(report: Report) -> str:
    """The report's tables and its recipe as GitHub-flavoured Markdown."""
    parts = [f"# {_escape(report.input.path)} → {_escape(report.output.path)}"]
    parts += [section_to_markdown(section) for section in report_sections(report, explain=True)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts.append(f"Target {report.target}; seed {report.seed}; {versions}.")
    parts.append(f"```yaml\n{report.recipe}```")
    return "\n\n".join(parts) + "\n"


def measured_to_markdown(report: BenchReport) -> str:
    """The tables of `bench` or `compare` as GitHub-flavoured Markdown."""
    names = " → ".join(_escape(model.path) for model in report.models)
    sections = bench_sections(report) if report.accuracy is None else compare_sections(report)
    command = "bench" if report.accuracy is None else "compare"
    return "\n\n".join([f"# modelopt {command}: {names}", *map(section_to_markdown, sections)]) + "\n"


def section_to_markdown(section: Section) -> str:
    """One table with its notes."""
    lines = [f"## {_escape(section.title)}", ""] if section.title else []
    if section.rows:
        header = section.header or ("",) * len(section.rows[0])
        lines.append(_row(header))
        lines.append(_row(("---",) * len(header)))
        lines += [_row(tuple(_escape(cell) for cell in row)) for row in section.rows]
        lines.append("")
    lines += [f"- {_escape(note)}" for note in section.notes]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    escaped = printable(text)
    for char in "\\`*_[]<>|":
        escaped = escaped.replace(char, "\\" + char)
    return escaped
