"""The names of the files that a run writes: they say what is in them, and nothing else of the user is lost to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from modelopt import io
from modelopt.core.changes import Effect
from modelopt.core.errors import InputError
from modelopt.engine import run_files
from modelopt.engine.request import Request
from modelopt.engine.run_files import INPUT, STDOUT, RunFile
from modelopt.io import datafiles
from modelopt.report import PassResult

OUTPUT = "the output"


def require(request: Request) -> None:
    """Refuse, before the work, a bad path, and one file in two roles.

    Raises:
        InputError: What is to be written cannot be, or is a file that the run reads or writes for something else.
    """
    written = list(run_files.written_by(request))
    read = list(run_files.read_by(request))
    for file in written:
        _require_apart(file, read)
    for file, other in combinations(written, 2):
        if file.is_same(other) and file.role != other.role:
            raise InputError(f"{file.role} {file.path} is {other.role} too", hint=_rename(other))
    for file in (*written, *read):
        if file.role != "the dump" and run_files.is_dump(request, file.path):
            raise InputError(f"{file.role} {file.path} has the name of a dump", hint="give --dump-dir another folder")
    for file in written:
        if file.path != STDOUT:
            io.destination(file.path, file.role, "use - to write the model to stdout" if file.role == OUTPUT else None)
    _require_no_data_name(written)
    folder = request.dump_folder
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"the dump folder {folder} is a file", hint="give --dump-dir another name")


def require_kept(request: Request, data_files: Sequence[Path]) -> None:
    """Refuse, once the input is known and before anything is written, to lose a file of the user.

    Args:
        request: What the user asked for.
        data_files: The files in which the input keeps its weights.

    Raises:
        InputError: What is to be written is a data file of the input, or is there and is of another kind.
    """
    read = [RunFile("a data file of the input", path) for path in data_files]
    written = list(run_files.written_by(request))
    for file in written:
        _require_apart(file, read)
    for path in data_files:
        if run_files.is_dump(request, path):
            raise InputError(f"a data file of the input, {path}, has the name of a dump", hint="--dump-dir FOLDER")
    for file in () if request.force else written:
        _require_kind(file, f"give {file.flag} another name, or --force replaces it")


def require_report(report: Path, read: Sequence[RunFile]) -> None:
    """Refuse, before the work, a path for a report that is read, or is there and is no report.

    Raises:
        InputError: As said.
    """
    file = RunFile("the report", report, "--report")
    _require_apart(file, read)
    io.destination(report, file.role, None)
    _require_kind(file, f"give {file.flag} another name")


def _require_kind(file: RunFile, hint: str) -> None:
    what, is_one = _KINDS[file.role]
    is_replaced = file.path != STDOUT and file.path.is_file() and file.path.stat().st_size > 0
    if is_replaced and not is_one(file.path):
        raise InputError(f"{file.role} {file.path} would replace a file that is not {what}", hint=hint)


def _require_apart(file: RunFile, read: Sequence[RunFile]) -> None:
    for other in read:
        if file.is_same(other):
            raise _two_roles(file, other)
        if other.holds(file):
            raise InputError(f"{file.role} {file.path} is a file of {other.role}", hint=_rename(file))


def _two_roles(file: RunFile, other: RunFile) -> InputError:
    note = "modelopt never overwrites its input" if other.role == INPUT else None
    return InputError(f"{file.role} {file.path} is {other.role}", note=note, hint=_rename(file))


def _rename(file: RunFile) -> str:
    return f"give {file.flag} another {'folder' if file.flag == '--dump-dir' else 'name'}"


def _require_no_data_name(written: Sequence[RunFile]) -> None:
    """The data file of the output has a name that is known once the weights are written."""
    for output in written:
        for file in written:
            is_beside = file.path.resolve().parent == output.path.resolve().parent
            if output.role == OUTPUT and is_beside and datafiles.is_data_name(output.path.resolve(), file.path.name):
                raise InputError(
                    f"{file.role} {file.path} has the name of a data file of the output", hint=_rename(file)
                )


def _is_dumped(path: Path) -> bool:
    """Whether a file in the dump folder is a model, or the data file that a model there names."""
    if path.suffix != ".data":
        return io.is_model(path)
    return bool(datafiles.named_data(path.with_suffix(""), [path]))


def _begins_as(pattern: bytes) -> Callable[[Path], bool]:
    def begins(path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return re.match(pattern, file.read(_HEAD_BYTES)) is not None
        except OSError:
            return False

    return begins


_HEAD_BYTES = 16 << 10
_REPORT = (
    rb'\s*\{\s*"schema"\s*:\s*"modelopt-|# [^\n]* \xe2\x86\x92 [^\n]*\n\n|# modelopt [a-z]+\b'
    rb'|<\?xml [^\n]*\?>\s*<testsuites name="modelopt '
    rb'|<!doctype html>\s*<html lang="en">\s*<meta name="generator" content="modelopt">'
)
_CACHE = rb'\s*\{\s*"format"\s*:\s*"modelopt-calibration-'

_KINDS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    OUTPUT: ("a model", io.is_model),
    "the report": ("a report of modelopt", _begins_as(_REPORT)),
    "the calibration cache": ("a calibration cache", _begins_as(_CACHE)),
    "the dump": ("a dump", _is_dumped),
}
"""By role, what may be replaced without asking: the kind in words, and whether a file is one."""


def choose(results: Sequence[PassResult], output: Path, if_exact: Path | None, if_unchanged: Path | None) -> Path:
    """Where the result goes.

    Args:
        results: What the passes did.
        output: Where a result goes in which a pass changed what the model computes.
        if_exact: Where one goes that only exact passes changed; None: `output`.
        if_unchanged: Where a copy of the input goes; None: `output`.
    """
    changed = {result.effect for result in results if result.rewrites}
    if not changed:
        return if_unchanged or output
    return (if_exact if changed == {Effect.EXACT.value} else None) or output
