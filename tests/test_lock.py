"""The lock file of the development environment: it covers pyproject.toml, and installs with hashes from anywhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

LOCK = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")


def required() -> Iterator[Requirement]:
    """All that pyproject.toml asks for, but modelopt itself."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    groups = (
        pyproject["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
    )
    for text in (text for group in groups for text in group):
        if (requirement := Requirement(text)).name != project["name"]:
            yield requirement


def locked() -> dict[str, list[Requirement]]:
    """The lock's entries by name: one name has several where the version depends on the Python."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^([a-z].*?) \\$", LOCK, re.MULTILINE):
        entry = Requirement(line)
        found.setdefault(canonicalize_name(entry.name), []).append(entry)
    return found


@pytest.mark.parametrize("requirement", list(required()), ids=str)
def test_each_requirement_is_locked_to_a_version_that_it_permits(requirement: Requirement) -> None:
    entries = locked()[canonicalize_name(requirement.name)]  # if this fails: make lock
    for entry in entries:
        (pin,) = entry.specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{entry} is outside {requirement}: make lock"


def test_each_entry_has_hashes() -> None:
    blocks = re.split(r"^(?=[a-z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == sum(len(entries) for entries in locked().values()) > 30
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block


def test_it_names_no_place_to_install_from() -> None:
    lines = [line.strip() for line in LOCK.splitlines()]
    assert not [line for line in lines if line.startswith("-") and not line.startswith("--hash=sha256:")]
    assert "://" not in LOCK
    assert " @ " not in LOCK


def test_make_writes_and_installs_it() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^lock:", makefile, re.MULTILINE)
    assert "--require-hashes --requirement requirements-dev.lock" in makefile
    assert re.search(r"^sbom:", makefile, re.MULTILINE)
