"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take SIGINT as a terminal would send it: a shell that starts a suite in the background has it ignored.

    What the tests start inherits that, and then nothing could interrupt it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
