"""Refuses models that were compiled for one accelerator: they hold binaries (EPContext) that nothing else runs."""

from __future__ import annotations

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import Refused
from modelopt.core.plural import counted
from modelopt.runtime.session import full_provider_name

_GENERAL = frozenset({"CPUExecutionProvider", "CUDAExecutionProvider"})
"""Providers that run operators, and no binaries of another."""


def require_source(model: ir.Model, shown: str, *, provider: str | None = None) -> None:
    """Refuse a model that was compiled, where it is to run.

    Args:
        model: The model.
        shown: How messages call it.
        provider: The provider that is to run it; None where it is to be compared with what passes make of it.

    Raises:
        Refused: It holds a binary that cannot run there.
    """
    parts = [node for node in graph.all_nodes(model) if node.op_type == "EPContext"]
    if not parts or (provider is not None and full_provider_name(provider) not in _GENERAL):
        return
    made_for = sorted({graph.attribute_string(node, "source", "") for node in parts} - {""})
    count = counted(len(parts), "EPContext node")
    raise Refused(
        f"{shown} is compiled for {', '.join(made_for) or 'one accelerator'}, and runs nowhere else",
        note=f"it holds {count}: binaries in place of operators, so that there is nothing to optimize or compare",
        hint="give the model that it was compiled from, and compile the result",
    )
