"""What machines of each family report of themselves, and what has to follow from it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import archspec.cpu
import pytest

from modelopt.core import targets
from modelopt.core.targets import TargetKind

AVX2 = "fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c fma avx2 bmi1 bmi2"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl"
ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
DOT = f"{ARMV8} atomics fphp asimdhp asimdrdm asimddp"


@dataclass(frozen=True)
class Family:
    """Machines that compute int8 alike.

    Attributes:
        name: What tests call it.
        machine: What the operating system calls the architecture.
        kind: The target that it is.
        features: What the report names as evidence.
        flags: The extensions in Linux's names; empty where there is no /proc/cpuinfo.
        archspec: There, the microarchitecture that archspec finds.
    """

    name: str
    machine: str
    kind: TargetKind
    features: tuple[str, ...]
    flags: str = ""
    archspec: str = ""

    @property
    def saturates(self) -> bool:
        """Whether its sums of two u8 × s8 products are cut off at 16 bits."""
        return self.kind is TargetKind.X86_AVX2

    def cpuinfo(self) -> str:
        """A /proc/cpuinfo of one processor; what qemu runs needs no more."""
        if self.machine in {"x86_64", "AMD64"}:
            return f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {self.flags}\n\n"
        part = (
            "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd40\nCPU revision\t: 1\n"
        )
        return f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {self.flags}\n{part}\n"

    def replace(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Let `cpu.detect` see a machine of this family until the test ends; child processes see the real one."""
        path = folder / "cpuinfo"
        if self.flags:
            path.write_text(self.cpuinfo())
        monkeypatch.setattr(targets, "_CPUINFO", path)
        monkeypatch.setattr(platform, "machine", lambda: self.machine)
        if self.archspec:
            host = SimpleNamespace(features=archspec.cpu.TARGETS[self.archspec].features)
            monkeypatch.setattr(archspec.cpu, "host", lambda: host)
        targets.detect.cache_clear()


_VNNI, _AVX2, _ARM64 = TargetKind.X86_VNNI, TargetKind.X86_AVX2, TargetKind.ARM64

FAMILIES = (
    Family("avx2", "x86_64", _AVX2, ("no VNNI",), AVX2),
    Family("avx512-without-vnni", "x86_64", _AVX2, ("no VNNI",), AVX512),
    Family("avx512-vnni", "x86_64", _VNNI, ("avx512_vnni",), f"{AVX512} avx512_vnni"),
    Family("avx-vnni", "AMD64", _VNNI, ("avx_vnni",), f"{AVX2} avx_vnni"),
    Family(
        "amx",
        "x86_64",
        _VNNI,
        ("amx_int8", "avx512_vnni", "avx_vnni"),
        f"{AVX512} avx512_vnni avx_vnni amx_bf16 amx_tile amx_int8",
    ),
    Family("arm64", "aarch64", _ARM64, ("aarch64",), ARMV8),
    Family("arm64-dot", "aarch64", _ARM64, ("aarch64", "asimddp"), DOT),
    Family("arm64-i8mm", "aarch64", _ARM64, ("aarch64", "asimddp", "i8mm"), f"{DOT} sve i8mm bf16"),
    Family("macos-arm64", "arm64", _ARM64, ("arm64", "asimddp"), archspec="m1"),
    Family("macos-arm64-i8mm", "arm64", _ARM64, ("arm64", "asimddp", "i8mm"), archspec="neoverse_v1"),
    Family("macos-avx2", "x86_64", _AVX2, ("no VNNI",), archspec="skylake"),
    Family("macos-vnni", "x86_64", _VNNI, ("avx512_vnni",), archspec="icelake"),
)

BY_NAME = {family.name: family for family in FAMILIES}
