"""The Python API: each command as a function that takes its options as keywords and returns what was found.

The functions do what the commands do, through the same engine. They print nothing, show no progress unless they are
given a callable for it, and raise a `modelopt.ModeloptError` where the command line prints an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect as inspect_signature
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec
import onnx_ir as ir

from modelopt.commands import check_reports, evaluate_model, execution, inspect_model, side_by_side
from modelopt.commands.check_reports import CheckOptions
from modelopt.commands.contract_options import stop_at
from modelopt.commands.evaluate_model import EvaluateOptions
from modelopt.commands.execution import OptimizeOptions
from modelopt.commands.fold import FoldOptions
from modelopt.commands.fuse import FuseOptions
from modelopt.commands.inspect_model import InspectOptions
from modelopt.commands.prune import PruneOptions
from modelopt.commands.quantize import QuantizeOptions
from modelopt.commands.run_recipe import RunOptions
from modelopt.commands.side_by_side import BenchOptions, CompareOptions
from modelopt.core import temporary
from modelopt.core.errors import InputError, ModeloptError
from modelopt.core.systems import require_supported
from modelopt.inspection import Inspection
from modelopt.io import STDIO, load, names_stdout
from modelopt.io.given_model import ModelLike, file_of
from modelopt.report import Report
from modelopt.report.bench_report import BenchReport
from modelopt.report.check_report import CheckReport
from modelopt.report.evaluation_report import EvaluationReport

_P = ParamSpec("_P")
_Options = TypeVar("_Options")
_Found = TypeVar("_Found")
_Document = TypeVar("_Document", bound=msgspec.Struct)


@dataclass(frozen=True)
class Result:
    """What came of an optimization.

    Attributes:
        report: What was done, verified and measured; the document that ``--json`` prints.
        path: The file that the model was written to; None where no output was asked for.
        model: The optimized model.
    """

    report: Report
    path: Path | None
    model: ir.Model


def takes(options: Callable[_P, _Options]) -> Callable[[Callable[[_Options], _Found]], Callable[_P, _Found]]:
    """A function of options, as a function of the values that make them: its signature is that of `options`."""

    def decorate(function: Callable[[_Options], _Found]) -> Callable[_P, _Found]:
        @functools.wraps(function)
        def call(*arguments: _P.args, **keywords: _P.kwargs) -> _Found:
            require_supported()
            return function(options(*arguments, **keywords))

        returned = inspect_signature.signature(function).return_annotation
        signature = inspect_signature.signature(options)
        own = vars(options)["__annotations__"]  # those of the command come before those that it shares with others
        ordered = sorted(signature.parameters.values(), key=lambda each: (each.kind, each.name not in own))
        signature = signature.replace(parameters=ordered, return_annotation=returned)
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        call.__annotations__["return"] = returned
        return call

    return decorate


@takes(FoldOptions)
def fold(options: FoldOptions) -> Result:
    """Compute constants ahead of time, and remove what does nothing. Exact: the outputs stay the same.

    Example::

        result = modelopt.fold("model.onnx", freeze_dim={"batch": 1})
        result.model  # an onnx_ir.Model

    The options are the fields of `modelopt.commands.fold.FoldOptions`.
    """
    return _optimized(options)


@takes(FuseOptions)
def fuse(options: FuseOptions) -> Result:
    """Merge operators into fewer, faster ones. Exact: the outputs stay the same up to rounding.

    Example::

        result = modelopt.fuse(model_proto, bench=False)
        sum(each.rewrites for each in result.report.passes)

    The options are the fields of `modelopt.commands.fuse.FuseOptions`.
    """
    return _optimized(options)


@takes(PruneOptions)
def prune(options: PruneOptions) -> Result:
    """Set the smallest weights to zero.

    Example::

        result = modelopt.prune("model.onnx", sparsity=0.3, eval="labelled.npz", max_drop=0.01, output="pruned.onnx")
        result.report.accuracy

    The options are the fields of `modelopt.commands.prune.PruneOptions`.
    """
    return _optimized(options)


@takes(QuantizeOptions)
def quantize(options: QuantizeOptions) -> Result:
    """Convert to int8, half precision, or weights of few bits, after exact folding and fusing.

    Example::

        result = modelopt.quantize("model.onnx", calib={"image": images}, output="model.int8.onnx")
        print(result.report.verdict)
        result = modelopt.quantize(model, mode="dynamic")

    The options are the fields of `modelopt.commands.quantize.QuantizeOptions`.
    """
    return _optimized(options)


@takes(RunOptions)
def run(options: RunOptions) -> Result:
    """Run a recipe; options given here take the place of what it says.

    Example::

        result = modelopt.run("recipe.yaml", "model.onnx", calib=feeds, output="model.int8.onnx")

    The options are the fields of `modelopt.commands.run_recipe.RunOptions`.
    """
    return _optimized(options)


@takes(BenchOptions)
def bench(options: BenchOptions) -> BenchReport:
    """Measure the latency of models side by side.

    Example::

        report = modelopt.bench(["model.onnx", "model.int8.onnx"], data=feeds, budget=30)
        report.ratios[1].point  # how many times as fast the second model is

    The options are the fields of `modelopt.commands.side_by_side.BenchOptions`.
    """
    with _files(options.listed()) as (paths, names):
        report = _renamed(side_by_side.bench(dataclasses.replace(options, models=paths)), names)
    stop_at(report.gates, report)
    return report


@takes(CompareOptions)
def compare(options: CompareOptions) -> BenchReport:
    """Compare model `b` with model `a`: size, latency, and accuracy or how close the outputs are.

    Example::

        report = modelopt.compare("model.onnx", result.model, eval={"image": images, "label": labels}, bench=False)
        report.accuracy

    The options are the fields of `modelopt.commands.side_by_side.CompareOptions`.
    """
    with _files([options.a, options.b]) as (paths, names):
        report = _renamed(side_by_side.compare(dataclasses.replace(options, a=paths[0], b=paths[1])), names)
    stop_at(report.gates, report)
    return report


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> EvaluationReport:
    """Score a model on labelled data.

    Example::

        report = modelopt.evaluate("model.onnx", eval={"image": images, "label": labels})
        report.scores[0].value

    The options are the fields of `modelopt.commands.evaluate_model.EvaluateOptions`.
    """
    with _files([options.model]) as (paths, names):
        found = evaluate_model.evaluate(dataclasses.replace(options, model=paths[0]))
    report = msgspec.structs.replace(
        found, model=msgspec.structs.replace(found.model, path=names.get(found.model.path, found.model.path))
    )
    stop_at(report.gates, report)
    return report


@takes(CheckOptions)
def check(options: CheckOptions) -> CheckReport:
    """Judge a stored report beside an earlier one of the same models.

    Example::

        modelopt.check("new.json", baseline="base.json", max_latency="+3%")

    The options are the fields of `modelopt.commands.check_reports.CheckOptions`.
    """
    report = check_reports.check(options)
    stop_at(report.gates, report)
    return report


@takes(InspectOptions)
def inspect(options: InspectOptions) -> Inspection:
    """Show what a model is made of: its interface, weights and work. Nothing is run.

    Example::

        modelopt.inspect("model.onnx", dims={"batch": 8}).macs.total

    The options are the fields of `modelopt.commands.inspect_model.InspectOptions`.
    """
    with _files([options.model]) as (paths, names):
        found = inspect_model.inspect(dataclasses.replace(options, model=paths[0]))
    return _renamed(found, names)


def _optimized(options: OptimizeOptions) -> Result:
    if options.output is not None and (Path(options.output) == STDIO or names_stdout(Path(options.output))):
        fact = f"output='{options.output}' is for the command line"
        raise InputError(fact, hint="leave it out: result.model is the model")
    with _files([options.model]) as (paths, names), temporary.folder() as scratch:
        path = scratch / "model.onnx" if options.output is None else Path(options.output)
        if options.output is None:
            names[str(scratch)] = "<result>"
        report = execution.run(dataclasses.replace(options, model=paths[0], output=path))
        report = _renamed(report, names)
        if not options.keep:
            execution.require_gates(report)
        model = load(path, scratch=scratch).model
    return Result(report, None if options.output is None else path, model)


@contextlib.contextmanager
def _files(models: Sequence[ModelLike]) -> Iterator[tuple[list[Path], dict[str, str]]]:
    """The files of models, and how reports and errors call those that are in memory."""
    with temporary.folder() as folder:
        paths, names = [], {}
        for number, model in enumerate(models, 1):
            path = file_of(model, folder / f"{number}.onnx")
            paths.append(path)
            if not isinstance(model, str | os.PathLike):
                names[str(path)] = "<model>" if len(models) == 1 else f"<model {number}>"
        try:
            yield paths, names
        except ModeloptError as error:
            raise _named_error(error, names) from error.__cause__


def _named_error(error: ModeloptError, names: Mapping[str, str]) -> ModeloptError:
    error.fact = _replaced(error.fact, names)
    error.args = (error.fact,)
    error.note = None if error.note is None else _replaced(error.note, names)
    error.hint = None if error.hint is None else _replaced(error.hint, names)
    return error


def _replaced(text: str, names: Mapping[str, str]) -> str:
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def _renamed(document: _Document, names: Mapping[str, str]) -> _Document:
    """A report with the names of models in memory in place of the files that they were written to."""
    if not names:
        return document

    def walk(plain: object) -> object:
        if isinstance(plain, str):
            return _replaced(plain, names)
        if isinstance(plain, dict):
            return {key: walk(value) for key, value in plain.items()}
        return [walk(item) for item in plain] if isinstance(plain, list | tuple) else plain

    return msgspec.convert(walk(msgspec.to_builtins(document)), type(document))
