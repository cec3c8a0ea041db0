"""The child's sessions of onnxruntime: opening one, running it, and what it says of itself."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelopt.core import thread_room
from modelopt.core.encoding import is_utf8
from modelopt.graph.quantized_io import IntegerIo, declared
from modelopt.runtime import parts
from modelopt.runtime.profiling import keep_optimized, node_runs, optimized_outputs, read_events
from modelopt.runtime.protocol import Failure
from modelopt.runtime.session import IoSpec, NodeRun, Optimization, SessionInfo, SessionSpec, full_provider_name

_UNWRITTEN = "Failed to write external initializers", "Protobuf serialization failed"
"""What onnxruntime says where it cannot write the graph that it optimized: a profile with a trace needs it."""

_FEW_INPUTS = 100


class ChildSession:
    """An open session.

    Attributes:
        info: What it says of itself.

    Args:
        path: The model file.
        spec: How to open it.
        folder: Where profiles go.

    Raises:
        Failure: onnxruntime does not load the model, or lacks the provider.
    """

    def __init__(self, path: Path, spec: SessionSpec, folder: str | None) -> None:
        import onnxruntime as ort

        provider = full_provider_name(spec.provider)
        if provider not in ort.get_available_providers():
            raise Failure("provider-missing", ", ".join(ort.get_available_providers()))
        options = _session_options(ort, spec)
        self._profiles = tempfile.TemporaryDirectory(dir=folder) if spec.profile else None
        if self._profiles is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "run")
            if spec.trace:
                keep_optimized(options, Path(self._profiles.name))
        model = _exact(path) if spec.exact else path
        started = time.perf_counter_ns()
        try:
            with _reachable(model, path, options) as given:
                self._session = ort.InferenceSession(
                    given, options, providers=[(provider, dict(spec.provider_options))]
                )
        except Exception as error:
            if self._profiles is not None:
                self._profiles.cleanup()
            unwritten = spec.trace and any(text in str(error) for text in _UNWRITTEN)
            raise _failure("profile" if unwritten else "load", error) from error
        _look_up_names_at_once(self._session)
        load_ns = time.perf_counter_ns() - started
        if self._session.get_providers()[0] != provider:
            raise Failure("provider-failed", ", ".join(self._session.get_providers()))
        self._declared = [_io_spec(value) for value in self._session.get_outputs()]
        outputs, whole = parts.outputs_of(self._declared)
        inputs = tuple(_io_spec(value) for value in self._session.get_inputs())
        providers = tuple(self._session.get_providers())
        self.info = SessionInfo(inputs, outputs, providers, load_ns, _integers(self._session), whole)

    def values(
        self, outputs: Sequence[str] | None, feeds: dict[str, np.ndarray], seconds: float | None = None
    ) -> list[Any]:
        """Run once: what onnxruntime returns for these outputs of the model, None for all.

        Args:
            outputs: Their names.
            feeds: Input arrays by name.
            seconds: After this time the run ends before its next node; None: it goes on.

        Raises:
            Failure: onnxruntime fails, or the time is over.
        """
        try:
            if seconds is not None:
                return self._values_within(seconds, outputs, feeds)
            result: list[Any] = self._session.run(outputs, feeds)
        except Failure:
            raise
        except Exception as error:
            raise _failure("run", error) from error
        return result

    def _values_within(self, seconds: float, outputs: Sequence[str] | None, feeds: dict[str, np.ndarray]) -> list[Any]:
        import onnxruntime as ort

        options = ort.RunOptions()
        over = threading.Event()

        def end() -> None:
            over.set()
            options.terminate = True

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            result: list[Any] = self._session.run(outputs, feeds, options)
        except Exception as error:
            if over.is_set():
                raise Failure("run", f"it took longer than {seconds:.0f} s") from error
            raise
        finally:
            timer.cancel()
        return result

    def arrays(
        self, outputs: Sequence[str] | None, feeds: dict[str, np.ndarray], seconds: float | None = None
    ) -> list[np.ndarray]:
        """Run once: the arrays of these of `info.outputs`, see `parts`; None for all, empty for none.

        Raises:
            Failure: onnxruntime fails, or an output is nothing that arrays hold.
        """
        if outputs is not None and not outputs:  # onnxruntime takes no names for all
            self.values(None, feeds, seconds)
            return []
        whole = self.info.whole
        positions = {part.name: position for position, part in enumerate(self.info.outputs)}
        asked = range(len(whole)) if outputs is None else [positions[name] for name in outputs]
        needed = sorted({whole[position] for position in asked})
        values = self.values([self._declared[position].name for position in needed], feeds, seconds)
        found: dict[int, tuple[np.ndarray, ...]] = {}
        for position, value in zip(needed, values, strict=True):
            output = self._declared[position]
            try:
                found[position] = parts.arrays_of(value, output.type)
            except parts.NoArray:
                raise Failure("run", f"the output '{output.name}' is a {output.type}, which no array holds") from None
        return [found[whole[position]][position - whole.index(whole[position])] for position in asked]

    def profile(self, only: str | None) -> list[NodeRun]:
        """End profiling: the kernels that ran, see `profiling.read_events` for `only`.

        Raises:
            Failure: The profile is not whole: onnxruntime says nothing where the disk is full.
        """
        path = Path(self._session.end_profiling())
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text.rstrip().endswith("]"):
            raise Failure("profile", f"{len(text)} characters were written to {path.parent}")
        found = node_runs(read_events(text, only), optimized_outputs(path.parent))
        if self._profiles is not None:
            self._profiles.cleanup()
        return found


def _look_up_names_at_once(session: Any) -> None:
    """Let onnxruntime look for each input among the names of a feed, which it takes as a list, in constant time.

    With 20,000 inputs its own check takes two seconds before each run.
    """
    check = getattr(session, "_validate_input", None)
    if check is not None and len(session.get_inputs()) > _FEW_INPUTS:
        session._validate_input = lambda names: check(dict.fromkeys(names))  # noqa: SLF001 - it has no other name


def _session_options(ort: Any, spec: SessionSpec) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = {
        Optimization.ALL: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        Optimization.BASIC: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        Optimization.DISABLED: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[spec.optimization]
    options.enable_mem_pattern = spec.memory_pattern
    if not spec.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in spec.op_libraries:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise Failure("op-library", f"{library}\n{first_line(error)}") from error
    return options


def _exact(path: Path) -> Path | bytes:
    """What to open where products must not saturate: the model's path, or the bytes of a copy with u8 weights."""
    from modelopt.runtime import exact  # imports onnx_ir

    try:
        changed = exact.model_bytes(path)
    except Exception as error:
        raise Failure("load", first_line(error)) from error
    return path if changed is None else changed


