"""External data: weights in files of their own, from regular files under the model's folder only."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx_ir as ir

from modelopt.core.errors import InputError, Refused
from modelopt.io.files import map_file, regular_file
from modelopt.io.tensor_slots import slots, view_tensor


def map_external(model: ir.Model, model_file: Path, *, allow_hardlinks: bool) -> list[Path]:
    """Map external tensors from files that passed the containment check; returns those files."""
    maps: dict[Path, memoryview] = {}
    for slot in slots(model):
        tensor = slot.tensor
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        data = contained(model_file, str(tensor.location), allow_hardlinks=allow_hardlinks)
        if data not in maps:
            maps[data] = map_file(data, str(data)) if data.stat().st_size else memoryview(b"")
        view = maps[data]
        start = tensor.offset or 0
        length = tensor.nbytes if tensor.length is None else tensor.length
        if start < 0 or length < 0 or start + length > len(view):
            raise InputError(
                f"the tensor '{tensor.name}' lies outside its data file {data.name}",
                note=f"bytes {start} to {start + length} of {len(view)}",
                hint="the data file is truncated or belongs to another model",
            )
        slot.set(view_tensor(tensor, view[start : start + length]))
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
        real, is_there = data.resolve(), data.exists()
    except (OSError, RuntimeError):  # a loop of links, or a name that is too long
        raise InputError(f"external data at {location!r} cannot be read", note="its links lead nowhere") from None
    roots = {model_file.parent.resolve(), model_file.resolve().parent}
    # A download cache links both model and data into a store: there the data's real folder is the model's real folder.
    if not any(real.is_relative_to(root) for root in roots):
        raise Refused(f"external data at {location!r} leads outside the model's folder", note=f"it is {real}")
    if not is_there:
        raise InputError(
            f"the data file {data} does not exist",
            note=f"{model_file.name} keeps its weights in it",
            hint="put it beside the model under this name: the model stores the name",
        )
    regular_file(data, str(data))
    if data.stat().st_nlink > 1 and not allow_hardlinks:
        raise Refused(
            f"the external data file {location!r} has other names on this disk (it is a hardlink)",
            hint="--allow-hardlinks",
        )
    return data
