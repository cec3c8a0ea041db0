#!/usr/bin/env python3
"""Calibration: time against plain inference, memory against the number of samples, thresholds against an exact oracle.

    python tests/bench/calibration.py [ROUNDS]

Each measurement is a process of its own; methods take turns, round by round. Memory is the peak of the process and of
its child together. Models are first folded and fused, as `quantize` does. onnxruntime's own calibrators run in an
environment of their own on the same model, tensors and samples.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import peers  # type: ignore[import-not-found]

ROOT = Path(__file__).parent.parent.parent
FEW, MANY = 32, 1024
MODELS = {"resnet50": (1, 3, 224, 224), "digits_cnn": (16, 1, 8, 8)}
OURS = ("plain", "minmax", "percentile")
THEIRS = ("MinMax", "Percentile")


def main(rounds: int) -> None:
    """Print three tables."""
    peers.install("quantizers")
    with tempfile.TemporaryDirectory() as scratch:
        models = {name: fused(name, Path(scratch)) for name in MODELS}
        resnet = models["resnet50"]
        print(f"\nTime, {FEW} samples, {rounds} rounds\n")
        times(resnet, rounds)
        print(f"\nMemory with {FEW} and {MANY} samples\n")
        memory(models)
        print("\nThresholds against the exact values, in bins of the histogram\n")
        thresholds(models["digits_cnn"])


def times(model: Path, rounds: int) -> None:
    """Ours and onnxruntime's beside plain inference over the same samples."""
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for _ in range(rounds):
        for name in (*OURS, *(f"onnxruntime {method}" for method in THEIRS)):
            told = measured(name, model, FEW)
            seconds.setdefault(name, []).append(told["seconds"])
            peaks[name] = max(told["peak_bytes"], peaks.get(name, 0))
    print("| what | median, s | times plain inference | peak MB |")
    print("|---|---|---|---|")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["plain"], strict=True))
        print(f"| {name} | {statistics.median(taken):.2f} | {ratio:.2f} | {peaks[name] / 1e6:.0f} |")
    ours, theirs = "percentile", "onnxruntime Percentile"
    faster = statistics.median(a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True))
    print(
        f"\nagainst onnxruntime's percentile: {faster:.1f}× as fast, 1/{peaks[theirs] / peaks[ours]:.1f} of the memory"
    )


