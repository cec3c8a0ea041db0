"""The operating systems that modelopt runs on."""

from __future__ import annotations

import sys

from modelopt.core.errors import EnvironmentLacks

SUPPORTED = ("linux", "darwin")
"""The values of `sys.platform`; macOS is written for and not tested."""


LEAST_ADDRESSES = 300 * 2**20
"""The smallest limit of virtual memory, in bytes: with less, libraries that a command imports end the process."""


def require_memory() -> None:
    """Refuse a limit of virtual memory under which libraries end the process while they are imported.

    Raises:
        EnvironmentLacks: The limit is lower than `LEAST_ADDRESSES`.
    """
    import resource  # not on Windows, which `require_supported` refuses before

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise EnvironmentLacks(
            f"the limit of virtual memory is too low: {limit // 2**20} MiB",
            note=f"modelopt needs {LEAST_ADDRESSES // 2**20} MiB and what the model takes",
            hint="raise it: ulimit -v unlimited",
        )


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
