"""Temporary files of a run: all lie below one folder, ``modelopt-PID-XXXXXXXX`` in the system's temporary folder.

The process that makes the folder holds a lock on it (``flock``). The lock ends with the process, however that ends, and
children do not inherit it. So a folder that nobody has locked is what a killed run left: the next run removes it.
Folders of other users are left alone, links are not followed, and a folder that cannot be locked at all stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modelopt.core.encoding import is_utf8
from modelopt.core.errors import EnvironmentLacks

_NAME = re.compile(r"modelopt-[0-9]+-[0-9a-f]{8}")
_PLACES = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - where Python's tempfile looks; the folder is ours alone
_TRIES = 100


class _RunFolder:
    """The folder of this process. It is there while somebody uses it."""

    def __init__(self) -> None:
        self._users = 0
        self._made = 0
        self._path: Path | None = None
        self._locked = -1
        self._owner = 0
        self._cleaned: set[str] = set()
        self._changing = threading.RLock()

    def __enter__(self) -> Path:
        with self._changing:
            if self._path is None or self._owner != os.getpid():  # a forked process does not share its parent's
                self._users, self._path = 0, None
                self._make()
            self._users += 1
            return _there(self._path)

    def __exit__(self, *_exception: object) -> None:
        with self._changing:
            self._users -= 1
            if self._users <= 0:
                self.remove()

    def part(self) -> Path:
        """A path below the folder that nothing has yet."""
        with self._changing:
            self._made += 1
            return _there(self._path) / str(self._made)

    def holds(self, path: Path) -> bool:
        """Whether `path` is below the folder."""
        return self._path is not None and self._path in path.parents

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        with self._changing:
            path, self._path, self._users = self._path, None, 0
            if path is None or self._owner != os.getpid():
                return
            shutil.rmtree(path, ignore_errors=True)
            if self._locked >= 0:
                os.close(self._locked)
            self._locked = -1
            if path.exists():  # no file could be opened: one more can now
                shutil.rmtree(path, ignore_errors=True)

    def _make(self) -> None:
        failures = []
        for place in _places():
            try:
                self._make_in(place)
            except OSError as error:
                self.remove()
                failures.append(f"{place}: {error.strerror}")
            except BaseException:
                self.remove()
                raise
            else:
                self._clean(place)
                return
        raise EnvironmentLacks(
            "no temporary folder can be made",
            note="; ".join(failures),
            hint="set TMPDIR to a folder that can be written to",
        )

    def _make_in(self, place: str) -> None:
        """Make the folder and lock it; another run that starts may take it for one that was left until it is locked."""
        self._owner = os.getpid()
        for _ in range(_TRIES):
            path = Path(place, f"modelopt-{self._owner}-{os.urandom(4).hex()}")
            with contextlib.suppress(FileExistsError):
                self._path = path  # before it is there: an interrupt at any point removes it
                path.mkdir(mode=0o700)
                if self._lock(path):
                    return
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), place)

    def _lock(self, path: Path) -> bool:
        """Lock the new folder; False where another run has removed it already."""
        try:
            self._locked = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        if _try_lock(self._locked) is not False:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._locked), path.lstat()):
                    return True
        os.close(self._locked)
        self._locked = -1
        return False

    def _clean(self, place: str) -> None:
        """Remove what killed runs left, once for each place."""
        if place in self._cleaned:
            return
        self._cleaned.add(place)
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.path != str(self._path):
                    with contextlib.suppress(OSError):
                        _remove_left(entry.path)


_RUN = _RunFolder()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder for temporary files; it is removed at the end.

    Raises:
        EnvironmentLacks: No temporary folder can be made.
    """
    with _RUN:
        path = _RUN.part()
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def unnamed_file() -> IO[bytes]:
    """A file without a name, for reading and writing: it is gone once it is closed.

    Raises:
        EnvironmentLacks: No temporary folder can be made.
    """
    with _RUN as path:
        return tempfile.TemporaryFile(dir=path)


def is_temporary(path: Path) -> bool:
    """Whether a file is one of this run's own temporary files."""
    return _RUN.holds(path)


def remove_all() -> None:
    """Remove all temporary files, for the end of a process that was interrupted anywhere."""
    _RUN.remove()


def _there(path: Path | None) -> Path:
    if path is None:
        raise EnvironmentLacks("the temporary folder of this run is gone")
    return path


def _places() -> list[str]:
    given = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    found = dict.fromkeys(str(Path(place).absolute()) for place in (*given, *_PLACES))
    return [place for place in found if is_utf8(place)]  # onnxruntime takes no other paths


def _try_lock(descriptor: int) -> bool | None:
    """Lock a folder: False where another process has it, None where the file system has no locks."""
    import fcntl  # not on Windows, which the command line refuses in words

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_left(path: str) -> None:
    """Remove a folder of ours that no process has locked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid() and _try_lock(descriptor):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
