"""Reads a recipe from YAML; each error names the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelopt import passes
from modelopt.core import targets
from modelopt.core.errors import InputError, did_you_mean
from modelopt.core.quantities import BadQuantity
from modelopt.passes.base import Pass
from modelopt.recipe import bounded_yaml, gate_words, pipelines
from modelopt.recipe.pass_options import BadOption, make_pass
from modelopt.recipe.pipelines import KEEP_OPSET, PIPELINE
from modelopt.recipe.recipe import GROUP, SECTIONS, VERSION, Recipe, Search, Step, UntilStable

MAX_STEPS = 500
"""The most steps of a recipe, and the most passes of a step: the longest pipeline has about fifty."""

_Path = tuple[str | int, ...]
"""Keys and indices from the root of the document to a value."""


def load(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputError: It is not a recipe; the fact names the file and the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bounded_yaml.MAX_BYTES + 1)
        bounded_yaml.check_size(len(content), f"the recipe {path}")
        text = content.decode("utf-8")
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read", note=error.strerror) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a recipe", note="it is not text") from None
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "recipe") -> Recipe:
    """A recipe from YAML text.

    Args:
        text: YAML within the limits of `bounded_yaml`.
        source: How errors call it.

    Raises:
        InputError: It is not a recipe; the fact names `source` and the line.
    """
    plain, root = bounded_yaml.read(text, source=source)
    if not isinstance(plain, dict):
        raise InputError(f"{source} is not a recipe", note="a recipe is a mapping with version and steps")
    return _Located(source, root).recipe(plain)


class _Located:
    """Turns plain data into a recipe, and puts the file and the line in front of each error."""

    def __init__(self, source: str, root: yaml.Node | None) -> None:
        self._source = source
        self._lines: dict[_Path, int] = {}
        if root is not None:
            self._index(root, ())

    def _index(self, node: yaml.Node, path: _Path) -> None:
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if (*path, str(key.value)) in self._lines:
                    line = key.start_mark.line + 1
                    raise InputError(f"{self._source}:{line}: the key '{key.value}' is given twice")
                self._index(value, (*path, str(key.value)))
                self._lines[(*path, str(key.value))] = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._index(value, (*path, i))

    def error(self, path: _Path, fact: str, note: str | None = None, hint: str | None = None) -> InputError:
        while path and path not in self._lines:
            path = path[:-1]
        return InputError(f"{self._source}:{self._lines.get(path, 1)}: {fact}", note=note, hint=hint)

    def again(self, path: _Path, error: InputError) -> InputError:
        """The same error with its place."""
        return self.error(path, error.fact, error.note, error.hint)

    def recipe(self, plain: dict[Any, Any]) -> Recipe:
        version = plain.get("version")
        if type(version) is not int or version != VERSION:
            raise self.error(("version",), f"version must be {VERSION}", f"found {_short(version)}")
        for key in plain:
            if key not in {*SECTIONS, "version", "steps"}:
                known = ["version", "steps", *SECTIONS]
                hint = did_you_mean(str(key), known)
                raise self.error((key,), f"unknown key '{key}'", f"keys: {', '.join(known)}", hint)
        steps = plain.get("steps")
        if not isinstance(steps, list):
            raise self.error(("steps",), "steps must be a list of passes", f"found {_short(steps)}")
        sections = {key: self._section(key, plain[key]) for key in SECTIONS if key in plain}
        if "target" in sections:
            try:
                targets.resolve(sections["target"])
            except InputError as error:
                raise self.again(("target",), error) from None
        if len(steps) > MAX_STEPS:
            raise self.error(("steps", MAX_STEPS), f"a recipe has at most {MAX_STEPS} steps", f"found {len(steps)}")
        made = tuple(one for i, step in enumerate(steps) for one in self._step(("steps", i), step))
        try:
            return Recipe(steps=made, **sections)
        except InputError as error:  # the steps do not allow the search
            raise self.again(("search",), error) from None

    def _step(self, path: _Path, plain: Any) -> tuple[Step, ...]:
        if isinstance(plain, dict) and PIPELINE in plain:
            return self._pipeline(path, plain)
        if not isinstance(plain, dict) or GROUP not in plain or len(plain) != 1:
            return (self._pass(path, plain),)
        group = plain[GROUP]
        if not isinstance(group, list):
            raise self.error(path, f"{GROUP} takes a list of passes", f"found {_short(group)}")
        if len(group) > MAX_STEPS:
            raise self.error(path, f"{GROUP} takes at most {MAX_STEPS} passes", f"found {len(group)}")
        return (UntilStable(tuple(self._pass((*path, GROUP, i), one) for i, one in enumerate(group))),)

    def _pipeline(self, path: _Path, plain: dict[Any, Any]) -> tuple[Step, ...]:
        name = plain[PIPELINE]
        if not isinstance(name, str):
            raise self.error((*path, PIPELINE), f"{PIPELINE} takes the name of a pipeline", f"found {_short(name)}")
        try:
            steps = pipelines.expand(name)
        except InputError as error:
            raise self.again((*path, PIPELINE), error) from None
        known = [KEEP_OPSET] if pipelines.raises(name) else []
        for key, value in plain.items():
            if key == PIPELINE:
                continue
            if key not in known:
                note = f"options: {', '.join(known)}" if known else f"{name} has no options"
                hint = did_you_mean(str(key), known)
                raise self.error((*path, str(key)), f"unknown option '{key}' of the pipeline {name}", note, hint)
            if not isinstance(value, bool):
                raise self.error((*path, str(key)), f"{key} must be true or false", f"found {_short(value)}")
        return pipelines.expand(name, keep_opset=True) if plain.get(KEEP_OPSET) else steps

    def _pass(self, path: _Path, plain: Any) -> Pass:
        if isinstance(plain, dict) and GROUP in path and (nested := {GROUP, PIPELINE} & {*plain}):
            raise self.error(path, f"{min(nested)} cannot stand in {GROUP}", f"{GROUP} takes a list of passes")
        if not isinstance(plain, str) and not (isinstance(plain, dict) and len(plain) == 1):
            raise self.error(path, "a step is a pass name, or a pass name with its options", f"found {_short(plain)}")
        (name, options), *_ = ({plain: None} if isinstance(plain, str) else plain).items()
        if name not in passes.NAMES:
            raise self._no_step(path, str(name))
        if not isinstance(options, dict | None):
            raise self.error(path, f"the options of {name} must be a mapping", f"found {_short(options)}")
        try:
            return make_pass(str(name), {str(key): value for key, value in (options or {}).items()})
        except BadOption as error:
            raise self.again((*path, str(name), error.option), error) from None
        except InputError as error:
            raise self.again(path, error) from None

    def _no_step(self, path: _Path, name: str) -> InputError:
        """The error about a step that is no pass; it may be a pipeline, or another key of a step, written wrongly."""
        if name in pipelines.PIPELINES:
            return self.error(path, f"{name} is a pipeline, not a pass", None, f"- {PIPELINE}: {name}")
        if name == GROUP:
            return self.error(path, f"{GROUP} takes a list of passes")
        if name == PIPELINE:
            return self.error(path, f"{PIPELINE} takes the name of a pipeline", None, f"- {PIPELINE}: exact")
        hint = did_you_mean(name, (*passes.NAMES, GROUP, PIPELINE)) or "modelopt passes"
        return self.error(path, f"unknown pass '{name}'", f"passes: {', '.join(passes.NAMES)}", hint)

    def _section(self, key: str, plain: Any) -> Any:
        if key == "gates" and isinstance(plain, dict):
            try:
                plain = gate_words.read(plain)
            except BadQuantity as error:
                fact, name = error.args
                raise self.error((key, str(name)), f"{key}: {name}: {fact}") from None
        try:
            return msgspec.convert(plain, SECTIONS[key], strict=True)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$.")
            known = [one.value for one in Search] if key == "search" else []
            note = f"searches: {', '.join(known)}" if known else None
            path = (key, *where.rstrip("`").split("."))
            raise self.error(path, f"{key}: {text}", note, did_you_mean(str(plain), known)) from None


def _short(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 80 else f"{text[:77]}..."