def memory(models: dict[str, Path]) -> None:
    """How much a longer calibration needs over a short one."""
    print("| model | method | few, MB | many, MB | more |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        for method in ("minmax", "percentile"):
            few, many = (measured(method, model, count)["peak_bytes"] for count in (FEW, MANY))
            print(f"| {name} | {method} | {few / 1e6:.0f} | {many / 1e6:.0f} | {many / few - 1:+.1%} |")


def thresholds(model: Path) -> None:
    """Each tensor's range, and what the same method finds in all values at once."""
    from modelopt.quant.numerics.range_methods import Method, choose_range
    from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry

    grid = Grid(IntType.U8, Symmetry.ASYMMETRIC)
    lab = Lab.of(model, FEW)
    try:
        seen = lab.collect(percentile=True)
        values: dict[str, list[np.ndarray]] = {name: [] for name in seen.collectors}
        for arrays in lab.runner.run(lab.model, lab.feeds(), outputs=list(values)):
            for kept, array in zip(values.values(), arrays, strict=True):
                kept.append(array.reshape(-1))
    finally:
        lab.runner.close()
    off: dict[str, float] = dict.fromkeys(("percentile", "mse", "entropy"), 0.0)
    same = 0
    for name, collector in seen.collectors.items():
        histogram = collector.histogram()
        every = np.sort(np.concatenate(values[name]))
        again = two_passes(every, histogram)
        same += bool((again.counts == histogram.counts).all())
        for method in (Method.MSE, Method.ENTROPY):
            pair = zip(choose_range(histogram, method, grid), choose_range(again, method, grid), strict=True)
            off[method.value] = max(off[method.value], *(abs(a - b) / histogram.width for a, b in pair))
        low, high = choose_range(histogram, Method.PERCENTILE, grid)
        cut = int(0.5e-4 * every.size)  # 99.99 percent are kept, and half of the rest is at each end
        far = max(abs(low - every[cut]), abs(high - every[-1 - cut])) / histogram.width
        off["percentile"] = max(off["percentile"], float(far))
    print(f"{same} of {len(values)} histograms are those of two passes over all values")
    print(f"percentile 99.99: at most {off['percentile']:.2f} bins off the sorted values")
    print(f"mse, entropy: at most {off['mse']:.2f} and {off['entropy']:.2f} bins off what the two passes give")


def two_passes(values: np.ndarray, like: Any) -> Any:
    """The histogram that counts all `values` on a grid that is known beforehand."""
    from dataclasses import replace

    bins = np.trunc(values.astype(np.float64) / like.width).astype(np.int64) - like.start
    return replace(like, counts=np.bincount(bins, minlength=like.counts.size))


def measured(name: str, model: Path, samples: int) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    theirs = name.startswith("onnxruntime ")
    python = str(peers.install("quantizers") / "python") if theirs else sys.executable
    command = [python, __file__, "--one", name.removeprefix("onnxruntime "), str(model), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-800:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def one(name: str, model: Path, samples: int) -> dict[str, Any]:
    """What `measured` runs: seconds, and the peak memory of this process and its child."""
    if name == "plain":
        return plain(model, samples)
    if name in THEIRS:
        return their_calibration(name, model, samples)
    lab = Lab.of(model, samples)
    try:
        started = time.monotonic()
        lab.collect(percentile=name != "minmax")
        took = time.monotonic() - started
        return {"seconds": took, "peak_bytes": own_peak() + lab.runner.start().peak_bytes()}
    finally:
        lab.runner.close()


def plain(model: Path, samples: int) -> dict[str, Any]:
    """Load and run the model with onnxruntime's defaults, here."""
    import onnxruntime as ort

    started = time.monotonic()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for feed in feeds(model, session.get_inputs()[0].name, samples):
        session.run(None, feed)
    return {"seconds": time.monotonic() - started, "peak_bytes": own_peak()}


def their_calibration(method: str, model: Path, samples: int) -> dict[str, Any]:
    """onnxruntime's calibrator over the same tensors."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._left = feeds(model, name, samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        calibrator = create_calibrator(
            model,
            ["Conv", "Gemm", "MatMul", "Add", "Relu"],
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.collect_data(Reader(calibrator.infer_session.get_inputs()[0].name))
        calibrator.compute_data()
    return {"seconds": time.monotonic() - started, "peak_bytes": own_peak()}


@dataclass(frozen=True)
class Lab:
    """A model, samples, and what runs them.

    Attributes:
        model: As `modelopt.io.serialize` reads it.
        context: What a pass is lent.
        runner: The context's.
        name: The input's.
        path: The model's file.
        samples: How many.
    """

    model: Any
    context: Any
    runner: Any
    name: str
    path: Path
    samples: int

    @classmethod
    def of(cls, path: Path, samples: int) -> Lab:
        """Read the model and start the child, which a command does before it needs it."""
        from modelopt.calibration.context import Context
        from modelopt.core import targets
        from modelopt.io import serialize
        from modelopt.runtime.worker_runner import WorkerRunner

        runner = WorkerRunner()
        runner.start().versions()
        model = serialize.from_bytes(path.read_bytes())
        name = str(model.graph.inputs[0].name)
        context = Context(runner, targets.resolve("auto"), dataset(path, name, samples))
        return cls(model, context, runner, name, path, samples)

    def collect(self, *, percentile: bool) -> Any:
        """Calibrate what `quantize` would; see `Observations`."""
        from modelopt.calibration import calibrate
        from modelopt.calibration.histogram import BINS
        from modelopt.quant.static.plan import SelectionRules
        from modelopt.quant.static.selection import select

        names = sorted(str(value.name) for value in select(self.model, SelectionRules()).activations())
        return calibrate.collect(self.model, names, self.context, bins=BINS if percentile else 1)

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        """The samples."""
        return feeds(self.path, self.name, self.samples)


def dataset(path: Path, name: str, samples: int) -> Any:
    """Samples that are made when they are asked for: none is kept."""
    from modelopt.data import Dataset, Sample

    class Generated(Dataset):
        def __len__(self) -> int:
            return samples

        def select(self, indices: Any) -> Iterator[Any]:
            for index, feed in zip(indices, feeds(path, name, samples), strict=True):
                yield Sample(feed, None, f"generated[{index}]")

        def digest(self) -> str:
            return f"{name} {samples}"

    return Generated(source="generated", has_labels=False)


def feeds(model: Path, name: str, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """Seeded samples, made one by one."""
    rng = np.random.default_rng(0)
    shape = MODELS[model.stem]
    for _ in range(samples):
        yield {name: rng.standard_normal(shape, np.float32)}


def own_peak() -> int:
    """The peak resident memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fused(name: str, scratch: Path) -> Path:
    """The model as calibration meets it."""
    exported, path = scratch / f"{name}-exported.onnx", scratch / f"{name}.onnx"
    if name == "resnet50":
        script = ROOT / "tests" / "bench" / "shapes.py"
        subprocess.run([sys.executable, str(script), name, str(exported)], check=True)
    else:
        exported = ROOT / "sample_models" / name / "model.onnx"
    modelopt = str(Path(sys.executable).with_name("modelopt"))
    quiet = ["-q", "--no-bench", "--no-verify"]
    subprocess.run([modelopt, "fuse", str(exported), "-o", str(path), *quiet], check=True)
    return path


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
