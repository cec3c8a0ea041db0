"""Bytes to model and back: the gate, external data, atomic writes, provenance. No other room opens a model file.

Nothing gets its final name before the caller has verified it. A model file is assumed to be hostile: the gate refuses
what it does not understand by name, and external data come only from regular files under the model's folder.
"""

from modelopt.io.destinations import destination, names_stdout
from modelopt.io.external import contained
from modelopt.io.file_kinds import is_model
from modelopt.io.files import STDIO
from modelopt.io.loading import MAX_NODES, Accepted, Loaded, load
from modelopt.io.replacing import replace_file
from modelopt.io.staged_output import Staged
from modelopt.io.staging import (
    MAX_INLINE_BYTES,
    ExternalData,
    remove_aside,
    rewrite_aside,
    staged,
    write,
    write_aside,
)

__all__ = [
    "MAX_INLINE_BYTES",
    "MAX_NODES",
    "STDIO",
    "Accepted",
    "ExternalData",
    "Loaded",
    "Staged",
    "contained",
    "destination",
    "is_model",
    "load",
    "names_stdout",
    "remove_aside",
    "replace_file",
    "rewrite_aside",
    "staged",
    "write",
    "write_aside",
]
