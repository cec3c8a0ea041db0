"""The pipe to one child process: a request, its answer within the limits, and how the child ended."""

from __future__ import annotations

import io
import os
import signal
import threading
from typing import Any, cast

import numpy as np

from modelopt.core.errors import WorkerDied
from modelopt.runtime import installation, protocol, wording
from modelopt.runtime.limits import Limits, Watch
from modelopt.runtime.processes import Spawned
from modelopt.runtime.session import SessionSpec


class Connection:
    """Owns a child: `close` ends it.

    Attributes:
        limits: What the child may use.
    """

    def __init__(self, child: Spawned, limits: Limits) -> None:
        self.limits = limits
        self._child = child
        self._process = child.process
        self._requests = cast(io.BufferedWriter, child.process.stdin)
        self._replies = cast(io.BufferedReader, child.process.stdout)
        self._paused = False
        self._ceiling = limits.memory_bytes
        self._asking = threading.Lock()  # one request at a time is on the pipe
        self._watch = Watch(self.pid, child.kill, limits)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def request(
        self,
        body: dict[str, Any],
        arrays: dict[str, np.ndarray],
        *,
        doing: str,
        spec: SessionSpec | None = None,
        timed: bool = False,
        growth: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send one request and wait for its answer; threads take turns.

        Args:
            body: What the child is to do, see `modelopt.runtime.child`.
            arrays: What it is to do it with.
            doing: What that is, for errors: ``running the model m.onnx``.
            spec: The session that is opened, where one is.
            timed: Whether the child times itself, so that it must be disturbed as little as possible.
            growth: What the request may take of memory beyond what the child holds, in bytes; None: up to the limit.

        Raises:
            ModeloptError: What `installation.explain` makes of the child's failure.
            WorkerDied: The child crashed, exceeded its limits, or was ended before.
        """
        with self._asking:
            if self._requests.closed:  # another thread ended the child while this request waited
                raise WorkerDied(f"{doing} came too late", reason="signal", note="the child process was ended")
            self._watch.calm = timed
            self._ceiling = self._watch.follow(self.limits, growth)
            answer, tensors = self._exchange(body if growth is None else {**body, "growth": growth}, arrays, doing)
        if "failure" in answer:
            raise installation.explain(answer["failure"], answer["text"], doing, spec)
        return answer, tensors

    def _exchange(
        self, body: dict[str, Any], arrays: dict[str, np.ndarray], doing: str
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        self.resume()
        with self._watch:
            try:
                protocol.write(self._requests, body, arrays)
                return protocol.read(self._replies)
            except (BrokenPipeError, EOFError):
                raise self._why_it_ended(doing) from None
            except BaseException:
                self._child.kill()  # half a message is on the pipe: no later request can be read
                raise

    def pause(self) -> None:
        """See `Worker.pause`."""
        if not self._paused:
            os.kill(self.pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """See `Worker.resume`."""
        if self._paused:
            os.kill(self.pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        with self._asking:  # a request of another thread, which may start the watch, has seen the end by now
            self._watch.close()
            self._child.end()

    def _why_it_ended(self, doing: str) -> WorkerDied:
        self._process.wait()
        exceeded = {
            "timeout": f"took longer than {self.limits.seconds:.0f} s",
            "memory": f"needed more than {self._ceiling / 2**30:.1f} GiB of memory",
        }
        libraries = " or ".join(self.limits.op_libraries)
        hint = "the model may be hostile or too large for this machine"
        if self.limits.request_bytes is not None and self._watch.verdict == "memory":
            hint += "; --memory-limit allows more"
        hint += f", or {libraries} may be at fault" if libraries else ""
        if (verdict := self._watch.verdict) is not None:
            note = "the child process was ended"
            return WorkerDied(f"{doing} {exceeded[verdict]}", reason=verdict, note=note, hint=hint)
        code = self._process.returncode
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._child.stderr.seek(0)
        last = self._child.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        note = f"the child process ended with {ending}" + (f": {last[0]}" if last else "")
        by_runtime = doing.startswith(("loading", "running"))
        if wording.OURS in doing:
            hint = "your model is not at fault: please report it, with the command and, if you can, the model"
        elif by_runtime:
            at_fault = f"onnxruntime {installation.runtime_version()}" + (f" or of {libraries}" if libraries else "")
            hint = f"it is a fault of {at_fault}, or the file is hostile"
        if code == -signal.SIGBUS:
            hint = "a file became shorter while it was read, or its disk fails"
        fact = f"{doing} crashed{' onnxruntime' if by_runtime else ''}"
        return WorkerDied(fact, reason="signal", note=note, hint=hint)
