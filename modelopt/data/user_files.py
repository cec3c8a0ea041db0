"""Paths that users write: found, regular, bounded, hashed."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError, did_you_mean

MAX_ARRAY_BYTES = 4 << 30
"""The most memory that one data file, or one sample of a memory-mapped file, may take: 4 GiB."""

MAX_TEXT_BYTES = 64 << 20
"""The largest labels file that is read: 64 MiB."""

_CHUNK_BYTES = 1 << 20


def existing(path: Path) -> Path:
    """The path, if there is something.

    Raises:
        InputError: Nothing is there (the hint names a sibling that was probably meant), or it may not be read.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file or folder: {path}", hint=_sibling_hint(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)!r}", note=str(error)) from None
    return path


def _sibling_hint(path: Path) -> str | None:
    if ":/" in str(path)[2:]:  # a URL; C:/ is none
        return "modelopt never uses the network: download the data first"
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"the folder {path.parent} does not exist either"
    return did_you_mean(path.name, siblings)


def regular_size(path: Path) -> int:
    """The size in bytes of a regular file: a FIFO would hang, a device never ends.

    Raises:
        InputError: It does not exist, or is something else than a regular file.
    """
    status = existing(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="copy the data into a file first")
    return status.st_size


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """The contents of a regular file of at most ``limit_bytes``.

    Raises:
        InputError: It is not a regular file, is larger, or cannot be read.
    """
    size_bytes = regular_size(path)
    if size_bytes > limit_bytes:
        raise InputError(f"{path} is too large", note=f"{size_bytes} bytes, the limit is {limit_bytes}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}", note=str(error)) from None


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        InputError: It cannot be read, is larger than `MAX_TEXT_BYTES`, or is not UTF-8.
    """
    try:
        return read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", note=str(error)) from None


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden ones (``.DS_Store``, ``._photo.jpg``).

    Raises:
        InputError: The folder cannot be listed.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot list {folder}", note=str(error)) from None
    return sorted(entries, key=lambda entry: entry.name)


def digest_of(settings: Iterable[str], files: Iterable[tuple[str, Path]] = ()) -> str:
    """SHA-256 (hex) over settings and over names and contents of files, each part framed by its own hash.

    Raises:
        InputError: A file cannot be read any more.
    """
    total = hashlib.sha256()
    for text in settings:
        total.update(b"s" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    for name, path in files:
        total.update(b"n" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
        total.update(b"c" + _contents_hash(path))
    return total.hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 (hex) over dtype, shape and values of an array of numbers or unicode strings."""
    total = hashlib.sha256(repr((array.dtype.str, array.shape)).encode())
    total.update(array.tobytes())
    return total.hexdigest()


def _contents_hash(path: Path) -> bytes:
    regular_size(path)
    contents = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                contents.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}", note=str(error)) from None
    return contents.digest()
