#!/usr/bin/env python3
"""Our int8 beside onnxruntime's own recipes on each model, timed together, on this machine or as on one without VNNI.

    python tests/bench/int8_against_ort.py [--machine avx2|avx512] [--threads N] [--budget SECONDS] [--random] MODEL…

MODEL is a folder with ``model.onnx``, calibration data and perhaps labelled data, or the name of a model of
`shapes.py`. onnxruntime's recipes are static (u8 activations, s8 weights per channel) and dynamic, each with weights of
eight and of seven bits; ours is what ``quantize`` chooses, and ``quantize --no-search --everywhere``. A result counts
where it loses no more than a point of the task's metric, or 1 % without labels; with ``--random``, and for models of
`shapes.py`, the weights are random, and every result counts. The last line of a table is ours over the best of theirs
that counts.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import peers  # type: ignore[import-not-found]
import shapes  # type: ignore[import-not-found]
from int8_shapes import made_by  # type: ignore[import-not-found]
from main_job import data_flags, median_ms  # type: ignore[import-not-found]
from quantizers import PEER, own_script, value_of, write_samples  # type: ignore[import-not-found]

from modelopt.measure import speed
from modelopt.measure.outputs import OutputScore
from tests.machines.ways import MASKED, rerun

MODELOPT = str(Path(sys.executable).with_name("modelopt"))
THEIRS = ("ort-static-u8s8", "ort-static-u8s8-reduced", "ort-dynamic", "ort-dynamic-reduced")
OURS = "modelopt"
EVERYWHERE = "modelopt, everywhere"
_RANDOM_SAMPLES = 4
_MOST_LOST = 0.01


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--machine", choices=MASKED)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--budget", type=float, default=120)
    parser.add_argument("--random", action="store_true")
    given = parser.parse_args()
    if given.machine is not None:
        words = [*given.models, "--threads", given.threads, "--budget", str(given.budget)]
        sys.exit(rerun(given.machine, __file__, [*words, *(["--random"] if given.random else [])]))
    python = peers.install("quantizers") / "python"
    against: list[float] = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as scratch:
            model, flags = _source(name, Path(scratch))
            most = 1.0 if given.random or name in shapes.MODELS else _MOST_LOST
            made = _made(model, flags, Path(scratch), python, given.threads, most)
            found = _table(name, model, made, flags, given.threads, given.budget, most)
        against += [] if found is None else [found]
    if against:
        mean = math.exp(sum(map(math.log, against)) / len(against))
        print(f"\nOurs over the best of theirs: geometric mean {mean:.3f}, lowest {min(against):.3f}, n={len(against)}")


def _source(name: str, scratch: Path) -> tuple[Path, dict[str, list[str]]]:
    """The model, and the flags of each command that name its data."""
    if name in shapes.MODELS:
        path = scratch / "model.onnx"
        path.write_bytes(shapes.MODELS[name]().SerializeToString())
        made = scratch / "calib.npz"
        _random_samples(name, made)
        sizes = ["--dim", "batch=1", *(["--dim", "length=128"] if name == "bert-base" else [])]
        return path, {"quantize": ["--calib", str(made)], "compare": ["--eval", str(made)], "bench": sizes}
    folder = Path(name)
    flags = {command: data_flags(folder, [command]) for command in ("quantize", "compare")}
    if own_script(folder / "model.onnx") is not None:  # it says what is lost
        calib = _only(flags["quantize"], "--calib", "--preprocess")
        flags = {"quantize": calib, "compare": ["--eval", *calib[1:]]}
    flags["bench"] = [
        "--data" if word == "--eval" else word for word in _only(flags["compare"], "--eval", "--preprocess")
    ]
    return folder / "model.onnx", flags


def _only(words: Sequence[str], *flags: str) -> list[str]:
    """Of words that are flags with values those of some flags."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if flag in flags for word in (flag, value)]


