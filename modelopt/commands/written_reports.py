"""Reports that are written to a file: JSON, Markdown or HTML, by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from modelopt import io
from modelopt.core.errors import InputError
from modelopt.core.json_text import json_text
from modelopt.report import Report, html
from modelopt.report.bench_report import BenchReport
from modelopt.report.check_report import CheckReport, junit
from modelopt.report.evaluation_report import EvaluationReport
from modelopt.report.markdown import check_to_markdown, evaluation_to_markdown, measured_to_markdown, to_markdown

KINDS = ".json, .md or .html"

_Found = TypeVar("_Found", bound=msgspec.Struct)


def require(path: Path) -> None:
    """Refuse, before the work, a name that does not say what a report is to be.

    Raises:
        InputError: As said.
    """
    if path.suffix not in {".json", ".md", ".html"}:
        raise InputError(f"a report cannot be written to {path}", hint=f"name it {KINDS}")


def require_check(path: Path) -> None:
    """As `require`, for the report of `check`.

    Raises:
        InputError: As said.
    """
    if path.suffix not in {".json", ".md", ".html", ".xml"}:
        raise InputError(f"a report cannot be written to {path}", hint="name it .json, .md, .html, or .xml for JUnit")


def write(report: Report, path: Path) -> Report:
    """Write a report atomically; returns it.

    Raises:
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
    """
    return _write(report, path, {".md": to_markdown, ".html": html.to_html})


def write_measured(report: BenchReport, path: Path) -> None:
    """Write the report of `bench` or `compare` atomically.

    Raises:
        EnvironmentLacks, InputError: As `write`.
    """
    _write(report, path, {".md": measured_to_markdown, ".html": html.measured_to_html})


def write_evaluation(report: EvaluationReport, path: Path) -> None:
    """Write the report of `evaluate` atomically.

    Raises:
        EnvironmentLacks, InputError: As `write`.
    """
    _write(report, path, {".md": evaluation_to_markdown, ".html": html.evaluation_to_html})


def write_check(report: CheckReport, path: Path) -> None:
    """Write the report of `check` atomically.

    Raises:
        EnvironmentLacks, InputError: As `write`.
    """
    _write(report, path, {".md": check_to_markdown, ".html": html.check_to_html, ".xml": junit})


def _write(report: _Found, path: Path, renderings: dict[str, Callable[[_Found], str]]) -> _Found:
    text = json_text(report) + "\n" if path.suffix == ".json" else renderings[path.suffix](report)
    io.replace_file(path, text.encode(errors="backslashreplace"))
    return report
