"""How many nanoseconds the layers of a model take on this machine at other widths of their channels.

A node's time in the model itself comes from a profile of the model. How that time changes with the number of channels
that the node makes, and with the number that it sums over, is measured on the layer alone; the two factors are
multiplied. Nodes of other kinds are taken to be proportional to what is left of their data.

Times of layers are kept in ``$XDG_CACHE_HOME/modelopt/layers.json`` (``~/.cache`` where that is not set), by machine
and by what the layer is; so a second search measures nothing again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelopt import graph
from modelopt.core.errors import ModeloptError
from modelopt.io import replace_file
from modelopt.pruning.channel_work import ChannelWork, NodeWork, Widths
from modelopt.pruning.measured_layers import MeasuredLayer, by_text, layer_of

_REMEMBERED = 20_000
"""How many layers of one machine are kept; the oldest go."""

_OF_MANY = 6
"""At how many widths an axis is measured that holds channels of several groups; a guess. Others are interpolated."""

Timer = Callable[[Sequence[MeasuredLayer]], list[float]]
"""Gives the nanoseconds of layers."""


@dataclass(frozen=True)
class _Curve:
    """The time of a node by the width of one axis, relative to the whole width."""

    widths: np.ndarray
    factors: np.ndarray

    def at(self, width: float) -> float:
        below = width / self.widths[0] if width < self.widths[0] else 1.0  # beyond what was measured: in proportion
        return float(np.interp(width, self.widths, self.factors)) * below


class LatencyTable:
    """The time of a model by the widths of its groups.

    Args:
        work: The work of the model.
        node_ns: The nanoseconds of each node in the model, by name; a kernel counts at one node.
        curves: By node and axis of its weight, its time relative to the whole width.
    """

    def __init__(
        self, work: ChannelWork, node_ns: Mapping[str, float], curves: Mapping[str, Mapping[int, _Curve]]
    ) -> None:
        self._work = work
        self._curves = curves
        self._node_ns = node_ns
        self.whole_ns = float(sum(node_ns.values()))
        self._by_group: dict[str, list[NodeWork]] = {}
        for node in work.nodes:
            for name in node.groups:
                self._by_group.setdefault(name, []).append(node)

    def ns(self, widths: Widths) -> float:
        """The nanoseconds of the model with these widths."""
        return self.whole_ns - sum(self._full(node) - self._ns(node, widths) for node in self._work.nodes)

    def saved_ns(self, widths: Widths, group: str, width: int) -> float:
        """The nanoseconds that another width of one group saves."""
        changed = {**widths, group: width}
        return sum(self._ns(node, widths) - self._ns(node, changed) for node in self._by_group.get(group, ()))

    def _full(self, work: NodeWork) -> float:
        return self._node_ns.get(graph.name_of(work.node), 0.0)

    def _ns(self, work: NodeWork, widths: Widths) -> float:
        curves = self._curves.get(graph.name_of(work.node))
        if curves is None:
            return self._full(work) * self._work.node_share(work, widths)
        factor = 1.0
        for axis in work.operands[0].axes:
            left = self._work.axis_left(axis, widths)
            factor *= curves[axis.axis].at(left) if axis.axis in curves else left / axis.size
        return self._full(work) * factor


def measure(
    work: ChannelWork, node_ns: Mapping[str, float], candidates: Mapping[str, Sequence[int]], timer: Timer
) -> LatencyTable:
    """Measure the layers of a model at candidate widths.

    Args:
        work: The work of the model, whose values have shapes now.
        node_ns: The nanoseconds of each node in the model, by name.
        candidates: By group, the widths to choose from, the whole left out.
        timer: Times layers.
    """
    asked: dict[tuple[str, int], tuple[list[int], list[MeasuredLayer]]] = {}
    for node in work.nodes:
        layer = layer_of(node.node)
        if layer is None or not node_ns.get(graph.name_of(node.node)):
            continue
        for axis in node.operands[0].axes:
            widths = _widths(work, axis.size, axis.positions, candidates)
            asked[graph.name_of(node.node), axis.axis] = (widths, [layer.at(axis.axis, width) for width in widths])
    unique = by_text(layer for _, layers in asked.values() for layer in layers)
    found = dict(zip(unique, timer(list(unique.values())), strict=True))
    curves: dict[str, dict[int, _Curve]] = {}
    for (name, place), (widths, layers) in asked.items():
        taken = np.array([found[str(layer)] for layer in layers])
        if taken[-1] > 0:
            curves.setdefault(name, {})[place] = _Curve(np.array(widths), taken / taken[-1])
    return LatencyTable(work, node_ns, curves)


def _widths(
    work: ChannelWork, size: int, positions: Mapping[str, int], candidates: Mapping[str, Sequence[int]]
) -> list[int]:
    """The widths of an axis to measure, in rising order, the whole as the last one."""
    if len(positions) == 1:
        ((name, count),) = positions.items()
        each, fixed = count / work.widths[name], size - count
        found = {fixed + round(each * width) for width in candidates.get(name, ())}
    else:
        least = size - sum(positions.values())
        found = {round(width) for width in np.linspace(max(least, size / 8), size, _OF_MANY)}
    return sorted({width for width in found if 0 < width < size} | {size})


class LayerTimes:
    """Remembers times of layers between runs: see the module.

    Args:
        machine: What the times depend on beside the layer: the processor, the threads, onnxruntime's version.
        timer: Times those that are not known.
        path: The file; None for the user's cache.
    """

    def __init__(self, machine: str, timer: Timer, path: Path | None = None) -> None:
        self._machine = machine
        self._timer = timer
        self._path = path or _file()

    def __call__(self, layers: Sequence[MeasuredLayer]) -> list[float]:
        """The nanoseconds of layers: those that are known from the file, the others are timed and kept."""
        kept = _read(self._path)
        known = kept.setdefault(self._machine, {})
        missing = [layer for layer in layers if str(layer) not in known]
        if missing:
            timed = zip(map(str, missing), self._timer(missing), strict=True)
            known.update((text, ns) for text, ns in timed if ns > 0)
            kept[self._machine] = dict(list(known.items())[-_REMEMBERED:])
            _store(self._path, kept)
        return [known.get(str(layer), 0.0) for layer in layers]


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "modelopt" / "layers.json"


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What is kept; nothing where the file is missing, unreadable or of another form."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
    return {}


def _store(path: Path, kept: Mapping[str, Mapping[str, float]]) -> None:
    """Keep times for later; a cache that cannot be written is none."""
    with contextlib.suppress(OSError, ModeloptError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(kept))


ALIGNMENTS = (1, 2, 4, 8, 16, 32)
"""The multiples that are tried."""

_STEADY = 1.015
"""Up to this factor a channel counts as taking no longer than at the best multiple; a guess, beyond the noise."""

_SAMPLED = range(64, 97)
"""The widths at which a layer is timed to find its multiple. Wider layers hardly show it."""


def alignment(layers: Iterable[MeasuredLayer], timer: Timer) -> int:
    """The smallest multiple of channels at which a channel takes (nearly) no longer than at the best multiple.

    Kernels pad channels to the width of their vectors, or leave their fast path where channels do not fill it: then the
    time rises in steps. Widths are tried on both sides of a layer: what it makes, and what it sums over.

    Args:
        layers: Layers that take most of the time; 1 where there are none.
        timer: Times layers.
    """
    sides = [(layer, axis) for layer in layers for axis in ((0,) if layer.depthwise else (0, 1))]
    tried = [[layer.at(axis, width) for width in _SAMPLED] for layer, axis in sides]
    times = timer([layer for each in tried for layer in each])
    if not times:
        return 1
    # (layer, width): what a channel takes, relative to the best of its layer.
    each = np.array(times).reshape(len(tried), len(_SAMPLED)) / np.array(_SAMPLED)
    each = each[(each > 0).all(axis=1)]
    if not len(each):
        return 1
    best = float("inf")
    found = {}
    for multiple in ALIGNMENTS:
        chosen = [place for place, width in enumerate(_SAMPLED) if width % multiple == 0]
        found[multiple] = float(np.exp(np.log(each[:, chosen] / each.min(axis=1, keepdims=True)).mean()))
        best = min(best, found[multiple])
    return next(multiple for multiple in ALIGNMENTS if found[multiple] <= _STEADY * best)
