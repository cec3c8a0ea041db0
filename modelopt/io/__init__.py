"""Bytes to model and back: the gate, external data, atomic writes, provenance. No other room opens a model file.

Nothing gets its final name before the caller has verified it. A model file is assumed to be hostile: the gate refuses
what it does not understand by name, and external data come only from regular files under the model's folder.
"""

from modelopt.io.external import contained
from modelopt.io.files import STDIO, same_file
from modelopt.io.loading import Loaded, load
from modelopt.io.staging import (
    MAX_INLINE_BYTES,
    ExternalData,
    Staged,
    destination,
    remove_aside,
    staged,
    write,
    write_aside,
)

__all__ = [
    "MAX_INLINE_BYTES",
    "STDIO",
    "ExternalData",
    "Loaded",
    "Staged",
    "contained",
    "destination",
    "load",
    "remove_aside",
    "same_file",
    "staged",
    "write",
    "write_aside",
]
