"""From a Model to a file, atomically: staged under a name of its own, then renamed."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx_ir as ir

from modelopt import graph
from modelopt.core.encoding import is_utf8
from modelopt.core.errors import InputError, Refused
from modelopt.core.temporary import folder
from modelopt.io import serialize
from modelopt.io.datafiles import MIN_BYTES, data_files, data_name, named_data, remove_stale, remove_unused, unlink
from modelopt.io.files import STDIO, map_file, sibling
from modelopt.io.loading import Loaded
from modelopt.io.tensor_slots import externalized
from modelopt.io.writing import disk_errors, sync, write_chunks

Metadata = Callable[[], Mapping[str, str]]

_being_written: dict[Path, Path] = {}
"""The file that each output comes from, by the output's file, while it is being written."""

MAX_INLINE_BYTES = 2**31 - 2**20
"""Protobuf messages end at 2 GiB; larger models keep their weights in a data file."""


def write(model: ir.Model, path: Path, *, data_name: str | None = None) -> list[Path]:
    """Write a model to a new file, not atomically; `staged` is what commands use.

    Args:
        model: The model.
        path: The file to create.
        data_name: The name of a data file beside `path` for the weights; None keeps them inside.

    Returns:
        The files written: the model, then its data file if there is one.

    Raises:
        EnvironmentLacks: The disk is full or not writable.
    """
    with disk_errors(path):
        if data_name is None:
            write_chunks(path, serialize.chunks(model))
            return [path]
        data = path.parent / data_name
        _write_external(model, path, data, lambda _digest: data_name)
        return [path, data]


def write_aside(model: ir.Model, path: Path) -> None:
    """`write`, with the weights beside the model where they are too many for one message; for dumps and candidates.

    Raises:
        EnvironmentLacks: The disk is full or not writable.
    """
    large = graph.weight_bytes(model) > MAX_INLINE_BYTES
    write(model, path, data_name=_data_aside(path).name if large else None)


def remove_aside(path: Path) -> None:
    """Remove what `write_aside` wrote, if it is there."""
    unlink(path)
    unlink(_data_aside(path))


def _data_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _metadata_last(metadata: Metadata) -> Iterator[bytes]:
    yield serialize.metadata_chunk(metadata())


def _write_external(
    model: ir.Model, path: Path, data: Path, name_of: Callable[[str], str], metadata: Metadata = dict
) -> str:
    """Write the weights to `data`, and to `path` a model that says where they are.

    Args:
        model: The model.
        path: The file to create for it.
        data: The file to create for its weights.
        name_of: What the model calls the data file, given the SHA-256 of what that holds.
        metadata: What the file says in ``metadata_props`` beside what `model` says.

    Returns:
        That name.
    """
    digest = hashlib.sha256()
    with externalized(model, "", MIN_BYTES) as payloads:
        write_chunks(data, _aligned(payloads), seen=digest.update)
    name = name_of(digest.hexdigest())
    with externalized(model, name, MIN_BYTES):
        header = serialize.to_bytes(model)
    write_chunks(path, [header, serialize.metadata_chunk(metadata())])
    return name


def _aligned(payloads: Iterable[tuple[int, ir.TensorProtocol]]) -> Iterator[bytes | memoryview]:
    position = 0
    for offset, tensor in payloads:
        yield bytes(offset - position)
        payload = serialize.tensor_bytes(tensor)
        yield payload
        position = offset + len(payload)


