"""What a recipe file may name: files below its own folder, and no code, unless the user allows more.

A recipe may come from a stranger. Two permissions are apart, because they weigh differently: to read a file elsewhere
is common and harmless as a rule, to run a Python file is to hand over the account.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TypeVar

import msgspec

from modelopt.core.errors import InputError
from modelopt.data.open_data import script_of
from modelopt.data.preprocess_config import config_file
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Recipe, each_metric

ALLOW_CODE = "--allow-code"
ALLOW_PATHS = "--allow-paths"

_Data = TypeVar("_Data", bound=DataSpec)
_Metric = str | tuple[str, ...] | None

_PLAIN_OPTION = re.compile(r"[A-Za-z0-9_:,.+-]{0,200}")
_LIBRARY = re.compile(r"\.(so|dll|dylib)\b", re.IGNORECASE)
_PRIVILEGED = frozenset(
    [
        *("alloc", "backend", "cache", "config", "context", "dir", "directory", "external", "file", "free"),
        *("lib", "libs", "libraries", "library", "load", "path", "paths", "plugin", "stream", "user"),
    ]
)
"""Words in the names of providers' options that take files, folders, libraries or addresses in memory."""


@dataclass(frozen=True)
class Trust:
    """What the user allows a recipe file.

    Attributes:
        code: To name ``file.py:function``, which is run, and options of providers that load libraries.
        paths: To name files outside its own folder.
    """

    code: bool = False
    paths: bool = False


def placed(recipe: Recipe, file: Path, trust: Trust) -> Recipe:
    """The recipe with its relative paths relative to the working directory: in the file they are relative to it.

    Args:
        recipe: As it was read.
        file: Where it was read from. A pipe has no folder: the working directory stands for it.
        trust: What the user allows.

    Raises:
        InputError: The recipe names code or a file outside its folder, and the user does not allow that.
    """
    place = _Place(str(file), file.parent if file.is_file() else Path(), trust)
    evaluate, bench, gates = recipe.evaluate, recipe.bench, recipe.gates
    if bench is not None:
        place.check_options(bench)
    return dataclasses.replace(
        recipe,
        calibration=None if recipe.calibration is None else place.data("calibration", recipe.calibration),
        evaluate=None if evaluate is None else place.evaluation(evaluate),
        gates=msgspec.structs.replace(gates, metric=place.metric("gates", gates.metric)),
    )


def needed(recipe: Recipe) -> tuple[str, ...]:
    """The flags without which the recipe does not run, as a file in the working directory."""
    flags = []
    for flag, trust in ((ALLOW_CODE, Trust(paths=True)), (ALLOW_PATHS, Trust(code=True))):
        try:
            placed(recipe, Path("recipe.yaml"), trust)
        except InputError:
            flags.append(flag)
    return tuple(flags)


def has_paths(recipe: Recipe) -> bool:
    """Whether the recipe names files by relative paths."""
    specs = [spec for spec in (recipe.calibration, recipe.evaluate) if spec is not None]
    said = [text for spec in specs for text in (spec.data, spec.labels, spec.tokenizer) if text not in (None, "random")]
    said += [str(file) for spec in specs if (file := config_file(spec.preprocess or "")) is not None]
    return any(not PurePath(text).is_absolute() for text in said if text is not None)


class _Place:
    """The folder of a recipe, and what the recipe may name."""

    def __init__(self, source: str, folder: Path, trust: Trust) -> None:
        self._source = source
        self._folder = folder
        self._root = Path(os.path.realpath(folder))
        self._trust = trust
        here = Path(os.path.realpath(os.curdir))
        self._prefix = str(self._root.relative_to(here)) if self._root.is_relative_to(here) else str(folder)

    def data(self, section: str, spec: _Data) -> _Data:
        """The section with its paths placed."""
        changes: dict[str, object] = {}
        if spec.data != "random":
            is_code = script_of(spec.data) is not None
            changes["data"] = self._named(f"{section}: data", spec.data, is_code=is_code)
        if spec.labels is not None:
            changes["labels"] = self._named(f"{section}: labels", spec.labels)
        if spec.preprocess is not None and config_file(spec.preprocess) is not None:
            changes["preprocess"] = self._named(f"{section}: preprocess", spec.preprocess)
        if spec.tokenizer is not None:
            changes["tokenizer"] = self._named(f"{section}: tokenizer", spec.tokenizer)
        return msgspec.structs.replace(spec, **changes)

    def evaluation(self, spec: EvaluateSpec) -> EvaluateSpec:
        """The section with its paths placed, the metric's included."""
        return msgspec.structs.replace(self.data("evaluate", spec), metric=self.metric("evaluate", spec.metric))

    def metric(self, section: str, metric: _Metric) -> _Metric:
        """The metrics with the paths of those that are functions placed."""
        return each_metric(metric, partial(self._one_metric, section))

    def check_options(self, bench: BenchSpec) -> None:
        """Refuse options of a provider that make it load a library, or read or write files.

        Raises:
            InputError: There is one, and code is not allowed.
        """
        for key, text in bench.provider_options.items():
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", key)}
            is_plain = _PLAIN_OPTION.fullmatch(text) is not None and not _LIBRARY.search(text)
            if not self._trust.code and (not is_plain or words & _PRIVILEGED):
                self._refuse(
                    f"bench: the provider's option {_short(key)} may name a file or a library: {_short(text)}",
                    "an execution provider can load code and write files",
                    [ALLOW_CODE],
                )

    def _one_metric(self, section: str, metric: str) -> str:
        is_code = script_of(metric) is not None
        return self._named(f"{section}: metric", metric, is_code=True) if is_code else metric

    def _named(self, what: str, text: str, *, is_code: bool = False) -> str:
        """A path of the recipe as the working directory sees it; code is ``file.py:function``."""
        script = script_of(text) if is_code else None
        outside = None if self._trust.paths else self._leads_out(text if script is None else str(script[0]))
        flags = [ALLOW_CODE] if is_code and not self._trust.code else []
        flags += [ALLOW_PATHS] if outside else []
        if ALLOW_CODE in flags:
            note = "a recipe is data: Python runs where the command line names it"
            self._refuse(f"{what} names code to run: {_short(text)}", note, flags)
        if outside:
            self._refuse(f"{what} is outside the recipe's folder: {_short(text)}", outside, flags)
        joined = str(Path(self._prefix) / text)
        return f"{os.curdir}{os.sep}{joined}" if joined == "random" else joined

    def _refuse(self, fact: str, note: str, flags: list[str]) -> None:
        hint = f"{' '.join(flags)}, if you trust the recipe"
        raise InputError(f"{self._source}: {fact}", note=note, hint=hint)

    def _leads_out(self, text: str) -> str | None:
        """Why a path is not below the recipe's folder; None where it is."""
        path = PurePath(text)
        if path.is_absolute() or ".." in path.parts:
            return "it is absolute" if path.is_absolute() else "it goes up with '..'"
        full = self._folder / path
        try:
            for each in (full, *_links(full)):
                if not Path(os.path.realpath(each)).is_relative_to(self._root):
                    return f"{_short(str(each))} is a link that leads out of it"
        except (OSError, ValueError) as error:
            return f"it cannot be followed: {error}"
        return None


_FOLDER_DEPTH = 2
"""Data are read from folders in a folder (class sub-folders of images, test sets), and no deeper."""


def _links(path: Path, depth: int = _FOLDER_DEPTH) -> Iterator[Path]:
    """The links in a folder and in its folders."""
    if not path.is_dir():
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            if depth > 1 and entry.is_dir():
                yield from _links(Path(entry.path), depth - 1)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
