"""A run as data: Recipe ↔ YAML, with located errors, and a JSON schema.

Every command builds a recipe and runs it; `--print-recipe` shows it and `modelopt run` takes it back.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from modelopt import passes
from modelopt.core import targets
from modelopt.core.errors import InputError, did_you_mean
from modelopt.passes.base import Pass
from modelopt.quant.static.overrides import Overrides

VERSION = 1
GROUP = "until-stable"
"""The step that repeats passes."""


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Where samples come from.

    Attributes:
        data: What ``--calib`` and ``--eval`` take: a file, a folder, ``file.py:function``, or ``random``.
        limit: Use at most so many samples.
        preprocess: How images become inputs, e.g. ``resize=224x224,scale=1/255``.
        labels: A file with labels, where the data themselves have none.
        batch: Samples a feed, where the model's batch dimension is free.
        batch_axis: The axis of an input along which its arrays hold samples, by the input's name; what is not named
            is found by the names and sizes of dimensions.
        whole_files: Each file of arrays is one feed, whatever its sizes.
    """

    data: str
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    preprocess: str | None = None
    labels: str | None = None
    batch: Annotated[int, msgspec.Meta(ge=1)] = 1
    batch_axis: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    whole_files: bool = False


class EvaluateSpec(DataSpec, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Data for accuracy, and how to score it.

    Attributes:
        metric: ``top1``, ``top5``, ``cosine``, ``sqnr``, ``max-abs-error``, ``argmax-agreement``, ``agreement``,
            ``file.py:function``, or ``OUTPUT=NAME`` for one output; or several of these. None chooses by what the data
            hold and the outputs stand for.
    """

    metric: str | tuple[str, ...] | None = None


class BenchSpec(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """How latency is measured.

    Attributes:
        provider: The execution provider.
        provider_options: Its options.
        threads: Intra-op threads; 0 means as many as this process may use.
        budget_seconds: Wall time of a comparison, at most; one process of each model is timed in any case.
        warmup_seconds: Wall time for warm-up runs in each process, at most.
        processes: Fresh processes of each model, at least, as far as the budget allows.
        rounds: Interleaved rounds in each process, at least.
    """

    provider: str = "cpu"
    provider_options: dict[str, str] = {}
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    budget_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    warmup_seconds: float = 0.3
    processes: Annotated[int, msgspec.Meta(ge=1)] = 8
    rounds: Annotated[int, msgspec.Meta(ge=2)] = 5


class Gates(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The contract: a result that breaks it ends in exit code 1.

    Attributes:
        max_drop: The most that the metric may fall, as a fraction (0.01 is one point of accuracy).
        min_speedup: How many times as fast as the input the result must at least be.
        max_size_ratio: The largest size allowed, as a fraction of the input's.
        max_size_bytes: The largest size allowed, in bytes.
        require_verified: Whether a result breaks it that could not be compared with the input after exact passes.
        must_gain: Whether a result breaks it that is slower than the input, or as fast and no smaller.
        not_slower: Whether a result breaks it that is measurably slower than the input. A command then writes a copy
            of the input in its place, and that is no failure.
        metric: What `max_drop` is a figure of where there are no evaluation data: ``cosine``, ``sqnr`` (the relative
            error), ``argmax-agreement``, or ``OUTPUT=NAME`` for one output; or several of these. None judges each
            output by what it stands for.
    """

    max_drop: Annotated[float, msgspec.Meta(ge=0)] | None = None
    min_speedup: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_size_ratio: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_size_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    require_verified: bool = False
    must_gain: bool = False
    not_slower: bool = False
    metric: str | tuple[str, ...] | None = None


def metric_names(metric: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The metrics of a recipe's field, one by one."""
    return () if metric is None else (metric,) if isinstance(metric, str) else metric


@dataclass(frozen=True)
class UntilStable:
    """Passes that are repeated in turn until none of them changes anything."""

    passes: tuple[Pass, ...]


Step = Pass | UntilStable


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to do with a model.

    Attributes:
        steps: Passes in order.
        name: What the recipe is called in reports.
        target: The machine that the result is for: ``auto`` or a `TargetKind` value.
        seed: For whatever is random.
        verify: Compare the result with the original before it is written.
        calibration: Samples for passes that need them.
        evaluate: Data for accuracy; None compares outputs on random inputs.
        bench: How to measure latency; None does not measure it.
        gates: The contract.
    """

    steps: tuple[Step, ...]
    name: str = "modelopt"
    target: str = "auto"
    seed: int = 0
    verify: bool = True
    calibration: DataSpec | None = None
    evaluate: EvaluateSpec | None = None
    bench: BenchSpec | None = None
    gates: Gates = dataclasses.field(default_factory=Gates)

    def passes(self) -> tuple[Pass, ...]:
        """All passes in order, groups unrolled once."""
        return tuple(one for step in self.steps for one in (step.passes if isinstance(step, UntilStable) else (step,)))


SECTIONS: dict[str, Any] = {  # the keys of a recipe file beside version and steps
    "name": str,
    "target": str,
    "seed": Annotated[int, msgspec.Meta(ge=0)],
    "verify": bool,
    "calibration": DataSpec | None,
    "evaluate": EvaluateSpec | None,
    "bench": BenchSpec | None,
    "gates": Gates,
}


# Passes ↔ plain data


class BadOption(InputError):
    """An option that a pass does not have, or does not take; `option` is its written name."""

    def __init__(self, option: str, fact: str, *, note: str | None = None, hint: str | None = None) -> None:
        super().__init__(fact, note=note, hint=hint)
        self.option = option


def make_pass(name: str, options: dict[str, Any]) -> Pass:
    """The pass called `name` with `options` by their written names (``per-channel``).

    Raises:
        InputError: No such pass, no such option, or a value of the wrong kind.
    """
    kind = passes.find(name)
    known = {f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
    for key in options:
        if key not in known:
            raise BadOption(
                key,
                f"unknown option '{key}' of {name}",
                note=f"options: {', '.join(known)}" if known else f"{name} has no options",
                hint=did_you_mean(key, known),
            )
    try:
        plain = {known[key].name: value for key, value in options.items()}
        return msgspec.convert(plain, kind, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        place = path.rstrip("`").replace("_", "-")
        note = f"{place}: {text}" if place else text
        raise BadOption(re.split(r"[.\[]", place)[0], f"bad option of {name}", note=note) from None


def _decode(kind: type, plain: Any) -> Any:
    """What msgspec does not know: the overrides of a pass."""
    if kind is not Overrides:
        raise NotImplementedError(f"no option is a {kind.__name__}")
    try:
        return Overrides.parse(plain)
    except InputError as error:
        raise BadOption("override", error.fact, note=error.note, hint=error.hint) from None


def _step_to_plain(step: Step) -> Any:
    if isinstance(step, UntilStable):
        return {GROUP: [_step_to_plain(one) for one in step.passes]}
    options = step.options()
    return {step.name: options} if options else step.name


# Recipe ↔ YAML


def dump(recipe: Recipe) -> str:
    """The recipe as YAML; `load` gives an equal recipe back."""
    plain: dict[str, Any] = {"version": VERSION, "steps": [_step_to_plain(step) for step in recipe.steps]}
    for key in SECTIONS:
        value = getattr(recipe, key)
        if value != _default(key):
            plain[key] = _without_defaults(value)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Escapes Unicode's line ends, which PyYAML writes as they are and reads back as spaces."""

    def ignore_aliases(self, data: Any) -> bool:  # `parse` refuses them
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if {*"\x85\u2028\u2029"} & {*data} else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _default(key: str) -> Any:
    (found,) = (f for f in dataclasses.fields(Recipe) if f.name == key)
    return found.default_factory() if found.default_factory is not dataclasses.MISSING else found.default


def _without_defaults(value: Any) -> Any:
    if not isinstance(value, msgspec.Struct):
        return value
    defaults = {f.encode_name: f.default for f in msgspec.structs.fields(value)}
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return {key: item for key, item in plain.items() if item != defaults[key] and item is not None and item != {}}


def load(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputError: It is not a recipe; the fact names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read", note=error.strerror) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a recipe", note="it is not text") from None
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "recipe") -> Recipe:
    """A recipe from YAML text.

    Args:
        text: YAML; safe loading only.
        source: How errors call it.

    Raises:
        InputError: It is not a recipe; the fact names `source` and the line.
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # nine lines of them can stand for gigabytes
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise InputError(f"{source}:{line}: aliases (*{event.anchor}) are not supported")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise InputError(f"{where}: not YAML", note=getattr(error, "problem", None)) from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    except (ValueError, TypeError, AttributeError) as error:  # tagged values, e.g. !!timestamp 2026-99-99
        raise InputError(f"{source}: not YAML", note=str(error)) from None
    if not isinstance(plain, dict):
        raise InputError(f"{source} is not a recipe", note="a recipe is a mapping with version and steps")
    return _Located(source, root).recipe(plain)


class _Located:
    """Turns plain data into a recipe and puts file and line in front of what goes wrong."""

    def __init__(self, source: str, root: yaml.Node | None) -> None:
        self._source = source
        self._lines: dict[tuple[str | int, ...], int] = {}
        if root is not None:
            self._index(root, ())

    def _index(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
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

    def error(self, path: tuple[str | int, ...], fact: str, note: str | None, hint: str | None) -> InputError:
        while path and path not in self._lines:
            path = path[:-1]
        return InputError(f"{self._source}:{self._lines.get(path, 1)}: {fact}", note=note, hint=hint)

    def recipe(self, plain: dict[Any, Any]) -> Recipe:
        version = plain.get("version")
        if type(version) is not int or version != VERSION:
            raise self.error(("version",), f"version must be {VERSION}", f"found {_short(version)}", None)
        for key in plain:
            if key not in {*SECTIONS, "version", "steps"}:
                known = ["version", "steps", *SECTIONS]
                raise self.error(
                    (key,), f"unknown key '{key}'", f"keys: {', '.join(known)}", did_you_mean(str(key), known)
                )
        steps = plain.get("steps")
        if not isinstance(steps, list):
            raise self.error(("steps",), "steps must be a list of passes", f"found {_short(steps)}", None)
        sections = {key: self._section(key, plain[key]) for key in SECTIONS if key in plain}
        if "target" in sections:
            try:
                targets.resolve(sections["target"])
            except InputError as error:
                raise self.error(("target",), error.fact, error.note, error.hint) from None
        return Recipe(steps=tuple(self._step(("steps", i), step) for i, step in enumerate(steps)), **sections)

    def _step(self, path: tuple[str | int, ...], plain: Any) -> Step:
        if not isinstance(plain, dict) or GROUP not in plain or len(plain) != 1:
            return self._pass(path, plain)
        group = plain[GROUP]
        if not isinstance(group, list):
            raise self.error(path, f"{GROUP} takes a list of passes", f"found {_short(group)}", None)
        return UntilStable(tuple(self._pass((*path, GROUP, i), one) for i, one in enumerate(group)))

    def _pass(self, path: tuple[str | int, ...], plain: Any) -> Pass:
        if not isinstance(plain, str) and not (isinstance(plain, dict) and len(plain) == 1):
            raise self.error(
                path, "a step is a pass name, or a pass name with its options", f"found {_short(plain)}", None
            )
        (name, options), *_ = ({plain: None} if isinstance(plain, str) else plain).items()
        if name == GROUP:
            raise self.error(path, f"{GROUP} does not nest", None, None)
        if not isinstance(options, dict | None):
            raise self.error(path, f"the options of {name} must be a mapping", f"found {_short(options)}", None)
        try:
            return make_pass(str(name), {str(key): value for key, value in (options or {}).items()})
        except BadOption as error:
            raise self.error((*path, str(name), error.option), error.fact, error.note, error.hint) from None
        except InputError as error:
            raise self.error(path, error.fact, error.note, error.hint) from None

    def _section(self, key: str, plain: Any) -> Any:
        try:
            return msgspec.convert(plain, SECTIONS[key], strict=True)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$.")
            path = (key, *where.rstrip("`").split("."))
            raise self.error(path, f"{key}: {text}", None, None) from None


def _short(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 80 else f"{text[:77]}..."
