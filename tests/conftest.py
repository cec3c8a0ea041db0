"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from modelopt.runtime.runner import WorkerRunner


def pytest_configure() -> None:
    """Take SIGINT as a terminal would send it: a shell that starts a suite in the background has it ignored.

    What the tests start inherits that, and then nothing could interrupt it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def runner() -> Iterator[WorkerRunner]:
    """What passes are lent to run models, in one child for each file of tests."""
    lent = WorkerRunner()
    yield lent
    lent.close()
