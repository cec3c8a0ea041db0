"""Runs models on onnxruntime in the process of the test, as passes ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core import targets
from tests.quant_tools import Listed
from tests.runtime_tools import session


class InProcess:
    """A `Runner` without a child process."""

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        """See `Runner.run`."""
        copy = model.clone()
        if outputs is not None:
            made = {value.name: value for node in graph.all_nodes(copy) for value in node.outputs}
            shown = {value.name for value in copy.graph.outputs}
            copy.graph.outputs.extend(made[name] for name in outputs if name not in shown)
        opened = session(copy)
        for feed in feeds:
            yield opened.run(outputs, dict(feed))


def lent(feeds: list[dict[str, np.ndarray]] | None, seed: int = 0) -> Context:
    """A context with these samples; without when None."""
    dataset = None if feeds is None else Listed(feeds=feeds)
    return Context(InProcess(), targets.resolve("x86-vnni"), dataset, seed)  # type: ignore[arg-type]
