"""The child process: opens and runs sessions, and calls onnx's native code, so that a crash stays here.

Run as ``python -m modelopt.runtime.child``. It reads requests from stdin and answers on a private copy of
stdout: native libraries may print to file descriptor 1, so that one is pointed at stderr first.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is imported: its wheels report by default

import msgspec
import numpy as np

from modelopt.graph.quantized_io import IntegerIo, declared
from modelopt.runtime import parts, protocol
from modelopt.runtime.child_calibration import Observing
from modelopt.runtime.profiling import keep_optimized, node_runs, optimized_outputs, read_events
from modelopt.runtime.session import (
    IoSpec,
    Optimization,
    SessionInfo,
    SessionSpec,
    full_provider_name,
)

Reply = tuple[dict[str, Any], dict[str, np.ndarray]]


class Failure(Exception):
    """Something the parent turns into an error: a kind it knows and the evidence."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Child:
    """Serves one parent: holds sessions and feeds by number."""

    def __init__(self) -> None:
        self.sessions: dict[int, Any] = {}
        self.feeds: dict[int, dict[str, np.ndarray]] = {}
        self.profiles: dict[int, tempfile.TemporaryDirectory[str]] = {}
        self.observing: dict[int, Observing] = {}

    def open(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """Create a session from a file."""
        import onnxruntime as ort

        spec = msgspec.convert(body["spec"], SessionSpec)
        provider = full_provider_name(spec.provider)
        if provider not in ort.get_available_providers():
            raise Failure("provider-missing", ", ".join(ort.get_available_providers()))
        options = _session_options(ort, spec)
        if spec.profile:
            directory = tempfile.TemporaryDirectory(dir=body["folder"])
            self.profiles[body["id"]] = directory
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(directory.name) / "run")
            if spec.trace:
                keep_optimized(options, Path(directory.name))
        model = _exact(Path(body["path"]), options) if spec.exact else body["path"]
        started = time.perf_counter_ns()
        try:
            session = ort.InferenceSession(model, options, providers=[(provider, dict(spec.provider_options))])
        except MemoryError as error:
            raise Failure("memory", str(error)) from error
        except Exception as error:
            raise Failure("load", _first_line(error)) from error
        load_ns = time.perf_counter_ns() - started
        if session.get_providers()[0] != provider:
            raise Failure("provider-failed", ", ".join(session.get_providers()))
        self.sessions[body["id"]] = session
        outputs, whole = parts.outputs_of(_io_spec(value) for value in session.get_outputs())
        info = SessionInfo(
            tuple(_io_spec(value) for value in session.get_inputs()),
            outputs,
            tuple(session.get_providers()),
            load_ns,
            _integers(session),
            whole,
        )
        return {"info": msgspec.to_builtins(info)}, {}

    def close(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """Drop a session."""
        observing = self.observing.pop(body["id"], None)
        if observing is not None:
            observing.cancel()
        self.sessions.pop(body["id"], None)
        return {}, {}

    def run(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Run once and return the outputs, those that are no tensors in parts: see `parts`."""
        session = self.sessions[body["id"]]
        if body["outputs"] == []:  # onnxruntime takes no names for all
            _run(session, None, arrays)
            return {}, {}
        declared = [_io_spec(value) for value in session.get_outputs()]
        listed, whole = parts.outputs_of(declared)
        positions = {part.name: position for position, part in enumerate(listed)}
        asked = range(len(listed)) if body["outputs"] is None else [positions[name] for name in body["outputs"]]
        needed = sorted({whole[position] for position in asked})
        values = _run(session, [declared[position].name for position in needed], arrays)
        found: dict[int, tuple[np.ndarray, ...]] = {}
        for position, value in zip(needed, values, strict=True):
            try:
                found[position] = parts.arrays_of(value, declared[position].type)
            except parts.NoArray:
                name, kind = declared[position].name, declared[position].type
                raise Failure("run", f"the output '{name}' is a {kind}, which no array holds") from None
        # Keys are positions: a model may list the same output twice.
        return {}, {
            str(number): found[whole[position]][position - whole.index(whole[position])]
            for number, position in enumerate(asked)
        }

    def observe(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Take one sample to count the values of some outputs; the first call names them."""
        number = body["id"]
        if number not in self.observing:
            session = self.sessions[number]
            self.observing[number] = Observing(
                body["outputs"],
                body["bins"],
                body["runs_at_once"],
                body["memory_bytes"],
                lambda names, feeds: _run(session, names, feeds),
            )
        self.observing[number].add(arrays)
        return {}, {}

    def observed(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
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

    def hold(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Keep feeds here, so that timing does not cross the pipe."""
        self.feeds[body["slot"]] = arrays
        return {}, {}

    def time(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """Time runs on held feeds; returns nanoseconds per run, without the lead-in."""
        session = self.sessions[body["id"]]
        slots = sorted(self.feeds) if body["slot"] is None else [body["slot"]]
        held = [self.feeds[slot] for slot in slots]
        samples = []
        for i in range(body["lead_in"] + body["runs"]):
            feeds = held[i % len(held)]
            started = time.perf_counter_ns()
            _run(session, None, feeds)
            samples.append(time.perf_counter_ns() - started)
        return {"samples_ns": samples[body["lead_in"] :]}, {}

    def profile(self, body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """End profiling and say which provider ran which node."""
        path = Path(self.sessions[body["id"]].end_profiling())
        events = read_events(path.read_text(encoding="utf-8"), body.get("only"))
        with self.profiles.pop(body["id"]) as directory:
            outputs = optimized_outputs(Path(directory))
        return {"nodes": msgspec.to_builtins(node_runs(events, outputs))}, {}

    def peak(self, _body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """Peak resident memory of this process, in bytes."""
        return {"peak_bytes": _peak_bytes()}, {}

    def versions(self, _body: dict[str, Any], _arrays: dict[str, np.ndarray]) -> Reply:
        """The runtime's version and its providers."""
        import onnxruntime as ort

        return {"onnxruntime": ort.__version__, "providers": ort.get_available_providers()}, {}

    def infer_shapes(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Strict shape inference on serialized bytes."""
        import onnx

        try:
            inferred = onnx.shape_inference.infer_shapes(
                arrays["model"].tobytes(), check_type=True, strict_mode=True, data_prop=body["data_prop"]
            )
        except Exception as error:
            raise Failure("shapes", _first_line(error)) from error
        return {}, {"model": np.frombuffer(inferred.SerializeToString(), np.uint8)}

    def check(self, _body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Run onnx's checker on serialized bytes."""
        import onnx

        try:
            onnx.checker.check_model(arrays["model"].tobytes())
        except Exception as error:
            raise Failure("check", _first_line(error)) from error
        return {}, {}

    def convert_opset(self, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Run onnx's version converter."""
        import onnx
        import onnx.version_converter

        try:
            proto = onnx.load_model_from_string(arrays["model"].tobytes())
            converted = onnx.version_converter.convert_version(proto, body["version"])
        except Exception as error:
            raise Failure("convert", _first_line(error)) from error
        return {}, {"model": np.frombuffer(converted.SerializeToString(), np.uint8)}

    def simplify(self, _body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Run onnxsim on an in-memory proto; never a path, whose loader skips every check."""
        import onnx
        import onnxsim

        try:
            proto = onnx.load_model_from_string(arrays["model"].tobytes())
            simplified, ok = onnxsim.simplify(proto)
        except Exception as error:
            raise Failure("simplify", _first_line(error)) from error
        if not ok:
            raise Failure("simplify", "onnxsim's own check of its result failed")
        return {}, {"model": np.frombuffer(simplified.SerializeToString(), np.uint8)}


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
            raise Failure("op-library", f"{library}\n{_first_line(error)}") from error
    return options


def _exact(path: Path, options: Any) -> str | bytes:
    """The model to open for exact products: its path where it is one, else its twin's bytes."""
    from modelopt.runtime import exact  # imports onnx_ir

    try:
        changed = exact.model_bytes(path)
    except Exception as error:
        raise Failure("load", _first_line(error)) from error
    if changed is None:
        return str(path)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return changed


def _run(session: Any, outputs: Sequence[str] | None, feeds: dict[str, np.ndarray]) -> list[Any]:
    try:
        result: list[Any] = session.run(outputs, feeds)
    except MemoryError as error:
        raise Failure("memory", str(error)) from error
    except Exception as error:
        raise Failure("run", _first_line(error)) from error
    return result


def _integers(session: Any) -> IntegerIo:
    """The inputs and outputs that the model says are integers for floats, and that are integers."""
    listed = session.get_inputs(), session.get_outputs()
    dtypes = ({value.name: value.type[len("tensor(") : -1] for value in values} for values in listed)
    return declared(session.get_modelmeta().custom_metadata_map).where(*dtypes)


def _io_spec(value: Any) -> IoSpec:
    return IoSpec(value.name, value.type, tuple(value.shape))


def _peak_bytes() -> int:
    # On Linux ru_maxrss survives exec: it would report the parent's peak where that is the larger one.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the parent hangs up."""
    child = Child()
    while True:
        try:
            body, arrays = protocol.read(requests)
        except EOFError:
            return
        try:
            answer, tensors = getattr(child, body["call"])(body, arrays)
        except Failure as failure:
            protocol.write(replies, {"failure": failure.kind, "text": failure.text})
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
        serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
