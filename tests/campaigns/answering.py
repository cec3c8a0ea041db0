"""The program behind `answers`: opens models on onnxruntime, runs them on data and on feeds of its own, compares.

Nothing of `modelopt` is imported: what it says is held against this.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

from tests.campaigns.answers import SECONDS, Answer

_RUNNING_SECONDS = 10.0
_MEMORY_BYTES = 6 << 30
_MOST_ELEMENTS = 4_000_000
_DATA_FEEDS = 32
_RELATIVE, _OF_SCALE, _OF_NOISE = 2e-3, 1e-6, 10.0
_HALF_RELATIVE = 3e-2
_SHAPES = ((1, 8), (1, 1), (3, 8), (5, 13), (2, 64), (1, 600))
_SCALES = (1.0, 10.0, 0.0)
_NUMPY = {
    "float": "f4",
    "double": "f8",
    "float16": "f2",
    "bool": "?",
    **{f"{sign}int{bits}": f"{'u' if sign else 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

Feeds = Mapping[str, np.ndarray]


@dataclass
class _Original:
    """The original, open, with what it answered.

    Attributes:
        answers: (feed, outputs, how far outputs move without onnxruntime's own fusions), for each feed that it takes.
    """

    session: Any
    answers: list[tuple[Feeds, list[Any], list[float]]] = field(default_factory=list)
    from_data: int = 0
    data_elements: int = 0
    usual_elements: int | None = None
    problem: str = ""


def main() -> int:
    """Read one task from stdin, print an answer in a line each."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.alarm(SECONDS)  # it ends the process, native code or not
    task = json.load(sys.stdin)
    if not task["original"]:
        for path, _exact in task["results"]:
            _say(_loads(Path(path)))
        return 0
    model = Path(task["original"])
    try:
        original = _Original(_open(model))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        _say(Answer(loads=False, problem=_line(error)))
        for path, _exact in task["results"]:
            _say(_loads(Path(path)))
        return 0
    _run_original(original, model, Path(task["data"]) if task["data"] else None)
    _say(
        Answer(
            loads=True,
            problem=original.problem,
            feeds=len(original.answers),
            data_feeds=original.from_data,
            data_elements=original.data_elements,
            usual_elements=original.usual_elements,
        )
    )
    for path, exact in task["results"]:
        _say(_judge(original, Path(path)) if exact else _loads(Path(path)))
    return 0


def _say(answer: Answer) -> None:
    signal.alarm(SECONDS)  # the next model has as long again
    print(json.dumps(asdict(answer)), flush=True)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _open(path: Path, *, fuse: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _loads(path: Path) -> Answer:
    try:
        _open(path)
    except Exception as error:  # noqa: BLE001 - as above
        return Answer(loads=False, problem=_line(error))
    return Answer(loads=True)


def _run_original(original: _Original, model: Path, data: Path | None) -> None:
    unfused = _open(model, fuse=False)
    real = samples(data, original.session.get_inputs())
    until = time.monotonic() + _RUNNING_SECONDS
    for number, feed in enumerate([*real, *constructed(original.session.get_inputs())]):
        if time.monotonic() > until:
            break
        try:
            outputs = original.session.run(None, dict(feed))
            again = original.session.run(None, dict(feed))
            plain = unfused.run(None, dict(feed))
        except Exception as error:  # noqa: BLE001 - as above
            original.problem = _line(error)
            continue
        noise = [_distance(one, other) for one, other in zip(outputs, plain, strict=True)]
        if differs(outputs, again, [0.0] * len(outputs), ""):
            original.problem = "it answers differently each time"
            continue
        original.answers.append((feed, outputs, noise))
        elements = sum(array.size for output in outputs for array in _arrays(output))
        if number < len(real):
            original.from_data += 1
            original.data_elements += elements
        elif (number - len(real)) % len(_SCALES) == 0:
            original.usual_elements = (original.usual_elements or 0) + elements
    if original.answers:
        original.problem = ""


def samples(data: Path | None, inputs: Sequence[Any]) -> list[Feeds]:
    """The first samples of an ``.npz`` or of a folder of those, as feeds with a batch of one; none of other data.

    Args:
        data: Keys are input names, axis 0 holds samples; what a scalar input has may stand for all of them.
        inputs: As an onnxruntime session lists them.
    """
    files = [] if data is None else sorted(data.glob("*.npz")) if data.is_dir() else [data]
    ranks = {value.name: len(value.shape) for value in inputs}
    found: list[Feeds] = []
    for file in files[:_DATA_FEEDS]:
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files if name in ranks}
        batched = [len(array) for name, array in arrays.items() if ranks[name] and array.ndim]
        found += [
            {name: _sample(array, ranks[name], number) for name, array in arrays.items()}
            for number in range(min(batched, default=0))
        ]
    return found[:_DATA_FEEDS]


def _sample(array: np.ndarray, rank: int, number: int) -> np.ndarray:
    if rank:
        return array[number : number + 1]
    return np.array(array if array.ndim == 0 else array[number])


def constructed(inputs: Sequence[Any]) -> Iterator[Feeds]:
    """Random feeds in several batches, lengths and magnitudes; integers from small ranges.

    Args:
        inputs: As an onnxruntime session lists them.
    """
    for number, (batch, length) in enumerate(_SHAPES):
        for scale in _SCALES:
            rng = np.random.default_rng([number, int(scale)])
            feed = {value.name: _draw(rng, value, batch, length, scale) for value in inputs}
            if all(array is not None for array in feed.values()):
                yield {name: array for name, array in feed.items() if array is not None}


def _draw(rng: np.random.Generator, value: Any, batch: int, length: int, scale: float) -> np.ndarray | None:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _NUMPY:
        return None
    free = [batch if axis == 0 else length for axis in range(len(value.shape))]
    shape = [dim if isinstance(dim, int) and dim >= 0 else free[axis] for axis, dim in enumerate(value.shape)]
    if np.prod(shape, dtype=float) > _MOST_ELEMENTS:
        return None
    dtype = np.dtype(_NUMPY[kind])
    if dtype.kind == "f":
        return np.array(scale * rng.standard_normal(shape), dtype, order="C")
    return np.array(rng.integers(0, 2 if dtype.kind == "b" else 2 + int(scale / 2), shape), dtype, order="C")


def _judge(original: _Original, path: Path) -> Answer:
    try:
        session = _open(path)
    except Exception as error:  # noqa: BLE001 - as above
        return Answer(loads=False, problem=_line(error))
    half = np.float16 in {
        array.dtype.type for _f, outputs, _n in original.answers for o in outputs for array in _arrays(o)
    }
    elements = 0
    difference = ""
    for number, (feed, outputs, noise) in enumerate(original.answers):
        try:
            after = session.run(None, dict(feed))
        except Exception as error:  # noqa: BLE001 - as above
            difference = difference or f"{_told(feed)}: the result does not run: {_line(error)}"
            continue
        elements += sum(array.size for output in outputs for array in _arrays(output))
        kind = "sample" if number < original.from_data else "constructed feed"
        difference = difference or differs(outputs, after, noise, f"{kind} {_told(feed)}: ", half=half)
    return Answer(
        loads=True,
        problem=original.problem,
        feeds=len(original.answers),
        data_feeds=original.from_data,
        elements=elements,
        data_elements=original.data_elements,
        difference=difference,
    )


def _told(feed: Feeds) -> str:
    """A feed in a few words: shapes, and the largest magnitude."""
    return ", ".join(
        f"{name}{list(array.shape)}"
        + (f" up to {np.max(np.abs(array)):.3g}" if array.dtype.kind == "f" and array.size else "")
        for name, array in feed.items()
    )


def _arrays(output: Any) -> Iterator[np.ndarray]:
    """The arrays of an output that may be a sequence or a map."""
    if isinstance(output, Mapping):
        yield from _arrays([output[key] for key in sorted(output)])
    elif isinstance(output, list):
        for each in output:
            yield from _arrays(each)
    elif output is not None:
        yield np.asarray(output)


def _distance(before: Any, after: Any) -> float:
    """How far two outputs are apart at most."""
    found = [0.0]
    for one, other in zip(_arrays(before), _arrays(after), strict=False):
        if one.dtype.kind == "f" and one.shape == other.shape and one.size:
            with np.errstate(all="ignore"):
                apart = np.abs(one.astype(float) - other.astype(float))
            found.append(float(np.max(np.where(np.isfinite(apart), apart, 0.0))))
    return max(found)


def differs(
    before: Sequence[Any], after: Sequence[Any], noise: Sequence[float], where: str, *, half: bool = False
) -> str:
    """Where outputs differ by more than rounding, as a clause; empty where they do not."""
    for number, (left, right) in enumerate(zip(before, after, strict=True)):
        pairs = list(_arrays(left)), list(_arrays(right))
        if [(a.shape, a.dtype) for a in pairs[0]] != [(a.shape, a.dtype) for a in pairs[1]]:
            return f"{where}output {number} has another structure, shape or type"
        for one, other in zip(*pairs, strict=True):
            wrong = ~_close(one, other, noise[number], half=half)
            if wrong.any():
                place = tuple(int(i) for i in np.argwhere(wrong)[0])
                share = f"{int(wrong.sum())} of {wrong.size} elements differ"
                return (
                    f"{where}{share}, e.g. {other[place]} instead of {one[place]} in output {number} at {list(place)}"
                )
    return ""


def _close(one: np.ndarray, other: np.ndarray, noise: float, *, half: bool) -> np.ndarray:
    if one.dtype.kind != "f":
        return np.asarray(one == other)
    finite = np.abs(one[np.isfinite(one)])
    scale = float(finite.max()) if finite.size else 0.0
    relative = _HALF_RELATIVE if half else _RELATIVE
    floor = (_HALF_RELATIVE if half else _OF_SCALE) * scale + _OF_NOISE * noise + 1e-7
    return np.asarray(np.isclose(other, one, rtol=relative, atol=floor, equal_nan=True))


if __name__ == "__main__":
    sys.exit(main())
