"""What a search over widths may choose from: the groups of a model, their widths, and what each width saves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from modelopt import graph, io
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.measure import environment
from modelopt.passes.prune_channels import PruneChannels, require_float
from modelopt.pruning import activation_importance, latency_table, measured_layers
from modelopt.pruning.channel_groups import ChannelGroup, channels_of
from modelopt.pruning.channel_macs import sample_sizes
from modelopt.pruning.channel_work import ChannelWork, Widths, candidate_widths
from modelopt.pruning.dependencies import analyse
from modelopt.pruning.dependency_rules import RULES
from modelopt.pruning.latency_table import LatencyTable, LayerTimes
from modelopt.pruning.measured_layers import MeasuredLayer
from modelopt.report import GroupWidth
from modelopt.search import exclusions
from modelopt.search.candidates import Candidate, Candidates

LEVELS = 10
"""How many widths of a group there are to choose from, at most: a guess."""

_LEAST_SHARE = 8
"""An eighth of a group stays at least: a guess."""

_LAYER_RUNS = 12
"""How often a layer is timed."""

_ALIGNING = 3
"""How many of the slowest layers are timed to find the multiple that kernels like: a guess."""


class Prunable:
    """The groups of a model, and what other widths of them save.

    Attributes:
        unit: What a report calls what is removed.
        groups: Those that the options permit, in the order of the model.
        refused: By reason, how many channels must stay.
        choices: By group, narrower widths in falling order.
        align: The multiple that they are kept at.
        align_measured: Whether that was measured.
        whole: The model with all channels.
        work: What is left of the work at other widths.
        table: What the model takes at other widths; None where latency is not measured.
    """

    unit = "channel"

    def __init__(
        self,
        candidates: Candidates,
        floats: Candidate,
        step: PruneChannels,
        align: int | None,
        *,
        timed: bool,
        tabulated: bool = True,
    ) -> None:
        self._candidates = candidates
        self.whole = floats
        self._step = step
        self._scores: dict[tuple[str, str], np.ndarray] = {}
        model, runner = candidates.load(floats), candidates.context.runner
        require_float(model)
        signature = graph.signature(model)
        with inferred(model, bind(signature, {}), runner):
            found = analyse(model, RULES)  # with the shapes that the pass sees: so it finds the same groups
            channels = channels_of(found)
        self.refused = channels.refused
        self.groups: tuple[ChannelGroup, ...] = tuple(
            group for group in channels.groups if group.width > 1 and step.why_left_out(group) is None
        )
        sizes = sample_sizes(model, candidates.bench_feeds()[0])
        self.align_measured = align is None and timed and bool(self.groups)
        with inferred(model, bind(signature, sizes), runner):
            self.work = ChannelWork(model, found, channels)
            node_ns = self._costs(floats) if timed and self.groups else {}
            timer = self._timer() if node_ns else None
            self.align = align or (1 if timer is None else self._alignment(node_ns, timer))
            self.choices = {group.name: self._choices(group) for group in self.groups}
            self.table: LatencyTable | None = None
            if timer is not None and tabulated:
                self.table = latency_table.measure(self.work, node_ns, self.choices, timer)

    @property
    def widths(self) -> Widths:
        """By group, how many channels it has."""
        return self.work.widths

    @property
    def timed(self) -> bool:
        """Whether latency is measured."""
        return self.table is not None

    @property
    def whole_cost(self) -> float:
        """What the whole model costs: nanoseconds, or multiply-accumulates."""
        return self.work.macs({}) if self.table is None else self.table.whole_ns

    def saving(self, widths: Widths, group: str, width: int) -> float:
        """What another width of one group saves of `whole_cost`."""
        if self.table is not None:
            return self.table.saved_ns(widths, group, width)
        return self.work.macs(widths) - self.work.macs({**widths, group: width})

    def removed(self, widths: Widths) -> float:
        """The share of the channels of `groups` that is gone."""
        whole = {group.name: group.width for group in self.groups}
        return 1 - sum(widths.get(name, width) for name, width in whole.items()) / sum(whole.values())

    def macs_left(self, widths: Widths) -> float | None:
        """The share of the multiply-accumulates that is left; None where they are not known."""
        whole = self.work.macs({})
        return self.work.macs(widths) / whole if whole else None

    def size_bytes(self, widths: Widths) -> float:
        """About how large the model's file is."""
        return self.whole.size_bytes - self.work.bytes_saved(widths)

    @property
    def repairs(self) -> bool:
        """Whether the pass repairs."""
        return self._step.repair

    def step(self, widths: Widths, *, repair: bool = True) -> PruneChannels:
        """The pass that keeps these widths, and all channels of other groups; without `repair` it repairs nothing."""
        named = tuple(
            f"{group.name}={widths[group.name]}"
            for group in self.groups
            if widths.get(group.name, group.width) < group.width
        )
        return dataclasses.replace(self._step, widths=named, sparsity=0.0, repair=self.repairs and repair)

    def build(self, widths: Widths, *, repair: bool = True) -> Candidate:
        """The model with these widths, repaired as the pass says if `repair` is not False.

        Raises:
            ModeloptError: As the pass.
        """
        return self._build(self.step(widths, repair=repair))

    def build_one(self, name: str, width: int) -> Candidate:
        """The model with another width of one group: the pass looks at no other group.

        Only the layers that read the group are repaired: they take over what others can, and there are many groups.

        Raises:
            ModeloptError: As the pass.
        """
        (group,) = [each for each in self.groups if each.name == name]
        producers = tuple(exclusions.exactly(graph.name_of(each.node)) for each in group.producers)
        step = dataclasses.replace(self.step({name: width}), include=producers, exclude=(), repair_depth=1)
        return self._build(step)

    def _build(self, step: PruneChannels) -> Candidate:
        with activation_importance.remembering(self._scores):  # each group is ranked once
            return self._candidates.build(self.whole, (step,))

    def kernels_ns(self, candidate: Candidate) -> float | None:
        """The nanoseconds that the kernels of a model take; None where latency is not measured."""
        return None if self.table is None else float(sum(self._costs(candidate).values()))

    def groups_found(self, widths: Widths, scanned: Mapping[str, tuple[int, float]]) -> tuple[GroupWidth, ...]:
        """The groups for a report.

        Args:
            widths: Their widths.
            scanned: By group, a width and the squared error with only that group narrower.
        """
        return tuple(
            GroupWidth(
                group=group.name,
                kind="head" if group.is_heads else "channel",
                before=group.width,
                after=widths[group.name],
                error=error if math.isfinite(error) else None,
                error_at=width,
            )
            for group in self.groups
            for width, error in [scanned.get(group.name, (None, math.inf))]
        )

    def _choices(self, group: ChannelGroup) -> tuple[int, ...]:
        align, least = (1 if group.is_heads else self.align), math.ceil(group.width / _LEAST_SHARE)
        return candidate_widths(group.width, align, LEVELS, least=least)

    def _costs(self, candidate: Candidate) -> dict[str, float]:
        return self._candidates.kernel_ns(candidate)

    def _alignment(self, node_ns: Mapping[str, float], timer: latency_table.Timer) -> int:
        """The multiple that kernels like, from the slowest layers that groups touch."""
        taken = sorted(self.work.nodes, key=lambda each: -node_ns.get(graph.name_of(each.node), 0.0))
        layers = [layer for each in taken if (layer := measured_layers.layer_of(each.node)) is not None]
        return latency_table.alignment(layers[:_ALIGNING], timer)

    def _timer(self) -> LayerTimes:
        """Times layers as the model is timed; what is known of this machine is read from the user's cache."""
        bench = self._candidates.session_spec
        version = self._candidates.worker.versions()["onnxruntime"]
        env = environment.describe(threads=bench.threads, onnxruntime=version, load_average=None)
        machine = f"{env.cpu}, {env.cores} cores, {env.threads} threads, onnxruntime {env.onnxruntime}"
        return LayerTimes(machine, self._time)

    def _time(self, layers: Sequence[MeasuredLayer]) -> list[float]:
        candidates = self._candidates
        spec = msgspec.structs.replace(candidates.session_spec, profile=True)
        found: dict[int, float] = {}
        path = candidates.scratch / "layers.onnx"
        for model, feeds in measured_layers.models(layers):
            candidates.request.progress("timing layers at other widths", len(found), len(layers))
            io.write_aside(model, path)
            session = candidates.worker.open(path, spec)
            for _ in range(_LAYER_RUNS + 1):  # in the first run onnxruntime packs weights
                session.execute(feeds)
            found |= measured_layers.times(session.profile())
            session.close()
            io.remove_aside(path)
        return [found.get(number, 0.0) for number in range(len(layers))]
