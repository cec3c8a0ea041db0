#!/usr/bin/env python3
"""Accuracy with zeros: second order with update against magnitude, on trained models with labelled data: one table.

    python tests/bench/pruning_sparsity.py FOLDER … [--at 0.5 0.6 2:4]

Each FOLDER is as `main_job.py` wants its sub-folders; models of less than 100 kB are left out. Goal: at each sparsity
second order with update keeps at least the accuracy of magnitude, and is ahead by two points or more where magnitude
loses more than five.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from pruned_score import pruned_score  # type: ignore[import-not-found]

from modelopt.recipe.pass_options import make_pass

SMALLEST_BYTES = 100_000
SAMPLES = 256
LOST, AHEAD = 0.05, 0.02
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "wanda, by row": {"importance": "wanda", "scope": "row"},
    "second order": {"importance": "second-order"},
    "second order, update": {"importance": "second-order", "update": True},
}
SHOWN = ("magnitude", "second order, update")


def main() -> int:
    """Print the table as Markdown, row by row, and where the goal is missed: the exit code says whether it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--at", nargs="+", default=["0.5", "0.6", "2:4"], help="sparsities and patterns")
    parser.add_argument("--methods", nargs="+", default=SHOWN, choices=tuple(METHODS))
    asked = parser.parse_args()
    missed: list[str] = []
    print("| model | float | zeros |", " | ".join(asked.methods), "| seconds |")
    print("|", " | ".join(["---"] * (len(asked.methods) + 4)), "|")
    for folder in asked.folders:
        if (folder / "model.onnx").stat().st_size < SMALLEST_BYTES:
            continue
        for zeros in asked.at:
            started = time.monotonic()
            cells = {name: cell(folder, zeros, METHODS[name]) for name in asked.methods}
            scores = {name: found for name, found in cells.items() if not isinstance(found, str)}
            whole = next((f"{before:.4f}" for before, _ in scores.values()), "")
            row = [found if isinstance(found, str) else f"{found[1]:.4f}" for found in cells.values()]
            seconds = f"{time.monotonic() - started:.0f}"
            print("|", " | ".join([folder.name, whole, zeros, *row, seconds]), "|", flush=True)
            missed += verdicts(f"{folder.name} at {zeros}", scores)
    print("\nThe goal is met everywhere." if not missed else "\nThe goal is missed:")
    print(*(f"- {each}" for each in missed), sep="\n")
    return 1 if missed else 0


def verdicts(where: str, scores: dict[str, tuple[float, float]]) -> list[str]:
    """Where second order with update misses the goal."""
    plain, fitted = scores.get("magnitude"), scores.get("second order, update")
    if plain is None or fitted is None:
        return [f"{where}: not measured"]
    gain, lost = fitted[1] - plain[1], plain[0] - plain[1]
    if gain < 0:
        return [f"{where}: {-gain:.4f} behind magnitude"]
    return (
        [f"{where}: only {gain:.4f} ahead of magnitude, which loses {lost:.4f}"] if lost > LOST and gain < AHEAD else []
    )


def cell(folder: Path, zeros: str, options: dict[str, Any]) -> tuple[float, float] | str:
    """The original's score and the pruned model's, or why there is none."""
    asked: dict[str, Any] = {"pattern": zeros} if ":" in zeros else {"sparsity": float(zeros)}
    if ":" in zeros and options.get("scope"):
        options = {name: value for name, value in options.items() if name != "scope"}
    score: tuple[float, float] | str = pruned_score(folder, (make_pass("prune-magnitude", asked | options),), SAMPLES)
    return score


if __name__ == "__main__":
    sys.exit(main())
