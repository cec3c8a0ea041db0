"""The parent's side: a child process that runs native code under limits of memory and time.

onnxruntime, onnx's checker and shape inference, and onnxsim crash, stall or exhaust memory on hostile files
(and on some honest ones). Here that is one error, not the end of the program.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import msgspec
import numpy as np
import psutil

from modelopt.calibration.histogram import Collector, Observed, State
from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.runtime import installation, processes, protocol, wording
from modelopt.runtime.session import NodeRun, SessionInfo, SessionSpec, full_provider_name
from modelopt.runtime.watch import Watch

_SHOWN_FEEDS = 6


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_bytes: Private resident memory; the child is killed above it.
        seconds: Wall time for one request (a load, a run); the child is killed after it.
        op_libraries: Shared libraries of custom operators that it may load: the user named them on the command line.
    """

    memory_bytes: int
    seconds: float
    op_libraries: tuple[str, ...] = ()

    @classmethod
    def default(cls) -> Limits:
        """Four fifths of the memory that is available now, and ten minutes a request."""
        return cls(memory_bytes=int(psutil.virtual_memory().available * 0.8), seconds=600.0)


class Worker:
    """A child process that opens and runs sessions; use it as a context manager.

    Args:
        limits: What the child may use; None for `Limits.default`.
        preload: A module that the child imports while it waits for the first request.
        exact: `SessionSpec.exact` of the sessions that leave it open.
    """

    def __init__(self, limits: Limits | None = None, *, preload: str = "onnxruntime", exact: bool = False) -> None:
        installation.refuse_two_runtimes()
        self._exact = exact
        self.limits = limits or Limits.default()
        self._ids = itertools.count(1)
        spawned = processes.take(preload)
        self._child, self._stderr = spawned.process, spawned.stderr
        self._requests = cast(BinaryIO, self._child.stdin)
        self._replies = cast(BinaryIO, self._child.stdout)
        self._paused = False
        self._watch = Watch(self.pid, self._kill, memory_bytes=self.limits.memory_bytes, seconds=self.limits.seconds)
        self._kept: dict[tuple[Path, SessionSpec], Session] = {}
        self._failed: dict[tuple[Path, SessionSpec], ModeloptError] = {}
        self._keeping = threading.Lock()
        self._asking = threading.Lock()  # one request at a time is on the pipe
        self._profiles: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def open(self, path: Path, spec: SessionSpec, *, what: str = "model") -> Session:
        """Open the model at `path`.

        Args:
            path: The model file, already through io's gate.
            spec: Provider, threads, optimization.
            what: What the model is, for errors: see `wording.called`.

        Raises:
            EnvironmentLacks: The provider is not installed or could not be created.
            InputError: No provider has that name.
            Refused: onnxruntime does not load the model.
            WorkerDied: The child crashed or exceeded its limits.
        """
        known = msgspec.structs.replace(installation.known_spec(spec), op_libraries=self.limits.op_libraries)
        if known.exact is None:
            known = msgspec.structs.replace(known, exact=self._exact)
        number = next(self._ids)
        body = {"call": "open", "id": number, "path": str(path), "spec": msgspec.to_builtins(known)}
        if spec.profile:
            body["folder"] = self._folder_for_profiles()
        called = wording.called(path, what)
        try:
            answer, _ = self._request(body, {}, doing=f"loading {called}", spec=known)
        except ModeloptError as error:
            error.model = path
            raise
        return Session(self, number, msgspec.convert(answer["info"], SessionInfo), called)

    def keep(self, path: Path, spec: SessionSpec, *, what: str = "model") -> Session:
        """Like `open`, but the same file with the same spec is opened once; `forget` closes it."""
        key = (path, spec)
        with self._keeping:
            if key in self._failed:
                raise self._failed[key]
            if key not in self._kept:
                try:
                    self._kept[key] = self.open(path, spec, what=what)
                except ModeloptError as error:
                    self._failed[key] = error
                    raise
            return self._kept[key]

    def keep_soon(self, path: Path, spec: SessionSpec) -> None:
        """Begin `keep` in the background: large models take seconds to open. A failure shows at the next use."""

        def open_quietly() -> None:
            with contextlib.suppress(ModeloptError):
                self.keep(path, spec)

        threading.Thread(target=open_quietly, daemon=True).start()

    def forget(self, path: Path) -> None:
        """Close what `keep` holds of this file."""
        for key in [key for key in self._kept if key[0] == path]:
            self._kept.pop(key).close()

    def transform(self, call: str, model: bytes, *, doing: str, **arguments: int) -> bytes:
        """Send serialized bytes through `infer_shapes`, `check`, `convert_opset` or `simplify`.

        Raises:
            Refused: The native code says no.
            WorkerDied: The child crashed or exceeded its limits.
        """
        payload = {"model": np.frombuffer(model, np.uint8)}
        _, arrays = self._request({"call": call, **arguments}, payload, doing=doing)
        return arrays["model"].tobytes() if "model" in arrays else b""

    def require(self, provider: str) -> None:
        """Make sure that onnxruntime has `provider`, before any work is done for it; nothing is created.

        Raises:
            EnvironmentLacks: It is not installed.
            InputError: No provider has that name.
        """
        spec = installation.known_spec(SessionSpec(provider=provider))
        here = self.versions()["providers"]
        if full_provider_name(provider) not in here:
            raise installation.explain("provider-missing", ", ".join(here), "", spec)

    def versions(self) -> dict[str, Any]:
        """onnxruntime's version and available providers."""
        return self._request({"call": "versions"}, {}, doing="starting onnxruntime")[0]

    def peak_bytes(self) -> int:
        """The child's peak resident memory."""
        return int(self._request({"call": "peak"}, {}, doing="reading memory use")[0]["peak_bytes"])

    def hold(self, slot: int, feeds: dict[str, np.ndarray]) -> None:
        """Keep `feeds` in the child under `slot` for `Session.time`."""
        self._request({"call": "hold", "slot": slot}, feeds, doing="sending inputs")

    def pause(self) -> None:
        """Stop the child, spinning threads and all, so that it does not disturb another's timing."""
        if not self._paused:
            os.kill(self._child.pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let a paused child go on."""
        if self._paused:
            os.kill(self._child.pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """End the child."""
        self._watch.close()
        self._kill()
        with self._asking:  # a request in the background has seen the end now
            self._close_streams()
        if self._profiles is not None:
            self._profiles.cleanup()

    def _folder_for_profiles(self) -> str:
        """Owned by the parent: a child that crashes or is killed removes nothing."""
        if self._profiles is None:
            self._profiles = tempfile.TemporaryDirectory(prefix="modelopt-profile-", ignore_cleanup_errors=True)
        return self._profiles.name

    def _close_streams(self) -> None:
        for stream in (self._requests, self._replies, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _request(
        self,
        body: dict[str, Any],
        arrays: dict[str, np.ndarray],
        *,
        doing: str,
        spec: SessionSpec | None = None,
        timed: bool = False,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        with self._asking:
            if self._requests.closed:  # a request in the background came behind the end
                raise WorkerDied(f"{doing} came too late", reason="signal", note="the child process was ended")
            self._watch.calm = timed
            return self._ask(body, arrays, doing=doing, spec=spec)

    def _ask(
        self, body: dict[str, Any], arrays: dict[str, np.ndarray], *, doing: str, spec: SessionSpec | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.resume()
        with self._watch:
            try:
                protocol.write(self._requests, body, arrays)
                answer, tensors = protocol.read(self._replies)
            except (BrokenPipeError, EOFError):
                raise self._obituary(self._watch.verdict, doing) from None
            except BaseException:
                self._kill()  # half a message is on the pipe: this child is of no more use
                raise
        if "failure" in answer:
            raise installation.explain(answer["failure"], answer["text"], doing, spec)
        return answer, tensors

    def _kill(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()

    def _obituary(self, verdict: str | None, doing: str) -> WorkerDied:
        self._child.wait()
        hint = "the model may be hostile or too large for this machine"
        if self.limits.op_libraries:
            hint += f", or {' or '.join(self.limits.op_libraries)} may be at fault"
        if verdict == "timeout":
            fact = f"{doing} took longer than {self.limits.seconds:.0f} s"
            return WorkerDied(fact, reason=verdict, note="the child process was ended", hint=hint)
        if verdict == "memory":
            fact = f"{doing} needed more than {self.limits.memory_bytes / 2**30:.1f} GiB of memory"
            return WorkerDied(fact, reason=verdict, note="the child process was ended", hint=hint)
        code = self._child.returncode
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        note = f"the child process ended with {ending}" + (f": {last[0]}" if last else "")
        by_runtime = doing.startswith(("loading", "running"))
        if wording.OURS in doing:
            hint = "your model is not at fault: please report it, with the command and, if you can, the model"
        elif by_runtime:
            version = installation.runtime_version()
            libraries = "".join(f" or of {library}" for library in self.limits.op_libraries)
            hint = f"it is a fault of onnxruntime {version}{libraries}, or the file is hostile"
        return WorkerDied(
            f"{doing} crashed{' onnxruntime' if by_runtime else ''}", reason="signal", note=note, hint=hint
        )


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

    def __init__(self, worker: Worker, number: int, info: SessionInfo, called: str) -> None:
        self._called = called
        self._worker = worker
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

    def run(self, feeds: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
        """Run once.

        Args:
            feeds: Input arrays by name.
            outputs: Names from `info.outputs`; None for all, in the model's order; empty for none.

        Returns:
            The outputs; float32 where the model says what its integers stand for.

        Raises:
            Refused: onnxruntime fails while running.
            WorkerDied: The child crashed or exceeded its limits.
        """
        body = {"call": "run", "id": self._number, "outputs": outputs}
        fitting = self.fitting(feeds)
        try:
            _, tensors = self._worker._request(body, fitting, doing=f"running {self._called}")  # noqa: SLF001 - same module
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

    def execute(self, feeds: dict[str, np.ndarray]) -> None:
        """Run once for its own sake: no output comes back, whatever it is. Raises as `run`."""
        self.run(feeds, [])

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
        body |= {"runs_at_once": runs_at_once, "memory_bytes": self._worker.limits.memory_bytes}
        self._worker._request(body, self.fitting(feeds), doing=f"running {self._called}")  # noqa: SLF001 - same module

    def observed(self) -> Observed:
        """Wait for the samples that `observe` was given, and fetch what was counted."""
        body = {"call": "observed", "id": self._number}
        answer, counts = self._worker._request(body, {}, doing=f"running {self._called}")  # noqa: SLF001 - same module
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
        answer, _ = self._worker._request(body, {}, doing=doing, timed=True)  # noqa: SLF001 - same module
        return cast(list[int], answer["samples_ns"])

    def profile(self, *, only: str | None = None) -> list[NodeRun]:
        """End profiling (the session was opened with ``profile=True``) and return what ran where.

        Args:
            only: Of the nodes in whose names this occurs; None for all.
        """
        body = {"call": "profile", "id": self._number, "only": only}
        answer, _ = self._worker._request(body, {}, doing="reading the profile")  # noqa: SLF001 - same module
        return [msgspec.convert(node, NodeRun) for node in answer["nodes"]]

    def close(self) -> None:
        """Free the session's memory in the child."""
        body = {"call": "close", "id": self._number}
        self._worker._request(body, {}, doing=f"closing {self._called}")  # noqa: SLF001 - same module
