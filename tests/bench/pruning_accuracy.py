#!/usr/bin/env python3
"""Accuracy of models without 10 to 50 % of their multiply-accumulates: which channels go, with and without repair.

    python tests/bench/pruning_accuracy.py FOLDER… [--methods NAME…] [--keep 0.9 0.8 …]

Each FOLDER holds ``model.onnx`` and labelled data as `main_job.py` wants them. The model is folded first; then the pass
``prune-channels`` removes the same share of each group, as large as the MACs want. Nothing is trained. The figures are
those of the product's own evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pruned_score import pruned_score  # type: ignore[import-not-found]

from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.pipelines import EXACT, until_stable

METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"importance": "l2"},
    "Wanda, repair": {"importance": "wanda", "repair": True},
    "second order, repair": {"importance": "second-order", "repair": True},
    "random, repair": {"importance": "random", "repair": True},
    "magnitude, repair": {"importance": "l2", "repair": True},
    "second order": {"importance": "second-order"},
    "stability, repair": {"importance": "stability", "repair": True},
}
SHOWN = tuple(METHODS)[:4]
KEPT = (0.9, 0.8, 0.7, 0.6, 0.5)
JUDGED = 0.7
POINT = 0.01


def main() -> None:
    """Print a table for each model, and how many pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=SHOWN, choices=tuple(METHODS))
    parser.add_argument("--keep", nargs="+", type=float, default=KEPT)
    asked = parser.parse_args()
    halved: dict[str, list[bool]] = {name: [] for name in asked.methods}
    below: list[str] = []
    print("| model | method |", " | ".join(f"{1 - keep:.0%} fewer" for keep in asked.keep), "|")
    print("|", " | ".join(["---"] * (2 + len(asked.keep))), "|")
    for folder in asked.folders:
        losses = {}
        for name in asked.methods:
            cells = [cell(folder, METHODS[name] | {"macs": keep}) for keep in asked.keep]
            losses[name] = [None if isinstance(found, str) else found[0] - found[1] for found in cells]
            shown = [found if isinstance(found, str) else f"{found[1]:.4f}" for found in cells]
            first = next((found[0] for found in cells if not isinstance(found, str)), None)
            label = folder.name if first is None else f"{folder.name} {first:.4f}"
            print("|", label, "|", name, "|", " | ".join(shown), "|", flush=True)
        judge(folder.name, losses, asked.keep, halved, below)
    for name, results in halved.items():
        if name != "magnitude" and results:
            print(f"{name}: loses less than half of magnitude's loss at 30 % on {sum(results)} of {len(results)}")
    print("below magnitude where that loses more than a point:", *(below or ["nowhere"]), sep="\n  ")


def judge(
    model: str,
    losses: dict[str, list[float | None]],
    keep: list[float],
    halved: dict[str, list[bool]],
    below: list[str],
) -> None:
    """Hold the repaired methods against magnitude on one model."""
    if "magnitude" not in losses:
        return
    for name, found in losses.items():
        for share, plain, repaired in zip(keep, losses["magnitude"], found, strict=True):
            if name == "magnitude" or plain is None or repaired is None:
                continue
            if share == JUDGED and plain > 0:
                halved[name].append(repaired < plain / 2)
            if plain > POINT and repaired > plain:
                below.append(f"{model}, {name}, {1 - share:.0%}: loses {repaired:.4f}, magnitude {plain:.4f}")


def cell(folder: Path, options: dict[str, Any]) -> tuple[float, float] | str:
    """The original's score and the pruned model's, or why there is none."""
    score: tuple[float, float] | str = pruned_score(folder, (until_stable(EXACT), make_pass("prune-channels", options)))
    return score


if __name__ == "__main__":
    main()
