"""Which tensors and nodes of a model the names of overrides mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, did_you_mean
from modelopt.graph import match, node_filters
from modelopt.quant.static.kernels import fused_output
from modelopt.quant.static.overrides import Overrides, Setting, Type


@dataclass(frozen=True)
class ResolvedOverrides:
    """Overrides by the tensors of one model.

    Attributes:
        tensors: By tensor name, the setting and the name that the user gave.
        in_float: By node, the name that the user gave.
        wanted: The names that the user gave for tensors that are to be integers.
    """

    tensors: Mapping[str, tuple[Setting, str]]
    in_float: Mapping[ir.Node, str]
    wanted: tuple[str, ...] = ()

    def of(self, value: ir.Value) -> Setting | None:
        """The override of `value`."""
        found = self.tensors.get(value.name or "")
        return None if found is None else found[0]


def resolve(model: ir.Model, overrides: Overrides) -> ResolvedOverrides:
    """Find what each name means: a tensor of this name, else the tensors or nodes that match it; the last match counts.

    Raises:
        InputError: A name means nothing in this model.
    """
    nodes = list(graph.all_nodes(model))
    values = {value.name: value for scope in graph.all_graphs(model) for value in graph.values_of(scope) if value.name}
    tensors: dict[str, tuple[Setting, str]] = {}
    in_float: dict[ir.Node, str] = {}
    for name, setting in overrides.settings.items():
        matched = [] if name in values else [node for node in nodes if node_filters.names_node(name, node)]
        listed = [name] if name in values else [] if name.startswith("op:") else match.names(name, values)
        if not matched and not listed:
            known = [*values, *(node.name or "" for node in nodes), *sorted({f"op:{node.op_type}" for node in nodes})]
            raise InputError(
                f"the override '{name}' names no tensor and no node",
                note="names are those behind the passes before; --only keeps the model as it is",
                hint=did_you_mean(name, known),
            )
        if setting.type is Type.F32:
            in_float |= dict.fromkeys(matched, name)
        made = [] if setting.type is Type.F32 else [out.name for node in matched for out in _made(node)]
        tensors |= {each: (setting, name) for each in (*listed, *made) if each}
    wanted = [name for name, setting in overrides.settings.items() if setting.type is not Type.F32]
    return ResolvedOverrides(tensors, in_float, tuple(wanted))


def _made(node: ir.Node) -> Iterable[ir.Value]:
    """The output of a node, and that of a Relu or Clip that is fused with it: one of them is quantized."""
    return (node.outputs[0], fused_output(node)) if node.outputs else ()


def settings_of(sources: Mapping[ir.Value, ir.Value], overrides: ResolvedOverrides) -> dict[ir.Value, Setting]:
    """The override of each source activation: its own, or that of an activation that shares its scale.

    Args:
        sources: For each quantized activation, the one whose parameters it takes (see `qdq_writer.sources`).
        overrides: What the user gave.

    Raises:
        InputError: Two settings for one scale differ.
    """
    found: dict[ir.Value, tuple[Setting, str]] = {}
    for value, source in sources.items():
        setting = overrides.of(value)
        if setting is None:
            continue
        before, name = found.setdefault(source, (setting, value.name or ""))
        if before != setting:
            raise InputError(f"'{name}' and '{value.name}' share one scale", hint="give both the same override")
    return {source: setting for source, (setting, _) in found.items()}
