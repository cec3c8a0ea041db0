"""Puts models through passes and judges the results: the part that all campaigns share."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph, io, passes
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.core.errors import ExitCode, ModeloptError, Refused
from modelopt.core.signature import Signature, TensorSpec
from modelopt.engine import loop
from modelopt.io import serialize
from modelopt.measure.tolerance import OutputMismatch
from modelopt.passes.base import Pass
from modelopt.passes.freeze_dims import FreezeDims
from modelopt.passes.freeze_weights import FreezeWeights
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe import pipelines
from modelopt.recipe.recipe import Step, UntilStable
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns import runs
from tests.campaigns.runs import Feeds

LEFT_OUT = {"onnxsim": "another tool's rewrites, in its own package; only on request"}
"""The exact passes that no campaign runs, and why."""

EXACT_PASSES = tuple(name for name in passes.NAMES if name not in LEFT_OUT and passes.find(name).effect is Effect.EXACT)
"""Every other exact pass of the registry, so that a new one cannot be forgotten."""

PIPELINES = {"FOLD": pipelines.FOLD, "FUSE": pipelines.FUSE, "EXACT": pipelines.EXACT}

_LATEST = UpgradeOpset(version=min(25, onnx.defs.onnx_opset_version()))
VARIANTS: dict[str, Pass] = {str(_LATEST): _LATEST}
"""Passes with options other than the default ones."""


def _steps(name: str, original: Original) -> tuple[Step, ...]:
    """A pass, a variant of one or a pipeline by name, repeated until stable.

    Shapes are inferred between rounds: what one round makes known lets the next do more. Options are the default ones,
    but that freeze-dims sets the dimensions that `original` leaves open.
    """
    if name in VARIANTS:
        return (UntilStable((VARIANTS[name],)),)
    if name == FreezeDims.name:
        return (UntilStable((FreezeDims(shapes=_open_shapes(original)),)),)
    return (pipelines.until_stable(PIPELINES.get(name, (name,))),)


def _open_shapes(original: Original) -> tuple[str, ...]:
    """The inputs with open dimensions, in the sizes of the first feed, as freeze-dims takes them."""
    feed = original.feeds[0] if original.feeds else {}
    shapes = {spec.name: _shape(feed.get(spec.name)) for spec in original.signature.inputs if _is_open(spec)}
    return tuple(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items() if shape and all(shape))


def _alike(original: Original) -> Original:
    """With those feeds only that have the shapes of the first."""
    if original.outputs is None:
        return original
    pairs = zip(original.feeds, original.outputs, strict=True)
    first = {name: _shape(value) for name, value in (original.feeds or [{}])[0].items()}
    kept = [pair for pair in pairs if {name: _shape(value) for name, value in pair[0].items()} == first]
    return dataclasses.replace(original, feeds=[pair[0] for pair in kept], outputs=[pair[1] for pair in kept], seen={})


def _shape(value: Any) -> tuple[int, ...]:
    """Of an array; of nothing else."""
    return value.shape if isinstance(value, np.ndarray) else ()


def _is_open(spec: TensorSpec) -> bool:
    return spec.shape is None or any(not isinstance(dim, int) or dim < 0 for dim in spec.shape)


class Verdict(Enum):
    """What became of a model.

    Attributes:
        UNCHANGED: No rewrites, and the same bytes.
        PRESERVED: Rewritten; the runtime gives the same outputs.
        STRUCTURE: Rewritten; the outputs are random, or the runtime does not run the original: the rest was checked.
        RUNTIME: Rewritten; without onnxruntime's optimizations the outputs are the same, and with them NaN or infinity
            differ or the result does not load: its fusions are not exact for these numbers.
        OVERFLOWS: Rewritten; the outputs differ, and the original itself computes with infinity, NaN or beyond 1e18,
            where sums and products in another order are other numbers.
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
        size_bytes: Of the result; 0 where there is none.
    """

    verdict: Verdict
    reason: str = ""
    rewrites: int = 0
    error: float = 0.0
    size_bytes: int = 0


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
        signature: What it declares.
        inputs: Names of all inputs, those with a default too.
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
    signature: Signature
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    checked: bool
    loads: bool
    seen: dict[bytes, Outcome] = field(default_factory=dict)  # passes often agree on a result: it is run once


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
        self._context = Context(runner=runner, target=targets.resolve("x86-vnni"))

    def original(self, content: bytes, feeds: Sequence[Feeds]) -> Original:
        """Load a model, run it, and check it.

        Raises:
            NotTaken: modelopt refuses it.
        """
        path = self._scratch / "original.onnx"
        path.write_bytes(content)
        outputs, reason, loads = None, "", False
        try:
            session = runs.open_session(content)
            loads = True
            outputs = [runs.session_run(session, feed) for feed in feeds]
        except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
            reason = runs.first_line(error)
        if outputs is not None and runs.is_random(content):
            outputs, reason = None, "random"
        try:
            loaded = io.load(path, scratch=self._scratch)
        except ModeloptError as error:
            raise NotTaken(_line(error), error.exit_code) from error
        declared = graph.declared_values(loaded.model)
        signature = graph.signature(loaded.model)
        loop.apply((), loaded.model, self._context)  # learns shapes
        graph.forget_shapes(loaded.model, keep=declared)
        return Original(
            path=path,
            content=content,
            canonical=serialize.to_bytes(loaded.model),
            feeds=feeds,
            outputs=outputs,
            why_not_run=reason,
            signature=signature,
            inputs=tuple(value.name or "" for value in loaded.model.graph.inputs),
            names=tuple(value.name or "" for value in loaded.model.graph.outputs),
            checked=runs.accepts(content),
            loads=loads,
        )

    def _transform(self, path: Path, chosen: Sequence[Step]) -> tuple[bytes, int]:
        """Apply steps to a file; returns the result's bytes and the count of rewrites."""
        model = io.load(path, scratch=self._scratch).model
        declared = graph.declared_values(model)
        results = loop.apply(chosen, model, self._context)
        graph.forget_shapes(model, keep=declared)
        return serialize.to_bytes(model), sum(result.rewrites for result in results)

    def judge(self, original: Original, name: str) -> Outcome:
        """Apply the pass, variant or pipeline of that name to an original and compare."""
        original = _alike(original) if name == FreezeDims.name else original
        chosen = _steps(name, original)
        try:
            content, rewrites = self._transform(original.path, chosen)
        except ModeloptError as error:
            if error.exit_code is ExitCode.REFUSED:
                return Outcome(Verdict.REFUSED, _line(error))
            return Outcome(Verdict.FAILED, f"{type(error).__name__}: {_line(error)}")
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return Outcome(Verdict.FAILED, _traceback(error))
        if not rewrites:
            if content != original.canonical:
                return Outcome(Verdict.FAILED, "claims 0 rewrites, and the bytes differ")
            return Outcome(Verdict.UNCHANGED, size_bytes=len(content))
        problem = self._structure(original, content, chosen)
        if problem:
            return Outcome(Verdict.FAILED, problem, rewrites)
        if content not in original.seen:
            original.seen[content] = _compare(original, content)
        return dataclasses.replace(original.seen[content], rewrites=rewrites, size_bytes=len(content))

    def _structure(self, original: Original, content: bytes, chosen: Sequence[Step]) -> str:
        """What is wrong with the result, whatever it computes."""
        path = self._scratch / "result.onnx"
        path.write_bytes(content)
        try:
            after = io.load(path, scratch=self._scratch).model
            if not _keeps(original.signature, graph.signature(after), chosen):
                return "the signature changed"
            if _given(original, chosen) != tuple(value.name for value in after.graph.inputs):
                return "the list of inputs changed"
            if original.checked and not runs.accepts(content):
                return "onnx's checker refuses the result"
            again = self._transform(path, chosen)[1]
        except ModeloptError as error:
            return f"the result is refused: {_line(error)}"
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return _traceback(error)
        return f"a second run makes {again} rewrites" if again else ""


