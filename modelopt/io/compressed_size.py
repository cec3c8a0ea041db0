"""How large a file is when it is compressed: what a download or an archive of it takes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Protocol

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # since Python 3.14
except ImportError:
    zstd = None

COMPRESSOR = "zlib, level 6" if zstd is None else "zstd, level 3"
"""What compresses: the better one that this version of Python has, at its usual level."""

MAX_BYTES = 128 * 2**20
"""Larger files are not compressed: zlib takes about 40 ms for a megabyte."""

_AT_ONCE = 2**20


class Compressor(Protocol):
    """Compresses a stream part by part."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """What can be given of it and of the parts before it."""

    def flush(self) -> bytes:
        """The rest; it is called once, at the end."""


def new_compressor() -> Compressor:
    """A `COMPRESSOR`."""
    made: Compressor = zlib.compressobj(6) if zstd is None else zstd.ZstdCompressor(3)
    return made


def compressed_size(path: Path) -> int | None:
    """The bytes of a file behind `COMPRESSOR`; None for a file of more than `MAX_BYTES`.

    Raises:
        OSError: It cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        return None
    compressor = new_compressor()
    total = 0
    with path.open("rb") as stream:
        while block := stream.read(_AT_ONCE):
            total += len(compressor.compress(block))
    return total + len(compressor.flush())
