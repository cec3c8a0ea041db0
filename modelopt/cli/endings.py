"""How the command ends: each error as a few lines on stderr and its exit code."""

from __future__ import annotations

import errno
import os
import sys

import click

from modelopt import __version__
from modelopt.cli import documents, signals
from modelopt.core import temporary, thread_room, written_files
from modelopt.core.errors import EnvironmentLacks, ExitCode, ModeloptError, ReaderLeft
from modelopt.core.printable import printable

_REPORT_IT = "please report it with the lines above and, if you can, the model"
_LIMITS = "limits of this shell may be too low: see ulimit -n, ulimit -u and ulimit -v"
_HINTS = {
    errno.ENOSPC: "free some space, or set TMPDIR to a folder on another disk",
    errno.EDQUOT: "free some space, or set TMPDIR to a folder on another disk",
    errno.EMFILE: "allow more open files: ulimit -n 1024",
    errno.EAGAIN: thread_room.HINT,
    errno.ENOMEM: "close other programs, or use a machine with more memory",
    errno.EIO: "the disk may be failing",
}


def ending(error: BaseException) -> int:
    """Say why the command ends, and give its exit code."""
    signals.hold()
    number = signals.received()
    if number is not None or isinstance(error, KeyboardInterrupt | click.exceptions.Abort):
        return _interrupted(number)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException):
        fact, _, hint = error.format_message().partition("\nhint: ")
        _say(fact, None, hint or _usage_hint(error), ExitCode.BAD_INPUT)
        return ExitCode.BAD_INPUT
    ours = as_ours(error)
    if isinstance(ours, ReaderLeft):
        return ours.exit_code
    if ours is None:
        import traceback

        lines = "".join(traceback.format_exception(error)).splitlines()
        print("\n".join(map(printable, lines)), file=sys.stderr)  # noqa: T201 - it may quote a model's names
        _say(
            "this is a bug in modelopt",
            f"modelopt {__version__}, Python {sys.version.split()[0]}",
            _REPORT_IT,
            ExitCode.BUG,
        )
        return ExitCode.BUG
    helps = ours.hint or (_REPORT_IT if ours.exit_code is ExitCode.BUG else None)
    _say(ours.fact, ours.note, helps, ours.exit_code)
    return ours.exit_code


def unreadable() -> None:
    """End the process: a mapped file cannot be read any more."""
    from modelopt.io import mmap_files, staging

    path = mmap_files.cut_short()
    code = ExitCode.BAD_INPUT if path is not None else ExitCode.ENVIRONMENT
    fact = "a file became shorter while it was read, or its disk fails"
    fact = fact if path is None else f"{path} became shorter while it was read"
    _say(fact, None, "let who writes it end first", code)
    sys.stderr.flush()
    staging.abandon()
    temporary.remove_all()
    os._exit(code)


def as_ours(error: BaseException) -> ModeloptError | None:
    """The error of ours that an exception is; None where it is a bug."""
    if isinstance(error, ModeloptError):
        return error
    if isinstance(error, MemoryError):
        return EnvironmentLacks("out of memory", hint=_HINTS[errno.ENOMEM])
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, ImportError) and (_origin(error) is not error or not _is_in_ours(error)):
        note = str(_origin(error)).strip().partition("\n")[0]
        return EnvironmentLacks(f"{error.name or 'a package'} cannot be imported", note=note, hint=_LIMITS)
    if isinstance(error, RuntimeError) and thread_room.is_lack(error):
        return thread_room.no_thread()
    return None


def _of_the_system(error: OSError) -> EnvironmentLacks:
    if error.filename is None:
        fact = "the operating system refused what modelopt needs"
    elif error.filename2 is None:
        fact = f"{_shown(error.filename)} cannot be opened, read or written"
    else:
        fact = f"{_shown(error.filename)} cannot become {_shown(error.filename2)}"
    return EnvironmentLacks(fact, note=error.strerror or str(error), hint=_HINTS.get(error.errno or 0))


def _shown(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else f"file descriptor {name}"


def _origin(error: BaseException) -> BaseException:
    """The first of a chain of errors."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def _is_in_ours(error: ImportError) -> bool:
    """Whether a module of ours lacks a name, which is a bug: a module that is not found may be there (`ulimit -n`)."""
    return (error.name or "").partition(".")[0] == "modelopt" and not isinstance(error, ModuleNotFoundError)


def _say(fact: str, note: str | None, hint: str | None, exit_code: ExitCode) -> None:
    lines = [f"modelopt: error: {printable(fact)}"]
    if note:
        lines.append(f"note: {printable(note)}")
    if hint:
        lines.append(f"hint: {printable(hint)}")
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - errors must not need rich
    documents.show_error(fact, note, hint, exit_code)


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else None


def _interrupted(number: int | None) -> int:
    what = printable(written_files.described())
    print(f"modelopt: interrupted, {what}", file=sys.stderr)  # noqa: T201 - as above
    code = ExitCode.INTERRUPTED if number is None else 128 + number
    documents.show_error("interrupted", what, None, code)
    return code
