"""Small files of ours beside models, replaced atomically: reports and caches."""

from __future__ import annotations

import os
from pathlib import Path

from modelopt.core import written_files
from modelopt.io.access import Access, creation_mode, give
from modelopt.io.datafiles import remove_stale, unlink
from modelopt.io.writing import disk_errors, sync, write_chunks


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file that is whole or not there; one that it replaces is there until then, and gives it its rights.

    Args:
        path: The file; behind a link, what the link leads to.
        contents: What it is to hold.

    Raises:
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
    """
    with disk_errors(path):
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        replaced = Access.of(target)
        remove_stale(target)
        try:
            write_chunks(temporary, [contents], mode=creation_mode(replaced))
            sync([temporary]).result()
            give(replaced, temporary)
            written_files.note(temporary, target)
            temporary.replace(target)
            sync([target.parent]).result()
        finally:
            unlink(temporary)
