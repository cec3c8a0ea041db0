"""The machine that a result is for: which integer instructions it has, and what follows for quantization."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from modelopt.core.errors import InputError, did_you_mean

_CPUINFO = Path("/proc/cpuinfo")


class TargetKind(Enum):
    """Families of machines that differ in how they run int8.

    Attributes:
        X86_VNNI: x86 whose dot products of u8 × s8 accumulate in 32 bits (AVX512-VNNI, AVX-VNNI, AMX-INT8).
        X86_AVX2: x86 without VNNI: ``vpmaddubsw`` saturates at 16 bits, so weights keep what fits there.
        ARM64: Armv8 with or without the dot-product (asimddp) and matrix (i8mm) extensions; s8 × s8.
        TENSORRT: NVIDIA TensorRT; symmetric s8 × s8 only.
        CUDA: onnxruntime's CUDA provider, whose int8 convolutions run as float.
    """

    X86_VNNI = "x86-vnni"
    X86_AVX2 = "x86-avx2"
    ARM64 = "arm64"
    TENSORRT = "tensorrt"
    CUDA = "cuda"


ACCELERATORS = frozenset({TargetKind.CUDA, TargetKind.TENSORRT})
"""Targets that ``--provider`` calls by the same names."""

_ARM = frozenset({"arm64", "aarch64"})
_VNNI = frozenset({"avx512_vnni", "avx512vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_DOT = frozenset({"asimddp", "i8mm", "dotprod"})


@dataclass(frozen=True)
class Target:
    """A target and how it was found.

    Attributes:
        kind: The family.
        detected: True when it was read off this machine, False when the user named it.
        features: The instruction-set extensions that decided it, for the report.
    """

    kind: TargetKind
    detected: bool
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        origin = "this machine" if self.detected else "as asked"
        evidence = f": {', '.join(self.features)}" if self.features else ""
        return f"{self.kind.value} ({origin}{evidence})"


@functools.cache
def detect() -> Target:
    """The target that this machine is."""
    machine = platform.machine().lower()
    if machine in _ARM:
        found = sorted(_DOT & _features())
        return Target(TargetKind.ARM64, detected=True, features=(machine, *found))
    found = sorted(_VNNI & _features())
    if found:
        return Target(TargetKind.X86_VNNI, detected=True, features=tuple(found))
    return Target(TargetKind.X86_AVX2, detected=True, features=("no VNNI",))


def accelerator_of(provider: str) -> TargetKind | None:
    """The target that a provider runs on, by its short or its full name; None for the CPU and for others."""
    short = provider.lower().removesuffix("executionprovider")
    return next((kind for kind in ACCELERATORS if kind.value == short), None)


def why_not_timed(target: Target, provider: str) -> str | None:
    """Why what `provider` takes here says nothing about `target`; None where this is that machine."""
    runs_on = accelerator_of(provider)
    if target.detected or runs_on is target.kind:
        return None
    if runs_on is not None or target.kind in ACCELERATORS:
        return f"not measured for {target.kind.value} (the provider is {provider})"
    here = detect().kind
    return None if target.kind is here else f"not measured for {target.kind.value} (this machine is {here.value})"


def needs_exact_products(target: Target) -> bool:
    """Whether what is judged here for `target` needs exact products: this machine's saturate, and `target`'s do not.

    What is judged for a machine like this one is computed as it computes: what saturates here must be seen.
    """
    return target.kind is not TargetKind.X86_AVX2 and detect().kind is TargetKind.X86_AVX2


def how_products_were_computed(target: Target) -> str | None:
    """A note where outputs for `target` were computed otherwise than this machine does by itself, else None."""
    if not needs_exact_products(target):
        return None
    here, there = detect().kind.value, target.kind.value
    return f"computed exactly, as {there} does: this machine ({here}) by itself cuts sums of u8 × s8 off at 16 bits"


def resolve(name: str) -> Target:
    """The target called `name`; ``auto`` is this machine.

    Raises:
        InputError: No target has that name.
    """
    if name == "auto":
        return detect()
    known = [kind.value for kind in TargetKind]
    if name not in known:
        raise InputError(
            f"unknown target '{name}'",
            note=f"targets: auto, {', '.join(known)}",
            hint=did_you_mean(name, ["auto", *known]),
        )
    return Target(TargetKind(name), detected=False)


def _features() -> frozenset[str]:
    """The extensions that the operating system reports, by their Linux names; archspec knows those of macOS."""
    # /proc/cpuinfo first: archspec rounds a machine down to a named microarchitecture and so drops
    # extensions (amx_int8 on a virtualized Sapphire Rapids).
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):  # x86 and Arm
                return frozenset(line.split(":", 1)[1].split())
    import archspec.cpu

    return frozenset(archspec.cpu.host().features)


def usable_cores() -> int:
    """How many processors this process may use: its affinity, cut down to the cgroup's quota if there is one.

    onnxruntime considers neither: it starts one thread for each core of the host.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text(encoding="ascii").split()[:2]
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores
