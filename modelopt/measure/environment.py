"""The machine and the software that a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from modelopt.core.targets import usable_cores

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CPUINFO = Path("/proc/cpuinfo")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a figure comes from; what cannot be read is None.

    Attributes:
        machine: The architecture (``x86_64``).
        cores: Processors that this process may use.
        threads: Intra-op threads of the sessions.
        load_average: Runnable processes over the last minute, before the bench began.
        governor: The CPU frequency governor.
    """

    cpu: str
    machine: str
    system: str
    cores: int
    threads: int
    python: str
    onnxruntime: str
    load_average: float | None
    governor: str | None


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe(*, threads: int, onnxruntime: str, load_average: float | None) -> Environment:
    """This machine now.

    Args:
        threads: Intra-op threads as in `SessionSpec`; 0 means all usable cores.
        onnxruntime: Its version, from `Worker.versions`.
        load_average: Read before the bench, which adds to the load itself.
    """
    cores = usable_cores()
    return Environment(
        cpu=_cpu_name(),
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=cores,
        threads=threads or cores,
        python=platform.python_version(),
        onnxruntime=onnxruntime,
        load_average=load_average,
        governor=_GOVERNOR.read_text(encoding="ascii").strip() if _GOVERNOR.exists() else None,
    )


def _cpu_name() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
