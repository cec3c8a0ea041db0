#!/usr/bin/env python3
"""Whether `quantize` chooses the same model each time on this machine, given the same inputs.

    python tests/bench/same_choice.py FOLDER [--times N] [--budget SECONDS] [--only NAME …]

FOLDER is laid out as for main_job.py. `quantize --calib … --max-drop 1%` runs N times on each model, in turns over the
models, with no labelled data. A row is printed when a model is done: how often the most frequent choice was made, how
often with the same bytes, what else was chosen, and how close the choice was. A choice is a candidate: a pass with its
options, where only the nodes that a profile left in float may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from main_job import data_flags  # type: ignore[import-not-found]
from quantizers import MODELOPT, calibration_of  # type: ignore[import-not-found]

_COUNT = re.compile(r"\d+ nodes?")


class Choice(NamedTuple):
    """What one run chose: the candidate, its bytes, its size beside the input's, how it was decided, and seconds."""

    candidate: str
    digest: str
    size: float
    decided: str
    seconds: float


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
            return Choice(f"exit {done.returncode}", "", 0.0, "", seconds)
        report: dict[str, Any] = json.loads(done.stdout)
        kept = next((trial for trial in report["trials"] if trial["kept"]), None)
        size = out.stat().st_size / model.stat().st_size
        changed = [each for each in report["passes"] if each["rewrites"]]
        lossy = any(each["effect"] != "exact" for each in changed)
        name = _COUNT.sub("some nodes", kept["group"]) if kept and lossy else "float" if changed else "the input"
        told = "; ".join(f"{trial['group']}: {trial['reason']}" for trial in report["trials"] if trial["ratio"])
        return Choice(name, hashlib.sha256(out.read_bytes()).hexdigest(), size, told, seconds)


def row_of(name: str, choices: list[Choice]) -> str:
    """A row of Markdown for one model."""
    (first, count), *others = Counter(each.candidate for each in choices).most_common()
    files = Counter(each.digest for each in choices).most_common(1)[0][1]
    sizes = sorted(each.size for each in choices if each.candidate == first)
    span = f"{sizes[0]:.0%}" if sizes[0] == sizes[-1] else f"{sizes[0]:.0%}–{sizes[-1]:.0%}"
    seconds = sorted(each.seconds for each in choices)[len(choices) // 2]
    other = ", ".join(f"{label} ×{times}" for label, times in others)
    n = len(choices)
    cells = [name, first, span, f"{count} of {n}", f"{files} of {n}", other, f"{seconds:.0f} s"]
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
    for turn in range(given.times):
        for model in models:
            made = choice(model, given.budget)
            found[model.parent.name].append(made)
            told = f"{made.candidate}, {made.size:.1%}, {made.seconds:.0f} s; {made.decided}"
            print(f"{turn + 1} {model.parent.name}: {told}", file=sys.stderr, flush=True)
    print("| model | choice | size | the same | the same file | others | one run |\n|---|---|---|---|---|---|---|")
    for name, choices in found.items():
        print(row_of(name, choices))


if __name__ == "__main__":
    main()
