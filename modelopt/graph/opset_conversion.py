"""Converts a model to a later opset with onnx's version converter, for `upgrade-opset` and passes that need one."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import Refused
from modelopt.core.runner import Runner
from modelopt.core.signature import Signature
from modelopt.graph import invariants

_MAX_BYTES = 2**31 - 2**20  # what one protobuf message holds, and some room


def upgraded(model: ir.Model, version: int, runner: Runner) -> ir.Model:
    """A copy of `model` in opset `version`, which must be later than its own.

    The converter runs in the limited child. What it gives is checked here, for it drops what it does not know, writes
    initializers into files that are too old for them, and takes some operators for unchanged that did change.

    Raises:
        Refused: It fails, would lose a part of the model, or gives a model that onnxruntime does not load although it
            loads the original.
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
    if not graph.allows_plain_initializers(model):
        _move_initializers_into_nodes(converted)
    _name_apart(converted, model)
    violations = invariants.check(converted)
    if violations:
        raise _refused(model, version, f"the converter gives an invalid model: {violations[0]}")
    _declare_as_before(converted, model)
    _learn_anew(converted, runner)
    refusal = _load_error(converted, runner)
    if refusal is not None and _load_error(model, runner) is None:
        raise _refused(model, version, f"onnxruntime does not load what the converter gives: {refusal}")
    return converted


def _why_not(model: ir.Model) -> str | None:
    if model.functions:
        return f"the converter drops functions, and the model has {len(model.functions)}"
    if graph.weight_bytes(model) > _MAX_BYTES:
        return "the converter takes no model of more than 2 GB"
    if graph.opset(model) == 8 and any(graph.is_standard(node, "Scan") for node in graph.all_nodes(model)):
        return "Scan of opset 8 runs over a batch, which the converter forgets"
    return None


def _learn_anew(model: ir.Model, runner: Runner) -> None:
    """Infer intermediate types again: the old operators had others (the mask of Dropout was a float, now a bool)."""
    known = [(value, value.type, value.shape) for node in graph.all_nodes(model) for value in node.outputs]
    graph.forget_shapes(model, keep=frozenset())
    try:
        runner.infer_shapes(model)
    except Refused:
        for value, type_, shape in known:
            value.type, value.shape = type_, shape


def _load_error(model: ir.Model, runner: Runner) -> str | None:
    """Why onnxruntime does not load the model; None where it does. Schemas are checked on the way."""
    try:
        list(runner.run(model, []))
    except Refused as refusal:
        return refusal.note or refusal.fact
    return None


def _refused(model: ir.Model, version: int, note: str) -> Refused:
    return Refused(
        f"the model has opset {graph.opset(model)} and cannot be converted to {version}",
        note=note,
        hint="export it again with a later opset",
    )


def _names_and_types(signature: Signature) -> list[tuple[str, str]]:
    return [(spec.name, spec.dtype) for spec in signature.inputs + signature.outputs]


def _move_initializers_into_nodes(model: ir.Model) -> None:
    """The converter stores what became inputs; before IR version 4 each initializer had to be a graph input."""
    for scope in graph.all_graphs(model):
        if not isinstance(scope, ir.Graph):
            continue
        for name, value in list(scope.initializers.items()):
            if value.is_graph_input() or value.const_value is None:
                continue
            del scope.initializers[name]
            node = ir.node("Constant", [], {"value": value.const_value}, name=name)
            made = node.outputs[0]
            made.name, made.shape, made.type = name, value.shape, value.type
            value.replace_all_uses_with(made, replace_graph_outputs=True)
            graph.insert_first(scope, [node])


def _name_apart(converted: ir.Model, original: ir.Model) -> None:
    """Rename the converter's values in bodies: numbered by graph, they shadow outer ones, which onnx refuses."""
    own = {value.name for scope in graph.all_graphs(original) for value in graph.values_of(scope)}
    fresh, taken = graph.NameSource(converted), set[str | None]()
    for scope in graph.all_graphs(converted):
        for value in graph.values_of(scope):
            if value.name and value.name in taken and value.name not in own:
                value.name = fresh(value.name or "")
            taken.add(value.name)


def _declare_as_before(converted: ir.Model, original: ir.Model) -> None:
    """Restore the declared shapes of inputs and outputs, which the converter overwrites with inferred ones."""
    declared = {value.name: value for value in (*original.graph.inputs, *original.graph.outputs)}
    for value in (*converted.graph.inputs, *converted.graph.outputs):
        if value.name in declared:
            value.shape = declared[value.name].shape
