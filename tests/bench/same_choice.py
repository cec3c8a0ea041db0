#!/usr/bin/env python3
"""Whether `quantize` chooses the same model each time on this machine, given the same inputs.

    python tests/bench/same_choice.py FOLDER [--times N] [--budget SECONDS] [--only NAME …]

FOLDER is laid out as for main_job.py. `quantize --calib … --max-drop 1%` runs N times on each model, in turns over the
models, with no labelled data. A row is printed for each model: how often the most frequent choice was made, how often
with the same bytes, what else was chosen, and how close the choice was: the chance that another run chooses otherwise,
if its comparisons are drawn from the intervals of the first run. A choice is a candidate: a pass with its options. Only
the nodes that a profile left in float may differ. An interrupt (Ctrl-C) ends the runs and prints the table so far.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from main_job import data_flags  # type: ignore[import-not-found]
from quantizers import MODELOPT, calibration_of  # type: ignore[import-not-found]

_COUNT = re.compile(r"\d+ nodes?")


_WORTH = re.compile(r"worth ([+-][\d.]+)% \(±([\d.]+)%\)")
_WIDE = 1.96
"""Standard deviations in the half of an interval of 95 %."""

_REPLAYS = 2000

_LEAST_GAIN, _HYSTERESIS = 0.02, 0.05
"""What the first quantized model must be worth, and a second one more than that: see `modelopt.search.utility`."""


class Choice(NamedTuple):
    """What one run chose.

    Attributes:
        candidate: The pass and its options.
        digest: SHA-256 (hex) of the file.
        size: Beside the input's.
        decided: How, in the report's words.
        doubt: The chance that another run chooses another model.
        seconds: It took.
    """

    candidate: str
    digest: str
    size: float
    decided: str
    doubt: float
    seconds: float


def doubt_of(trials: list[dict[str, Any]]) -> float:
    """The chance that another run ends with another model, its comparisons drawn anew from the intervals of this one.

    A comparison that may end otherwise does not count by itself: where static int8 just misses being worth more than
    the float model, and dynamic int8 is worth more than both, dynamic is chosen either way.
    """
    timed = [trial for trial in trials if trial["ratio"]]
    chosen = next((number for number, trial in enumerate(timed) if trial["kept"]), None)
    if chosen is None and any(trial["kept"] for trial in trials):
        return 0.0  # by its size: nothing was timed
    beside: list[tuple[float, float, int | None]] = []
    best: int | None = None
    for number, trial in enumerate(timed):
        beside.append((*_value(trial), best))
        if trial["kept"] or trial["outcome"] == "surpassed":
            best = number
    random = np.random.default_rng(0)
    others = sum(_replayed(beside, random) != chosen for _ in range(_REPLAYS))
    return others / _REPLAYS


def _value(trial: dict[str, Any]) -> tuple[float, float]:
    """What a model was worth beside the best one before it, as a logarithm, and the half of its interval."""
    worth = _WORTH.search(trial["reason"].split("is better: ")[0])
    if worth is not None:
        value, margin = (math.log1p(float(text) / 100) for text in worth.groups())
        return value, margin
    ratios = [each for each in (trial["ratio"], trial["on_one_thread"]) if each]
    slowest = min(ratios, key=lambda each: float(each["high"]))
    return math.log(slowest["point"]), math.log(slowest["high"] / slowest["low"]) / 2


def _replayed(beside: list[tuple[float, float, int | None]], random: np.random.Generator) -> int | None:
    """The number of the model that is chosen; None for the float model.

    Args:
        beside: For each model, what it was worth beside another, the half of the interval, and the other's number.
        random: Draws the values. Each is drawn beside the model that it was timed with.
    """
    values: list[float] = []
    best, chosen = 0.0, None
    for number, (value, margin, other) in enumerate(beside):
        values.append((0.0 if other is None else values[other]) + random.normal(value, margin / _WIDE))
        if values[-1] - best > max(margin, _LEAST_GAIN if chosen is None else _HYSTERESIS):
            best, chosen = values[-1], number
    return chosen


def choice(model: Path, budget: float | None) -> Choice:
    """Quantize once."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.onnx"
        command = [MODELOPT, "quantize", str(model), "--calib", str(calibration_of(model)), "--max-drop", "1%"]
        command += ["-o", str(out), "--json", *([] if budget is None else ["--budget", str(budget)])]
        if "--preprocess" in (flags := data_flags(model.parent, ["quantize"])):
            command += flags[flags.index("--preprocess") :]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode:
            return Choice(f"exit {done.returncode}", "", 0.0, "", 0.0, seconds)
        report: dict[str, Any] = json.loads(done.stdout)
        kept = next((trial for trial in report["trials"] if trial["kept"]), None)
        size = out.stat().st_size / model.stat().st_size
        changed = [each for each in report["passes"] if each["rewrites"]]
        lossy = any(each["effect"] != "exact" for each in changed)
        name = _COUNT.sub("some nodes", kept["group"]) if kept and lossy else "float" if changed else "the input"
        told = "; ".join(f"{trial['group']}: {trial['reason']}" for trial in report["trials"] if trial["ratio"])
        digest = hashlib.sha256(out.read_bytes()).hexdigest()
        return Choice(name, digest, size, told, doubt_of(report["trials"]), seconds)


def row_of(name: str, choices: list[Choice]) -> str:
    """A row of Markdown for one model."""
    (first, count), *others = Counter(each.candidate for each in choices).most_common()
    files = Counter(each.digest for each in choices).most_common(1)[0][1]
    sizes = sorted(each.size for each in choices if each.candidate == first)
    span = f"{sizes[0]:.0%}" if sizes[0] == sizes[-1] else f"{sizes[0]:.0%}–{sizes[-1]:.0%}"
    seconds = sorted(each.seconds for each in choices)[len(choices) // 2]
    other = ", ".join(f"{label} ×{times}" for label, times in others)
    n = len(choices)
    doubt = f"{choices[0].doubt:.1%}"
    cells = [name, first, span, f"{count} of {n}", f"{files} of {n}", other, doubt, f"{seconds:.0f} s"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    models = sorted(given.folder.glob("*/model.onnx"))
    models = [model for model in models if not given.only or model.parent.name in given.only]
    found: dict[str, list[Choice]] = {model.parent.name: [] for model in models}
    with suppress(KeyboardInterrupt):
        for turn in range(given.times):
            for model in models:
                made = choice(model, given.budget)
                found[model.parent.name].append(made)
                told = (
                    f"{made.candidate}, {made.size:.1%}, {made.seconds:.0f} s, doubt {made.doubt:.1%}; {made.decided}"
                )
                print(f"{turn + 1} {model.parent.name}: {told}", file=sys.stderr, flush=True)
    print("| model | choice | size | the same | the same file | others | chance of another | one run |")
    print(f"|{'---|' * 8}")
    for name, choices in found.items():
        if choices:
            print(row_of(name, choices))


if __name__ == "__main__":
    main()
