"""Standard output and standard error, whatever the command was started with: closed, full, or of another encoding.

What the encoding lacks is escaped. Where standard output cannot be written to, the command fails with one line. What
standard error cannot take is dropped: it holds messages, and nobody reads them then.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from modelopt.core.errors import EnvironmentLacks, ReaderLeft

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """Standard output. After its first error it takes everything and writes nothing."""

    _is_lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write to the descriptor.

        Raises:
            EnvironmentLacks: That is not possible.
            ReaderLeft: Nobody reads the pipe any more.
        """
        if self._is_lost:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            self._is_lost = True
            raise ReaderLeft("nobody reads standard output any more") from None
        except OSError as error:
            self._is_lost = True
            raise EnvironmentLacks("standard output cannot be written to", note=error.strerror) from None


class _Messages(io.FileIO):
    """Standard error."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write to the descriptor if that is possible."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Replace Python's streams by ours, and give closed descriptors to no other file.

    A file that is opened while descriptor 1 is closed would get that number, and what native code prints would end in
    it. So a closed descriptor is opened on the null device, in the direction that makes its use fail.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free, which is this one
    if sys.stdout is sys.__stdout__:  # who runs the command in a process of his own may have replaced it
        sys.stdout = _text(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Messages(2, "wb", closefd=False), sys.stderr)


def _text(raw: io.FileIO, replaced: TextIO | None) -> TextIO:
    if isinstance(replaced, io.TextIOWrapper):
        replaced.flush()
        encoding, by_lines, unbuffered = replaced.encoding, replaced.line_buffering, replaced.write_through
    else:
        encoding, by_lines, unbuffered = "utf-8", True, False
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=by_lines,
        write_through=unbuffered,
    )


def flush() -> None:
    """Write what waits for standard output.

    Raises:
        EnvironmentLacks: That is not possible.
        ReaderLeft: Nobody reads the pipe any more.
    """
    sys.stdout.flush()
