"""What a command asked of the system: its processes run under strace, and each system call is judged by its kind.

strace writes one file for each process and thread. Calls that open files, that change names, that start programs, that
send signals and that make sockets are recorded, also those that fail.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import modelopt

_OPENING = ("open", "openat", "openat2", "creat")
_NAMING = (
    *("mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "unlink", "unlinkat", "truncate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("chmod", "fchmodat", "chown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat"),
    *("setxattr", "lsetxattr", "removexattr", "lremovexattr"),
)
_STARTING = ("execve", "execveat")
_SIGNALLING = ("kill", "tkill", "tgkill", "pidfd_send_signal", "ptrace", "process_vm_readv", "process_vm_writev")
_CONNECTING = ("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4")
_UNSEEN = ("io_uring_setup", "memfd_create", "chdir", "fchdir", "chroot", "mount", "setns", "unshare", "bpf")
"""Calls that go around what is recorded, or that give a name another meaning."""
_TRACED = ",".join(
    f"?{name}" for name in (*_OPENING, *_NAMING, *_STARTING, *_SIGNALLING, *_CONNECTING, *_UNSEEN)
)  # strace passes over those with a question mark that this machine does not have

_WRITING = re.compile(r"\bO_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLACE = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>")
_PROBE = re.compile(r"[a-z0-9_]{8}")
"""Python's `tempfile` finds out whether it can write to a folder by a file of such a name, which it removes at once."""
_DEVICES = {"/dev/null", "/dev/tty"}
_SYSTEM = ("/lib/", "/lib64/", "/usr/", "/etc/ld.so.", "/proc/", "/sys/", "/dev/null", "/dev/urandom")
_PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class SystemCall:
    """One recorded call.

    Attributes:
        process: The number of the process or thread.
        name: Of the call.
        arguments: As strace prints them.
        answer: As strace prints it.
    """

    process: int
    name: str
    arguments: str
    answer: str

    @property
    def failed(self) -> bool:
        """Whether the system refused."""
        return self.answer.startswith("-1")


@dataclass(frozen=True)
class Places:
    """What a command may do where.

    Attributes:
        outputs: Folders that it may write to: those of its outputs, and of the cache that its documentation names.
        temporary: The folder for temporary files; only `modelopt-*` may be made in it.
        inputs: Files and folders that it may read.
        forbidden: Files that nothing should read: they lie in the working directory and in HOME.
        directory: The working directory.
    """

    outputs: tuple[Path, ...]
    temporary: Path
    inputs: tuple[Path, ...]
    forbidden: tuple[Path, ...]
    directory: Path


@dataclass
class Judgement:
    """What the calls of one command come to.

    Attributes:
        calls: How many were recorded.
        processes: How many programs were started, the command included.
        written: How many names were written in the outputs' folders and in the temporary one.
        elsewhere: Files that were read and are no input, no part of the installation and no system file.
        wrong: What should not have been.
    """

    calls: int = 0
    processes: int = 0
    written: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@functools.cache
def missing() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip().splitlines()[-1]}"


