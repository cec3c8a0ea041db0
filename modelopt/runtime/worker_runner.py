"""The `Runner` that the engine lends to passes: one worker, which opens models from temporary files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.histogram import Observed
from modelopt.core import targets, temporary
from modelopt.core.errors import Refused
from modelopt.core.signature import symbol_of
from modelopt.graph import weight_inputs
from modelopt.io import serialize
from modelopt.runtime import shape_propagation
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session

_RUNS_AT_ONCE = 4  # each holds the activations of a sample


class WorkerRunner:
    """Runs models in one limited child that starts on first use.

    Args:
        spec: Provider and threads for runs.
        limits: What the child may use.
        exact: See `Worker`; also of sessions that others open in the child that `start` gives.
        children: See `Worker`.
    """

    def __init__(
        self,
        spec: SessionSpec | None = None,
        limits: Limits | None = None,
        *,
        exact: bool = False,
        children: ChildPool | None = None,
    ) -> None:
        self._spec = spec or SessionSpec(spin=False)
        self._limits = limits
        self._exact = exact
        self._children = children
        self._worker: Worker | None = None

    def start(self) -> Worker:
        """Start the child ahead of its first use; it imports what it needs while the caller goes on."""
        return self._open()

    def follow(self, limits: Limits) -> None:
        """Use these limits from now on."""
        self._limits = limits
        if self._worker is not None:
            self._worker.follow(limits)

    def close(self) -> None:
        """End the child, if it was started."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        """See `modelopt.core.runner.Runner.run`.

        Values observed as extra outputs stop onnxruntime from fusing across them, and only them.
        """
        with self._opened(model, outputs or (), self._spec) as session:
            for feed in feeds:
                yield session.run(dict(feed), list(outputs) if outputs is not None else None)

    def observe(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Mapping[str, str], *, bins: int
    ) -> Observed:
        """See `modelopt.calibration.context.CountingRunner.observe`.

        Some samples run at the same time, with few threads each: one sample with many threads uses the cores less.
        """
        cores = self._spec.threads or targets.usable_cores()
        at_once = min(cores, _RUNS_AT_ONCE)
        # A block planned for all tensors would hold those that are observed a second time.
        spec = msgspec.structs.replace(self._spec, threads=cores // at_once, memory_pattern=False)
        with self._opened(model, outputs.values(), spec) as session:
            empty = True
            for feed in feeds:
                session.observe(dict(feed), outputs, bins=bins, runs_at_once=at_once)
                empty = False
            return Observed({}, {}, 0) if empty else session.observed()

    def infer_shapes(self, model: ir.Model) -> None:
        """See `modelopt.core.runner.Runner.infer_shapes`."""
        light = serialize.to_bytes(model, weights=False)
        answer = self._open().transform(
            "infer_shapes", light, doing="shape inference", data_prop=shape_propagation.is_affordable(model)
        )
        copy = serialize.skeleton_from_bytes(answer)
        for known, found in zip(graph.all_graphs(model), graph.all_graphs(copy), strict=True):
            for node, its_copy in zip(known, found, strict=True):
                for value, inferred_value in zip(node.outputs, its_copy.outputs, strict=True):
                    _learn(value, inferred_value)

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        """See `modelopt.core.runner.Runner.convert_opset`.

        The converter would hold each weight about nine times.
        """
        light, tensors = weight_inputs.without_weights(model)
        converted = self._transform("convert_opset", light, doing=f"converting to opset {version}", version=version)
        weight_inputs.with_weights(converted, tensors)
        return converted

    def simplify(self, model: ir.Model) -> ir.Model:
        """See `modelopt.core.runner.Runner.simplify`."""
        return self._transform("simplify", model, doing="onnxsim")

    @contextlib.contextmanager
    def _opened(self, model: ir.Model, outputs: Iterable[str], spec: SessionSpec) -> Iterator[Session]:
        with temporary.folder() as folder:
            path = folder / "model.onnx"
            with _extra_outputs(model, outputs), path.open("wb") as file:
                file.writelines(serialize.chunks(model))
            session = self._open().open(path, spec, what="model that this pass works on")
            try:
                yield session
            except Refused:  # the child lives on: it must not keep what it holds for this model
                session.close()
                raise
            session.close()

    def _transform(self, call: str, model: ir.Model, *, doing: str, **arguments: int) -> ir.Model:
        answer = self._open().transform(call, serialize.to_bytes(model), doing=doing, **arguments)
        return serialize.from_bytes(answer)

    def _open(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self._limits, preload="onnx", exact=self._exact, children=self._children)
        return self._worker


def _learn(value: ir.Value, inferred: ir.Value) -> None:
    """Give a value the type and the dimensions that shape inference found and the model does not state."""
    if value.type is None:
        value.type = inferred.type
    if not isinstance(inferred.type, ir.TensorType):  # a sequence or an optional has no shape of its own
        return
    if value.shape is None or inferred.shape is None:
        value.shape = value.shape or inferred.shape
    elif len(value.shape) == len(inferred.shape):
        dims = [new if isinstance(new, int) else old for old, new in zip(value.shape, inferred.shape, strict=True)]
        dims = [new if _is_open(old) else old for old, new in zip(dims, inferred.shape, strict=True)]
        if dims != list(value.shape):
            value.shape = ir.Shape(dims)


def _is_open(dim: int | ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and symbol_of(dim.value) is None


class _extra_outputs:  # noqa: N801 - used as a function
    """Make values of the main graph outputs for a while; a context manager."""

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        self._outputs = model.graph.outputs
        present = {value.name for value in model.graph.outputs}
        wanted = set(names) - present
        self._added = [out for node in model.graph for out in node.outputs if out.name in wanted]
        self._added += [value for value in model.graph.inputs if value.name in wanted]

    def __enter__(self) -> None:
        self._outputs.extend(self._added)

    def __exit__(self, *_exception: object) -> None:
        for _ in self._added:
            self._outputs.pop()
