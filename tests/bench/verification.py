#!/usr/bin/env python3
"""What verification costs: whole processes of ``modelopt fold``, with it and without, in turn.

    python tests/bench/verification.py [ROUNDS] [OTHER]

OTHER is the command ``modelopt`` of another version, installed elsewhere: the two are then held against each other,
round by round. Wall time and processor time are the operating system's own accounting; medians are printed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SHAPES = ("bert-base", "resnet50", "mobilenetv2")


def main(rounds: int, others: list[str]) -> None:
    """Print a row for each model and each version."""
    versions = {
        "this": str(Path(sys.executable).with_name("modelopt")),
        **{f"other {i}": o for i, o in enumerate(others)},
    }
    print("| model | version | fold, s | without verification, s | verification, s | processor seconds of it |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in _SHAPES:
            model = Path(scratch) / f"{name}.onnx"
            subprocess.run([sys.executable, str(Path(__file__).with_name("shapes.py")), name, str(model)], check=True)
            table(name, versions, model, rounds)
            model.unlink()


def table(name: str, versions: dict[str, str], model: Path, rounds: int) -> None:
    """Run each version with and without verification in turn."""
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for version, command in versions.items():
            for verify in (True, False):
                took = measured(command, model, verify=verify)
                if turn:  # the first round warms the caches
                    found.setdefault((version, verify), []).append(took)
    for version in versions:
        with_, without = found[version, True], found[version, False]
        walls = [[wall for wall, _ in each] for each in (with_, without)]
        differences = [[a[i] - b[i] for a, b in zip(with_, without, strict=True)] for i in range(2)]
        cells = [*map(statistics.median, walls), *map(statistics.median, differences)]
        print(f"| {name} | {version} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


def measured(command: str, model: Path, *, verify: bool) -> tuple[float, float]:
    """Wall seconds and processor seconds of one fold."""
    output = model.with_name("out.onnx")
    words = [command, "fold", str(model), "-o", str(output), "-q", "--no-bench", *([] if verify else ["--no-verify"])]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(words, check=True)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output.unlink()
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
