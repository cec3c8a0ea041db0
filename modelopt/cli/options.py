"""Options that commands share, and how their texts become values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Fraction(click.ParamType[float]):
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


class Bytes(click.ParamType[int]):
    """``3MB``, ``512KiB`` or a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9.]+)\s*([a-zA-Z]*)", str(value).strip())
        if match is None or match[2].lower() not in _UNITS:
            self.fail(f"'{value}' is not a size such as 3MB or 512KiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Size(click.ParamType[int | float]):
    """``50%`` of the input, as a float, or ``3MB``, as an int of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Parse the text."""
        if str(value).strip().endswith("%"):
            return Fraction().convert(value, param, ctx)
        return Bytes().convert(value, param, ctx)


class KeyValue(click.ParamType[tuple[str, str]]):
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


def group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, listed in --help in this order."""

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


MODEL = click.argument("model", type=click.Path(path_type=Path, allow_dash=True))

SAYING = group(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout and nothing else."),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)

DATA = group(
    click.option(
        "--eval", "evaluation", metavar="DATA", help="Data to measure accuracy on: npz, npy, images, file.py:f."
    ),
    click.option("--eval-limit", type=click.IntRange(1), help="Use at most so many samples of --eval."),
    click.option("--labels", type=click.Path(), help="Labels for --eval: a file with 'name,label' lines."),
    click.option("--metric", help="top1, top5, cosine, sqnr, max-abs, argmax, or file.py:function."),
    click.option("--preprocess", help="For image folders, e.g. resize=224x224,scale=1/255,mean=0.5,std=0.5."),
)

TIMING = group(
    click.option("--provider", default="cpu", show_default=True, help="cpu, cuda, tensorrt, openvino, or a full name."),
    click.option("--provider-option", multiple=True, type=KeyValue(), help="An option of the provider; repeatable."),
    click.option("--threads", type=click.IntRange(0), default=0, help="Threads; 0: all usable cores. [default: 0]"),
)

LIMITS = group(
    click.option("--memory-limit", type=Bytes(), help="Memory for the child process. [default: 80% of what is free]"),
    click.option(
        "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds a load or run may take. [default: 600]"
    ),
    click.option("--allow-hardlinks", is_flag=True, help="Accept external data files that are hardlinks."),
)

OPTIMIZING = group(
    click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), help="Output file; - is stdout."),
    DATA,
    click.option("--max-drop", type=Fraction(), help="Fail if the metric falls by more, e.g. 1%."),
    click.option("--min-speedup", type=click.FloatRange(0), help="Fail if it is not at least so many times as fast."),
    click.option("--max-size", type=Size(), help="Fail if the output is larger: 50% (of the input) or 3MB."),
    click.option("--keep", is_flag=True, help="Write the output even when a gate fails."),
    click.option("--no-verify", is_flag=True, help="Do not compare the result with the original."),
    click.option("--no-bench", is_flag=True, help="Do not measure latency."),
    TIMING,
    click.option(
        "--budget", type=click.FloatRange(0, min_open=True), default=5.0, help="Seconds to time. [default: 5]"
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="For whatever is random. [default: 0]"),
    click.option("--explain", is_flag=True, help="Show what each pass did not do, and why."),
    click.option("--print-recipe", is_flag=True, help="Print the recipe that this command is, and stop."),
    click.option("--dump-dir", type=click.Path(path_type=Path, file_okay=False), help="Write each pass's model here."),
    click.option("--report", type=click.Path(path_type=Path), help="Also write the report: .json or .md."),
    LIMITS,
    SAYING,
)
