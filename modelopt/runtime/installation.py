"""Which onnxruntime is installed, what it can do, and what to say when it cannot."""

from __future__ import annotations

import importlib.metadata
import re

import msgspec

from modelopt.core.errors import EnvironmentLacks, InputError, ModeloptError, Refused, WorkerDied, did_you_mean
from modelopt.core.targets import usable_cores
from modelopt.core.thread_room import no_thread
from modelopt.runtime import wording
from modelopt.runtime.session import SessionSpec, full_provider_name, short_provider_names

_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
)
_INSTALL = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
}


def refuse_two_runtimes() -> None:
    """Refuse an environment with two builds of onnxruntime: they overwrite each other's files.

    Raises:
        EnvironmentLacks: Two are installed, or none is.
    """
    found = [name for name in _RUNTIMES if _version(name)]
    if not found:
        raise EnvironmentLacks("onnxruntime is not installed", hint="pip install onnxruntime")
    if len(found) > 1:
        raise EnvironmentLacks(
            f"{' and '.join(found)} are installed together and overwrite each other's files",
            hint=f"pip uninstall -y {' '.join(found)}, then pip install the one that you want",
        )


def runtime_version() -> str:
    """The version of the onnxruntime that is installed, of any of its builds."""
    return next((version for version in map(_version, _RUNTIMES) if version), "unknown")


def keeps_captured_integers() -> bool:
    """Whether onnxruntime runs bodies that dequantize a value from outside; before 1.31 its own fusions lose that."""
    release = [int(part) for part in re.findall(r"[0-9]+", runtime_version())[:2]]
    return release >= [1, 31]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def known_spec(spec: SessionSpec) -> SessionSpec:
    """`spec` with its threads counted out.

    Raises:
        InputError: No provider has that name.
    """
    name = spec.provider
    if name.lower() not in short_provider_names() and not name.endswith("ExecutionProvider"):
        raise InputError(
            f"unknown provider '{name}'",
            note=f"providers: {', '.join(short_provider_names())}, or a full name such as CPUExecutionProvider",
            hint=did_you_mean(name.lower(), short_provider_names()),
        )
    return msgspec.structs.replace(spec, threads=spec.threads or usable_cores())


def explain(kind: str, text: str, doing: str, spec: SessionSpec | None) -> ModeloptError:
    """The error behind a failure that the child reports.

    Args:
        kind: What failed, as the child names it.
        text: Its evidence.
        doing: What was being done.
        spec: How the session was to be opened, where one was.
    """
    if kind in {"provider-missing", "provider-failed"} and spec is not None:
        provider = full_provider_name(spec.provider)
        if kind == "provider-failed":
            return EnvironmentLacks(
                f"onnxruntime could not create {provider} and would run on {text} in silence",
                hint="check the driver and libraries that the provider needs",
            )
        package = _INSTALL.get(provider)
        return EnvironmentLacks(
            f"{provider} is not available here",
            note=f"this onnxruntime has {text}",
            hint=f"pip uninstall -y onnxruntime && pip install {package}" if package else None,
        )
    if kind == "memory":
        return WorkerDied(f"{doing} ran out of memory", reason="memory", note=text or None)
    if kind == "threads":
        return no_thread(doing)
    if kind == "profile":
        hint = "free some space, or set TMPDIR to a folder on another disk"
        return EnvironmentLacks("onnxruntime could not write its profile", note=wording.plain(text), hint=hint)
    if kind == "op-library":
        library, _, why = text.partition("\n")
        return InputError(
            f"the operator library {library} cannot be loaded",
            note=wording.why_no_library(why, library),
            hint="give a shared library for this machine that exports RegisterCustomOps",
        )
    missing = wording.missing_operator(text) if kind == "load" else None
    if missing is None:
        return Refused(f"{doing} failed", note=wording.plain(text))
    return _without_operator(missing, doing, () if spec is None else spec.op_libraries)


def _without_operator(missing: wording.Operator, doing: str, libraries: tuple[str, ...]) -> Refused:
    here = f"onnxruntime {runtime_version()}"
    if not missing.is_custom:
        return Refused(f"{doing} failed", note=f"{here} has no {missing}")
    has = f"neither {here} nor {' or '.join(libraries)} has" if libraries else f"{here} does not have"
    hint = "name the library that has it: --op-library FILE.so"
    return Refused(f"{doing} failed", note=f"it uses the {missing}, which {has}", hint=hint)
