#!/usr/bin/env python3
"""Quantize every model of a folder with modelopt and with the standard recipes of others, and print one table.

    python tests/bench/quantizers.py FOLDER [--calib-only] [--only-ours] [--samples N]

FOLDER is laid out as for main_job.py. Each tool gets the same calibration samples; what it makes is held against the
original by ``modelopt compare`` on the evaluation data, interleaved, in this run. With ``--calib-only`` modelopt is not
given the evaluation data: it must keep its promise without labels, and is judged on them all the same. Where a folder
holds an ``eval.py`` that prints ``{"value": …}`` for a model's path, and no ``feeds.py``, that is the accuracy, and
latency is that on the calibration data.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers  # type: ignore[import-not-found]
from main_job import data_flags  # type: ignore[import-not-found]

OURS = "modelopt"
KINDS = (OURS, "ort-static", "ort-static-u8s8", "ort-dynamic", "nncf")
MODELOPT = str(Path(sys.executable).with_name("modelopt"))
PEER = str(Path(__file__).with_name("peer_quantize.py"))


def main(folder: Path, kinds: Sequence[str], *, calib_only: bool, samples: int, budget: float) -> None:
    """Print the table as Markdown, row by row, and the geometric means."""
    python = peers.install("quantizers") / "python"
    print("| model | tool | size | times as fast (95 %) | accuracy | |")
    print("|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for model in sorted(folder.glob("*/model.onnx")):
        with tempfile.TemporaryDirectory() as scratch:
            given = Path(scratch) / "samples"
            write_samples(model, given, samples)
            for kind in kinds:
                out = Path(scratch) / f"{kind}.onnx"
                problem = quantize(kind, model, out, given, python=python, calib_only=calib_only, budget=budget)
                cells, ratio = (["", "", "", problem], None) if problem else judged(model, out, budget)
                print("|", " | ".join([model.parent.name, kind, *cells]), "|", flush=True)
                ratios[kind] += [] if ratio is None else [ratio]
    for kind, found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / max(len(found), 1))
        print(f"\n{kind}: geometric mean of {len(found)} ratios {mean:.2f}, slowest {min(found, default=0):.2f}")


def write_samples(model: Path, folder: Path, count: int) -> None:
    """The first calibration samples as files, one each, read as modelopt reads them."""
    from modelopt import graph, io
    from modelopt.data import open_data

    folder.mkdir()
    source = calibration_of(model)
    preprocess = None
    if model.with_name("preprocess.txt").exists():
        from modelopt.data import Preprocess

        preprocess = Preprocess.parse(model.with_name("preprocess.txt").read_text(encoding="utf-8").strip())
    signature = graph.signature(io.load(model, scratch=folder).model)
    dataset = open_data(str(source), signature.inputs, preprocess=preprocess, limit=count)
    for number, sample in enumerate(dataset):
        arrays: dict[str, Any] = dict(sample.feeds)
        np.savez(folder / f"{number:04d}.npz", **arrays)


def calibration_of(model: Path) -> Path:
    """The calibration data beside a model."""
    return next(model.with_name(name) for name in ("calib.npz", "calib") if model.with_name(name).exists())


def own_script(model: Path) -> Path | None:
    """The folder's script that judges a model; None where there is none, or ``feeds.py`` gives its data to us."""
    own = model.with_name("eval.py")
    return own if own.exists() and not model.with_name("feeds.py").exists() else None


def value_of(own: Path, model: Path) -> float:
    """What the folder's own script says of a model."""
    done = subprocess.run([sys.executable, str(own), str(model)], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["value"])


def quantize(
    kind: str, model: Path, out: Path, samples: Path, *, python: Path, calib_only: bool, budget: float
) -> str | None:
    """Run one tool; the last line of what it said where it failed."""
    if kind == OURS:
        flags = data_flags(model.parent, ["quantize"])
        if calib_only:
            flags = flags[: flags.index("--eval")] if "--eval" in flags else flags
        command = [MODELOPT, "quantize", str(model), "-o", str(out), "-q", "--budget", str(budget)]
        command += [*flags, "--max-drop", "1%"]
    else:
        command = [str(python), PEER, kind, str(model), str(out), str(samples)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    except subprocess.TimeoutExpired:
        return "took more than 30 minutes"
    if done.returncode == 0 and out.exists():
        return None
    last = next(iter(reversed(done.stderr.strip().splitlines())), "")
    return f"does not build: {last[:90]}".replace("|", "/")


def judged(model: Path, out: Path, budget: float) -> tuple[list[str], float | None]:
    """Size, latency ratio and accuracy of a result."""
    own = own_script(model)
    flags = data_flags(model.parent, ["compare"])
    if own is not None:
        flags = ["--eval", str(calibration_of(model))]
    command = [MODELOPT, "compare", str(model), str(out), "--json", "--budget", str(budget), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next((line for line in done.stderr.splitlines() if line.startswith("note:")), "")
        return ["", "", "", f"does not run: {last[:90]}".replace("|", "/")], None
    report: dict[str, Any] = json.loads(done.stdout)
    before, after = (each["size_bytes"] for each in report["models"])
    ratio, accuracy = report["ratios"][1], report["accuracy"]
    score = ""
    if own is not None:
        score = " → ".join(f"{value_of(own, path):.3f}" for path in (model, out))
    elif accuracy is not None and accuracy["tasks"]:
        score = " → ".join(f"{accuracy['tasks'][0][side]['value']:.3f}" for side in ("reference", "candidate"))
    elif accuracy is not None:
        score = ", ".join(f"{each['name']} {each['value']:.4f}" for each in accuracy["fidelity"][:1])
    speed = f"{ratio['point']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
    same = "the input itself" if out.read_bytes() == model.read_bytes() else ""
    return [f"{after / before:.0%}", speed, score, same], float(ratio["point"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calib-only", action="store_true")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of timing for each comparison")
    given = parser.parse_args()
    chosen = (OURS,) if given.only_ours else KINDS
    main(given.folder, chosen, calib_only=given.calib_only, samples=given.samples, budget=given.budget)
