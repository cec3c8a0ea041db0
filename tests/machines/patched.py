"""Copies of shared libraries in which the CPUID instruction traps, for CPUs that cannot make it fault by themselves.

`mask.c` answers the trap. `INT 0x81` is as long as CPUID and, as Linux gives programs no such interrupt, ends in the
same general protection fault that a faulting CPUID ends in. Only what a disassembler finds to be an instruction is
replaced: the same two bytes may also be a part of another one.
"""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

CPUID, TRAP = b"\x0f\xa2", b"\xcd\x81"
PACKAGES = ("onnxruntime", "numpy")
"""Those that choose kernels by CPUID."""

_LINE = re.compile(r"\s*([0-9a-f]+):\s+cpuid\s*$")
_SECTION = re.compile(r"^ *\d+ \S+ +([0-9a-f]{8,}) +([0-9a-f]{8,}) +[0-9a-f]+ +([0-9a-f]{8,})", re.MULTILINE)


def copies(folder: Path) -> dict[Path, Path]:
    """Make the copies in a folder; which library each one stands for.

    Raises:
        FileNotFoundError: There is no objdump.
        subprocess.CalledProcessError: objdump cannot read a library.
    """
    made: dict[Path, Path] = {}
    for package in PACKAGES:
        found = find_spec(package)
        if found is None or found.origin is None:
            continue
        around = Path(found.origin).parent
        bundled = around.with_name(f"{package}.libs")
        for library in sorted({*around.rglob("*.so*"), *bundled.glob("*.so*")}):
            data = bytearray(library.read_bytes())
            if CPUID not in data:
                continue
            places = _places(library)
            for place in places:
                if data[place : place + 2] != CPUID:
                    raise ValueError(f"{library.name}: no CPUID at {place:#x}")
                data[place : place + 2] = TRAP
            if places:
                copy = folder / f"{len(made)}-{library.name}"
                copy.write_bytes(data)
                copy.chmod(library.stat().st_mode)
                made[library] = copy
    return made


def _places(library: Path) -> list[int]:
    """Where the instructions are in the file."""
    command = ["objdump", "--section-headers", str(library)]
    headers = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sections = [
        (int(address, 16), int(size, 16), int(offset, 16)) for size, address, offset in _SECTION.findall(headers)
    ]
    found = []
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "cpuid" in line and (matched := _LINE.match(line)):
                address = int(matched[1], 16)
                found += [address - start + at for start, size, at in sections if start <= address < start + size]
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return found
