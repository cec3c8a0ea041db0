"""Remove what no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.passes.base import Pass


@dataclass(frozen=True, kw_only=True)
class EliminateDead(Pass):
    """Remove nodes, initializers, functions and opset imports that nothing uses.

    Bodies of If, Loop and Scan count as users of the outer values that they capture. The graph's inputs and outputs
    stay, and so do initializers that are also graph inputs, and the import of the standard operators.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Sweep functions first: what only an unused function uses is unused."""
        functions = _drop_functions(model)
        swept = graph.sweep(model)
        functions += _drop_functions(model)  # those that only dead nodes called
        imports = _drop_imports(model)
        facts = {"removed_nodes_and_initializers": swept, "removed_functions": functions, "removed_imports": imports}
        skipped = tuple(
            Skip(name, "unused, but also a graph input")
            for name, value in model.graph.initializers.items()
            if value.is_graph_input() and not value.uses() and not value.is_graph_output()
        )
        removed = swept + functions + imports
        return Changes(removed, skipped, facts if removed else {})


def _drop_functions(model: ir.Model) -> int:
    reached: set[ir.OperatorIdentifier] = set()
    waiting: list[ir.Graph | ir.Function] = [model.graph]
    while waiting:
        for node in graph.nodes_below(waiting.pop()):
            called = node.op_identifier()
            if called in model.functions and called not in reached:
                reached.add(called)
                waiting.append(model.functions[called])
    unused = [key for key in model.functions if key not in reached]
    for key in unused:
        del model.functions[key]
    return len(unused)


def _drop_imports(model: ir.Model) -> int:
    """Imports of the model; a function's own imports are part of its definition."""
    used = set(graph.STANDARD_DOMAINS)
    used.update(node.domain for node in graph.all_nodes(model))
    for function in model.functions.values():
        used.update((function.domain, *function.opset_imports))
    unused = [domain for domain in model.opset_imports if domain not in used]
    for domain in unused:
        del model.opset_imports[domain]
    return len(unused)
