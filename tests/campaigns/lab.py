"""Puts models through passes and judges the results: the part that all campaigns share.

onnxruntime runs in this very process, on bytes: campaigns run in children of their own (see `pool`).
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime as ort

from modelopt import engine, graph, io, passes, pipelines, serial
from modelopt.errors import ExitCode, ModeloptError
from modelopt.measure.closeness import OutputMismatch, compare_outputs
from modelopt.passes.base import Context, Effect
from modelopt.recipe import Step
from modelopt.runtime import cpu
from modelopt.runtime.runner import WorkerRunner
from modelopt.signature import Signature

Feeds = Mapping[str, Any]

_NOT_OURS = {"onnxsim", "upgrade-opset", "freeze-dims"}  # other tools' rewrites; a pass that changes the signature

EXACT_PASSES = tuple(
    name for name in passes.NAMES if name not in _NOT_OURS and passes.find(name).effect is Effect.EXACT
)
PIPELINES = {"FOLD": pipelines.FOLD, "FUSE": pipelines.FUSE, "EXACT": pipelines.EXACT}

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_FOREIGN = ("bfloat", "float8", "float4", "int4", "uint4", "int2", "uint2")


def steps(name: str) -> tuple[Step, ...]:
    """A pass or a pipeline by name, with default options, repeated until stable.

    Shapes are inferred between rounds: what one round makes known lets the next do more.
    """
    return (pipelines.until_stable(PIPELINES.get(name, (name,))),)


class Verdict(Enum):
    """What became of a model.

    Attributes:
        UNCHANGED: No rewrites, and the same bytes.
        PRESERVED: Rewritten; the runtime gives the same outputs.
        STRUCTURE: Rewritten; the outputs are random, or the runtime does not run the original: the rest was checked.
        RUNTIME: Rewritten; without onnxruntime's optimizations the outputs are the same, and with them NaN or infinity
        differ or the result does not load: its fusions are not exact for these numbers.
    OVERFLOWS: Rewritten; the outputs differ, and the original itself computes with infinity, NaN or beyond 1e18, where
        sums and products in another order are other numbers.
    REFUSED: One line says why.
        FAILED: A bug.
    """

    UNCHANGED = "unchanged"
    PRESERVED = "preserved"
    STRUCTURE = "structure"
    RUNTIME = "the runtime's own"
    OVERFLOWS = "overflows"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """A verdict and why.

    Attributes:
        verdict: The verdict.
        reason: Of a refusal or a failure.
        rewrites: How many.
        error: The largest relative difference of outputs.
    """

    verdict: Verdict
    reason: str = ""
    rewrites: int = 0
    error: float = 0.0


@dataclass(frozen=True)
class Original:
    """A model before any pass.

    Attributes:
        path: Its file.
        content: Its bytes.
        canonical: What loading and writing makes of them.
        feeds: What it is run on.
        outputs: For each feed; None where onnxruntime does not run it, or where outputs are random.
        why_not_run: Why there are none.
        names: Of the outputs.
        checked: Whether onnx's checker accepts it.
        loads: Whether onnxruntime loads it.
    """

    path: Path
    content: bytes
    canonical: bytes
    feeds: Sequence[Feeds]
    outputs: list[list[Any]] | None
    why_not_run: str
    names: tuple[str, ...]
    checked: bool
    loads: bool


class NotTaken(Exception):
    """The gate refuses the model."""

    def __init__(self, reason: str, code: ExitCode) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Lab:
    """Keeps one runner and a scratch directory."""

    def __init__(self, scratch: Path, runner: WorkerRunner) -> None:
        self._scratch = scratch
        self._context = Context(runner=runner, target=cpu.resolve("x86-vnni"))

    def original(self, content: bytes, feeds: Sequence[Feeds]) -> Original:
        """Load a model, run it, and check it.

        Raises:
            NotTaken: modelopt refuses it.
        """
        path = self._scratch / "original.onnx"
        path.write_bytes(content)
        outputs, reason, loads = None, "", False
        try:
            session = open_session(content)
            loads = True
            outputs = [session_run(session, feed) for feed in feeds]
        except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
            reason = first_line(error)
        if outputs is not None and is_random(content):
            outputs, reason = None, "random"
        try:
            loaded = io.load(path, scratch=self._scratch)
        except ModeloptError as error:
            raise NotTaken(_line(error), error.exit_code) from error
        declared = graph.declared_values(loaded.model)
        engine.apply((), loaded.model, self._context)  # learns shapes
        graph.forget_shapes(loaded.model, keep=declared)
        names = tuple(value.name or "" for value in loaded.model.graph.outputs)
        canonical = serial.to_bytes(loaded.model)
        return Original(path, content, canonical, feeds, outputs, reason, names, accepts(content), loads)

    def transform(self, path: Path, chosen: Sequence[Step]) -> tuple[bytes, int]:
        """Apply steps to a file; returns the result's bytes and the count of rewrites."""
        model = io.load(path, scratch=self._scratch).model
        declared = graph.declared_values(model)
        results = engine.apply(chosen, model, self._context)
        graph.forget_shapes(model, keep=declared)
        return serial.to_bytes(model), sum(result.rewrites for result in results)

    def judge(self, original: Original, chosen: Sequence[Step]) -> Outcome:
        """Apply steps to an original and compare."""
        try:
            content, rewrites = self.transform(original.path, chosen)
        except ModeloptError as error:
            if error.exit_code is ExitCode.REFUSED:
                return Outcome(Verdict.REFUSED, _line(error))
            return Outcome(Verdict.FAILED, f"{type(error).__name__}: {_line(error)}")
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return Outcome(Verdict.FAILED, _traceback(error))
        if not rewrites:
            if content != original.canonical:
                return Outcome(Verdict.FAILED, "claims 0 rewrites, and the bytes differ")
            return Outcome(Verdict.UNCHANGED)
        return self._compare(original, content, rewrites, chosen)

    def _compare(self, original: Original, content: bytes, rewrites: int, chosen: Sequence[Step]) -> Outcome:
        problem = self._structure(original, content, chosen)
        if problem:
            return Outcome(Verdict.FAILED, problem, rewrites)
        if not original.loads:
            return Outcome(Verdict.STRUCTURE, original.why_not_run, rewrites)
        try:
            session = open_session(content)
            if original.outputs is None:
                return Outcome(Verdict.STRUCTURE, original.why_not_run, rewrites)
            outputs = [session_run(session, feed) for feed in original.feeds]
        except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
            own = original.outputs is not None and _same_without_fusions(original, content)
            return Outcome(Verdict.RUNTIME if own else Verdict.FAILED, f"onnxruntime: {first_line(error)}", rewrites)
        worst = 0.0
        for before, after in zip(original.outputs, outputs, strict=True):
            found = compare(before, after, original.names)
            if isinstance(found, OutputMismatch):
                return Outcome(_blame(original, content, found), str(found), rewrites)
            worst = max(worst, found)
        return Outcome(Verdict.PRESERVED, "", rewrites, worst)

    def _structure(self, original: Original, content: bytes, chosen: Sequence[Step]) -> str:
        """What is wrong with the result, whatever it computes."""
        path = self._scratch / "result.onnx"
        path.write_bytes(content)
        try:
            after = io.load(path, scratch=self._scratch).model
            before = io.load(original.path, scratch=self._scratch).model
            if not _refines(graph.signature(before), graph.signature(after)):
                return "the signature changed"
            if [value.name for value in before.graph.inputs] != [value.name for value in after.graph.inputs]:
                return "the list of inputs changed"
            if original.checked and not accepts(content):
                return "onnx's checker refuses the result"
            again = self.transform(path, chosen)[1]
        except ModeloptError as error:
            return f"the result is refused: {_line(error)}"
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return _traceback(error)
        return f"a second run makes {again} rewrites" if again else ""


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab with a runner of its own."""
    with tempfile.TemporaryDirectory(prefix="modelopt-lab-") as directory:
        runner = WorkerRunner()
        try:
            yield Lab(Path(directory), runner)
        finally:
            runner.close()


def _refines(before: Signature, after: Signature) -> bool:
    """The same signature, but that shapes which nothing declared may have become known."""
    told = [spec for side in (before.inputs, before.outputs) for spec in side]
    found = [spec for side in (after.inputs, after.outputs) for spec in side]
    return len(told) == len(found) and all(
        (a.name, a.dtype) == (b.name, b.dtype) and _refines_shape(a.shape, b.shape)
        for a, b in zip(told, found, strict=True)
    )


def _refines_shape(before: Sequence[Any] | None, after: Sequence[Any] | None) -> bool:
    if before is None or after is None:
        return before is None
    return len(before) == len(after) and all(a in {None, b} for a, b in zip(before, after, strict=True))


# onnx and onnxruntime


def accepts(content: bytes) -> bool:
    """Whether onnx's checker takes the model."""
    try:
        onnx.checker.check_model(content)
    except Exception:  # noqa: BLE001 - it raises many kinds
        return False
    return True


