"""How a model says where it came from: each run of modelopt adds an entry to its ``metadata_props``.

Entries hold no time and no path, only the names of files (see `modelopt.recipe.paths`): the same input, recipe and
versions give the same bytes, and nothing private travels.
"""

from __future__ import annotations

import msgspec
import onnx_ir as ir

from modelopt.core.errors import InputError

KEY = "modelopt.provenance"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        modelopt: Its version.
        recipe: The recipe as YAML.
        input_sha256: Of the model file that went in.
        target: The machine that the result was made for.
        data_sha256: Of the calibration data, None when none were used.
        onnxruntime: Its version, when it took part.
    """

    modelopt: str
    recipe: str
    input_sha256: str
    target: str
    data_sha256: str | None = None
    onnxruntime: str | None = None


def read(model: ir.Model) -> tuple[Entry, ...]:
    """The entries of `model`, oldest first.

    Raises:
        InputError: The metadata under `KEY` is not ours.
    """
    text = model.metadata_props.get(KEY)
    if text is None:
        return ()
    try:
        return msgspec.json.decode(text, type=tuple[Entry, ...])
    except (msgspec.DecodeError, RecursionError) as error:  # a model is hostile: it may nest brackets without end
        raise InputError("the model's provenance cannot be read", note=str(error)) from None


def take(model: ir.Model) -> tuple[Entry, ...]:
    """Remove the entries of `model` and return them; a history that cannot be read is lost."""
    try:
        history = read(model)
    except InputError:
        history = ()
    model.metadata_props.pop(KEY, None)
    return history


def metadata(entries: tuple[Entry, ...]) -> dict[str, str]:
    """What a model's ``metadata_props`` say with these entries."""
    return {KEY: msgspec.json.encode(entries).decode()}
