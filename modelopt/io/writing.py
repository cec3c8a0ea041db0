"""Writes new files: large ones go to the disk while they are written, and are not kept in memory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.io import mmap_files
from modelopt.io.access import NEW
from modelopt.io.background import in_background

Chunk = bytes | memoryview

_TOGETHER_BYTES = 2**20

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def write_chunks(
    path: Path, chunks: Iterable[Chunk], *, seen: Callable[[Chunk], object] | None = None, mode: int = NEW
) -> None:
    """Write a new file, without waiting for the disk: `sync` does.

    Args:
        path: The file to create.
        chunks: Its contents.
        seen: Called with each part of the contents; for a digest.
        mode: Its permission bits, of which the umask takes some away.
    """
    with (
        open(path, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags, mode)) as file,
        ThreadPoolExecutor(1) as pool,
    ):
        flushing = None
        waiting = 0
        for part in _parts(chunks):
            if seen is not None:
                seen(part)
            _write_all(file.fileno(), part)
            waiting += len(part)
            if waiting < mmap_files.RELEASE_BYTES:
                continue
            mmap_files.release()
            if flushing is None or flushing.done():
                flushing, waiting = pool.submit(os.fsync, file.fileno()), 0


def sync(paths: Sequence[Path]) -> Future[None]:
    """Begin to wait until these files are on the disk; the result raises what went wrong."""

    def sync_all() -> None:
        for path in paths:
            _sync_one(path)

    return in_background(sync_all)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parts(chunks: Iterable[Chunk]) -> Iterator[memoryview]:
    """The chunks, small ones together and large ones in parts, of at most `mmap_files.RELEASE_BYTES`."""
    small: list[Chunk] = []
    held = 0
    for chunk in chunks:
        if len(chunk) + held <= _TOGETHER_BYTES:
            small.append(chunk)
            held += len(chunk)
            continue
        yield memoryview(b"".join(small))
        small, held = [], 0
        for start in range(0, len(chunk), mmap_files.RELEASE_BYTES):
            yield memoryview(chunk)[start : start + mmap_files.RELEASE_BYTES]
    yield memoryview(b"".join(small))


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part) :]


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system while `path` is written into errors of ours.

    Raises:
        EnvironmentLacks: It is full.
        InputError: The folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise EnvironmentLacks(f"no room to write {path}", note=error.strerror) from None
        if error.errno in _NOT_WRITABLE:
            raise InputError(f"{path.parent} cannot be written to", note=error.strerror) from None
        raise
