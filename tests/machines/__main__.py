"""Runs tests here as on other machines, and prints a line for each machine.

    python -m tests.machines                                  # the quantization tests, on all of them
    python -m tests.machines --only avx2,avx512 tests         # everything, on two
    python -m tests.machines tests/quant/test_static.py -k bias

What follows the options goes to pytest. Output is kept in the folder that `--folder` names.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.machines.ways import WAYS, Impossible, Way

ROOT = Path(__file__).resolve().parents[2]
_SUBJECTS = (
    "quant",
    "calibration",
    "search",
    "core/test_targets.py",
    "core/test_machines.py",
    "runtime/test_placement.py",
)
_ENDING = re.compile(r"(\d+) (passed|failed|skipped|errors?)")
_SUMMARY = re.compile(r" in \d+\.\d+s")
_SECONDS = 300  # what pyproject.toml gives a test


def quantization_tests() -> list[str]:
    """The folders and files whose subject depends on integer instructions."""
    return [f"tests/{subject}" for subject in _SUBJECTS]


def run(name: str, way: Way, folder: Path, jobs: int, arguments: Sequence[str]) -> tuple[str, bool]:
    """Run pytest on one machine.

    Returns:
        What became of it, in words, and whether nothing failed.
    """
    try:
        command = way.prepare(folder / name)
    except Impossible as reason:
        return f"cannot run here: {reason}", True
    log = folder / f"{name}.log"
    started = time.monotonic()
    environment = {**os.environ, "MODELOPT_TEST_PATIENCE": str(way.patience)}
    with log.open("w") as output:
        done = subprocess.run(
            [*command, "-m", "pytest", "-n", str(jobs), f"--timeout={_SECONDS * way.patience}", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.monotonic() - started
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if _SUMMARY.search(line)), "")
    counts = {what.rstrip("s"): int(count) for count, what in _ENDING.findall(last)}
    if not counts:
        return f"pytest ended with exit code {done.returncode}: see {log}", False
    failed = counts.get("failed", 0) + counts.get("error", 0)
    told = f"{counts.get('passed', 0)} passed, {failed} failed, {counts.get('skipped', 0)} skipped in {seconds:.0f} s"
    return told + (f": see {log}" if failed else ""), done.returncode == 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description="Run tests as on other machines.")
    parser.add_argument("--only", default=",".join(WAYS), help=f"which of {', '.join(WAYS)}")
    parser.add_argument("--jobs", type=int, default=2, help="how many tests run side by side")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/machines", help="for what is made on the way")
    given, arguments = parser.parse_known_args()
    unknown = set(given.only.split(",")) - set(WAYS)
    if unknown:
        parser.error(f"no such machine: {', '.join(sorted(unknown))}")
    arguments = arguments or quantization_tests()
    clean = True
    for name in given.only.split(","):
        way = WAYS[name]
        told, passed = run(name, way, given.folder.resolve(), given.jobs, arguments)
        clean &= passed
        print(f"{name:<18} {way.family.name:<20} {way.how:<42} {told}", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
