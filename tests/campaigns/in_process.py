"""Runs the command line in this process, its child processes forked: a hundred times as many calls in the same time.

Campaigns use it in children of their own (see `pool`), so that a crash here is one finding. What it leaves out is the
start of the interpreter: a part of the calls of each campaign runs as real subprocesses (see `subprocess_call`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import modelopt.cli
from tests.campaigns import pool
from tests.campaigns.pool import Item
from tests.command_line import COMMAND, environment
from tests.forks.children import forked_children

DOCUMENTED = frozenset({0, 1, 2, 3, 4})
"""The exit codes of a command that nobody interrupts and that has no bug."""

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Ended:
    """What a call left behind.

    Attributes:
        code: The exit code, negative for a signal; None where it did not end in time.
        out: Standard output.
        err: Standard error.
        seconds: Wall time.
        peak_mb: How much more memory than before the process took at its peak; 0 where nobody measured.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    peak_mb: float = 0.0


def call(arguments: Sequence[str], cwd: Path, *, temporary: Path) -> Ended:
    """Run ``modelopt ARGUMENTS`` in this process, with `cwd` as working directory and HOME."""
    before = {name: os.environ.get(name) for name in ("HOME", "TMPDIR")}
    os.environ.update(HOME=str(cwd), TMPDIR=str(temporary))
    tempfile.tempdir = None
    started, base = time.perf_counter(), _resident_mb("VmRSS")
    _forget_peak()
    with contextlib.chdir(cwd), _captured(temporary) as streams:
        code = _code_of(list(arguments))
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    tempfile.tempdir = None
    out, err = streams
    return Ended(code, out, err, time.perf_counter() - started, max(0.0, _resident_mb("VmHWM") - base))


def _code_of(arguments: list[str]) -> int | None:
    kept, sys.argv = sys.argv, ["modelopt", *arguments]
    try:
        modelopt.cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:  # noqa: BLE001 - the interpreter would print a traceback
        print(f"Traceback (most recent call last): {error!r}", file=sys.stderr)
        return 1
    finally:
        sys.argv = kept
    return 0


@contextlib.contextmanager
def _captured(folder: Path) -> Iterator[list[str]]:
    """Both streams, of native code too, in files; yields a list that holds their text in the end."""
    texts: list[str] = []
    kept = sys.stdin, sys.stdout, sys.stderr
    numbers = [os.dup(number) for number in (0, 1, 2)]
    with tempfile.TemporaryFile(dir=folder.parent) as out, tempfile.TemporaryFile(dir=folder.parent) as err:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((nothing, 0), (out.fileno(), 1), (err.fileno(), 2)):
            os.dup2(source, number)
        os.close(nothing)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        try:
            yield texts
        finally:
            for text in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    text.flush()
            sys.stdin, sys.stdout, sys.stderr = kept
            for number, original in zip((0, 1, 2), numbers, strict=True):
                os.dup2(original, number)
                os.close(original)
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))


def _resident_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / _MEGABYTE
    return 0.0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def subprocess_call(arguments: Sequence[str], cwd: Path, *, temporary: Path, seconds: float) -> Ended:
    """Run the installed command as a user does."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(COMMAND), *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cwd, TMPDIR=str(temporary)),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):  # the group is this call's own
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        code = None
    return Ended(code, out.decode(errors="replace"), err.decode(errors="replace"), time.perf_counter() - started)


# What must hold of every call


def wrong(ended: Ended) -> list[str]:
    """What of the exit code and of the two streams breaks the promises; empty where nothing does."""
    found = []
    if ended.code is None:
        return ["it did not end"]
    if ended.code not in DOCUMENTED:
        found.append(f"exit code {ended.code}")
    if "Traceback" in ended.out + ended.err:
        found.append("a traceback")
    errors = [line for line in ended.err.split("\n") if line.startswith("modelopt: error: ")]
    if ended.code in {2, 3, 4} and len(errors) != 1:
        found.append(f"{len(errors)} error lines")
    if ended.code == 0 and errors:
        found.append("an error line with exit code 0")
    if ended.code == 2:
        other = [
            line for line in ended.err.splitlines() if not line.startswith(("modelopt: error: ", "note: ", "hint: "))
        ]
        found += [f"besides its error it says {other[0]!r}"] if other else []
    for name, text in (("stdout", ended.out), ("stderr", ended.err)):
        found += raw(name, text)
    return found


def raw(where: str, text: str) -> list[str]:
    """The characters that could drive a terminal, or turn the direction of a text."""
    found = sorted({char for char in text if char != "\n" and not char.isprintable()})
    return [f"{where} holds {', '.join(map(ascii, found))}"] if found else []


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder with their content, and what is no regular file with its kind."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[name] = path.read_bytes()
        elif not stat.S_ISDIR(mode):
            found[name] = str(path.readlink()) if stat.S_ISLNK(mode) else f"mode {stat.S_IFMT(mode):o}"
    return found


def emptied(folder: Path) -> Path:
    """The folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def campaign(
    attempt: Callable[[Path, Item], tuple[int | None, list[str]]],
    chosen: Sequence[Item],
    called: Callable[[Item], str],
    *,
    jobs: int,
    seconds: float,
) -> tuple[Counter[str], list[str]]:
    """Make all attempts in several processes.

    Args:
        attempt: Makes one in a folder; gives the exit code of the command and what went wrong.
        chosen: The attempts.
        called: How a failure calls one that ended its process.
        jobs: Processes.
        seconds: For each attempt, at most.

    Returns:
        How many ended in which way, and what went wrong.
    """

    @contextlib.contextmanager
    def setup() -> Iterator[Callable[[Item], tuple[int | None, list[str]]]]:
        with tempfile.TemporaryDirectory() as folder, forked_children():
            yield lambda item: attempt(Path(folder), item)

    codes: Counter[str] = Counter()
    failures: list[str] = []
    for item, result in pool.run(setup, chosen, jobs=jobs, seconds=seconds):
        if isinstance(result, pool.Died):
            failures.append(f"{called(item)}: {result.reason}")
            continue
        codes[f"exit {result[0]}"] += 1
        failures += result[1]
    return codes, failures