@contextlib.contextmanager
def _reachable(model: Path | bytes, path: Path, options: Any) -> Iterator[str | bytes]:
    """What onnxruntime is given: a path that is UTF-8, for it takes no other, or the bytes of the model.

    Where the folder's name is not UTF-8, it is the working folder meanwhile.
    """
    here = os.open(".", os.O_RDONLY) if not is_utf8(str(path.parent)) else None
    if here is not None:
        os.chdir(path.parent)
        path = Path(path.name)
    try:
        if isinstance(model, Path) and is_utf8(str(path)):
            yield str(path)
        else:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
            yield path.read_bytes() if isinstance(model, Path) else model
    finally:
        if here is not None:
            os.chdir(here)
            os.close(here)


def _integers(session: Any) -> IntegerIo:
    """The inputs and outputs that the model says are integers for floats, and that are integers."""
    listed = session.get_inputs(), session.get_outputs()
    dtypes = ({value.name: value.type[len("tensor(") : -1] for value in values} for values in listed)
    return declared(session.get_modelmeta().custom_metadata_map).where(*dtypes)


def _io_spec(value: Any) -> IoSpec:
    return IoSpec(value.name, value.type, tuple(value.shape))


def _failure(kind: str, error: Exception) -> Failure:
    """What the parent is told: that memory or a thread was missing, or else that this `kind` of call failed."""
    if isinstance(error, MemoryError):
        return Failure("memory", str(error))
    return Failure("threads" if thread_room.is_lack(error) else kind, first_line(error))


def first_line(error: BaseException) -> str:
    """What native code says, without the trace behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
