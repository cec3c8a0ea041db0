"""The loop over passes: each is applied, timed, checked for what it left, and shown to the observers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import Refused, WorkerDied
from modelopt.core.progress import Progress, silent
from modelopt.core.signature import Signature
from modelopt.engine.datasets import signature_of
from modelopt.engine.observers import Observer
from modelopt.graph import invariants, schemas
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import Step, UntilStable
from modelopt.report import ModelStats, PassResult

MAX_ROUNDS = 10
"""How often a group of passes is repeated at most. It is a guess, and guards against passes that undo each other."""


@dataclass
class _Known:
    """The figures and the signature of a model, found once for all passes that leave it as it is."""

    model: ir.Model
    stats: ModelStats = field(init=False)
    signature: Signature = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Find them anew, because the model changed."""
        self.stats, self.signature = _stats(self.model), signature_of(self.model)


def apply(
    steps: Sequence[Step],
    model: ir.Model,
    context: Context,
    observers: Sequence[Observer] = (),
    progress: Progress = silent,
) -> tuple[PassResult, ...]:
    """Apply the steps to `model` in place.

    Returns:
        One result for each application of a pass, except that rounds of a group after the first are listed only where
        they changed something.

    Raises:
        Refused: The model is written in an opset that passes do not know.
        VerificationFailed: A pass left an invalid model, other inputs or outputs, or one that computes something else.
    """
    if steps:
        _require_known_opset(model)
    results: list[PassResult] = []
    declared = graph.declared_values(model)
    _infer_shapes(model, context)
    known = _Known(model)
    for done, step in enumerate(steps):
        progress("passes", done, len(steps))
        if isinstance(step, UntilStable):
            results.extend(_until_stable(step, known, context, observers, declared))
        else:
            results.append(_apply_one(step, known, context, observers))
    for observer in observers:
        observer.end(model)
    progress("passes", len(steps), len(steps))
    return tuple(results)


def _require_known_opset(model: ir.Model) -> None:
    """Passes read a node as the newest opset that they know defines it: in a later one it may have other inputs."""
    newest = schemas.newest_opset()
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        version = graph.standard_version(imports)
        if version > newest:
            raise Refused(
                f"the model is written in opset {version}, which passes do not know", note=f"they know opset {newest}"
            )


def _until_stable(
    group: UntilStable,
    known: _Known,
    context: Context,
    observers: Sequence[Observer],
    declared: frozenset[str],
) -> Iterator[PassResult]:
    for number in range(MAX_ROUNDS):
        changed = False
        for one in group.passes:
            result = _apply_one(one, known, context, observers)
            changed |= result.rewrites > 0
            if number == 0 or result.rewrites:
                yield result
        if not changed:
            return
        _infer_shapes_anew(known.model, context, declared)
        known.renew()


def _infer_shapes(model: ir.Model, context: Context) -> None:
    """Shapes let passes do more; without them each says what it could not do."""
    with contextlib.suppress(Refused, WorkerDied):
        context.runner.infer_shapes(model)


def _infer_shapes_anew(model: ir.Model, context: Context, declared: frozenset[str]) -> None:
    """Replace the shapes by those that a run on the rewritten model's file would infer.

    So a second run on the result knows no more than this one did, and finds nothing to do.
    """
    known = [(value, value.type, value.shape) for node in graph.all_nodes(model) for value in node.outputs]
    graph.forget_shapes(model, keep=declared)
    try:
        context.runner.infer_shapes(model)
    except (Refused, WorkerDied):
        for value, type_, shape in known:
            value.type, value.shape = type_, shape


def _apply_one(step: Pass, known: _Known, context: Context, observers: Sequence[Observer]) -> PassResult:
    model = known.model
    for observer in observers:
        observer.before(step, model)
    before, signature = known.stats, known.signature
    shapes = [out.shape for out in model.graph.outputs]
    started = time.perf_counter_ns()
    try:
        changes = step.apply(model, context)
    except Exception as error:
        error.add_note(f"while running the pass {step}")
        raise
    wall_ns = time.perf_counter_ns() - started
    if changes.rewrites:
        for out, shape in zip(model.graph.outputs, shapes, strict=False):
            if out.shape is None:  # a pass that puts another value in an output's place need not copy its shape
                out.shape = shape
        known.renew()
    result = PassResult(
        step=str(step),
        effect=step.effect.value,
        contrib=step.leaves_contrib(),
        rewrites=changes.rewrites,
        skipped=changes.skipped,
        facts=dict(changes.facts),
        tensors=changes.tensors,
        wall_ns=wall_ns,
        before=before,
        after=known.stats,
    )
    if changes.rewrites:
        invariants.require(model, str(step), step.declared_after(signature), known.signature)
    for observer in observers:
        observer.after(step, model, result)
    return result


def _stats(model: ir.Model) -> ModelStats:
    nodes = sum(node.op_type != "Constant" for node in graph.all_nodes(model))
    return ModelStats(nodes=nodes, weight_bytes=graph.weight_bytes(model))
