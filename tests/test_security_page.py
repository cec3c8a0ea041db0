"""SECURITY.md names campaigns that exist, and says what the code says."""

from __future__ import annotations

import re

import pytest

from modelopt.runtime import limits
from tests.paths import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TARGETS = sorted(set(re.findall(r"`make ([a-z-]+)`", PAGE)))


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_that_it_names_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE)


def test_it_names_the_campaigns() -> None:
    assert {"fuzz", "faults", "mutants", "bombs", "syscalls", "leaks", "fuzz-parser"} <= {*TARGETS}


def test_it_names_the_limits_that_the_code_has() -> None:
    assert f"every {limits._POLL_SECONDS * 1000:g} ms" in PAGE
    assert limits._CALM_SECONDS == 0.5
    assert f"{limits.Limits.default().seconds:g} seconds unless `--timeout`" in PAGE


def test_it_is_short_and_names_no_address() -> None:
    assert len(PAGE.splitlines()) <= 120
    assert not re.search(r"[\w.]+@[\w.]+\.\w+|https?://", PAGE)
