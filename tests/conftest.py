"""What holds for all tests."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.runtime.worker_runner import WorkerRunner
from tests.forks import client
from tests.machines.families import Family


def pytest_configure() -> None:
    """Make the tests independent of who starts them and of how fast the machine is.

    A shell that starts a suite in the background has SIGINT ignored. What the tests start inherits that, and then
    nothing could interrupt it. onnxruntime reads whether it may report to its makers when it is imported, which test
    modules do.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads what an earlier run has measured of this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(autouse=True, scope="session")
def _children_are_forks() -> Iterator[None]:
    """Child processes do not wait for an interpreter; see `started_children`."""
    with client.children_by(client.spawn) if sys.platform == "linux" else contextlib.nullcontext():
        yield


@pytest.fixture(scope="module")
def started_children() -> Iterator[None]:
    """Where child processes are the subject, each is an interpreter of its own."""
    with client.children_by(client.STARTED):
        yield


@pytest.fixture(scope="module")
def runner() -> Iterator[WorkerRunner]:
    """What passes are lent to run models, in one child for each file of tests; exact, whatever the machine."""
    lent = WorkerRunner(exact=True)
    yield lent
    lent.close()


@pytest.fixture(scope="module")
def context(runner: WorkerRunner) -> Context:
    """What passes without data are lent."""
    return Context(runner=runner, target=targets.resolve("x86-vnni"))


@pytest.fixture
def this_machine_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Family], None]]:
    """Replaces what the detection of the instruction set reads, until the test ends; child processes see the truth."""
    yield lambda family: family.replace(monkeypatch, tmp_path)
    targets.detect.cache_clear()


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    """A file's RNG starts anew for each of its tests: what one draws does not depend on which ran before it."""
    generator = getattr(request.module, "RNG", None)
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = np.random.default_rng(0).bit_generator.state
