"""The campaign of faults in small: `make faults` runs it whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.campaigns import faults
from tests.campaigns.fault_scenarios import SCENARIOS

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler for the library that makes system calls fail")
    return faults.compiled(tmp_path_factory.mktemp("library"))


def test_some_system_calls_fail(tmp_path: Path, library: Path) -> None:
    shim = faults.Shim(BY_NAME["copy"], tmp_path / "copy", library)
    assert shim.calls > 8
    # Behind the folder of the run, where the output is written and where it gets its name.
    for fault, at in zip(faults.FAULTS, range(1, shim.calls, max(1, shim.calls // len(faults.FAULTS))), strict=False):
        assert list(shim.wrong(at, fault)) == [], (fault, at)


def test_moments_of_a_run(tmp_path: Path) -> None:
    counts = {"kills": 1, "signals": 1, "writers": 1, "cuts": 1}
    runs, findings = faults.disturbed(tmp_path, [BY_NAME["external"]], counts, seed=1)
    assert sum(runs.values()) == 4
    assert findings == []
