"""Finds the smallest part of a model on which a command of the user still fails: bisection over the order of its nodes.

The end is found first: the shortest beginning of the model that fails. Then its last node alone is tried, and where it
does not fail by itself, the latest start that does. What a part reads of the nodes before it becomes an input, which
holds what the model computes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError, Refused, WorkerDied
from modelopt.core.progress import Progress
from modelopt.core.runner import Runner
from modelopt.io import serialize

Check = Callable[[Path, Path], bool]
"""Whether the command fails on a model file and the .npz file of its inputs."""


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        model: It.
        feeds: An array for each of its inputs, by name.
        first: The position of its first node in the model.
        last: That of its last node.
    """

    model: ir.Model
    feeds: Mapping[str, np.ndarray]
    first: int
    last: int


@dataclass
class Reducer:
    """One reduction.

    Attributes:
        model: The model; it is the same afterwards.
        feeds: An array for each of its inputs, by name.
        check: The command.
        runner: Computes what parts read.
        folder: Where candidates are written.
        progress: Told of runs.
        runs: How often the command ran.
    """

    model: ir.Model
    feeds: Mapping[str, np.ndarray]
    check: Check
    runner: Runner
    folder: Path
    progress: Progress
    runs: int = 0

    def reduce(self) -> Part:
        """The smallest part that was found to fail.

        Raises:
            InputError: The command does not fail on the whole model, or that has no nodes.
        """
        count = len(list(self.model.graph))
        whole = self._part(0, count - 1) if count else None
        if whole is None or not self._fails(whole):
            raise InputError(
                "the check passes on the whole model: there is nothing to reduce",
                note="the check fails where its exit code is not 0",
                hint="run it by hand on the model and its inputs",
            )
        best = whole
        passes, fails = -1, count - 1  # the last node of a beginning that passes, and of one that fails
        while fails - passes > 1:
            middle = (passes + fails) // 2
            part = self._part(0, middle)
            if part is not None and self._fails(part):
                best, fails = part, middle
            else:
                passes = middle
        return self._later_start(best, fails)

    def _later_start(self, best: Part, last: int) -> Part:
        """The part that ends at `last` and starts as late as it can."""
        fails, passes = 0, last + 1  # the first node of a part that fails, and of one that passes or is empty
        guess = last
        while passes - fails > 1:
            part = self._part(guess, last)
            if part is not None and self._fails(part):
                best, fails = part, guess
            else:
                passes = guess
            guess = (fails + passes) // 2
        return best

    def _fails(self, part: Part) -> bool:
        """Run the command on a part."""
        self.runs += 1
        self.progress(f"run {self.runs}: nodes {part.first + 1} to {part.last + 1}", self.runs, None)
        model, inputs = self.folder / "part.onnx", self.folder / "part.npz"
        write(part, model, inputs)
        return self.check(model, inputs)

    def _part(self, first: int, last: int) -> Part | None:
        """The nodes from `first` to `last`; None where what they read cannot be computed."""
        model = self.model.clone()
        nodes = list(model.graph)
        kept = nodes[first : last + 1]
        outside = set(nodes) - set(kept)
        read_outside = {value for node in outside for value in _reads(node)}
        made = [value for node in kept for value in node.outputs if value.name]
        outputs = [value for value in made if value.is_graph_output() or value in read_outside]
        outputs = outputs or [value for value in kept[-1].outputs if value.name]
        read = dict.fromkeys(value for node in kept for value in _reads(node) if value.producer() in outside)
        arrays = self._computed([value.name or "" for value in read]) if read else {}
        if arrays is None:
            return None
        for value in read:
            array = arrays[value.name or ""]
            new = ir.Value(
                name=value.name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
            )
            value.replace_all_uses_with(new)
            model.graph.inputs.append(new)
        graph.cut_to(model, outputs)
        for value in [value for value in model.graph.inputs if not value.uses() and not value.is_graph_output()]:
            model.graph.inputs.remove(value)
        names = {value.name for value in model.graph.inputs}
        feeds = {name: array for name, array in {**self.feeds, **arrays}.items() if name in names}
        return Part(model, feeds, first, last)

    def _computed(self, names: Sequence[str]) -> dict[str, np.ndarray] | None:
        """What the model computes for these values; None where it does not run. What comes after them is not run."""
        with suppress(Refused, WorkerDied):
            (arrays,) = self.runner.run(graph.prefix(self.model, names), [dict(self.feeds)], outputs=list(names))
            return dict(zip(names, arrays, strict=True))
        return None


def write(part: Part, model: Path, inputs: Path) -> None:
    """Write a part and its inputs."""
    model.write_bytes(serialize.to_bytes(part.model))
    with inputs.open("wb") as file:
        np.savez(file, **{name: np.asarray(array) for name, array in part.feeds.items()})  # type: ignore[arg-type]


def _within(node: ir.Node) -> Iterator[ir.Node]:
    """A node, and all nodes in its bodies."""
    yield node
    for body in graph.bodies(node):
        yield from graph.nodes_below(body)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what its bodies read of outer scopes."""
    for each in _within(node):
        yield from (value for value in each.inputs if value is not None)
        for body in graph.bodies(each):
            yield from body.outputs