def _blame(original: Original, content: bytes, found: OutputMismatch) -> Verdict:
    """Whose fault a mismatch is."""
    if "on one side only" in found.reason and _same_without_fusions(original, content):
        return Verdict.RUNTIME
    return Verdict.OVERFLOWS if _overflows(original) else Verdict.FAILED


def _overflows(original: Original) -> bool:
    """Whether some value inside the original is infinite, NaN or huge."""
    proto = onnx.ModelProto.FromString(original.content)
    present = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in present]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(proto.SerializeToString(), fuse=False)
    arrays = [array for feed in original.feeds for array in session_run(session, feed)]
    floats = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return any(not np.isfinite(array).all() or np.abs(array).max(initial=0.0) > 1e18 for array in floats)


def _same_without_fusions(original: Original, content: bytes) -> bool:
    """Whether the two agree when onnxruntime runs them as they are."""
    try:
        before, after = (open_session(each, fuse=False) for each in (original.content, content))
        return all(
            isinstance(compare(session_run(before, feed), session_run(after, feed), original.names), float)
            for feed in original.feeds
        )
    except Exception:  # noqa: BLE001 - onnxruntime raises many kinds
        return False


def open_session(content: bytes, *, fuse: bool = True) -> ort.InferenceSession:
    """A session as users open it, on one thread; or one that runs the model as it is."""
    options = ort.SessionOptions()
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def session_run(session: ort.InferenceSession, feeds: Feeds) -> list[Any]:
    """Run once; types that numpy lacks go in as OrtValues and come out as bytes."""
    kinds = [value.type for value in session.get_outputs()]
    foreign_out = any(kind.startswith("tensor(") and kind[7:-1].startswith(_FOREIGN) for kind in kinds)
    if not foreign_out and not any(isinstance(value, np.ndarray) and _is_foreign(value) for value in feeds.values()):
        outputs: list[Any] = session.run(None, dict(feeds))
        return outputs
    values = {name: _ort_value(value) for name, value in feeds.items()}
    names = [output.name for output in session.get_outputs()]
    return [_array(value) for value in session.run_with_ort_values(names, values)]


