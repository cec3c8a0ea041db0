"""A later opset by onnx's version converter: for `upgrade-opset`, and for passes that need one themselves."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph, invariants
from modelopt.errors import Refused
from modelopt.passes.base import Runner
from modelopt.signature import Signature

_MAX_BYTES = 2**31 - 2**20  # what one protobuf message holds, and some room


def upgraded(model: ir.Model, version: int, runner: Runner) -> ir.Model:
    """A copy of `model` in opset `version`, which must be later than its own.

    The converter runs in the limited child. What it gives is checked here, for it drops what it does not know.

    Raises:
        Refused: It fails, or would lose a part of the model.
    """
    why_not = _why_not(model)
    if why_not is not None:
        raise _refused(model, version, why_not)
    converted = runner.convert_opset(model, version)
    before, after = graph.signature(model), graph.signature(converted)
    if _names_and_types(after) != _names_and_types(before):
        raise _refused(model, version, f"the converter changes its signature from {before} to {after}")
    if graph.opset(converted) != version:
        raise _refused(model, version, f"the converter gives opset {graph.opset(converted)}")
    violations = invariants.check(converted)
    if violations:
        raise _refused(model, version, f"the converter gives an invalid model: {violations[0]}")
    _declare_as_before(converted, model)
    return converted


def _why_not(model: ir.Model) -> str | None:
    if model.functions:
        return f"the converter drops functions, and the model has {len(model.functions)}"
    if graph.weight_bytes(model) > _MAX_BYTES:
        return "the converter takes no model of more than 2 GB"
    return None


def _refused(model: ir.Model, version: int, note: str) -> Refused:
    return Refused(
        f"the model has opset {graph.opset(model)} and cannot be converted to {version}",
        note=note,
        hint="export it again with a later opset",
    )


def _names_and_types(signature: Signature) -> list[tuple[str, str]]:
    return [(spec.name, spec.dtype) for spec in signature.inputs + signature.outputs]


def _declare_as_before(converted: ir.Model, original: ir.Model) -> None:
    """The converter infers shapes; what inputs and outputs promise is the caller's."""
    declared = {value.name: value for value in (*original.graph.inputs, *original.graph.outputs)}
    for value in (*converted.graph.inputs, *converted.graph.outputs):
        if value.name in declared:
            value.shape = declared[value.name].shape
