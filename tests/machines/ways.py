"""Ways to run tests here as on another machine; where one is not possible here, the reason."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.machines import arm64, patched
from tests.machines.families import BY_NAME, Family

HERE = Path(__file__).resolve().parent
_CPUINFO = Path("/proc/cpuinfo")


class Impossible(Exception):
    """Why a machine cannot be had here, in one line."""


@dataclass(frozen=True)
class Way:
    """A machine to run tests on.

    Attributes:
        family: What it is.
        how: What makes it of this one, in words.
        hides_avx512: For a mask: whether it hides AVX-512 as well as VNNI.
        qemu: For an emulator: its name.
        cpu: For an emulator: the CPU that it emulates.
        patience: How many times as long as usual a test may take.
    """

    family: Family
    how: str
    hides_avx512: bool = False
    qemu: str = ""
    cpu: str = ""
    patience: int = 1

    def prepare(self, folder: Path) -> list[str]:
        """Put what it takes into `folder`; returns the command that runs Python there, with the arguments that follow.

        Raises:
            Impossible: It cannot be had here.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.qemu:
            python = self._emulated(folder)
            return [*_seeing(folder, self.family.cpuinfo()), str(python)]
        text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else ""
        flags = _flags(text)
        if platform.machine() != "x86_64":
            raise Impossible("this CPU is not an x86")
        if not set(self.family.flags.split()) <= flags:
            missing = ", ".join(sorted(set(self.family.flags.split()) - flags))
            raise Impossible(f"this CPU has no {missing}")
        faults = "cpuid_fault" in flags
        mask = self._mask(folder, traps=not faults)
        instead = {} if faults else _patched(folder)
        seen = "\n".join(_without(line, hide_avx512=self.hides_avx512) for line in text.splitlines())
        return [*_seeing(folder, f"{seen}\n", str(mask), instead), sys.executable]

    def _mask(self, folder: Path, *, traps: bool) -> Path:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise Impossible("there is no C compiler")
        made = folder / "mask.so"
        define = [*(["-DHIDE_AVX512"] if self.hides_avx512 else []), *(["-DPATCHED"] if traps else [])]
        _run([compiler, "-O2", "-shared", "-fPIC", *define, "-o", str(made), str(HERE / "mask.c")])
        return made

    def _emulated(self, folder: Path) -> Path:
        """An interpreter that runs under the emulator, and so do the children that it starts of itself."""
        qemu = shutil.which(self.qemu)
        if qemu is None:
            raise Impossible(f"{self.qemu} is not installed (Debian: qemu-user)")
        command = [qemu, "-cpu", self.cpu]
        if self.family.machine == "x86_64":
            if platform.machine() != "x86_64":
                raise Impossible("the interpreter here is not for x86")
            python, packages = Path(sys.executable).resolve(), Path(sys.prefix, "lib")
        else:
            parts = folder.parent / "python-arm64"
            try:
                arm64.make(parts)
            except (OSError, subprocess.CalledProcessError) as error:
                raise Impossible(f"apt and pip give no Python for arm64: {error}") from error
            python = arm64.interpreter(parts)
            command += ["-L", str(parts / "root")]
            packages = folder / "packages"
            inside = packages / python.name
            inside.mkdir(parents=True, exist_ok=True)
            _link(inside / "site-packages", parts / "site")
        # A virtual environment whose interpreter is a script: `sys.executable` names it, for `-0` says so.
        _link(folder / "lib", packages)
        (folder / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
        script = f'exec {shlex.join(command)} -0 "$0" {shlex.quote(str(python))} "$@"'
        made = _script(folder / "bin/python", "/bin/sh", script)
        _script(folder / "bin/modelopt", str(made), "from modelopt_onnx import main\nmain()")
        return made


def _patched(folder: Path) -> dict[Path, Path]:
    try:
        return patched.copies(folder)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise Impossible(f"CPUID does not fault here, and the libraries cannot be made to trap: {error}") from error


def _seeing(folder: Path, cpuinfo: str, preload: str = "", instead: Mapping[Path, Path] | None = None) -> list[str]:
    """A command that runs another, and all its children, with another /proc/cpuinfo, and with a library loaded first.

    The library is named in /etc/ld.so.preload: tests start children with an empty environment.

    Args:
        folder: For what is made on the way.
        cpuinfo: What /proc/cpuinfo is to say.
        preload: The library.
        instead: Files that are to look like others, by those others.
    """
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode
    ):
        raise Impossible("/proc/cpuinfo cannot be replaced: no mount namespaces here (unshare --mount)")
    (folder / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    mounts = [["mount", "--bind", str(folder / "cpuinfo"), str(_CPUINFO)]]
    if preload:
        etc = folder / "etc"
        shutil.rmtree(etc, ignore_errors=True)
        _run(["cp", "--archive", "/etc", str(etc)])
        (etc / "ld.so.preload").write_text(f"{preload}\n")
        mounts.append(["mount", "--bind", str(etc), "/etc"])
    mounts += [["mount", "--bind", str(copy), str(original)] for original, copy in (instead or {}).items()]
    return [*namespace, "sh", "-ec", "\n".join([*map(shlex.join, mounts), 'exec "$@"']), "sh"]


def _flags(cpuinfo: str) -> frozenset[str]:
    lines = (line for line in cpuinfo.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, ":").split(":", 1)[1].split())


def _without(line: str, *, hide_avx512: bool) -> str:
    """A line of /proc/cpuinfo without the flags of what the mask hides."""
    name, colon, values = line.partition(":")
    if name.strip() != "flags":
        return line
    hidden = ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx_", *(("avx512",) if hide_avx512 else ()))
    return f"{name}{colon} {' '.join(flag for flag in values.split() if not flag.startswith(hidden))}"


def _script(path: Path, interpreter: str, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter}\n{text}\n")
    path.chmod(0o755)
    return path


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Impossible(f"{Path(command[0]).name} failed: {done.stderr.strip().splitlines()[-1:]}")


_AVX2, _AVX512 = BY_NAME["avx2"], BY_NAME["avx512-without-vnni"]
WAYS = {
    "avx2": Way(_AVX2, "this CPU, with VNNI and AVX-512 hidden", hides_avx512=True),
    "avx512": Way(_AVX512, "this CPU, with VNNI hidden"),
    "avx2-qemu": Way(_AVX2, "qemu-x86_64 -cpu Haswell-noTSX", qemu="qemu-x86_64", cpu="Haswell-noTSX", patience=30),
    "arm64-qemu": Way(
        BY_NAME["arm64-i8mm"],
        "qemu-aarch64 -cpu max",
        qemu="qemu-aarch64",
        cpu="max,sve=off,sme=off",
        patience=30,
    ),
    "arm64-no-dot-qemu": Way(
        BY_NAME["arm64"], "qemu-aarch64 -cpu cortex-a72", qemu="qemu-aarch64", cpu="cortex-a72", patience=30
    ),
}


MASKED = tuple(name for name, way in WAYS.items() if not way.qemu)
"""Those on which speed means something: this CPU runs, and what is hidden it does not use."""


def rerun(name: str, script: str, words: Sequence[str] = ()) -> int:
    """Run a script of Python as on another machine; its exit code, 1 with the reason where that is not possible."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = WAYS[name].prepare(Path(folder))
        except Impossible as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            return 1
        return subprocess.run([*command, script, *words], check=False).returncode
