"""The only place where files become a Model and back: the gate, external data, atomic writes.

A model file is assumed to be hostile. The gate is pure Python (protobuf parsing aside), refuses what it does not
understand by name, and lets external data come only from regular files under the model's folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import mmap
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir

from modelopt import graph, invariants, serial
from modelopt.errors import EnvironmentLacks, InputError, Refused, did_you_mean

STDIO = Path("-")
"""The path that means stdin for an input and stdout for an output."""

MAX_INLINE_BYTES = 2**31 - 2**20
"""Protobuf messages end at 2 GiB; larger models keep their weights in a data file."""

_EXTERNAL_MIN_BYTES = 1024


@dataclass(frozen=True)
class Loaded:
    """A model that passed the gate.

    Attributes:
        model: The model; its large tensors are views into mapped files.
        path: A file that holds these bytes, for the runtime (a temporary one when the model came from stdin).
        shown: How messages and reports call the input.
        sha256: Of the model file's bytes, in hex; external data are not in it.
        size_bytes: Of the model file and its external data.
        has_external_data: Whether weights are in files of their own.
    """

    model: ir.Model
    path: Path
    shown: str
    sha256: str
    size_bytes: int
    has_external_data: bool


def load(path: Path, *, scratch: Path, allow_hardlinks: bool = False) -> Loaded:
    """Load a model through the gate.

    Args:
        path: A file, or `STDIO` for stdin.
        scratch: A directory for the bytes of stdin; it must outlive the model.
        allow_hardlinks: Accept external data files that have other names too.

    Raises:
        InputError: It is not a model, or the file is broken.
        Refused: The model holds something that modelopt does not support.
    """
    shown = "<stdin>" if path == STDIO else str(path)
    file = _spool_stdin(scratch) if path == STDIO else path
    buffer = _map(file, shown)
    digest = hashlib.sha256(buffer).hexdigest()
    proto, blobs = serial.parse(buffer)
    _refuse_unsupported(proto, shown)
    model = serial.to_model(proto, buffer, blobs)
    if path == STDIO and any(isinstance(slot.tensor, ir.ExternalTensor) for slot in serial.slots(model)):
        raise Refused("the model on stdin keeps its weights in another file", hint="give the model's path instead of -")
    external = _map_external(model, file, allow_hardlinks=allow_hardlinks)
    violations = invariants.check(model)
    if violations:
        raise InputError(f"{shown} is not a valid model", note=str(violations[0]))
    size = len(buffer) + sum(data.stat().st_size for data in external)
    return Loaded(model, file, shown, digest, size, bool(external))


def _spool_stdin(scratch: Path) -> Path:
    if sys.stdin.isatty():
        raise InputError("'-' reads a model from stdin, and stdin is a terminal", hint="pipe a model into it")
    path = scratch / "stdin.onnx"
    with path.open("wb") as file:
        while chunk := sys.stdin.buffer.read(1 << 20):
            file.write(chunk)
    return path


def _map(path: Path, shown: str) -> memoryview:
    regular_file(path, shown)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise InputError(f"{shown} is empty", hint="an earlier command in a pipeline may have failed")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def regular_file(path: Path, shown: str) -> None:
    """Make sure that `path` is a regular file that can be read.

    Raises:
        InputError: It is not; the fact says what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{shown} does not exist", hint=_sibling(path)) from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read", note=error.strerror) from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{shown} is a directory, not a model", hint=_inside(path))
    if not stat.S_ISREG(mode):
        raise InputError(f"{shown} is not a regular file", hint="use - to read a model from stdin")
    if not os.access(path, os.R_OK):
        raise InputError(f"{shown} cannot be read", note="permission denied")


