"""The JSON document of a command with ``--json``: one, whether it succeeds or fails."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from modelopt.core.errors import ModeloptError

if TYPE_CHECKING:
    import msgspec

_begun: list[object] = []


def show(document: msgspec.Struct | dict[str, object]) -> None:
    """Print the document to stdout."""
    from modelopt.core.json_text import json_text  # --help does not wait for it

    _begun.append(sys.stdout)
    sys.stdout.write(json_text(document, sys.stdout.encoding) + "\n")


def show_error(fact: str, note: str | None, hint: str | None, exit_code: int) -> None:
    """Print why the command failed, where ``--json`` was asked for and no document was begun on this stdout."""
    if not _is_asked() or sys.stdout in _begun:
        return
    with contextlib.suppress(ModeloptError, OSError, ImportError, MemoryError):  # stderr has said it
        from modelopt.core.error_report import ErrorReport

        show(ErrorReport(fact=fact, note=note, hint=hint, exit_code=int(exit_code)))
        sys.stdout.flush()


def _is_asked() -> bool:
    """Whether the command line asks for it, also where it cannot be parsed."""
    options = sys.argv[1:]
    return "--json" in (options[: options.index("--")] if "--" in options else options)
