"""A complete output under a temporary name, and how it gets its own."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.core import written_files
from modelopt.io import access, datafiles
from modelopt.io.loading import Loaded, sha256
from modelopt.io.writing import disk_errors, sync


@dataclass
class Staged:
    """A complete output that does not have its name yet.

    Attributes:
        path: The temporary file; it opens and runs.
        size_bytes: Of all files of the output.
        target: The file that it is to be; None for stdout.
        replaced: The rights of the file that it replaces, as they were when it was written; None where there was none.
        on_disk: Waits until the files are on the disk.
        source: What the output was made of.
    """

    path: Path
    size_bytes: int
    target: Path | None
    replaced: access.Access | None
    on_disk: Future[None]
    source: Loaded
    _is_settled: bool = field(default=False, init=False)
    _unused: set[Path] = field(default_factory=set, init=False)

    def sha256(self) -> str:
        """The hash of the model file in hex, without its data file."""
        return sha256(self.path)

    def settle(self) -> tuple[str, ...]:
        """Do what may fail before the output gets its name: wait for the disk, and look who needs the old data file.

        Returns:
            Why old data files stay that the output will not need any more; a sentence for each.

        Raises:
            EnvironmentLacks: The disk is full.
            InputError: The folder cannot be written to, or another program has written to the input meanwhile.
        """
        self._is_settled = True
        self.source.require_unchanged()
        if self.target is None:
            return ()
        with disk_errors(self.target):
            self.on_disk.result()
            access.give(access.Access.of(self.target) or self.replaced, self.path)
            old = datafiles.named_data(self.target, datafiles.data_files(self.target))
            old -= datafiles.named_data(self.path, old)
            self._unused, notes = datafiles.unused(old, ignored=(self.target, self.path))
        return notes

    def commit(self) -> None:
        """Give the output its name, atomically, or stream it to stdout; then remove the old data file.

        Raises:
            EnvironmentLacks: The disk is full.
            InputError: The folder cannot be written to.
        """
        if not self._is_settled:
            self.settle()
        if self.target is None:
            self._stream()
            return
        with disk_errors(self.target):
            written_files.note(self.path, self.target)
            self.path.replace(self.target)
            sync([self.target.parent]).result()
        datafiles.remove(self._unused)

    def _stream(self) -> None:
        written_files.note_piped()
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
