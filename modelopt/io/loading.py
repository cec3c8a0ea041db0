"""From a file, through the gate, to a Model."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from modelopt.core.errors import InputError, Refused
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.io.background import in_background
from modelopt.io.external import map_external
from modelopt.io.files import STDIO, map_file
from modelopt.io.gate import refuse_unsupported
from modelopt.io.tensor_slots import slots

_HASHED_BYTES = 16 * 2**20
"""How much is hashed at once: between two parts the thread waits for the interpreter's lock."""


@dataclass(frozen=True)
class Loaded:
    """A model that passed the gate.

    Attributes:
        model: The model; its large tensors are views into mapped files.
        path: A file that holds these bytes, for the runtime (a temporary one when the model came from stdin).
        shown: How messages and reports call the input.
        digest: The model file's SHA-256, in hex, computed while the caller goes on.
        size_bytes: Of the model file and its external data.
        has_external_data: Whether weights are in files of their own.
    """

    model: ir.Model
    path: Path
    shown: str
    digest: Future[str]
    size_bytes: int
    has_external_data: bool

    @property
    def sha256(self) -> str:
        """Of the model file's bytes, in hex; external data are not in it."""
        return self.digest.result()


def load(path: Path, *, scratch: Path, allow_hardlinks: bool = False) -> Loaded:
    """Load a model through the gate.

    Args:
        path: A file, or `STDIO` for stdin.
        scratch: A folder for the bytes of stdin; it must outlive the model. With the same folder the same bytes are
            loaded again.
        allow_hardlinks: Accept external data files that have other names too.

    Raises:
        InputError: It is not a model, or the file is broken.
        Refused: The model holds something that modelopt does not support.
    """
    shown = "<stdin>" if path == STDIO else str(path)
    file = _spool_stdin(scratch) if path == STDIO else path
    buffer = map_file(file, shown)
    digest = in_background(lambda: _sha256(file))
    with _named(shown):
        proto, blobs = serialize.parse(buffer)
        refuse_unsupported(proto, shown)
        model = serialize.to_model(proto, buffer, blobs)
    if path == STDIO and any(isinstance(slot.tensor, ir.ExternalTensor) for slot in slots(model)):
        raise Refused("the model on stdin keeps its weights in another file", hint="give the model's path instead of -")
    external = map_external(model, file, allow_hardlinks=allow_hardlinks)
    violations = invariants.check(model)
    if violations:
        raise InputError(f"{shown} is not a valid model", note=str(violations[0]))
    size = len(buffer) + sum(data.stat().st_size for data in external)
    return Loaded(model, file, shown, digest, size, bool(external))


def _sha256(path: Path) -> str:
    """Of a file that is read, not mapped: a mapped file that shrinks meanwhile would end this process."""
    digest = hashlib.sha256()
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
    except InputError as error:
        if shown in error.fact:
            raise
        fact = f"{shown} is {error.fact}" if error.fact.startswith("not ") else f"{shown}: {error.fact}"
        raise InputError(fact, note=error.note, hint=error.hint) from None


def _spool_stdin(folder: Path) -> Path:
    path = folder / "stdin.onnx"
    if path.exists():
        return path
    if sys.stdin.isatty():
        raise InputError("'-' reads a model from stdin, and stdin is a terminal", hint="pipe a model into it")
    with path.open("wb") as file:
        while chunk := sys.stdin.buffer.read(1 << 20):
            file.write(chunk)
    return path
