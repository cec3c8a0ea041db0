"""Which branches of If and bodies of Loop and Scan the feeds execute: a body that did not run was not compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from modelopt import graph, io
from modelopt.runtime.session import Optimization, SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.feeds import Feed

_MARKER = "modelopt_region_{}_"
_ROLES = {"then_branch": "then-branch", "else_branch": "else-branch"}


def has_regions(model: ir.Model) -> bool:
    """Whether the model has a body of If, Loop or Scan, which a run may leave out."""
    return any(True for node in graph.all_nodes(model) for _ in graph.bodies(node))


class Regions:
    """The bodies of a model, each with an added node that appears in a profile when the body runs.

    Args:
        model: The model; the added nodes stay in it.
        path: Where to write it.
        worker: Runs it.
    """

    def __init__(self, model: ir.Model, path: Path, worker: Worker) -> None:
        self.names = _mark(model)
        self._path = path
        self._worker = worker
        io.write_aside(model, path)

    def close(self) -> None:
        """Remove the file."""
        io.remove_aside(self._path)

    def executed(self, feeds: Sequence[Feed]) -> list[frozenset[str]]:
        """What each feed executes: names from `names`.

        Raises:
            Refused: onnxruntime does not load or run the model.
        """
        spec = SessionSpec(spin=False, optimization=Optimization.DISABLED, profile=True)
        session = self._worker.open(self._path, spec, what="original")
        for feed in feeds:
            session.run(feed.arrays)
        runs = session.profile(only=_MARKER.partition("{")[0])
        session.close()
        found: list[set[str]] = [set() for _ in feeds]
        for marker, name in self.names.items():
            for run in runs:
                if marker in run.name:  # onnxruntime puts a prefix before the names of nodes in functions
                    for position, count in enumerate(run.counts[: len(feeds)]):
                        found[position] |= {name} if count else set()
        return [frozenset(each) for each in found]


def _mark(model: ir.Model) -> dict[str, str]:
    """Add an Identity to each body before its first tensor output; gives the bodies in words, by that node's name."""
    names: dict[str, str] = {}
    for node in list(graph.all_nodes(model)):
        for key, attribute in node.attributes.items():
            if attribute.is_ref() or attribute.type != ir.AttributeType.GRAPH:
                continue
            body = attribute.as_graph()
            position = next((i for i, out in enumerate(body.outputs) if graph.is_plain_tensor(out)), None)
            if position is None:
                continue
            marker = _MARKER.format(len(names))
            names[marker] = f"{_ROLES.get(key, 'body')} of {graph.name_of(node) or node.op_type}"
            old = body.outputs[position]
            new = ir.Value(name=marker, type=old.type, shape=old.shape)
            body.append(ir.node("Identity", [old], name=marker, outputs=[new]))
            body.outputs[position] = new
    return names
