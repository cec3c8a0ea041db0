#!/usr/bin/env python3
"""Run the main job on every model of a folder and print one table: size, latency, accuracy, before and after.

    python tests/bench/main_job.py FOLDER [COMMAND …]

Each sub-folder of FOLDER holds ``model.onnx``; calibration data in ``calib.npz`` or ``calib/``; evaluation data in
``eval.npz``, ``eval/`` or ``feeds.py`` (a function ``evaluation``); and optionally ``metric.py`` (a function ``score``)
and ``preprocess.txt`` (what ``--preprocess`` takes). COMMAND is what to run in place of
``quantize --max-drop 1%``, e.g. ``fuse``. The command runs as users run it, in a process of its own; the figures are
those of its ``--json`` report, so nothing is computed here.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEADER = ("model", "exit", "size", "", "latency ms", "", "times as fast", "accuracy", "", "seconds", "remark")


def main(folder: Path, command: list[str]) -> None:
    """Print the table as Markdown, row by row."""
    models = sorted(folder.glob("*/model.onnx"))
    if not models:
        sys.exit(f"no {folder}/*/model.onnx")
    print("|", " | ".join(HEADER), "|")
    print("|", " | ".join("---" for _ in HEADER), "|")
    ratios = []
    for model in models:
        row, ratio = job(model, command)
        ratios.append(ratio)
        print("|", " | ".join(row), "|", flush=True)
    print(f"\n{mean_of(ratios)}")


def mean_of(ratios: Sequence[float | None]) -> str:
    """The last line: jobs without a report are counted, not averaged as if they had changed nothing."""
    found = [ratio for ratio in ratios if ratio is not None]
    text = f"Geometric mean of {len(found)} latency ratios: {math.prod(found) ** (1 / max(len(found), 1)):.3f}"
    return text if len(found) == len(ratios) else f"{text}; {len(ratios) - len(found)} without a report left out"


def job(model: Path, command: list[str]) -> tuple[list[str], float | None]:
    """One row, and the latency ratio: 1 where the model stayed as it was, None where there is no report."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.onnx"
        words = [*command, str(model), "-o", str(output), "--json", *data_flags(model.parent, command)]
        started = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("modelopt")), *words], capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - started
        remark = "; ".join(done.stderr.strip().splitlines()[:2])
        if done.returncode not in {0, 1, 5}:  # no report, but an error
            return [model.parent.name, str(done.returncode), *[""] * 7, f"{seconds:.0f}", remark], None
        report: dict[str, Any] = json.loads(done.stdout)
        return row_of(model.parent.name, done.returncode, report, seconds, remark)


def data_flags(folder: Path, command: list[str]) -> list[str]:
    """The flags that name the folder's data."""
    flags = []
    calib = next((folder / name for name in ("calib.npz", "calib") if (folder / name).exists()), None)
    if calib is not None and command[0] == "quantize" and "dynamic" not in command:
        flags += ["--calib", str(calib)]
    evaluation = next((folder / name for name in ("eval.npz", "eval") if (folder / name).exists()), None)
    if (folder / "feeds.py").exists():
        flags += ["--eval", f"{folder / 'feeds.py'}:evaluation"]
    elif evaluation is not None:
        flags += ["--eval", str(evaluation)]
    if (folder / "metric.py").exists():
        flags += ["--metric", f"{folder / 'metric.py'}:score"]
    if (folder / "preprocess.txt").exists():
        flags += ["--preprocess", (folder / "preprocess.txt").read_text(encoding="utf-8").strip()]
    return flags


def row_of(name: str, code: int, report: dict[str, Any], seconds: float, remark: str) -> tuple[list[str], float]:
    """A row of figures taken from a report."""
    before, after = report["input"]["size_bytes"], report["output"]["size_bytes"]
    cells = [name, str(code), f"{before / 1e6:.2f} MB", f"{after / before:.0%}"]
    ratio = 1.0
    latency = report["latency"]
    if latency is None:
        cells += ["", "", "unchanged"]
    else:
        r = latency["ratio"]
        ratio = r["point"]
        cells += [f"{median_ms(latency[side]):.3f}" for side in ("before", "after")]
        cells += [f"{r['point']:.2f} ({r['low']:.2f}–{r['high']:.2f})"]
    accuracy = report["accuracy"]
    if accuracy is None:
        cells += ["", ""]
    elif accuracy["tasks"]:
        cells += [f"{accuracy['tasks'][0][side]['value']:.4f}" for side in ("reference", "candidate")]
    else:
        found = {score["name"]: score["value"] for score in accuracy["fidelity"]}
        cells += ["cosine", f"{found.get('cosine', 0):.5f}"]
    return [*cells, f"{seconds:.0f}", remark], ratio


def median_ms(result: dict[str, Any]) -> float:
    """The median of all samples of a benchmark result, in milliseconds."""
    samples = sorted(sample for rounds in result["samples_ns"] for each in rounds for sample in each)
    return float(samples[len(samples) // 2]) / 1e6


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:] or ["quantize", "--max-drop", "1%"])
