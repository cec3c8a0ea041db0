"""From a Model to a file, atomically: staged under a name of its own, then renamed."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import onnx_ir as ir

from modelopt import graph
from modelopt.core import written_files
from modelopt.core.encoding import is_utf8
from modelopt.core.errors import InputError, Refused
from modelopt.core.temporary import folder
from modelopt.io import serialize
from modelopt.io.access import NEW, Access, creation_mode, give
from modelopt.io.datafiles import (
    MIN_BYTES,
    data_name,
    holds_what_it_says,
    named_data,
    remove,
    remove_stale,
    unlink,
    unused,
)
from modelopt.io.destinations import destination
from modelopt.io.files import STDIO, map_file
from modelopt.io.loading import Loaded
from modelopt.io.staged_output import Staged
from modelopt.io.tensor_slots import externalized
from modelopt.io.writing import disk_errors, sync, write_chunks

Metadata = Callable[[], Mapping[str, str]]

_being_written: set[Path] = set()
"""The files of outputs while they are being written."""

MAX_INLINE_BYTES = 2**31 - 2**20
"""Protobuf messages end at 2 GiB; larger models keep their weights in a data file."""


def write(model: ir.Model, path: Path, *, data_name: str | None = None, mode: int = NEW) -> list[Path]:
    """Write a model to a new file, not atomically; `staged` is what commands use.

    Args:
        model: The model.
        path: The file to create.
        data_name: The name of a data file beside `path` for the weights; None keeps them inside.
        mode: The permission bits of the files, of which the umask takes some away.

    Returns:
        The files written: the model, then its data file if there is one.

    Raises:
        EnvironmentLacks: The disk is full or not writable.
    """
    with disk_errors(path):
        if data_name is None:
            write_chunks(path, serialize.chunks(model), mode=mode)
            return [path]
        data = path.parent / data_name
        _write_external(model, path, data, lambda _digest: data_name, mode=mode)
        return [path, data]


def write_aside(model: ir.Model, path: Path, *, mode: int = NEW) -> list[Path]:
    """`write`, with the weights beside the model where they are too many for one message; for dumps and candidates.

    Raises:
        EnvironmentLacks: The disk is full or not writable.
    """
    large = graph.weight_bytes(model) > MAX_INLINE_BYTES
    return write(model, path, data_name=_data_aside(path).name if large else None, mode=mode)


def rewrite_aside(model: ir.Model, path: Path) -> None:
    """`write_aside`, over what an earlier run wrote there: the new files get the rights of the old one.

    The model is whole or not there: a data file gets its name while no model names it.

    Raises:
        EnvironmentLacks: The disk is full or not writable.
        InputError: The folder cannot be written to.
    """
    replaced, data = Access.of(path), _data_aside(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.onnx")
    partial = temporary.with_suffix(".data")
    with disk_errors(path):
        remove_stale(path)
        try:
            if is_external := graph.weight_bytes(model) > MAX_INLINE_BYTES:
                _write_external(model, temporary, partial, lambda _digest: data.name, mode=creation_mode(replaced))
                give(replaced, partial)
                unlink(path)
                partial.replace(data)
            else:
                write_chunks(temporary, serialize.chunks(model), mode=creation_mode(replaced))
            give(replaced, temporary)
            written_files.note(temporary, path)
            temporary.replace(path)
            if not is_external:
                unlink(data)
        finally:
            unlink(temporary)
            unlink(partial)


def remove_aside(path: Path) -> None:
    """Remove what `write_aside` wrote, if it is there."""
    unlink(path)
    unlink(_data_aside(path))


def _data_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _metadata_last(metadata: Metadata) -> Iterator[bytes]:
    yield serialize.metadata_chunk(metadata())


def _write_external(
    model: ir.Model,
    path: Path,
    data: Path,
    name_of: Callable[[str], str],
    metadata: Metadata = dict,
    mode: int = NEW,
) -> str:
    """Write the weights to `data`, and to `path` a model that says where they are.

    Args:
        model: The model.
        path: The file to create for it.
        data: The file to create for its weights.
        name_of: What the model calls the data file, given the SHA-256 of what that holds.
        metadata: What the file says in ``metadata_props`` beside what `model` says.
        mode: The permission bits of both, of which the umask takes some away.

    Returns:
        That name.
    """
    digest = hashlib.sha256()
    with externalized(model, "", MIN_BYTES) as payloads:
        write_chunks(data, serialize.aligned(payloads), seen=digest.update, mode=mode)
    name = name_of(digest.hexdigest())
    with externalized(model, name, MIN_BYTES):
        header = serialize.to_bytes(model)
    write_chunks(path, [header, serialize.metadata_chunk(metadata())], mode=mode)
    return name


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
    is_piped = output == STDIO
    external = external_data.asked(model, piped=is_piped)
    if external and not is_utf8(output.name):
        note = "a model names its data file in UTF-8"
        raise InputError(f"the name of the output {output} is not UTF-8", note=note, hint="give -o another name")
    with contextlib.ExitStack() as stack:
        if is_piped:
            target = stack.enter_context(folder()) / "stdout.onnx"
        else:
            target = destination(output)
            _being_written.add(target)
            stack.callback(_being_written.discard, target)
            with disk_errors(target):
                remove_stale(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.onnx")
        files = [temporary]
        with disk_errors(temporary):
            replaced = Access.of(target)
            mode = creation_mode(replaced)
            if external:
                written: set[Path] = set()
                stack.callback(lambda: _remove_if_unused(written, target))  # runs last: committed or not
                stack.callback(unlink, temporary)
                added: Metadata = dict if unchanged else metadata
                data = _write_both(model, temporary, target, added, replaced, written)
                files.append(data)
            else:
                stack.callback(unlink, temporary)
                write_chunks(temporary, _inside(model, source, metadata, unchanged=unchanged), mode=mode)
        size = sum(file.stat().st_size for file in files)
        on_disk = sync(files)  # the caller verifies and measures meanwhile
        yield Staged(temporary, size, None if is_piped else target, replaced, on_disk, source)


def _write_both(
    model: ir.Model, temporary: Path, target: Path, metadata: Metadata, replaced: Access | None, written: set[Path]
) -> Path:
    """Write the model to `temporary` and its weights to the data file of `target`, which is added to `written` if new.

    Returns:
        The data file.

    Raises:
        InputError: A file of its name holds something else.
    """
    partial = temporary.with_suffix(".data")
    try:
        name = _write_external(
            model, temporary, partial, lambda digest: data_name(target, digest), metadata, creation_mode(replaced)
        )
        data = target.with_name(name)
        if not data.exists():
            give(replaced, partial)
            written.add(data)
            partial.replace(data)
        elif not holds_what_it_says(data):
            note = "its name says that modelopt wrote it, and it was changed since"
            raise InputError(f"the data file {data} holds something else", note=note, hint="rename or remove it")
        return data  # one that is there already holds the same bytes
    finally:
        unlink(partial)


def _remove_if_unused(written: set[Path], target: Path) -> None:
    """Remove the data file of an output that did not get its name."""
    remove(unused(written - named_data(target, written), are_ours=True)[0])


def abandon() -> None:
    """Remove what is unfinished of all outputs, before the process ends at once."""
    for target in _being_written:
        remove_stale(target)


def _inside(model: ir.Model, source: Loaded, metadata: Metadata, *, unchanged: bool) -> Iterable[bytes | memoryview]:
    """The bytes of a model file that holds its weights; those of the source where nothing changed."""
    if not unchanged:
        return chain(serialize.chunks(model), _metadata_last(metadata))
    return serialize.chunks(model) if source.has_external_data else [map_file(source.path, source.shown)]
