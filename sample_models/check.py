"""Measure every sample model in float32, and check what README.md promises of the data.

    python sample_models/check.py

Prints one row per model. Fails if a calibration sample is also an evaluation sample, or if the folder is
larger than its limit. It needs numpy, onnxruntime and Pillow, on which modelopt itself depends.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
from PIL import Image

HERE = Path(__file__).resolve().parent
SIZE_LIMIT_BYTES = 3_000_000

Feed = dict[str, np.ndarray]
Scorer = Callable[[list[np.ndarray], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """One row of the table: `score` is the mean over `items`, which came from `samples` samples."""

    name: str
    size_bytes: int
    metric: str
    score: float
    items: int
    samples: int
    calibration_samples: int


def read_npz(path: Path, session: ort.InferenceSession) -> Iterator[tuple[Feed, np.ndarray | None]]:
    """Feeds of batch size one, with their labels. A scalar input may hold one value for all samples."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    labels = arrays.pop("label", None)
    ranks = {node.name: len(node.shape) for node in session.get_inputs()}
    assert arrays.keys() == ranks.keys(), f"{path} holds {sorted(arrays)}, the model takes {sorted(ranks)}"
    count = next(len(values) for name, values in arrays.items() if ranks[name] > 0)
    for index in range(count):
        feed = {}
        for name, values in arrays.items():
            if ranks[name] > 0:
                feed[name] = values[index : index + 1]
            else:
                feed[name] = values if values.ndim == 0 else values[index]
        yield feed, None if labels is None else labels[index]


def read_images(folder: Path, session: ort.InferenceSession) -> Iterator[tuple[Feed, np.ndarray | None]]:
    """Grey PNG files as RGB, channels first, (x/255 - 0.5) / 0.5. Sub-folders are classes, in order."""
    name = session.get_inputs()[0].name
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)
        label = np.array(classes.index(path.parent.name)) if classes else None
        yield {name: (pixels[None] / np.float32(255) - np.float32(0.5)) / np.float32(0.5)}, label


def read(folder: Path, part: str, session: ort.InferenceSession) -> list[tuple[Feed, np.ndarray | None]]:
    """All samples of `calib` or `eval`, whichever of the two layouts the model uses."""
    archive = folder / f"{part}.npz"
    return list(read_npz(archive, session) if archive.exists() else read_images(folder / part, session))


def top1(outputs: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """1.0 if the largest value of the first output is at the label's index, else 0.0."""
    return (outputs[0].argmax(axis=1) == label).astype(np.float64)


def scorer_of(folder: Path) -> tuple[str, Scorer]:
    """The `score` of the folder's metric.py, or top-1 for a classifier."""
    path = folder / "metric.py"
    if not path.exists():
        return "top-1", top1
    spec = importlib.util.spec_from_file_location(f"{folder.name}_metric", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "metric.py:score", module.score


def digest(feed: Feed) -> bytes:
    """A hash of all that one sample feeds to the model."""
    return hashlib.sha256(b"".join(feed[name].tobytes() for name in sorted(feed))).digest()


def measure(folder: Path) -> Measured:
    """Run the model on its evaluation data, one sample at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    path = folder / "model.onnx"
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    calib = read(folder, "calib", session)
    evaluation = read(folder, "eval", session)
    seen = {digest(feed) for feed, _ in calib}
    shared = [index for index, (feed, _) in enumerate(evaluation) if digest(feed) in seen]
    assert not shared, f"{folder.name}: evaluation samples {shared} are calibration samples too"
    metric, score = scorer_of(folder)
    scores = []
    for feed, label in evaluation:
        assert label is not None, f"{folder.name}: an evaluation sample has no label"
        scores.append(score(session.run(None, feed), label))
    flat = np.concatenate(scores)
    return Measured(
        folder.name, path.stat().st_size, metric, float(flat.mean()), len(flat), len(evaluation), len(calib)
    )


def total_size_bytes() -> int:
    """The size of every file of this folder, caches aside."""
    files = (path for path in HERE.rglob("*") if path.is_file() and not path.parent.name.endswith("cache__"))
    return sum(path.stat().st_size for path in files)


def main() -> int:
    """Print the table; the asserts on the way are the checks."""
    print(f"{'model':<18}{'bytes':>9}  {'metric':<16}{'float32':>8}{'n':>6}{'eval':>6}{'calib':>7}")
    for path in sorted(HERE.glob("*/model.onnx")):
        m = measure(path.parent)
        print(
            f"{m.name:<18}{m.size_bytes:>9,}  {m.metric:<16}{m.score:>8.3f}{m.items:>6}{m.samples:>6}"
            f"{m.calibration_samples:>7}"
        )
    size = total_size_bytes()
    print(f"\ncalibration and evaluation are disjoint; {size:,} of at most {SIZE_LIMIT_BYTES:,} bytes")
    assert size <= SIZE_LIMIT_BYTES, f"{size:,} bytes are more than {SIZE_LIMIT_BYTES:,}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
