"""How large a file is when it is compressed: what a download or an archive of it takes."""

from __future__ import annotations

import zlib
from pathlib import Path

COMPRESSOR = "zlib, level 6"
"""What compresses it. Better compressors, such as zstd, are no part of Python 3.11."""

MAX_BYTES = 128 * 2**20
"""Larger files are not compressed: zlib takes about 40 ms for a megabyte."""

_LEVEL = 6
_AT_ONCE = 2**20


def compressed_size(path: Path) -> int | None:
    """The bytes of a file behind `COMPRESSOR`; None for a file of more than `MAX_BYTES`.

    Raises:
        OSError: It cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        return None
    compressor = zlib.compressobj(_LEVEL)
    total = 0
    with path.open("rb") as stream:
        while block := stream.read(_AT_ONCE):
            total += len(compressor.compress(block))
    return total + len(compressor.flush())
