"""Why a command failed, as versioned data."""

from __future__ import annotations

import msgspec

SCHEMA = "modelopt-error/1"


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a failing command says on standard error.

    Attributes:
        schema: The version of this structure.
        fact: What is wrong.
        note: The evidence; None where there is none.
        hint: What would help; None where nothing is known that does.
        exit_code: The exit code of the command.
    """

    schema: str = SCHEMA
    fact: str
    note: str | None = None
    hint: str | None = None
    exit_code: int