def _array(value: ort.OrtValue) -> np.ndarray:
    if not value.data_type()[7:-1].startswith(_FOREIGN):
        array: np.ndarray = value.numpy()
        return array
    return np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint8)


def _is_foreign(array: np.ndarray) -> bool:
    return array.dtype.kind == "V" or array.dtype.name.startswith(_FOREIGN)


def _ort_value(array: np.ndarray) -> ort.OrtValue:
    if not _is_foreign(array):
        return ort.OrtValue.ortvalue_from_numpy(array)
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)


def compare(before: Sequence[Any], after: Sequence[Any], names: Sequence[str]) -> OutputMismatch | float:
    """`compare_outputs` for outputs that may be sequences or absent."""
    left, left_names = _flat(before, names)
    right, right_names = _flat(after, names)
    if left_names != right_names:
        return OutputMismatch(output=", ".join(names), reason="sequences or optionals differ in their structure")
    return compare_outputs(left, right, left_names)


def _flat(outputs: Sequence[Any], names: Sequence[str]) -> tuple[list[np.ndarray], list[str]]:
    arrays, found = [], []
    for output, name in zip(outputs, names, strict=True):
        if isinstance(output, list):
            inner, inner_names = _flat(output, [f"{name}[{i}]" for i in range(len(output))])
            arrays += inner
            found += [f"{name}: {len(output)}", *inner_names][1:] if output else []
            continue
        arrays.append(np.zeros(0) if output is None else np.asarray(output))
        found.append(f"{name}: absent" if output is None else name)
    return arrays, found


def is_random(content: bytes) -> bool:
    """Whether some node draws random numbers."""
    proto = onnx.ModelProto.FromString(content)
    return any(_draws(node) for node in _nodes(proto))


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                pending += body.node


def _draws(node: onnx.NodeProto) -> bool:
    training_dropout = node.op_type == "Dropout" and len(node.input) > 2
    return node.op_type in _RANDOM or training_dropout


# Text


def first_line(error: BaseException) -> str:
    """The first line of an error that is not empty, without numbers that differ between runs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]


def generic(reason: str) -> str:
    """A reason without names and numbers, to count by."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", re.sub(r"\d+", "#", re.sub(r"/\S+/", "", reason)))[:110]


def _line(error: ModeloptError) -> str:
    return f"{error.fact}" + (f" ({error.note})" if error.note else "")


def _traceback(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"traceback: {type(error).__name__}: {first_line(error)} at {where}"
