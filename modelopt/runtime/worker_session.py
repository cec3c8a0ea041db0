"""An open session in a child process: runs, calibration, timing and profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec
import numpy as np

from modelopt.calibration.histogram import Collector, Observed, State
from modelopt.core.errors import Refused
from modelopt.runtime.connection import Connection
from modelopt.runtime.session import CPU, NodeRun, SessionInfo

_SHOWN_FEEDS = 6


def _fed(feeds: Mapping[str, np.ndarray]) -> str:
    """The sizes that a model was fed."""
    listed = [f"{name} {list(array.shape)}" for name, array in feeds.items()]
    more = [f"{len(listed) - _SHOWN_FEEDS} more"] if len(listed) > _SHOWN_FEEDS else []
    return f"it was fed {', '.join((*listed[:_SHOWN_FEEDS], *more))}"


class Session:
    """An open session in a worker.

    Attributes:
        info: What the session says of itself.
    """

    def __init__(self, connection: Connection, number: int, info: SessionInfo, called: str) -> None:
        self._called = called
        self._connection = connection
        self._number = number
        self.info = info

    def fitting(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`feeds` as float16 or integers where this model takes those and they are float32, as the original takes."""
        halves = {value.name for value in self.info.inputs if value.type == "tensor(float16)"}
        integers = self.info.integers.inputs
        made = dict(feeds)
        for name, array in feeds.items():
            if array.dtype == np.float32 and name in halves:
                made[name] = array.astype(np.float16)
            elif array.dtype == np.float32 and name in integers:
                made[name] = integers[name].quantize(array)
        return made

    def run(
        self, feeds: dict[str, np.ndarray], outputs: list[str] | None = None, *, seconds: float | None = None
    ) -> list[np.ndarray]:
        """Run once.

        Args:
            feeds: Input arrays by name.
            outputs: Names from `info.outputs`; None for all, in the model's order; empty for none.
            seconds: After this time the run ends before its next node, which is a refusal; the child lives on.

        Returns:
            The outputs; float32 where the model says what its integers stand for.

        Raises:
            Refused: onnxruntime fails while running.
            WorkerDied: The child crashed or exceeded its limits.
        """
        body = {"call": "run", "id": self._number, "outputs": outputs}
        if seconds is not None:
            body["seconds"] = max(seconds, 0.0)
        fitting = self.fitting(feeds)
        doing = f"running {self._called}"
        try:
            _, tensors = self._connection.request(body, fitting, doing=doing, growth=self._growth(fitting))
        except Refused as refusal:
            refusal.note = "; ".join(filter(None, (refusal.note, _fed(feeds))))
            raise
        integers = self.info.integers.outputs
        names = [output.name for output in self.info.outputs] if outputs is None else outputs
        arrays = [tensors[str(i)] for i in range(len(tensors))]
        return [
            integers[name].dequantize(array) if name in integers else array
            for name, array in zip(names, arrays, strict=True)
        ]

    def _growth(self, feeds: Mapping[str, np.ndarray]) -> int | None:
        """What a run on these feeds may take of memory; None on a provider whose memory is not this machine's."""
        if self.info.providers[0] != CPU:
            return None
        return self._connection.limits.growth(sum(array.nbytes for array in feeds.values()))

    def execute(self, feeds: dict[str, np.ndarray], *, seconds: float | None = None) -> None:
        """Run once and fetch no output. Raises as `run`."""
        self.run(feeds, [], seconds=seconds)

    def observe(
        self, feeds: dict[str, np.ndarray], outputs: Mapping[str, str], *, bins: int, runs_at_once: int
    ) -> None:
        """Give one sample to count; the child runs it in the background. All calls before `observed` say the same.

        Args:
            feeds: Input arrays by name.
            outputs: By key, the output whose values are counted.
            bins: See `modelopt.calibration.histogram.Collector`.
            runs_at_once: How many samples the child runs at the same time.

        Raises:
            Refused: onnxruntime failed on this sample or an earlier one.
            WorkerDied: The child crashed or exceeded its limits.
        """
        body = {"call": "observe", "id": self._number, "outputs": dict(outputs), "bins": bins}
        body |= {"runs_at_once": runs_at_once, "memory_bytes": self._connection.limits.memory_bytes}
        self._connection.request(body, self.fitting(feeds), doing=f"running {self._called}")

    def observed(self) -> Observed:
        """Wait for the samples that `observe` was given, and fetch what was counted."""
        body = {"call": "observed", "id": self._number}
        answer, counts = self._connection.request(body, {}, doing=f"running {self._called}")
        states = msgspec.convert(answer["states"], dict[str, State])
        collectors = {key: Collector.restored(state, counts[key]) for key, state in states.items()}
        return Observed(collectors, answer["other"], answer["samples"], answer["peak_bytes"])

    def time(self, runs: int, *, slot: int | None = None, lead_in: int = 0) -> list[int]:
        """Time the session in the child, on feeds that the worker holds.

        Args:
            runs: How many runs to time.
            slot: The held feeds to use; None takes all in turn.
            lead_in: Runs before these that are not timed: they refill the caches after a pause.

        Returns:
            Nanoseconds for each of the `runs` runs.
        """
        body = {"call": "time", "id": self._number, "runs": runs, "slot": slot, "lead_in": lead_in}
        doing = f"timing {self._called}"
        answer, _ = self._connection.request(body, {}, doing=doing, timed=True)
        return cast(list[int], answer["samples_ns"])

    def profile(self, *, only: str | None = None) -> list[NodeRun]:
        """End profiling (the session was opened with ``profile=True``) and return what ran where.

        Args:
            only: Of the nodes in whose names this occurs; None for all.
        """
        body = {"call": "profile", "id": self._number, "only": only}
        answer, _ = self._connection.request(body, {}, doing="reading the profile")
        return [msgspec.convert(node, NodeRun) for node in answer["nodes"]]

    def close(self) -> None:
        """Free the session's memory in the child."""
        body = {"call": "close", "id": self._number}
        self._connection.request(body, {}, doing=f"closing {self._called}")
