"""Every file that a run reads and every file that it may write, each with what it is to the run."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelopt import io
from modelopt.data import folder_search
from modelopt.data.open_data import script_of
from modelopt.data.preprocess_config import config_file
from modelopt.engine.observers import DUMP_NAME
from modelopt.engine.request import Request
from modelopt.recipe.recipe import DataSpec, EvaluateSpec, Recipe, metric_names

INPUT = "the input"

STDOUT = Path("/dev/stdout")
"""Stands for the file that standard output is."""


@dataclass(frozen=True)
class RunFile:
    """A file or folder that a run reads, or a file that it may write.

    Attributes:
        role: What it is: "the input", "the report".
        path: Its path as the user gave it.
        flag: The option that names it, for hints.
    """

    role: str
    path: Path
    flag: str = "-o"

    def is_same(self, other: RunFile) -> bool:
        """Whether both are one file: by the paths that links lead to, or by what is on the disk."""
        mine, others = folder_search.identity(self.path), folder_search.identity(other.path)
        return (mine is not None and mine == others) or _real(self.path) == _real(other.path)

    def holds(self, other: RunFile) -> bool:
        """Whether this is a folder of data, and the other file is part of them."""
        return self.path.is_dir() and other.path.is_file() and folder_search.holds(self.path, other.path)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have
        return path.absolute()


def read_by(request: Request) -> Iterator[RunFile]:
    """What a run reads, as far as the request names it: not yet the data files of the input."""
    recipe = request.recipe
    if request.model != io.STDIO:
        yield RunFile(INPUT, request.model)
    elif _is_file(0):
        yield RunFile(INPUT, Path("/dev/stdin"))
    if request.recipe_file is not None:
        yield RunFile("the recipe", request.recipe_file)
    for what, spec in (("calibration", recipe.calibration), ("evaluation", recipe.evaluate)):
        if spec is not None:
            yield from read_as_data(f"the {what} data", spec, request.memory)
    yield from _metric_files(metric_names(recipe.gates.metric))
    for library in () if request.limits is None else request.limits.op_libraries:
        yield RunFile("an operator library", Path(library))
    yield from _provider_files(recipe)


def _metric_files(metrics: Sequence[str]) -> Iterator[RunFile]:
    for metric in metrics:
        script = script_of(metric)
        if script is not None:
            yield RunFile("the Python file of a metric", script[0])


def read_as_data(role: str, spec: DataSpec, memory: Collection[str]) -> Iterator[RunFile]:
    """What a section of data names.

    Args:
        role: What the data are.
        spec: The section.
        memory: How it calls data that are in memory.
    """
    script = script_of(spec.data)
    if script is not None:
        yield RunFile(f"the Python file of {role}", script[0])
    elif spec.data != "random" and spec.data not in memory:
        yield RunFile(role, Path(spec.data))
    if spec.labels:
        yield RunFile(f"the labels of {role}", Path(spec.labels))
    config = config_file(spec.preprocess or "")
    if config is not None:
        yield RunFile(f"the preprocessing of {role}", config)
    if spec.tokenizer:
        yield RunFile(f"the tokenizer of {role}", Path(spec.tokenizer))
    if isinstance(spec, EvaluateSpec):
        yield from _metric_files(metric_names(spec.metric))


def _provider_files(recipe: Recipe) -> Iterator[RunFile]:
    for name, text in (recipe.bench.provider_options if recipe.bench is not None else {}).items():
        with contextlib.suppress(OSError, ValueError):  # most options are no paths
            if Path(text).is_file():
                yield RunFile(f"the file of the provider's option {name}", Path(text))


def written_by(request: Request) -> Iterator[RunFile]:
    """What a run may write; of the dumps those that are there already."""
    for output in dict.fromkeys(each for each in request.outputs if each is not None):
        if output != io.STDIO:
            yield RunFile("the output", output)
        elif _is_file(1):
            yield RunFile("the output", STDOUT)
    if request.report_file is not None:
        yield RunFile("the report", request.report_file, "--report")
    if request.calibration_cache is not None:
        yield RunFile("the calibration cache", request.calibration_cache, "--calib-cache")
    folder = request.dump_folder
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if DUMP_NAME.fullmatch(path.name):
                yield RunFile("the dump", path, "--dump-dir")


def is_dump(request: Request, path: Path) -> bool:
    """Whether a path has the name of a file that the run may dump."""
    folder = request.dump_folder
    return folder is not None and DUMP_NAME.fullmatch(path.name) is not None and _real(path.parent) == _real(folder)


def _is_file(descriptor: int) -> bool:
    """Whether a stream of this process is a regular file."""
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:  # it is closed
        return False
