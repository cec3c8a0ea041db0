"""The only place where files become a Model and back: the gate, external data, atomic writes.

A model file is assumed to be hostile. The gate refuses what it does not understand by name, and lets external data come
only from regular files under the model's folder. Nothing gets its final name before the caller has verified it.
"""

from modelopt.io.external import contained
from modelopt.io.files import STDIO, same_file
from modelopt.io.loading import Loaded, keeping_stdin, load
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
    "keeping_stdin",
    "load",
    "remove_aside",
    "same_file",
    "staged",
    "write",
    "write_aside",
]
