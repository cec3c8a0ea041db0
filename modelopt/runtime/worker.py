"""The parent's side: a child process that runs native code under limits of memory and time.

onnxruntime, onnx's checker and shape inference, and onnxsim crash, stall or exhaust memory on hostile files
(and on some honest ones). Here that is one error, not the end of the program.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from modelopt.core.errors import ModeloptError
from modelopt.runtime import installation, wording
from modelopt.runtime.connection import Connection
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool, spawn
from modelopt.runtime.session import CPU, SessionInfo, SessionSpec, full_provider_name
from modelopt.runtime.worker_session import Session


class Worker:
    """A child process that opens and runs sessions; use it as a context manager.

    Args:
        limits: What the child may use; None for `Limits.default`.
        preload: A module that the child imports while it waits for the first request.
        exact: `SessionSpec.exact` of the sessions that leave it open.
        children: Children that were started ahead; one of them is taken where it imports `preload`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        preload: str = "onnxruntime",
        exact: bool = False,
        children: ChildPool | None = None,
    ) -> None:
        installation.refuse_two_runtimes()
        self._exact = exact
        self.limits = limits or Limits.default()
        self._connection = Connection(children.take(preload) if children else spawn(preload), self.limits)
        self._ids = itertools.count(1)
        self._opened: dict[tuple[Path, SessionSpec], Session | ModeloptError] = {}  # by `keep`
        self._keeping = threading.Lock()
        self._profiles: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._connection.pid

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
            growth = self.limits.growth(0) if full_provider_name(known.provider) == CPU else None
            answer, _ = self._connection.request(body, {}, doing=f"loading {called}", spec=known, growth=growth)
        except ModeloptError as error:
            error.model = path
            raise
        return Session(self._connection, number, msgspec.convert(answer["info"], SessionInfo), called)

    def follow(self, limits: Limits) -> None:
        """Use these limits from now on: a worker may start before the model is known."""
        self.limits = self._connection.limits = limits

    def keep(self, path: Path, spec: SessionSpec, *, what: str = "model") -> Session:
        """Like `open`, but the same file with the same spec is opened once; `forget` closes it."""
        key = (path, spec)
        with self._keeping:
            if key not in self._opened:
                try:
                    self._opened[key] = self.open(path, spec, what=what)
                except ModeloptError as error:
                    self._opened[key] = error
            kept = self._opened[key]
        if isinstance(kept, ModeloptError):
            raise kept
        return kept

    def keep_soon(self, path: Path, spec: SessionSpec) -> None:
        """Begin `keep` in the background: large models take seconds to open. A failure shows at the next use."""

        def open_quietly() -> None:
            with contextlib.suppress(ModeloptError):
                self.keep(path, spec)

        threading.Thread(target=open_quietly, daemon=True).start()

    def forget(self, path: Path) -> None:
        """Close what `keep` holds of this file."""
        for key, kept in list(self._opened.items()):
            if key[0] == path and isinstance(kept, Session):
                del self._opened[key]
                kept.close()

    def transform(self, function: str, model: bytes, *, doing: str, **arguments: int) -> bytes:
        """Send serialized bytes through a function of `child_onnx`, called `function`.

        Raises:
            Refused: The native code says no.
            WorkerDied: The child crashed or exceeded its limits.
        """
        body = {"call": "transform", "function": function, "arguments": arguments}
        growth = self.limits.growth(len(model))
        sent = {"model": np.frombuffer(model, np.uint8)}
        _, arrays = self._connection.request(body, sent, doing=doing, growth=growth)
        return arrays["model"].tobytes()

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
        return self._connection.request({"call": "versions"}, {}, doing="starting onnxruntime")[0]

    def peak_bytes(self) -> int:
        """The child's peak resident memory."""
        return int(self._connection.request({"call": "peak"}, {}, doing="reading memory use")[0]["peak_bytes"])

    def hold(self, slot: int, feeds: dict[str, np.ndarray]) -> None:
        """Keep `feeds` in the child under `slot` for `Session.time`."""
        self._connection.request({"call": "hold", "slot": slot}, feeds, doing="sending inputs")

    def pause(self) -> None:
        """Stop the child, spinning threads and all, so that it does not disturb another's timing."""
        self._connection.pause()

    def resume(self) -> None:
        """Let a paused child go on."""
        self._connection.resume()

    def close(self) -> None:
        """End the child."""
        self._connection.close()
        if self._profiles is not None:
            self._profiles.cleanup()

    def _folder_for_profiles(self) -> str:
        """A folder that the parent owns: a child that crashes or is killed removes nothing."""
        if self._profiles is None:
            self._profiles = tempfile.TemporaryDirectory(prefix="modelopt-profile-", ignore_cleanup_errors=True)
        return self._profiles.name
