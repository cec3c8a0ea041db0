#!/usr/bin/env python3
"""int8 beside float and beside onnxruntime's own tools on three shapes of model, at one thread: one table each.

    python tests/bench/int8_shapes.py [SECONDS [SHAPE …]]

The models are those of `shapes.py`; SECONDS is the time for timing each of them. onnxruntime's tools are installed into
an environment of their own (build/peers) and run with what serves them best on x86 with VNNI: u8 activations, s8
weights per channel, after their own preprocessing. All variants of a model are timed in one `modelopt bench`, in
interleaved rounds; the figures are those of its ``--json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import peers  # type: ignore[import-not-found]
from main_job import median_ms  # type: ignore[import-not-found]

from modelopt.recipe.dumping import dump
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.pipelines import EXACT, until_stable
from modelopt.recipe.recipe import Recipe

SHAPES: dict[str, tuple[str, ...]] = {"resnet50": (), "mobilenetv2": (), "bert-base": ("--dim", "length=128")}
_PEER = """
import sys
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

kind, source, target = sys.argv[1:]
quant_pre_process(source, target + ".pre", skip_symbolic_shape=True)


class Noise(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.left = [self.sample(rng) for _ in range(4)]

    def sample(self, rng):
        sizes = {"batch": 1, "length": 128}
        made = {}
        for each in ort.InferenceSession(source).get_inputs():
            shape = [sizes.get(dim, dim) for dim in each.shape]
            whole = rng.integers(0, 2, shape) if "int64" in each.type else None
            made[each.name] = rng.standard_normal(shape).astype(np.float32) if whole is None else whole
        return made

    def get_next(self):
        return self.left.pop() if self.left else None


if kind == "static":
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(target + ".pre", target, Noise(), per_channel=True, **types)
else:
    quantize_dynamic(target + ".pre", target, per_channel=True, weight_type=QuantType.QInt8)
"""


def main(seconds: float, shapes: tuple[str, ...]) -> None:
    """Print one table per shape."""
    peers.install("quantizers")
    for shape in shapes:
        with tempfile.TemporaryDirectory() as scratch:
            table(shape, Path(scratch), seconds)


def table(shape: str, folder: Path, seconds: float) -> None:
    """Make the variants of one model, time them together and print."""
    source = folder / "float.onnx"
    subprocess.run([sys.executable, str(Path(__file__).with_name("shapes.py")), shape, str(source)], check=True)
    made = {"float": source}
    for kind in ("static", "dynamic"):
        made[f"modelopt, {kind}"] = ours(kind, source, folder / f"ours-{kind}.onnx")
        made[f"onnxruntime quantize_{kind}"] = peer(kind, source, folder / f"peer-{kind}.onnx")
    report = bench([path for path in made.values() if path.exists()], seconds, SHAPES[shape])
    figures = {each["path"]: (each, ratio) for each, ratio in zip(report["results"], report["ratios"], strict=True)}
    print(f"\n{shape}, one thread\n\n| model | size | median, ms | times as fast as float |\n|---|---|---|---|")
    for name, path in made.items():
        if str(path) in figures:
            print(row(name, path, *figures[str(path)]))
        else:
            print(f"| {name} | | | no model |")
    if report["warnings"]:
        print(f"\n{len(report['warnings'])} warnings, the first: {report['warnings'][0]}", flush=True)


def ours(kind: str, source: Path, target: Path) -> Path:
    """Exact fusion, then one pass on noise: nothing is tried out and nothing falls back to float."""
    recipe = Recipe(steps=(until_stable(EXACT), make_pass(f"quantize-{kind}", {})))
    path = target.with_suffix(".yaml")
    path.write_text(dump(recipe), encoding="utf-8")
    words = ["run", str(path), str(source), "-o", str(target), "-q", "--no-verify", "--no-bench"]
    words += ["--calib", "random"] if kind == "static" else []
    return made_by([str(Path(sys.executable).with_name("modelopt")), *words], target)


def peer(kind: str, source: Path, target: Path) -> Path:
    """onnxruntime's tool, on noise."""
    return made_by([str(peers.install("quantizers") / "python"), "-c", _PEER, kind, str(source), str(target)], target)


def made_by(command: list[str], target: Path) -> Path:
    """Run a command that writes `target`; one that fails leaves no model, and its last line on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{target.name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
    return target


def bench(models: list[Path], seconds: float, dims: tuple[str, ...]) -> dict[str, Any]:
    """All models in one bench."""
    words = ["bench", *map(str, models), "--threads", "1", "--budget", str(seconds), "--json", *dims]
    command = [str(Path(sys.executable).with_name("modelopt")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(name: str, path: Path, result: dict[str, Any], ratio: dict[str, Any] | None) -> str:
    """One line of the table."""
    speed = "" if ratio is None else f"{ratio['point']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return f"| {name} | {path.stat().st_size / 1e6:.1f} MB | {median_ms(result):.2f} | {speed} |"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, tuple(sys.argv[2:]) or tuple(SHAPES))