def traced(
    command: Sequence[str | Path], cwd: Path, env: Mapping[str, str], folder: Path
) -> tuple[subprocess.CompletedProcess[bytes], list[SystemCall]]:
    """Run a command under strace.

    Args:
        command: The program and its arguments.
        cwd: Its working directory.
        env: Its whole environment.
        folder: An empty folder for what strace writes.
    """
    strace = ["strace", "-ff", "-y", "-qq", "-s", "4096", "-e", "signal=none", "-e", f"trace={_TRACED}"]
    done = subprocess.run(
        [*strace, "-o", str(folder / "trace"), *command],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    return done, [call for path in sorted(folder.glob("trace.*")) for call in read(path)]


_LINE = re.compile(r"(\w+)\((.*)\)\s+= (.*)")
_UNFINISHED = re.compile(r"(\w+)\((.*?)(?: <unfinished \.\.\.>)?$")


def read(path: Path) -> Iterator[SystemCall]:
    """The calls in one file of strace; its name ends in the number of the process."""
    process = int(path.suffix[1:])
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _LINE.match(line) or _UNFINISHED.match(line):  # a process that is killed leaves a call without end
            yield SystemCall(process, match[1], match[2], match[3] if match.lastindex == 3 else "?")


def judge(calls: Iterable[SystemCall], places: Places) -> Judgement:
    """Say what the calls of one command come to."""
    listed = list(calls)
    found = Judgement(calls=len(listed))
    own = {call.process for call in listed}
    for call in listed:
        if call.name in _OPENING:
            _judge_opening(call, places, found)
        elif call.name in _NAMING:
            for path in _paths(call, places):
                _judge_writing(call, path, places, found)
        elif call.name in _STARTING:
            _judge_start(call, found)
        elif call.name in _SIGNALLING:
            target = int(re.split(r"[,<]", call.arguments)[0]) if call.name == "kill" else None
            if call.name.startswith(("ptrace", "process_vm")) or (target is not None and target not in own):
                found.wrong.append(f"reaches another process: {_shown(call)}")
        elif call.name != "socketpair" or not call.arguments.startswith("AF_UNIX"):
            found.wrong.append(_shown(call))
    return found


def _judge_opening(call: SystemCall, places: Places, found: Judgement) -> None:
    for path in _paths(call, places):
        if call.name == "creat" or _WRITING.search(call.arguments):
            _judge_writing(call, path, places, found)
        elif not call.failed and not _is_ours(path, places):
            if path in places.forbidden:
                found.wrong.append(f"reads {path}")
            found.elsewhere[str(path)] += 1


def _judge_writing(call: SystemCall, path: Path, places: Places, found: Judgement) -> None:
    if str(path) in _DEVICES or (str(path).startswith("/proc/self/") and path.name == "comm"):
        return
    if "__pycache__" in path.parts and any(path.is_relative_to(root) for root in installation()):
        return  # Python keeps what it compiled
    if path == places.temporary and "O_TMPFILE" in call.arguments:
        return  # a file without a name
    inside = path.relative_to(places.temporary).parts if path.is_relative_to(places.temporary) else ()
    is_own = bool(inside) and inside[0].startswith("modelopt-")
    is_probe = len(inside) == 1 and _PROBE.fullmatch(inside[0]) is not None
    if is_own or is_probe or any(path.is_relative_to(folder) for folder in places.outputs):
        found.written += 1
    else:
        found.wrong.append(f"writes {path}: {_shown(call)}")


def _judge_start(call: SystemCall, found: Judgement) -> None:
    if call.failed:
        return  # the shell's way to find a program
    found.processes += 1
    program = Path(_STRING.findall(call.arguments)[0])
    if program.resolve() != Path(sys.executable).resolve() and program != Path(sys.executable).with_name("modelopt"):
        found.wrong.append(f"starts {program}")


def _paths(call: SystemCall, places: Places) -> Iterator[Path]:
    """The absolute paths that a call names, in order."""
    arguments = call.arguments
    for match in _STRING.finditer(arguments):
        name = match[1].encode("latin-1", "replace").decode("unicode_escape", "replace")
        before = _PLACE.findall(arguments[: match.start()])
        base = Path(before[-1]) if before and call.name.endswith(("at", "at2")) else places.directory
        yield Path(os.path.normpath(base / name))
        if call.name in _OPENING or "xattr" in call.name or call.name == "mknod":
            return


@functools.cache
def installation() -> tuple[Path, ...]:
    """Folders and files of Python, of the packages, and of modelopt itself."""
    package = Path(modelopt.__file__).parent
    own = {package, package.with_name("modelopt_onnx.py"), package.with_name("__pycache__")}
    folders = {Path(each) for each in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())}
    return tuple(sorted(own | folders | {folder.resolve() for folder in folders}))


def _is_ours(path: Path, places: Places) -> bool:
    if str(path).startswith(_SYSTEM) or path == Path(modelopt.__file__).parents[1]:  # the latter: a folder of modules
        return True
    roots = (*installation(), *places.inputs, *places.outputs)
    return any(path.is_relative_to(root) for root in roots) or any(
        part.startswith("modelopt-") for part in path.parts if path.is_relative_to(places.temporary)
    )


def _shown(call: SystemCall) -> str:
    return f"{call.name}({call.arguments[:160]}) = {call.answer}"
