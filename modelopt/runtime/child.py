"""The child process: opens and runs sessions, and calls onnx's native code, so that a crash stays here.

`processes.spawn` runs `main`. It reads requests from stdin and answers on a private copy of stdout: native libraries
may print to file descriptor 1, so that one is pointed at stderr first.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is imported: its wheels report by default

import msgspec
import numpy as np

from modelopt.core import thread_room
from modelopt.runtime import child_onnx, protocol
from modelopt.runtime.child_calibration import Observing
from modelopt.runtime.child_session import ChildSession, first_line
from modelopt.runtime.limits import capped
from modelopt.runtime.protocol import Failure, Message
from modelopt.runtime.session import SessionSpec


class Child:
    """Serves one parent: holds sessions and feeds by number."""

    def __init__(self) -> None:
        self.sessions: dict[int, ChildSession] = {}
        self.feeds: dict[int, dict[str, np.ndarray]] = {}
        self.observing: dict[int, Observing] = {}

    def open(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """Create a session from a file."""
        spec = msgspec.convert(body["spec"], SessionSpec)
        session = ChildSession(Path(os.fsdecode(body["path"])), spec, body.get("folder"))
        self.sessions[body["id"]] = session
        return {"info": msgspec.to_builtins(session.info)}, {}

    def close(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """Drop a session."""
        observing = self.observing.pop(body["id"], None)
        if observing is not None:
            observing.cancel()
        self.sessions.pop(body["id"], None)
        return {}, {}

    def run(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Run once and return the outputs; their keys are positions: a model may list the same output twice."""
        found = self.sessions[body["id"]].arrays(body["outputs"], arrays, body.get("seconds"))
        return {}, {str(number): array for number, array in enumerate(found)}

    def observe(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Take one sample to count the values of some outputs; the first call names them."""
        number = body["id"]
        if number not in self.observing:
            run = self.sessions[number].values
            limits = body["bins"], body["runs_at_once"], body["memory_bytes"]
            self.observing[number] = Observing(body["outputs"], *limits, run)
        self.observing[number].add(arrays)
        return {}, {}

    def observed(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """End observing: the collectors' states and counts, by key."""
        observing = self.observing.pop(body["id"])
        observing.finish()
        states = {key: collector.state() for key, collector in observing.collectors.items()}
        answer = {
            "states": {key: msgspec.to_builtins(state) for key, (state, _) in states.items()},
            "other": observing.other,
            "samples": observing.samples,
            "peak_bytes": _peak_bytes(),
        }
        return answer, {key: counts for key, (_, counts) in states.items()}

    def hold(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Keep feeds here, so that timing does not cross the pipe."""
        self.feeds[body["slot"]] = arrays
        return {}, {}

    def time(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """Time runs on held feeds; returns nanoseconds per run, without the lead-in."""
        session = self.sessions[body["id"]]
        slots = sorted(self.feeds) if body["slot"] is None else [body["slot"]]
        held = [self.feeds[slot] for slot in slots]
        samples = []
        for i in range(body["lead_in"] + body["runs"]):
            feeds = held[i % len(held)]
            started = time.perf_counter_ns()
            session.values(None, feeds)
            samples.append(time.perf_counter_ns() - started)
        return {"samples_ns": samples[body["lead_in"] :]}, {}

    def profile(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """End profiling and say which provider ran which node."""
        return {"nodes": msgspec.to_builtins(self.sessions[body["id"]].profile(body["only"]))}, {}

    def peak(self, _body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """Peak resident memory of this process, in bytes."""
        return {"peak_bytes": _peak_bytes()}, {}

    def versions(self, _body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Message:
        """The runtime's version and its providers."""
        import onnxruntime as ort

        return {"onnxruntime": ort.__version__, "providers": ort.get_available_providers()}, {}

    def transform(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Call one of the functions of `child_onnx` on a serialized model."""
        try:
            made = getattr(child_onnx, body["function"])(arrays["model"].tobytes(), **body["arguments"])
        except Exception as error:
            raise Failure("transform", first_line(error)) from error
        return {}, {"model": np.frombuffer(made, np.uint8)}


def _peak_bytes() -> int:
    # On Linux ru_maxrss survives exec: it would report the parent's peak where that is the larger one.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(requests: io.BufferedIOBase, replies: io.BufferedIOBase) -> None:
    """Answer requests until the parent hangs up."""
    child = Child()
    while True:
        try:
            body, arrays = protocol.read(requests)
        except EOFError:
            return
        try:
            with capped(body.get("growth")):
                answer, tensors = getattr(child, body["call"])(body, arrays)
        except Failure as failure:
            protocol.write(replies, {"failure": failure.kind, "text": failure.text})
            continue
        except MemoryError as error:
            protocol.write(replies, {"failure": "memory", "text": str(error)})
            continue
        except RuntimeError as error:
            if not thread_room.is_lack(error):
                raise
            protocol.write(replies, {"failure": "threads", "text": str(error)})
            continue
        protocol.write(replies, answer, tensors)


def main() -> None:
    """Serve the parent on stdin and stdout."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the pipe
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(ImportError):  # the request that needs it will say so
        importlib.import_module(sys.argv[2])
    with contextlib.suppress(BrokenPipeError):
        serve(os.fdopen(os.dup(0), "rb"), replies)
