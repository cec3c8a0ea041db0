"""Runs a model on the calibration samples from layer to layer: no node runs again whose inputs have not changed.

A repair changes the weights of one stage after another, and each stage wants to know what it reads by then. What the
nodes before a stage compute stays as it is, so the values that later nodes read of them are kept in files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.pruning.kept_arrays import KeptArrays
from modelopt.pruning.original_and_pruned import feeds, sample_count

_MOST_BYTES = 1 << 30
"""Of values that are kept at a time; where more would be, the next stage runs from where the last one did: a guess."""


@dataclass(frozen=True)
class _Part:
    """Nodes to run.

    Attributes:
        nodes: Those whose inputs are final, and the stage.
        kept: Names of values that later nodes read.
        final: The nodes that never have to run again, if `kept` is kept.
    """

    nodes: frozenset[ir.Node]
    kept: tuple[str, ...]
    final: frozenset[ir.Node]


class StepwiseRun:
    """The runs of a model whose weights change stage by stage.

    Args:
        model: The model; what runs has the weights of that time.
        stages: The nodes that change, in the order in which they do.
        ctx: Lends the runner and the samples.
        arrays: Where values are kept.
    """

    def __init__(
        self, model: ir.Model, stages: Sequence[Collection[ir.Node]], ctx: Context, arrays: KeptArrays
    ) -> None:
        self._model = model
        self._stages = stages
        self._ctx = ctx
        self._arrays = arrays
        self._samples = sample_count(ctx)
        self._final: frozenset[ir.Node] = frozenset()
        self._readers = {node: _read(node) for node in model.graph}

    def run(self, number: int, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The values of these names, sample by sample, as a stage sees them; inputs of the model may be among them.

        Args:
            number: The stage: these come in order, and the weights of all before are as they will stay.
            names: Values that no later stage has a part in, or inputs of the model.

        Raises:
            Refused: onnxruntime does not run the model.
        """
        given = {value.name for value in self._model.graph.inputs}
        part = self._part(number, names)
        made = {value.name for node in part.nodes for value in node.outputs}
        wanted = [name for name in dict.fromkeys((*names, *part.kept)) if name in made]
        first, second = tee(feeds(self._ctx))
        runs: Iterator[list[np.ndarray]] = iter([] for _ in range(self._samples))
        if wanted:
            shown = self._shown(part.nodes, wanted)
            inputs = [value.name or "" for value in shown.graph.inputs]
            sources = (self._inputs(inputs, feed, at) for at, feed in enumerate(second))
            runs = self._ctx.runner.run(shown, sources, outputs=wanted)
        keeps = True
        for index, (feed, arrays) in enumerate(zip(first, runs, strict=True)):
            found = dict(zip(wanted, arrays, strict=True))
            if index == 0:
                size = sum(found[name].nbytes for name in part.kept)
                keeps = size * self._samples <= _MOST_BYTES
            for name in part.kept if keeps else ():
                self._arrays.put(name, index, found[name])
            known = {name: feed[name] for name in names if name in given}
            rest = [name for name in names if name not in found and name not in known]
            yield {**known, **{name: self._arrays.get(name, index) for name in rest}, **found}
        if keeps:
            self._final |= part.final
            self._forget()

    def _inputs(self, names: Sequence[str], feed: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        kept = {name: self._arrays.get(name, index) for name in names if name in self._arrays}
        return {**{name: feed[name] for name in names if name in feed}, **kept}

    def _part(self, number: int, names: Collection[str]) -> _Part:
        """What to run for a stage, which these values are wanted of."""
        needed = self._before(node for stage in self._stages[number:] for node in stage)
        changing = self._behind(node for stage in self._stages[number:] for node in stage)
        final = frozenset(node for node in needed if node not in changing and node.op_type != "Constant")
        stage = frozenset(self._stages[number])
        later = [node for node in needed if node in changing]
        read = {value for node in later for value in self._readers[node]}
        kept = [value for node in final for value in node.outputs if value in read]
        if not all(map(_is_tensor, kept)):  # it cannot be an input of what runs next
            kept, final = [], frozenset()
        makers = {node for node in self._readers if any(value.name in names for value in node.outputs)}
        nodes = self._before(stage | makers) - self._final
        return _Part(frozenset(nodes | final), tuple(value.name or "" for value in kept), final)

    def _before(self, nodes: Collection[ir.Node] | Iterator[ir.Node]) -> set[ir.Node]:
        """These nodes and all that they depend on, those that are final left out."""
        found: set[ir.Node] = set()
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node in found or node in self._final:
                continue
            found.add(node)
            makers = (value.producer() for value in self._readers[node])
            pending += [maker for maker in makers if maker is not None and maker in self._readers]
        return found

    def _behind(self, nodes: Iterator[ir.Node]) -> set[ir.Node]:
        """These nodes and all that depend on them."""
        found = set(nodes)
        for node in self._model.graph:
            if any(value.producer() in found for value in self._readers[node]):
                found.add(node)
        return found

    def _shown(self, nodes: frozenset[ir.Node], wanted: Sequence[str]) -> ir.Model:
        """A copy of the model that holds only these nodes, reads what is kept, and gives what is wanted."""
        copy = self._model.clone()
        names = graph.NameSource(copy)
        made = {value.name: value for node in copy.graph for value in node.outputs}
        read = {value.name for node in nodes for value in self._readers[node]}
        for name in sorted(name for name in read if name is not None and name in self._arrays and name in made):
            old = made[name]
            dtype = ir.DataType.from_numpy(self._arrays.get(name, 0).dtype)
            old.name = names(f"{name}_before")
            new = ir.Value(name=name, type=ir.TensorType(dtype))
            ir.convenience.replace_all_uses_with(old, new)
            copy.graph.inputs.append(new)
        graph.cut_to(copy, (made[name] for name in wanted))
        return copy

    def _forget(self) -> None:
        """Remove what no node reads any more that may still run."""
        read = {value.name for node, values in self._readers.items() if node not in self._final for value in values}
        for node in self._final:
            for value in node.outputs:
                if value.name is not None and value.name in self._arrays and value.name not in read:
                    self._arrays.drop(value.name)


def _read(node: ir.Node) -> frozenset[ir.Value]:
    """What a node reads, inside of its bodies too."""
    found = {value for value in node.inputs if value is not None}
    for body in graph.bodies(node):
        for scope in graph.with_bodies(body):
            found |= {value for inner in scope for value in inner.inputs if value is not None}
            found |= set(scope.outputs)
    return frozenset(found)


def _is_tensor(value: ir.Value) -> bool:
    """Whether a value is known to be a tensor: others, such as sequences, cannot be kept."""
    if value.type is not None:
        return isinstance(value.type, ir.TensorType)
    node = value.producer()
    if node is None or node.domain not in graph.STANDARD_DOMAINS or list(graph.bodies(node)):
        return False
    return not any(word in node.op_type for word in ("Sequence", "Optional", "Identity"))
