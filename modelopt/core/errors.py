"""What can go wrong, as data: a fact, the evidence for it, and what would help.

Every error a user can cause ends as at most three lines on stderr and one of the exit codes below.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path


class ExitCode(IntEnum):
    """The exit codes, documented in the README; scripts rely on them."""

    DONE = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    REFUSED = 3
    ENVIRONMENT = 4
    INCONCLUSIVE = 5
    BUG = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    READER_LEFT = 141
    TERMINATED = 143


class ModeloptError(Exception):
    """An error with a reason that a user can act on.

    Attributes:
        model: The file that onnxruntime was given when it failed, where it was one.
        is_of_result: That file is not the user's: passes made it.

    Args:
        fact: One line saying what is wrong.
        note: The evidence, e.g. what was found where something else was expected.
        hint: The exact flag or command that helps.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BAD_INPUT

    def __init__(self, fact: str, *, note: str | None = None, hint: str | None = None) -> None:
        super().__init__(fact)
        self.fact = fact
        self.note = note
        self.hint = hint
        self.model: Path | None = None
        self.is_of_result = False


class InputError(ModeloptError):
    """Bad usage, or an input that is not what it should be (exit 2)."""


class Refused(ModeloptError):
    """A valid model or option that modelopt does not support, refused by name (exit 3)."""

    exit_code = ExitCode.REFUSED


class EnvironmentLacks(ModeloptError):
    """The machine lacks something: a provider, an extra, memory, disk (exit 4)."""

    exit_code = ExitCode.ENVIRONMENT


class ReaderLeft(ModeloptError):
    """Nobody reads the pipe behind standard output any more (exit 141, and no message)."""

    exit_code = ExitCode.READER_LEFT


class GateFailed(ModeloptError):
    """The result does not honour the contract that the user asked for (exit 1).

    Attributes:
        report: The `modelopt.report.Report` of the run.
    """

    exit_code = ExitCode.GATE_FAILED
    report: Any = None


class GateInconclusive(GateFailed):
    """What was measured is not enough to say whether the result honours the contract (exit 5)."""

    exit_code = ExitCode.INCONCLUSIVE


class VerificationFailed(ModeloptError):
    """A pass changed what the model computes although it promised not to: a bug of ours (exit 70).

    Attributes:
        step: The name of that pass; None where it is not known.
    """

    exit_code = ExitCode.BUG
    step: str | None = None


class WorkerDied(ModeloptError):
    """Native code crashed, or exceeded its limit of time or memory, in the child process (exit 3).

    Attributes:
        reason: ``"signal"``, ``"timeout"`` or ``"memory"``.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, fact: str, *, reason: str, note: str | None = None, hint: str | None = None) -> None:
        super().__init__(fact, note=note, hint=hint)
        self.reason = reason


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A ``did you mean …?`` for a mistyped name, or None when nothing known is close to it."""
    import difflib  # start-up does not wait for it

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None