def _sibling(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return None


def _inside(path: Path) -> str | None:
    found = sorted(path.glob("*.onnx"))
    return f"did you mean '{found[0]}'?" if found else None


# The gate


def _refuse_unsupported(proto: onnx.ModelProto, shown: str) -> None:
    if not proto.HasField("graph"):
        raise InputError(f"{shown} is not an ONNX model", note="it holds no graph")
    if proto.training_info:
        raise Refused(f"{shown} holds training information, which modelopt would lose")
    for scope in _graph_protos(proto):
        if scope.sparse_initializer:
            raise Refused(f"{shown} holds sparse initializers, which modelopt would lose")
        for tensor in scope.initializer:
            _check_tensor(tensor, shown)
    for value in _value_infos(proto):
        if _holds_map(value.type):
            raise Refused(f"{shown} holds a map: '{value.name}'")
    for attribute in _attribute_protos(proto):
        _refuse_unsupported_attribute(attribute, shown)


def _refuse_unsupported_attribute(attribute: onnx.AttributeProto, shown: str) -> None:
    if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
        raise Refused(f"{shown} holds an attribute without a type, which modelopt would lose: '{attribute.name}'")
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise Refused(f"{shown} holds a sparse tensor: the attribute '{attribute.name}'")
    if any(_holds_map(type_) for type_ in (attribute.tp, *attribute.type_protos)):
        raise Refused(f"{shown} holds a map: the attribute '{attribute.name}'")
    for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
        _check_tensor(tensor, shown)


def _graph_protos(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for attribute in _attribute_protos(proto):
        yield from _body_protos(attribute)


def _value_infos(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    for scope in _graph_protos(proto):
        yield from (*scope.input, *scope.output, *scope.value_info)
    for function in proto.functions:
        yield from function.value_info


def _attribute_protos(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """Every attribute in every scope, and the defaults of functions."""
    pending: list[onnx.AttributeProto] = [attribute for node in proto.graph.node for attribute in node.attribute]
    for function in proto.functions:
        pending += [*function.attribute_proto, *(attribute for node in function.node for attribute in node.attribute)]
    while pending:
        attribute = pending.pop()
        yield attribute
        for body in _body_protos(attribute):
            pending += [inner for node in body.node for inner in node.attribute]


def _body_protos(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _holds_map(type_: onnx.TypeProto) -> bool:
    kind = type_.WhichOneof("value")
    if kind == "sequence_type":
        return _holds_map(type_.sequence_type.elem_type)
    if kind == "optional_type":
        return _holds_map(type_.optional_type.elem_type)
    return bool(kind == "map_type")


_NUMBERS: dict[int, int] = {onnx.TensorProto.COMPLEX64: 2, onnx.TensorProto.COMPLEX128: 2}  # per element


def _check_tensor(tensor: onnx.TensorProto, shown: str) -> None:
    """A known type, no negative dimension, and as many values as the dimensions say."""
    problem = _tensor_problem(tensor)
    if problem:
        raise InputError(f"{shown} is not a valid model", note=f"the tensor '{tensor.name}' {problem}")


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    if any(dim < 0 for dim in tensor.dims):
        return "has a negative dimension"
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        return "has no known type"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None  # `serial.view_tensor` compares the bytes when they are found
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        found, needed, unit = len(tensor.string_data), count, "strings"
    elif tensor.HasField("raw_data"):
        found, needed, unit = len(tensor.raw_data), -(-count * ir.DataType(tensor.data_type).bitwidth // 8), "bytes"
    else:
        bits = ir.DataType(tensor.data_type).bitwidth
        packed = -(-count * bits // 8) if bits < 6 else count * _NUMBERS.get(tensor.data_type, 1)
        found = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        needed, unit = packed, "values"
    return None if found == needed else f"holds {found} {unit} where its shape and type need {needed}"


# External data


def _map_external(model: ir.Model, model_file: Path, *, allow_hardlinks: bool) -> list[Path]:
    """Map external tensors from files that passed the containment check; returns those files."""
    maps: dict[Path, memoryview] = {}
    for slot in serial.slots(model):
        tensor = slot.tensor
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        data = contained(model_file, str(tensor.location), allow_hardlinks=allow_hardlinks)
        if data not in maps:
            maps[data] = _map(data, str(data)) if data.stat().st_size else memoryview(b"")
        view = maps[data]
        start = tensor.offset or 0
        length = tensor.nbytes if tensor.length is None else tensor.length
        if start < 0 or length < 0 or start + length > len(view):
            raise InputError(
                f"the tensor '{tensor.name}' lies outside its data file {data.name}",
                note=f"bytes {start} to {start + length} of {len(view)}",
                hint="the data file is truncated or belongs to another model",
            )
        slot.set(serial.view_tensor(tensor, view[start : start + length]))
    return sorted(maps)


def contained(model_file: Path, location: str, *, allow_hardlinks: bool = False) -> Path:
    """The data file at `location`, if it is a regular file under the model's folder.

    The folder of the model's real path counts too: download caches hold a model and its data as links into one store.

    Raises:
        InputError: It does not exist or is no regular file.
        Refused: It is elsewhere, or has other names (a hardlink could expose any file on the disk).
    """
    pure = PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        raise Refused(f"external data at {location!r} is outside the model's folder", note="paths must be relative")
    data = model_file.parent / pure
    try:
        real = data.resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise InputError(f"external data at {location!r} cannot be read", note="its links lead nowhere") from None
    roots = {model_file.parent.resolve(), model_file.resolve().parent}
    # A download cache links both model and data into a store: there the data's real folder is the model's real folder.
    if not any(real.is_relative_to(root) for root in roots):
        raise Refused(f"external data at {location!r} leads outside the model's folder", note=f"it is {real}")
    regular_file(data, str(data))
    if data.stat().st_nlink > 1 and not allow_hardlinks:
        raise Refused(
            f"the external data file {location!r} has other names on this disk (it is a hardlink)",
            hint="--allow-hardlinks",
        )
    return data


# Writing


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
    with _disk_errors(path):
        if data_name is None:
            _write_chunks(path, serial.chunks(model))
            return [path]
        data = path.parent / data_name
        _write_external(model, path, data_name, data)
        return [path, data]


def _write_external(model: ir.Model, path: Path, data_name: str, data: Path) -> None:
    """Write a model that says its weights are in `data_name`, and those weights to `data`."""
    with serial.externalized(model, data_name, _EXTERNAL_MIN_BYTES) as payloads:
        header = serial.to_bytes(model)
    _write_chunks(path, [header])
    _write_chunks(data, _aligned(payloads))


def _aligned(payloads: Iterable[tuple[int, ir.TensorProtocol]]) -> Iterator[bytes | memoryview]:
    position = 0
    for offset, tensor in payloads:
        yield bytes(offset - position)
        payload = serial.tensor_bytes(tensor)
        yield payload
        position = offset + len(payload)


def _write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise EnvironmentLacks(f"no room to write {path}", note=error.strerror) from None
        if error.errno in {
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.ENAMETOOLONG,
        }:
            raise InputError(f"{path.parent} cannot be written to", note=error.strerror) from None
        raise


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
def staged(model: ir.Model, output: Path, *, source: Loaded, unchanged: bool) -> Iterator[Staged]:
    """Write the model beside `output` under a name of its own; nothing remains unless `commit` is called.

    Args:
        model: The model.
        output: The final path, or `STDIO` for stdout.
        source: Where the model came from: with `unchanged` its bytes are copied.
        unchanged: No pass changed anything.

    Raises:
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
    """
    external = source.has_external_data or graph.weight_bytes(model) > MAX_INLINE_BYTES
    if output == STDIO and external:
        raise Refused("a model with external data does not fit through a pipe", hint="give -o a file name")
    with contextlib.ExitStack() as stack:
        if output == STDIO:
            target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelopt-out-"))) / "stdout.onnx"
        else:
            target = destination(output)
            with _disk_errors(target):
                _remove_stale(target, source.path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.onnx")
        files = [temporary]
        with _disk_errors(temporary):
            if external:
                data = target.with_name(_data_name(model, target))
                partial = temporary.with_suffix(".data")
                stack.callback(_remove_unused, {data}, target, source.path)  # runs last: committed or not
                stack.callback(_unlink, temporary)
                stack.callback(_unlink, partial)
                _write_external(model, temporary, data.name, partial)
                partial.replace(data)  # a file of this name holds the same bytes: who uses it sees no change
                files.append(data)
            else:
                stack.callback(_unlink, temporary)
                _write_chunks(temporary, [source.path.read_bytes()] if unchanged else serial.chunks(model))
        size = sum(file.stat().st_size for file in files)
        yield Staged(temporary, size, lambda: _commit(temporary, target, source.path, to_stdout=output == STDIO))


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
        raise InputError(f"the folder {target.parent} does not exist", hint=_sibling(target.parent))
    return target


def _commit(temporary: Path, target: Path, source: Path, *, to_stdout: bool) -> None:
    if to_stdout:
        with temporary.open("rb") as file:
            while chunk := file.read(1 << 20):
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    with _disk_errors(target):
        replaced = _named_data(target, _data_files(target))
        temporary.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    _remove_unused(replaced, target, source)


# Data files of our outputs. The name says what a file holds, so that a new version never overwrites the weights of the
# old one; a file goes when no model beside it names it any more.


def _data_name(model: ir.Model, target: Path) -> str:
    digest = hashlib.sha256()
    with serial.externalized(model, "", _EXTERNAL_MIN_BYTES) as payloads:
        for offset, tensor in payloads:
            digest.update(b"%d:%d:" % (offset, tensor.nbytes))
            digest.update(serial.tensor_bytes(tensor))
    return f"{target.name}.{digest.hexdigest()[:12]}.data"


def _data_files(target: Path) -> set[Path]:
    pattern = re.compile(re.escape(target.name) + r"\.[0-9a-f]{12}\.data")
    return {entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)}


def _named_data(model_file: Path, candidates: set[Path]) -> set[Path]:
    """Those of `candidates` whose names the bytes of a model hold."""
    with contextlib.suppress(OSError):
        if candidates and model_file.is_file() and model_file.stat().st_size:
            with model_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return {data for data in candidates if content.find(data.name.encode()) >= 0}
    return set()


def _remove_unused(candidates: set[Path], target: Path, source: Path) -> None:
    for user in {target, source, *target.parent.glob("*.onnx")}:
        candidates = candidates - _named_data(user, candidates)
    for data in candidates:
        _unlink(data)


def _remove_stale(target: Path, source: Path) -> None:
    """Remove what a killed process left when it wrote the same output."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"([0-9]+)\.tmp\.(onnx|data)")
    for entry in list(target.parent.iterdir()):
        found = pattern.fullmatch(entry.name)
        if found and not _is_alive(int(found[1])):
            orphans = _named_data(entry, _data_files(target))
            _unlink(entry)
            _remove_unused(orphans, target, source)


def _is_alive(pid: int) -> bool:
    """Whether another process of that number runs. Our own number on an old file is that of one that is gone."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # what went wrong before matters more
        path.unlink()


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths are one existing file."""
    with contextlib.suppress(OSError):
        return a.exists() and b.exists() and a.samefile(b)
    return False
