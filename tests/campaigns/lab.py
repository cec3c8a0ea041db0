"""Puts models through passes and judges the results: the part that all campaigns share."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from modelopt.core.signature import TensorSpec
from modelopt.engine import loop
from modelopt.io import serialize
from modelopt.passes.base import Pass
from modelopt.passes.freeze_dims import FreezeDims
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe import pipelines
from modelopt.recipe.recipe import Step, UntilStable
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns import runs
from tests.campaigns.lab_comparison import compare_outputs, given_inputs, keeps_promises, one_line, told
from tests.campaigns.lab_outcomes import NotTaken, Original, Outcome, Verdict
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
            raise NotTaken(one_line(error), error.exit_code) from error
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
                return Outcome(Verdict.REFUSED, one_line(error))
            return Outcome(Verdict.FAILED, f"{type(error).__name__}: {one_line(error)}")
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return Outcome(Verdict.FAILED, told(error))
        if not rewrites:
            if content != original.canonical:
                return Outcome(Verdict.FAILED, "claims 0 rewrites, and the bytes differ")
            return Outcome(Verdict.UNCHANGED, size_bytes=len(content))
        problem = self._structure(original, content, chosen)
        if problem:
            return Outcome(Verdict.FAILED, problem, rewrites)
        if content not in original.seen:
            original.seen[content] = compare_outputs(original, content)
        return dataclasses.replace(original.seen[content], rewrites=rewrites, size_bytes=len(content))

    def _structure(self, original: Original, content: bytes, chosen: Sequence[Step]) -> str:
        """What is wrong with the result, whatever it computes."""
        path = self._scratch / "result.onnx"
        path.write_bytes(content)
        try:
            after = io.load(path, scratch=self._scratch).model
            if not keeps_promises(original.signature, graph.signature(after), chosen):
                return "the signature changed"
            if given_inputs(original, chosen) != tuple(value.name for value in after.graph.inputs):
                return "the list of inputs changed"
            if original.checked and not runs.accepts(content):
                return "onnx's checker refuses the result"
            again = self._transform(path, chosen)[1]
        except ModeloptError as error:
            return f"the result is refused: {one_line(error)}"
        except Exception as error:  # noqa: BLE001 - a traceback is a finding
            return told(error)
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