def _random_samples(name: str, path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    if name == "bert-base":
        shape = (_RANDOM_SAMPLES, 128)
        np.savez(path, input_ids=rng.integers(0, 30522, shape), attention_mask=np.ones(shape, np.int64))
    else:
        np.savez(path, x=rng.standard_normal((_RANDOM_SAMPLES, 3, 224, 224)).astype(np.float32))


def _made(
    model: Path, flags: dict[str, list[str]], scratch: Path, python: Path, threads: str, most: float
) -> dict[str, Path]:
    """The files of all variants that could be made; `most` is what ours may lose."""
    made = {OURS: scratch / "ours.onnx", EVERYWHERE: scratch / "everywhere.onnx"}
    usual = [MODELOPT, "quantize", str(model), "-q", *flags["quantize"]]
    made_by([*usual, "-o", str(made[OURS]), "--max-drop", f"{most:.0%}", "--threads", threads], made[OURS])
    calib = _only(flags["quantize"], "--calib", "--preprocess")
    bare = [MODELOPT, "quantize", str(model), "-q", *calib, "--no-search", "--everywhere", "--no-bench", "--no-verify"]
    made_by([*bare, "-o", str(made[EVERYWHERE])], made[EVERYWHERE])
    samples = scratch / "samples"
    write_samples(model, samples, 100)
    for kind in THEIRS:
        made[kind] = scratch / f"{kind}.onnx"
        made_by([str(python), PEER, kind, str(model), str(made[kind]), str(samples)], made[kind])
    return {name: path for name, path in made.items() if path.exists()}


def _table(
    name: str, model: Path, made: dict[str, Path], flags: dict[str, list[str]], threads: str, budget: float, most: float
) -> float | None:
    """Print one table; ours over the best of theirs that loses at most `most`, or over float where none does."""
    counted = {variant: _drop(model, path, flags["compare"]) for variant, path in made.items()}
    runs = [variant for variant, drop in counted.items() if drop is not None]
    words = [MODELOPT, "bench", str(model), *(str(made[variant]) for variant in runs), *flags["bench"]]
    done = subprocess.run(
        [*words, "--threads", threads, "--budget", str(budget), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"\n{name}: {done.stderr.strip()}")
        return None
    report: dict[str, Any] = json.loads(done.stdout)
    first, *others = report["results"]
    print(f"\n{name}, {threads} threads; float {median_ms(first):.2f} ms\n")
    print("| | size | times as fast as float | lost |\n|---|---|---|---|")
    ratios = {}
    for variant, result in zip(runs, others, strict=True):
        ratio = speed.paired_ratio(first["samples_ns"], result["samples_ns"])
        ratios[variant] = result["samples_ns"]
        share = made[variant].stat().st_size / model.stat().st_size
        lost = f"{counted[variant]:.2%}"
        print(f"| {variant} | {share:.0%} | {ratio.point:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) | {lost} |")
    best = _best(
        [
            (variant, ratios[variant])
            for variant in THEIRS
            if (counted.get(variant) or 0.0) <= most and variant in ratios
        ]
    )
    if OURS not in ratios:
        return None
    beside = first["samples_ns"] if best is None else ratios[best]
    against = speed.paired_ratio(beside, ratios[OURS])
    told = f"{against.point:.3f} ({against.low:.3f}–{against.high:.3f})"
    print(f"\nOurs over {best or 'float: none of theirs counts'}: {told}", flush=True)
    return against.point


def _best(candidates: Sequence[tuple[str, Any]]) -> str | None:
    """The fastest by the first one's side."""
    if not candidates:
        return None
    reference = candidates[0][1]
    return max(candidates, key=lambda each: speed.paired_ratio(reference, each[1]).point)[0]


def _drop(model: Path, path: Path, flags: list[str]) -> float | None:
    """What a result loses, by the folder's own script where there is one; None where it does not run."""
    words = [MODELOPT, "compare", str(model), str(path), *flags, "--no-bench", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{path.name}: {(done.stderr.strip().splitlines() or ['failed'])[0]}", file=sys.stderr)
        return None
    own = own_script(model)
    if own is not None:
        return float(value_of(own, model) - value_of(own, path))
    accuracy = json.loads(done.stdout)["accuracy"]
    falls = [-task["delta"]["point"] for task in accuracy["tasks"] if task["delta"]]
    outputs = msgspec.convert(accuracy["outputs"], list[OutputScore])
    return max([*falls, *(each.drop or 0.0 for each in outputs)], default=0.0) + 0.0  # no minus zero


if __name__ == "__main__":
    main()
