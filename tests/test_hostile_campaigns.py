"""The campaigns on hostile input in small: `make mutants` and `make attacks` run them whole.

Each runs in a process of its own: it forks the child processes of commands, from one that has run no model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import fuzz_parser, injection, mutations, paths_attacks
from tests.command_line import PATIENCE
from tests.paths import SAMPLE_MODELS


@pytest.mark.parametrize(
    "arguments",
    [
        ("mutants", "--count", "12", "--seed", "1", "--jobs", "1", "--calls", "inspect", "fuse"),
        ("paths_attacks", "--reduced", "--jobs", "1"),
        ("injection", "--reduced", "--jobs", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_campaign_in_small(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    name, *options = arguments
    options += ["--save", str(tmp_path)] if name == "mutants" else []
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *options],
        cwd=SAMPLE_MODELS.parent,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["failed: 0"]), done.stdout + done.stderr[-2000:]


def test_the_campaigns_are_as_large_as_they_say() -> None:
    assert len(paths_attacks.ATTACKS) >= 80
    assert len({attack.name for attack in paths_attacks.ATTACKS}) == len(paths_attacks.ATTACKS)
    assert len(injection.PAYLOADS) >= 34
    assert len(injection.PLACES) >= 20
    assert {place for _, place, _ in injection.items(reduced=True)} == set(injection.PLACES)


def test_a_seed_is_a_mutant() -> None:
    assert mutations.mutant(5) == mutations.mutant(5)
    assert len({mutations.mutant(seed).content for seed in range(20)}) == 20


@pytest.mark.parametrize("target", list(fuzz_parser.TARGETS))
def test_the_parsers_read_what_the_search_begins_with(tmp_path: Path, target: str) -> None:
    (tmp_path / "work").mkdir()
    read = fuzz_parser.holding(fuzz_parser.TARGETS[target](tmp_path / "work"), tmp_path / "found")
    for content in fuzz_parser.corpus(target)[:8]:
        read(content)
        for end in range(0, len(content), max(1, len(content) // 7)):
            read(content[:end])
    assert not (tmp_path / "found").exists()
