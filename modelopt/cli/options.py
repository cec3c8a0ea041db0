"""Options that commands share, and how their texts become values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelopt.runtime.processes import ChildPool

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Fraction(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``1%`` or ``0.01``."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"'{value}' is not a fraction such as 1% or 0.01", param, ctx)
        if not 0 <= number <= 1:
            self.fail(f"'{value}' is not between 0 and 1", param, ctx)
        return number


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``3MB``, ``512KiB`` or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)", str(value).strip())
        if match is None or match[2].lower() not in _UNITS:
            self.fail(f"'{value}' is not a size such as 3MB or 512KiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``50%`` of the input, as a float, or ``3MB``, as an int of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Parse the text."""
        if str(value).strip().endswith("%"):
            return Fraction().convert(value, param, ctx)
        return Bytes().convert(value, param, ctx)


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``key=value``."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Parse the text."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"'{value}' is not key=value", param, ctx)
        return key, text


class Names(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """Text in which a file or a word is named; shells complete both. A word is refused later, by what reads it."""

    def __init__(self, *words: str, files: bool = True, name: str = "text") -> None:
        self.name = name
        self._words = words
        self._files = files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the text as it is."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that begin so; where nothing is written yet, or no word begins so, the files."""
        from click.shell_completion import CompletionItem

        words = [CompletionItem(word) for word in self._words if word.startswith(incomplete)]
        is_file = self._files and not (incomplete and words)
        return [CompletionItem(incomplete, type="file")] if is_file else words


class Option(click.Option):
    """An option that ``--help`` lists under a heading."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class Command(click.Command):
    """A command whose ``--help`` lists options under headings, in the order of their first option."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one definition list for each heading."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                headings.setdefault(_heading(parameter), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Optimizing(Command):
    """A command that makes a model: its child processes start before the modules that it needs are imported."""

    def invoke(self, ctx: click.Context) -> Any:
        """Start them and run the command."""
        flags = ctx.params
        with ChildPool() as ctx.obj:
            if not flags["print_recipe"] and flags["model"] is not None:
                ctx.obj.start("onnx")
                if flags["evaluation"] is not None or not (flags["no_verify"] and flags["no_bench"]):
                    ctx.obj.start("onnxruntime")
            return super().invoke(ctx)


def _heading(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return "Arguments"
    return getattr(parameter, "heading", "Output")  # --help itself is click's own option


def option(*names: str, heading: str = "Options", **settings: Any) -> Callable[[Decorated], Decorated]:
    """`click.option` with a heading."""
    return click.option(*names, cls=Option, heading=heading, **settings)


def _one_or_several(
    _context: click.Context, _option: click.Parameter, names: tuple[str, ...]
) -> str | tuple[str, ...] | None:
    """An option that may be repeated as a recipe holds it: one name, several, or None."""
    return names if len(names) > 1 else names[0] if names else None


def group(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator, listed in ``--help`` in this order."""

    def decorate(command: Decorated) -> Decorated:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


DATA_NAME = Names("random", name="data")
"""Where samples come from: a file, a folder, ``file.py:f``, or random."""

MODEL = click.argument("model", type=click.Path(path_type=Path, allow_dash=True))
OPSET = option("--opset", type=click.IntRange(1), metavar="N", help="Convert to this opset first, if it is later.")
KEEP_OPSET = option(
    "--keep-opset", is_flag=True, help="Do not convert to a later opset where a fusion needs one and it is verified."
)
OUTPUT = option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), help="Output file; - is stdout.")

SAYING = group(
    option(
        "--json", "as_json", is_flag=True, heading="Output", help="Print one JSON document to stdout, nothing else."
    ),
    option("-v", "--verbose", count=True, heading="Output", help="Say more."),
    option("-q", "--quiet", is_flag=True, heading="Output", help="Say nothing but errors."),
)


def _axes(_context: click.Context, _option: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """``NAME=AXIS``, repeated, as a recipe holds it."""
    for name, text in pairs:
        if not text.isdecimal():
            raise click.BadParameter(f"'{name}={text}' is not NAME=AXIS with an axis from 0: state=1")
    return {name: int(text) for name, text in pairs}


LAYOUT = group(
    option(
        "--batch-axis",
        multiple=True,
        type=KeyValue(),
        callback=_axes,
        metavar="NAME=AXIS",
        heading="Accuracy",
        help="Axis of an input along which arrays hold samples: state=1; repeatable. [default: by names and sizes]",
    ),
    option("--whole-files", is_flag=True, heading="Accuracy", help="Each .npz or .npy file is one feed."),
)

DATA = group(
    option(
        "--eval",
        "evaluation",
        type=DATA_NAME,
        metavar="DATA",
        heading="Accuracy",
        help="Data: npz, npy, images, or file.py:f.",
    ),
    option(
        "--eval-limit", type=click.IntRange(1), metavar="N", heading="Accuracy", help="Use at most N samples of it."
    ),
    option("--labels", type=click.Path(), heading="Accuracy", help="Its labels: a file with 'name,label' lines."),
    option(
        "--metric",
        type=Names("top1", "top5", "argmax-agreement", "cosine", "sqnr", "max-abs-error"),
        multiple=True,
        callback=_one_or_several,
        metavar="NAME",
        heading="Accuracy",
        help="top1, top5, argmax-agreement, cosine, sqnr, max-abs-error, file.py:f, or OUTPUT=NAME for one output: "
        "cosine, relative-error, rank-agreement, ignore …; may be repeated. [default: by the data and the outputs]",
    ),
    option("--preprocess", heading="Accuracy", help="For images: resize=224x224,scale=1/255,mean=0.5,std=0.5."),
    LAYOUT,
)

TIMING = group(
    option(
        "--provider",
        type=Names("cpu", "cuda", "tensorrt", "openvino", files=False),
        default="cpu",
        show_default=True,
        heading="Latency",
        help="cpu, cuda, tensorrt, openvino, or a full name.",
    ),
    option(
        "--provider-option",
        multiple=True,
        type=KeyValue(),
        heading="Latency",
        help="An option of the provider; repeatable.",
    ),
    option(
        "--threads",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        heading="Latency",
        help="Threads. [default: all usable cores]",
    ),
    option(
        "--budget",
        type=click.FloatRange(0, min_open=True),
        default=60.0,
        metavar="SECONDS",
        show_default=True,
        heading="Latency",
        help="Time for a comparison, at most.",
    ),
    option(
        "--warmup",
        type=click.FloatRange(0),
        default=0.3,
        metavar="SECONDS",
        show_default=True,
        heading="Latency",
        help="Time for warming up in each process, at most.",
    ),
    option(
        "--processes",
        type=click.IntRange(1),
        default=8,
        metavar="N",
        show_default=True,
        heading="Latency",
        help="Fresh processes of each model, at least.",
    ),
    option(
        "--rounds",
        type=click.IntRange(2),
        default=5,
        metavar="N",
        show_default=True,
        heading="Latency",
        help="Interleaved rounds in each process, at least.",
    ),
)

LIMITS = group(
    option(
        "--op-library",
        "op_libraries",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        multiple=True,
        metavar="FILE",
        help="A shared library of custom operators, which the child processes load and run; repeatable.",
    ),
    option(
        "--memory-limit",
        type=Bytes(),
        heading="Limits",
        help="Memory of a child process. [default: 80% of what is free]",
    ),
    option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        heading="Limits",
        help="For one load or run. [default: 600]",
    ),
    option("--allow-hardlinks", is_flag=True, heading="Limits", help="Accept external data files that are hardlinks."),
)

GATES = group(
    option("--max-drop", type=Fraction(), heading="Gates", help="Fail if the metric falls by more, e.g. 1%."),
    option(
        "--min-speedup",
        type=click.FloatRange(0),
        metavar="RATIO",
        heading="Gates",
        help="Fail if it is not so many times as fast.",
    ),
    option("--max-size", type=Size(), heading="Gates", help="Fail if it is larger: 50% (of the input) or 3MB."),
    option(
        "--require-verified",
        is_flag=True,
        heading="Gates",
        help="Fail if what exact passes changed could not be compared with the original.",
    ),
    option("--keep", is_flag=True, heading="Gates", help="Write the output even when a gate fails."),
)

OPTIMIZING = group(
    OUTPUT,
    option(
        "--external-data",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Whether weights go to a data file beside the output; auto is above 2 GiB only.",
    ),
    option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For whatever is random."),
    option("--no-verify", is_flag=True, help="Do not compare the result with the original."),
    option("--no-bench", is_flag=True, help="Do not measure latency."),
    DATA,
    GATES,
    TIMING,
    LIMITS,
    SAYING,
    option("--explain", is_flag=True, heading="Output", help="Show what each pass did not do, and why."),
    option("--print-recipe", is_flag=True, heading="Output", help="Print the recipe that this command is, and stop."),
    option(
        "--dump-dir",
        type=click.Path(path_type=Path, file_okay=False),
        heading="Output",
        help="Write each pass's model here.",
    ),
    option("--report", type=click.Path(path_type=Path), heading="Output", help="Also write the report: .json or .md."),
)
