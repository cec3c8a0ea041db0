"""Reads a report that `--report`, or `--json`, wrote: what it says of each model that it judges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelopt import report as whole
from modelopt.core.errors import InputError
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.report import Report, bench_report
from modelopt.report.bench_report import BenchReport

MAX_BYTES = 256 << 20
"""The most that a report may take: samples of a long benchmark fill some megabytes."""

_KINDS: dict[str, Any] = {whole.SCHEMA: Report, bench_report.SCHEMA: BenchReport}


@dataclass(frozen=True)
class Subject:
    """A model that a report judges.

    Attributes:
        name: Its file, without folders.
        size_bytes: Its size.
        beside: The latency of the model that it was timed beside; None where it was timed alone, or not at all.
        result: Its own latency, memory and time to load; None where it was not timed.
        accuracy: Beside the original; None where it was not measured.
    """

    name: str
    size_bytes: int
    beside: BenchResult | None
    result: BenchResult | None
    accuracy: Accuracy | None


@dataclass(frozen=True)
class Stored:
    """A report as it was stored.

    Attributes:
        path: The file.
        subjects: The models that it judges, in order.
    """

    path: Path
    subjects: tuple[Subject, ...]


class _Head(msgspec.Struct):
    schema: str


def load(path: Path) -> Stored:
    """Read a report.

    Raises:
        InputError: The file cannot be read, or is no report of this version.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"the report {path} cannot be read", note=error.strerror) from None
    if len(content) > MAX_BYTES:
        raise InputError(f"the report {path} is larger than {MAX_BYTES:,} bytes")
    try:
        schema = msgspec.json.decode(content, type=_Head).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _no_report(path, "it is not a JSON document with a schema") from None
    if schema not in _KINDS:
        raise _no_report(path, f"its schema is '{schema}', and not {' or '.join(_KINDS)}")
    try:
        found = msgspec.json.decode(content, type=_KINDS[schema])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_report(path, str(error)) from None
    try:
        subjects = _of_run(found) if isinstance(found, Report) else _of_bench(found)
    except (IndexError, ValueError):
        raise _no_report(path, "its parts do not belong together") from None
    return Stored(path, subjects)


def _no_report(path: Path, note: str) -> InputError:
    return InputError(f"{path} is no report of modelopt", note=note, hint="make one with --report FILE.json")


def _of_run(found: Report) -> tuple[Subject, ...]:
    beside, result = (None, None) if found.latency is None else (found.latency.before, found.latency.after)
    return (Subject(Path(found.output.path).name, found.output.size_bytes, beside, result, found.accuracy),)


def _of_bench(found: BenchReport) -> tuple[Subject, ...]:
    """Each model but the first, which they are compared with; a lone model is judged itself."""
    judged = range(1 if len(found.models) > 1 else 0, len(found.models))
    return tuple(
        Subject(
            name=Path(found.models[number].path).name,
            size_bytes=found.models[number].size_bytes,
            beside=found.results[0] if number and found.results else None,
            result=found.results[number] if found.results else None,
            accuracy=found.accuracy,
        )
        for number in judged
    )
