"""From a file, through the gate, to a Model."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from modelopt.core.errors import InputError, Refused
from modelopt.graph import invariants
from modelopt.io import files, serialize
from modelopt.io.background import in_background
from modelopt.io.external import map_external
from modelopt.io.files import STDIO, map_file
from modelopt.io.gate import refuse_unsupported
from modelopt.io.tensor_slots import slots
from modelopt.io.writing import disk_errors

_HASHED_BYTES = 16 * 2**20
"""How much is hashed at once: between two parts the thread waits for the interpreter's lock."""


MAX_NODES = 100_000
"""How many nodes and initializers a model may hold unless the caller accepts more.

Each takes about 8 kB of memory and 0.1 ms (inspect) to 1 ms (fuse): a file of 5 MB may hold so many that a command
does not end. The largest exports of language models hold some 20,000.
"""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a model file may be.

    Attributes:
        hardlinks: Whether external data may be files that have other names too.
        nodes: How many nodes and initializers it may hold, bodies and functions included.
    """

    hardlinks: bool = False
    nodes: int = MAX_NODES


@dataclass(frozen=True)
class Loaded:
    """A model that passed the gate.

    Attributes:
        model: The model; its large tensors are views into mapped files.
        path: A file that holds these bytes, for the runtime (a temporary one when the model came from stdin).
        shown: How messages and reports call the input.
        digest: The model file's SHA-256, in hex, computed while the caller goes on.
        size_bytes: Of the model file and its external data.
        data_files: The files of its external data.
        versions: What files it was read from, each as it was before it was read.
    """

    model: ir.Model
    path: Path
    shown: str
    digest: Future[str]
    size_bytes: int
    data_files: tuple[Path, ...]
    versions: Mapping[Path, files.Version]

    @property
    def has_external_data(self) -> bool:
        """Whether weights are in files of their own."""
        return bool(self.data_files)

    def require_unchanged(self) -> None:
        """Make sure that what was read is one version of the model.

        Raises:
            InputError: Another program has written to its file or to a data file meanwhile.
        """
        for path, version in self.versions.items():
            if files.version(path) != version:
                raise InputError(f"{path} was changed while it was read", hint="let who writes it end first")

    @property
    def sha256(self) -> str:
        """Of the model file's bytes, in hex; external data are not in it."""
        return self.digest.result()


def load(path: Path, *, scratch: Path, accepted: Accepted = Accepted()) -> Loaded:
    """Load a model through the gate.

    Args:
        path: A file, or `STDIO` for stdin.
        scratch: A folder for the bytes of stdin; it must outlive the model. With the same folder the same bytes are
            loaded again.
        accepted: What the file may be.

    Raises:
        InputError: It is not a model, or the file is broken.
        Refused: The model holds something that modelopt does not support.
    """
    shown = "<stdin>" if path == STDIO else str(path)
    file = _spool_stdin(scratch) if path == STDIO else path
    versions = {file: files.version(file)}
    buffer = map_file(file, shown)
    digest = in_background(lambda: sha256(file))
    with _named(shown):
        proto, blobs = serialize.parse(buffer, accepted.nodes)
        refuse_unsupported(proto, shown)
        model = serialize.to_model(proto, buffer, blobs)
    if path == STDIO and any(isinstance(slot.tensor, ir.ExternalTensor) for slot in slots(model)):
        raise Refused("the model on stdin keeps its weights in another file", hint="give the model's path instead of -")
    external = map_external(model, file, allow_hardlinks=accepted.hardlinks)
    violations = invariants.check(model)
    if violations:
        raise InputError(f"{shown} is not a valid model", note=str(violations[0]))
    versions |= {data: files.version(data) for data in external}
    size = len(buffer) + sum(data.stat().st_size for data in external)
    return Loaded(model, file, shown, digest, size, tuple(external), versions)


def sha256(path: Path) -> str:
    """The hash of a file in hex."""
    digest = hashlib.sha256()
    # It is read, not mapped: a mapped file that shrinks meanwhile would end this process.
    # The buffer is a mapping: its pages go back to the system. Of an ordinary one, the allocator keeps one a thread.
    with path.open("rb", buffering=0) as file, mmap.mmap(-1, _HASHED_BYTES) as buffer, memoryview(buffer) as part:
        while count := file.readinto(part):
            with part[:count] as filled:
                digest.update(filled)
    return digest.hexdigest()


@contextlib.contextmanager
def _named(shown: str) -> Iterator[None]:
    """Name the file in errors."""
    try:
        yield
    except (InputError, Refused) as error:
        if shown in error.fact:
            raise
        fact = f"{shown} is {error.fact}" if error.fact.startswith("not ") else f"{shown}: {error.fact}"
        raise type(error)(fact, note=error.note, hint=error.hint) from None


def _spool_stdin(folder: Path) -> Path:
    path = folder / "stdin.onnx"
    if path.exists():
        return path
    if sys.stdin is None or sys.stdin.isatty():
        what = "closed" if sys.stdin is None else "a terminal"
        raise InputError(f"'-' reads a model from stdin, and stdin is {what}", hint="pipe a model into it")
    with disk_errors(path), path.open("wb") as file:
        while chunk := _read_stdin(1 << 20):
            file.write(chunk)
    return path


def _read_stdin(count: int) -> bytes:
    try:
        return sys.stdin.buffer.read(count)
    except OSError as error:
        raise InputError("stdin cannot be read", note=error.strerror) from None