class ExternalData(enum.Enum):
    """Where the weights of an output go.

    Attributes:
        AUTO: Into the model file where they fit.
        ALWAYS: Into a data file beside it.
        NEVER: Into the model file; a model that is too large is refused.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"

    def asked(self, model: ir.Model, *, piped: bool) -> bool:
        """Whether the weights of `model` need a data file.

        Args:
            model: What is written.
            piped: It goes to stdout, where there is one file only.

        Raises:
            Refused: They do not fit where they are to go.
        """
        fits = graph.weight_bytes(model) <= MAX_INLINE_BYTES
        if piped and self is ExternalData.ALWAYS:
            raise Refused("a data file does not fit through a pipe", hint="give -o a file name")
        if not fits and (piped or self is ExternalData.NEVER):
            hint = "give -o a file name" if piped else "--external-data auto"
            raise Refused("the model does not fit into one file", note="Protobuf messages end at 2 GiB", hint=hint)
        return not fits or self is ExternalData.ALWAYS


@dataclass(frozen=True)
class Staged:
    """A complete output that does not have its name yet.

    Attributes:
        path: The temporary file; it opens and runs.
        size_bytes: Of all files of the output.
        commit: Gives the output its name, atomically, or streams it to stdout.
    """

    path: Path
    size_bytes: int
    commit: Callable[[], None]


@contextlib.contextmanager
def staged(
    model: ir.Model,
    output: Path,
    *,
    source: Loaded,
    unchanged: bool,
    metadata: Metadata = dict,
    external_data: ExternalData = ExternalData.AUTO,
) -> Iterator[Staged]:
    """Write the model beside `output` under a name of its own; nothing remains unless `commit` is called.

    Args:
        model: The model.
        output: The final path, or `STDIO` for stdout.
        source: Where the model came from: with `unchanged` its bytes are copied where its weights stay inside.
        unchanged: No pass changed anything.
        metadata: Gives what the file says in ``metadata_props`` beside what `model` says, where something changed. It
            is called once the weights are written, so that it may hold what takes as long to compute.
        external_data: Whether the weights go to a file of their own.

    Raises:
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
        Refused: The model does not fit where it is to go.
    """
    external = external_data.asked(model, piped=output == STDIO)
    if external and not is_utf8(output.name):
        note = "a model names its data file in UTF-8"
        raise InputError(f"the name of the output {output} is not UTF-8", note=note, hint="give -o another name")
    with contextlib.ExitStack() as stack:
        if output == STDIO:
            target = stack.enter_context(folder()) / "stdout.onnx"
        else:
            target = destination(output)
            _being_written[target] = source.path
            stack.callback(_being_written.pop, target, None)
            with disk_errors(target):
                remove_stale(target, source.path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.onnx")
        files = [temporary]
        with disk_errors(temporary):
            if external:
                partial = temporary.with_suffix(".data")
                written: set[Path] = set()
                stack.callback(lambda: remove_unused(written, target, source.path))  # runs last: committed or not
                stack.callback(unlink, temporary)
                stack.callback(unlink, partial)
                added: Metadata = dict if unchanged else metadata
                name = _write_external(model, temporary, partial, lambda digest: data_name(target, digest), added)
                data = target.with_name(name)
                written.add(data)
                partial.replace(data)  # a file of this name holds the same bytes: who uses it sees no change
                files.append(data)
            else:
                stack.callback(unlink, temporary)
                write_chunks(temporary, _inside(model, source, metadata, unchanged=unchanged))
        size = sum(file.stat().st_size for file in files)
        on_disk = sync(files)  # the caller verifies and measures meanwhile
        yield Staged(temporary, size, lambda: _commit(temporary, target, source, on_disk, to_stdout=output == STDIO))


def abandon() -> None:
    """Remove what is unfinished of all outputs, before the process ends at once."""
    for target, source in _being_written.items():
        remove_stale(target, source)


def _inside(model: ir.Model, source: Loaded, metadata: Metadata, *, unchanged: bool) -> Iterable[bytes | memoryview]:
    """The bytes of a model file that holds its weights; those of the source where nothing changed."""
    if not unchanged:
        return chain(serialize.chunks(model), _metadata_last(metadata))
    return serialize.chunks(model) if source.has_external_data else [map_file(source.path, source.shown)]


def destination(output: Path) -> Path:
    """The file that writing to `output` makes: behind a link, what the link leads to.

    Raises:
        InputError: It is a directory or a device, or its folder does not exist.
    """
    try:
        target = output.resolve()
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except (OSError, RuntimeError) as error:  # a loop of links, or a name that is too long
        raise InputError(f"{output} cannot be written to", note=str(error)) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"the output {output} is a directory", hint=f"give a file name: {output / 'model.onnx'}")
    if not stat.S_ISREG(mode):
        raise InputError(f"the output {output} is not a regular file", hint="use - to write the model to stdout")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", hint=sibling(target.parent))
    return target


def _commit(temporary: Path, target: Path, source: Loaded, on_disk: Future[None], *, to_stdout: bool) -> None:
    source.require_unchanged()
    if to_stdout:
        with temporary.open("rb") as file:
            while chunk := file.read(1 << 20):
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with disk_errors(target):
        on_disk.result()
        replaced = named_data(target, data_files(target))
        temporary.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    remove_unused(replaced, target, source.path)
