"""Reports that are written to a file: JSON or Markdown, by its name."""

from __future__ import annotations

from pathlib import Path

from modelopt import io
from modelopt.core.errors import InputError
from modelopt.core.json_text import json_text
from modelopt.report import Report
from modelopt.report.bench_report import BenchReport
from modelopt.report.evaluation_report import EvaluationReport, evaluation_sections
from modelopt.report.markdown import measured_to_markdown, section_to_markdown, to_markdown


def require(path: Path) -> None:
    """Refuse, before the work, a name that does not say what a report is to be.

    Raises:
        InputError: As said.
    """
    if path.suffix not in {".json", ".md"}:
        raise InputError(f"a report cannot be written to {path}", hint="name it .json or .md")


def write_measured(report: BenchReport, path: Path) -> None:
    """Write the report of `bench` or `compare` atomically.

    Raises:
        EnvironmentLacks, InputError: As `write`.
    """
    text = json_text(report) + "\n" if path.suffix == ".json" else measured_to_markdown(report)
    io.replace_file(path, text.encode(errors="backslashreplace"))


def write_evaluation(report: EvaluationReport, path: Path) -> None:
    """Write the report of `evaluate` atomically.

    Raises:
        EnvironmentLacks, InputError: As `write`.
    """
    markdown = "\n\n".join(["# modelopt evaluate", *map(section_to_markdown, evaluation_sections(report))]) + "\n"
    text = json_text(report) + "\n" if path.suffix == ".json" else markdown
    io.replace_file(path, text.encode(errors="backslashreplace"))


def write(report: Report, path: Path) -> Report:
    """Write a report atomically; returns it.

    Raises:
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
    """
    text = json_text(report) + "\n" if path.suffix == ".json" else to_markdown(report)
    io.replace_file(path, text.encode(errors="backslashreplace"))
    return report
