"""`reduce`: the smallest part of a model on which a command still fails."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from modelopt import graph, io
from modelopt.commands import option_groups
from modelopt.commands.option_groups import LayoutOptions, LimitOptions
from modelopt.core import temporary
from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.engine import datasets, run_limits
from modelopt.engine.model_reduction import Part, Reducer, write
from modelopt.recipe.recipe import EvaluateSpec, Recipe
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner

MODEL, INPUTS = "{model}", "{inputs}"
"""What stands for the paths in the command."""


@dataclass(frozen=True, kw_only=True)
class ReduceOptions(LimitOptions, LayoutOptions):
    """Options of `reduce`.

    Attributes:
        model: The model.
        check: A command that fails (exit code not 0) on the model; it runs without a shell.
        data: Inputs, of which the first sample is used; None makes random ones.
        output: Where the part goes; its inputs go beside it, as .npz. None: MODEL.reduced.onnx.
        check_timeout: Seconds for a run of the command; one that takes longer fails.
        progress: Called with (what, done, total or None).
    """

    model: Path = field(kw_only=False)
    check: str
    data: str | None = None
    output: Path | None = None
    check_timeout: float = 60.0
    progress: Progress | None = None


@dataclass(frozen=True)
class Reduced:
    """What `reduce` found.

    Attributes:
        model: The file of the part.
        inputs: The file of its inputs.
        nodes: Of the model, and of the part.
        operators: The operators of the part.
        runs: How often the command ran.
        repeat: A command line that repeats the failure.
    """

    model: str
    inputs: str
    nodes: tuple[int, int]
    operators: tuple[str, ...]
    runs: int
    repeat: str


def reduce(options: ReduceOptions) -> Reduced:
    """Reduce a model file.

    Raises:
        InputError: The command cannot be run, or passes on the whole model.
        ModeloptError: Any of its other kinds.
    """
    words = _words(options.check)
    output = options.output or options.model.with_suffix(".reduced.onnx")
    inputs = output.with_suffix(".npz")
    for path in (output, inputs):
        io.destination(path, "the output", None)
        if path.exists() and (path.samefile(options.model) or path.suffix == ".npz"):
            raise InputError(f"{path} is there already", hint="give -o another name")
    if output.exists() and not io.is_model(output):
        raise InputError(f"the output {output} would replace a file that is no model", hint="give -o another name")
    with temporary.folder() as scratch:
        loaded = io.load(options.model, scratch=scratch, accepted=option_groups.accepted(options))
        limits, _ = run_limits.required(option_groups.limits(options), loaded)
        spec = (
            None
            if options.data is None
            else option_groups.checked(EvaluateSpec, {"data": options.data, **option_groups.layout_fields(options)})
        )
        opened = datasets.open_all(Recipe(steps=(), evaluate=spec), loaded.model)
        opened.hint = "give it real ones: --data DATA"
        with Worker(limits) as worker:
            (feeds,) = datasets.first_feeds(datasets.inputs(opened, worker, loaded.path), 1)

        def fails(model: Path, arrays: Path) -> bool:
            return _run(words, model, arrays, options.check_timeout)

        with closing(WorkerRunner(limits=limits)) as runner:
            progress = options.progress or silent
            reducer = Reducer(loaded.model, feeds, fails, runner, scratch, progress)
            part = reducer.reduce()
        _write(part, output, inputs, scratch)
    nodes = len(list(loaded.model.graph)), len(list(part.model.graph))
    operators = tuple(sorted({node.op_type for node in graph.all_nodes(part.model)}))
    repeat = shlex.join(_with_paths(words, output, inputs))
    return Reduced(str(output), str(inputs), nodes, operators, reducer.runs, repeat)


def _words(check: str) -> list[str]:
    try:
        words = shlex.split(check)
    except ValueError as error:
        raise InputError(f"--check cannot be read: {error}", hint="quote it for a shell") from None
    if not words:
        raise InputError("--check names no command", hint=f"--check 'python check.py {MODEL} {INPUTS}'")
    return words if any(MODEL in word for word in words) else [*words, MODEL]


def _with_paths(words: list[str], model: Path, inputs: Path) -> list[str]:
    return [word.replace(MODEL, str(model)).replace(INPUTS, str(inputs)) for word in words]


def _run(words: list[str], model: Path, inputs: Path, seconds: float) -> bool:
    """Whether the command fails on a model."""
    try:
        done = subprocess.run(
            _with_paths(words, model, inputs),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    except OSError as error:
        raise InputError(f"the command {words[0]} cannot be run", note=error.strerror) from None
    return done.returncode != 0


def _write(part: Part, output: Path, inputs: Path, scratch: Path) -> None:
    """Write the part and its inputs, each whole or not at all."""
    write(part, scratch / "made.onnx", scratch / "made.npz")
    io.replace_file(inputs, (scratch / "made.npz").read_bytes())
    io.replace_file(output, (scratch / "made.onnx").read_bytes())