class _Remembering(WorkerRunner):
    """Infers the shapes of the same bytes once: all passes start from the same file."""

    _kept = 64

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, list[tuple[ir.TypeProtocol | None, ir.Shape | None]] | Refused] = {}

    def infer_shapes(self, model: ir.Model) -> None:
        """As a `WorkerRunner` does."""
        asked = serialize.to_bytes(model, weights=False)
        if asked not in self._known:
            self._known[asked] = self._infer(model)
        while len(self._known) > self._kept:
            del self._known[next(iter(self._known))]
        answer = self._known[asked]
        if isinstance(answer, Refused):
            raise answer
        values = (value for node in graph.all_nodes(model) for value in node.outputs)
        for value, (type_, shape) in zip(values, answer, strict=True):
            value.type, value.shape = type_, None if shape is None else shape.copy()

    def _infer(self, model: ir.Model) -> list[tuple[ir.TypeProtocol | None, ir.Shape | None]] | Refused:
        try:
            super().infer_shapes(model)
        except Refused as error:
            return error
        values = [value for node in graph.all_nodes(model) for value in node.outputs]
        return [(value.type, None if value.shape is None else value.shape.copy()) for value in values]


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab with a runner of its own."""
    with tempfile.TemporaryDirectory(prefix="modelopt-lab-") as directory:
        runner = _Remembering()
        try:
            yield Lab(Path(directory), runner)
        finally:
            runner.close()


def _given(original: Original, chosen: Sequence[Step]) -> tuple[str | None, ...]:
    """The inputs that the result has: freeze-weights leaves those without a value."""
    if any(isinstance(step, UntilStable) and step.passes == (FreezeWeights(),) for step in chosen):
        return tuple(spec.name for spec in original.signature.inputs)
    return original.inputs


def _keeps(before: Signature, after: Signature, chosen: Sequence[Step]) -> bool:
    """Whether the signature is the one that the steps promise, but that what nothing declared may have become known.

    Where a step narrows the inputs, outputs follow: their symbols may have become sizes.
    """
    alone = [one for step in chosen for one in (step.passes if isinstance(step, UntilStable) else (step,))]
    for one in alone:
        before = one.signature_after(before)
    narrows = not all(one.keeps_signature for one in alone)
    return _refine(before.inputs, after.inputs) and _refine(before.outputs, after.outputs, narrows=narrows)


def _refine(before: Sequence[TensorSpec], after: Sequence[TensorSpec], *, narrows: bool = False) -> bool:
    return len(before) == len(after) and all(
        (a.name, a.dtype) == (b.name, b.dtype) and _refines_shape(a.shape, b.shape, narrows=narrows)
        for a, b in zip(before, after, strict=True)
    )


def _refines_shape(before: Sequence[Any] | None, after: Sequence[Any] | None, *, narrows: bool) -> bool:
    if before is None or after is None:
        return before is None
    return len(before) == len(after) and all(
        a in {None, b} or (narrows and isinstance(a, str) and isinstance(b, int))
        for a, b in zip(before, after, strict=True)
    )


# On the runtime


def _compare(original: Original, content: bytes) -> Outcome:
    """What the runtime says of a result."""
    if not original.loads:
        return Outcome(Verdict.STRUCTURE, original.why_not_run)
    try:
        session = runs.open_session(content)
        if original.outputs is None:
            return Outcome(Verdict.STRUCTURE, original.why_not_run)
        outputs = [runs.session_run(session, feed) for feed in original.feeds]
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        own = original.outputs is not None and _same_without_fusions(original, content)
        return Outcome(Verdict.RUNTIME if own else Verdict.FAILED, f"onnxruntime: {runs.first_line(error)}")
    worst = 0.0
    for before, after in zip(original.outputs, outputs, strict=True):
        found = runs.compare(before, after, original.names)
        if isinstance(found, OutputMismatch):
            return Outcome(_blame(original, content, found), str(found))
        worst = max(worst, found)
    return Outcome(Verdict.PRESERVED, error=worst)


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
    session = runs.open_session(proto.SerializeToString(), fuse=False)
    arrays = [array for feed in original.feeds for array in runs.session_run(session, feed)]
    floats = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return any(not np.isfinite(array).all() or np.abs(array).max(initial=0.0) > 1e18 for array in floats)


def _same_without_fusions(original: Original, content: bytes) -> bool:
    """Whether the two agree when onnxruntime runs them as they are."""
    try:
        before, after = (runs.open_session(each, fuse=False) for each in (original.content, content))
        return all(
            isinstance(
                runs.compare(runs.session_run(before, feed), runs.session_run(after, feed), original.names), float
            )
            for feed in original.feeds
        )
    except Exception:  # noqa: BLE001 - onnxruntime raises many kinds
        return False


# Text


def generic(reason: str) -> str:
    """A reason without names and numbers, to count by."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", re.sub(r"\d+", "#", re.sub(r"/\S+/", "", reason)))[:110]


def _line(error: ModeloptError) -> str:
    return f"{error.fact}" + (f" ({error.note})" if error.note else "")


def _traceback(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"traceback: {type(error).__name__}: {runs.first_line(error)} at {where}"
