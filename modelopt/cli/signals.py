"""What SIGINT (Ctrl-C), SIGTERM and SIGHUP do: they end the command with 130, 143 or 129, and quietly.

A signal that was ignored when the command started stays ignored: nohup relies on that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from modelopt.core import temporary, written_files

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows, which the command line refuses in words, has no SIGHUP
_AGAIN_SECONDS = 0.01
_received: list[int] = []


def handle() -> None:
    """Raise `KeyboardInterrupt` at the first signal; the second one ends the process at once."""
    _received.clear()
    written_files.forget()
    with contextlib.suppress(ValueError):  # not the main thread: the signals are its caller's
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)
        signal.signal(signal.SIGALRM, _raise_again)
        sys.unraisablehook = _unraisable


def received() -> int | None:
    """The number of the signal that ended the command; None where none did."""
    return _received[0] if _received else None


def hold() -> None:
    """Let no signal interrupt how the command ends: it takes no time."""
    with contextlib.suppress(ValueError):
        if sys.unraisablehook is _unraisable:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _nothing)


def _stop(number: int, _frame: FrameType | None) -> None:
    if _received:
        temporary.remove_all()
        os._exit(128 + number)
    _received.append(number)
    raise KeyboardInterrupt


def _raise_again(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def _unraisable(lost: UnraisableHookArgs) -> None:
    """Python drops what is raised in a callback of its own: the interrupt is raised again outside of it."""
    if _received and issubclass(lost.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    elif not _received:
        sys.__unraisablehook__(lost)
