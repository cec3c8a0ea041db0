"""The operating systems that modelopt runs on."""

from __future__ import annotations

import sys

from modelopt.core.errors import EnvironmentLacks

SUPPORTED = ("linux", "darwin")
"""The values of `sys.platform`; macOS is written for and not tested."""


def require_supported() -> None:
    """Refuse a system where child processes cannot be limited: they use the module `resource` and POSIX signals.

    Raises:
        EnvironmentLacks: This is such a system.
    """
    if sys.platform not in SUPPORTED:
        raise EnvironmentLacks(
            f"modelopt does not run on {sys.platform}",
            note="its child processes need POSIX signals and resource limits",
            hint="use Linux or macOS; on Windows, the Linux of WSL",
        )
