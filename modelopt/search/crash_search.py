"""Finds the nodes that make onnxruntime crash, or refuse the model, once they are half; they stay in float32."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.core.plural import counted
from modelopt.engine import optimize
from modelopt.passes.convert_half import ConvertHalf
from modelopt.report import Outcome, Trial
from modelopt.runtime.installation import runtime_version
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.search import exclusions
from modelopt.search.candidates import Built, Workshop, opened
from modelopt.search.chosen import Chosen

MAX_LOADS = 200
"""How many models are loaded to find the nodes."""

_NAMED = 4


def without_crash(request: optimize.Request, error: ModeloptError) -> Chosen:
    """The recipe of `request` with as many more nodes in float32 as onnxruntime needs to load the result.

    Args:
        request: Its recipe ends with `ConvertHalf`.
        error: How onnxruntime failed on the result.

    Raises:
        ModeloptError: `error` itself where no such nodes are found.
    """
    *before, step = request.recipe.steps
    if not isinstance(step, ConvertHalf):
        raise error
    with opened(request) as shop:
        floats = shop.build(shop.input, before) if before else shop.input
        found = culprits(shop, floats, step)
        if not found:
            raise error
        kept = exclusions.without(step, found)
        recipe = dataclasses.replace(request.recipe, steps=(*before, kept))
    label = f"{step.name}, {counted(len(found), 'node')} in float32"
    trials = (
        Trial(group=str(step), rewrites=0, kept=False, outcome=Outcome.FAILED, reason=why_failed(error)),
        Trial(group=label, rewrites=0, kept=True, outcome=Outcome.KEPT, reason="onnxruntime loads it"),
    )
    return Chosen((recipe,), trials, (), (said_of(found),))


def culprits(shop: Workshop, floats: Built, step: ConvertHalf) -> tuple[str, ...]:
    """Names of nodes with which in float32 onnxruntime loads what `step` makes of `floats`; none where none are found.

    The shortest beginning of the graph that must not be half ends with a node to blame, or one that reads what such a
    node makes: one without weights is rather left in float32. With it stay all that stand between the same operators,
    and the search goes on.
    """
    with _trying(shop.request.limits) as loads:
        if not loads(floats):
            return ()
        trial = _Trial(shop, floats, step, loads)
        blamed: tuple[str, ...] = ()
        while not trial.works(len(trial.names), blamed):
            low, high = 0, len(trial.names)  # the first `low` may be half, the first `high` must not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if trial.works(middle, blamed) else (low, middle)
            more = next((one for one in trial.suspects(high - 1, blamed) if trial.works(high, (*blamed, *one))), ())
            if not more or loads.count > MAX_LOADS:
                return ()
            blamed += more
        return blamed


class _Trial:
    """Which nodes may be half at the same time.

    Attributes:
        names: The nodes that the pass converts, in graph order.
    """

    def __init__(self, shop: Workshop, floats: Built, step: ConvertHalf, loads: _Loads) -> None:
        self._shop = shop
        self._floats = floats
        self._step = step
        self._loads = loads
        model = shop.load(floats)
        self.names = step.converts(model, shop.context)
        self._nodes = {graph.name_of(node): node for node in graph.all_nodes(model)}

    def works(self, count: int, blamed: Sequence[str]) -> bool:
        """Whether onnxruntime loads the model with the first `count` nodes in half, but for those that are blamed."""
        left = dict.fromkeys((*blamed, *self.names[count:]))
        self._shop.request.progress("looking for nodes that make onnxruntime crash", self._loads.count, None)
        try:
            built = self._shop.build(self._floats, (exclusions.without(self._step, left),))
        except (Refused, WorkerDied):
            return False
        found = self._loads(built)
        self._shop.discard(built)
        return found

    def suspects(self, index: int, blamed: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """What to leave in float32 for the sake of a node: what it reads, where that holds no weights; else itself."""
        node = self._nodes[self.names[index]]
        makers = (value.producer() for value in node.inputs if value is not None)
        known = set(self.names).difference(blamed)
        light = (maker for maker in makers if maker is not None and not any(map(graph.constant_tensor, maker.inputs)))
        for one in (*light, node):
            if graph.name_of(one) in known:
                yield tuple(name for name in self.names if name in known and self._is_like(self._nodes[name], one))

    def _is_like(self, node: ir.Node, other: ir.Node) -> bool:
        return node is other or _kind(node) == _kind(other)


def why_failed(error: ModeloptError) -> str:
    """What became of a model on which onnxruntime failed, as one clause."""
    what = "crashes" if isinstance(error, WorkerDied) else "refuses it"
    return f"onnxruntime {runtime_version()} {what}: {error.note or error.fact}"


def said_of(found: Sequence[str]) -> str:
    """What the reader should know of the nodes that stay in float32."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    listed = f"{', '.join(found[:_NAMED])}{more}"
    return f"onnxruntime {runtime_version()} does not load the model with these nodes in half precision: {listed}"


def _kind(node: ir.Node) -> tuple[object, ...]:
    """Its operator, and those before and behind it."""
    makers = (None if value is None else value.producer() for value in node.inputs)
    users = sorted(user.op_type for out in node.outputs for user, _ in out.uses())
    return node.op_type, *("" if maker is None else maker.op_type for maker in makers), *users


@dataclasses.dataclass
class _Loads:
    """Whether onnxruntime loads a model; a child process that a model ends is replaced."""

    limits: Limits | None
    worker: Worker
    count: int = 0

    def __call__(self, built: Built) -> bool:
        self.count += 1
        try:
            self.worker.open(built.path, SessionSpec(spin=False), what="candidate").close()
        except Refused:
            return False
        except WorkerDied:
            self.worker.close()
            self.worker = Worker(self.limits)
            return False
        return True


@contextlib.contextmanager
def _trying(limits: Limits | None) -> Iterator[_Loads]:
    loads = _Loads(limits, Worker(limits))
    try:
        yield loads
    finally:
        loads.worker.close()
