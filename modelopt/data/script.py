"""Samples from the user's own Python: ``file.py:function``, run only because it is written like that."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from modelopt.core.errors import InputError, ModeloptError, did_you_mean
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import checked_feeds
from modelopt.data.stream import SHAPE_HINT, Stream, unpack


class _Loader(SourceFileLoader):
    """Leaves no ``__pycache__`` beside the user's file."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write nothing."""


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn what the user's code raises into one error that names its file and line."""
    try:
        yield
    except ModeloptError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise InputError(
            f"{_place(path, error)}: {type(error).__name__}: {error}",
            hint="run the file by itself to see the whole traceback",
        ) from error


def _place(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def load_function(path: Path, name: str) -> Callable[..., object]:
    """Run a Python file and take one function from it.

    Raises:
        InputError: The file does not exist or raises, or holds no such function.
    """
    user_files.regular_size(path)
    unique = f"modelopt_data_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"
    loader = _Loader(unique, str(path))
    spec = importlib.util.spec_from_file_location(unique, path, loader=loader)
    if spec is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses in the file look themselves up there
    with _errors_of(path):
        loader.exec_module(module)
    function: Callable[..., object] | None = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(
            f"{path} has no function '{name}'",
            note=f"it has {', '.join(known) or 'none'}",
            hint=did_you_mean(name, known),
        )
    return function


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptDataset(Stream):
    """What a user's function yields; it is called anew for every pass over the data."""

    path: Path
    function: Callable[..., object]

    def items(self) -> Iterator[object]:
        """What the function yields."""
        return _items(self.function, self.inputs, self.path)

    def digest(self) -> str:
        """A SHA-256 over the file and the function's name; what the function reads is not known here."""
        settings = ["script", self.source.rpartition(":")[2], repr(self.limit), *map(str, self.inputs)]
        return user_files.digest_of(settings, [(self.path.name, self.path)])


_END = object()


def _items(function: Callable[..., object], inputs: tuple[TensorSpec, ...], path: Path) -> Iterator[object]:
    """What the function yields; only what its own code raises is reported as an error of that file."""
    with _errors_of(path):
        iterator = iter(_called(function, inputs, path))
    while True:
        with _errors_of(path):
            item = next(iterator, _END)
        if item is _END:
            return
        yield item


def _called(function: Callable[..., object], inputs: tuple[TensorSpec, ...], path: Path) -> Iterable[object]:
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each for each in parameters if each.default is each.empty and each.kind in positional]
    if len(needed) > 1:
        raise InputError(f"{path}: the function wants {len(needed)} arguments", hint="take none, or the model's inputs")
    result = function(inputs) if needed else function()
    if isinstance(result, Mapping) or not isinstance(result, Iterable):
        raise InputError(f"{path}: the function returned a {type(result).__name__}", hint=SHAPE_HINT)
    return result


def open_script(
    source: str,
    path: Path,
    function: str,
    inputs: Sequence[TensorSpec],
    *,
    limit: int | None,
    allow_nonfinite: bool,
) -> ScriptDataset:
    """The samples that ``function`` in ``path`` yields, at most the first ``limit``.

    The function takes no argument, or the model's inputs (a tuple of TensorSpec), and is run up to its first sample
    here. It must yield the same samples whenever it is called.

    Raises:
        InputError: The file or function is missing, raises, or yields no feeds that fit the model.
    """
    call = load_function(path, function)
    first = next(_items(call, tuple(inputs), path), _END)
    if first is _END:
        raise InputError(f"{source} yields no sample", hint=SHAPE_HINT)
    feeds, label = unpack(first, f"{source}[0]")
    checked_feeds(inputs, feeds, f"{source}[0]", allow_nonfinite=allow_nonfinite)
    return ScriptDataset(
        source=source,
        has_labels=label is not None,
        path=path,
        function=call,
        inputs=tuple(inputs),
        limit=limit,
        allow_nonfinite=allow_nonfinite,
    )
