"""How each run begins, whether it optimizes or only tries candidates: the input is loaded and the data are opened."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from modelopt import io
from modelopt.calibration.cache import Calibrations
from modelopt.calibration.context import Context
from modelopt.core.progress import Progress, silent
from modelopt.core.signature import Signature
from modelopt.data import MemoryData
from modelopt.engine import datasets, early_checks, error_notes, output_paths, run_limits, settings
from modelopt.engine.compiled_models import require_source
from modelopt.recipe.recipe import Recipe
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do, with what, and where to put it.

    Attributes:
        recipe: The recipe.
        model: The input file, or `io.STDIO`.
        output: The output file, or `io.STDIO`.
        if_exact: The output file where only exact passes changed something; None: `output`.
        if_unchanged: The output file where nothing changed; None: `output`.
        keep: Write the output even when a gate fails.
        dump_folder: Where to write the model after each pass.
        limits: Of the child processes.
        children: Child processes that were started ahead; None starts each when it is needed.
        stdin_folder: Where the bytes of stdin are kept, so that several runs can load them; None for one run only.
        allow_hardlinks: See `io.load`.
        external_data: Whether the output's weights go to a file of their own.
        verify_samples: How many samples of the user's data verification uses, beside the feeds that it constructs.
        memory: Data in memory, by how the recipe calls them.
        calibrations: Remembers what calibration observed; runs that share it observe once.
        progress: Called with (what, done, total or None).
    """

    recipe: Recipe
    model: Path
    output: Path
    if_exact: Path | None = None
    if_unchanged: Path | None = None
    keep: bool = False
    dump_folder: Path | None = None
    limits: Limits | None = None
    children: ChildPool | None = None
    stdin_folder: Path | None = None
    allow_hardlinks: bool = False
    external_data: io.ExternalData = io.ExternalData.AUTO
    verify_samples: int = 4
    memory: Mapping[str, MemoryData] = field(default_factory=dict)
    calibrations: Calibrations | None = None
    progress: Progress = silent

    @property
    def outputs(self) -> tuple[Path, Path | None, Path | None]:
        """`output`, `if_exact` and `if_unchanged`: the arguments of `output_paths.choose`."""
        return self.output, self.if_exact, self.if_unchanged


@dataclass
class OpenRun:
    """What the steps of a run work with; see `opened`.

    Attributes:
        request: What the user asked for.
        loaded: The input. A run changes its model in place.
        data: The samples.
        context: What passes are lent.
        worker: The child process that opens models.
        scratch: A folder for temporary files.
        changed_by: The passes that changed the model so far: errors of onnxruntime on the result name them.
    """

    request: Request
    loaded: io.Loaded
    data: datasets.Data
    context: Context
    worker: Worker
    scratch: Path
    changed_by: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the request."""
        return self.request.recipe

    def reload(self) -> ir.Model:
        """The input's model as it was before passes changed it."""
        return self.load(self.loaded.path)

    def load(self, path: Path) -> ir.Model:
        """The model in a file."""
        return io.load(path, scratch=self.scratch, allow_hardlinks=self.request.allow_hardlinks).model

    def renew_worker(self) -> None:
        """Start another worker in place of one that a model ended."""
        self.worker.close()
        self.worker = new_worker(self.request)


def new_worker(request: Request) -> Worker:
    """A child process that opens models as the recipe judges them."""
    return Worker(request.limits, exact=settings.is_exact(request.recipe), children=request.children)


@contextlib.contextmanager
def opened(request: Request, *, runs_models: bool = True) -> Iterator[OpenRun]:
    """Load the input, start the child processes, and open the data.

    Args:
        request: What the user asked for.
        runs_models: Whether the original and what is made of it run beside each other.

    Raises:
        ModeloptError: The recipe, a path, the model or the data are refused.
    """
    recipe = request.recipe
    output_paths.require(request.model, request.outputs)
    early_checks.require(recipe, request.memory)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="modelopt-")))
        runner = WorkerRunner(limits=request.limits, exact=settings.is_exact(recipe), children=request.children)
        stack.callback(runner.close)
        passes_worker = runner.start()  # it imports onnx while the model is loaded here
        stdin_folder = request.stdin_folder or scratch
        loaded = io.load(request.model, scratch=stdin_folder, allow_hardlinks=request.allow_hardlinks)
        limits, needs = run_limits.for_model(request.limits, loaded.model, loaded.size_bytes)
        request = dataclasses.replace(request, limits=limits)
        runner.follow(limits)
        if runs_models:
            run_limits.require(limits, needs, loaded.shown)
            require_source(loaded.model, loaded.shown)
        changed_by: list[str] = []
        stack.enter_context(error_notes.explained(loaded.path, changed_by))
        data = datasets.open_all(recipe, loaded.model, _signature_after(recipe, loaded.model), request.memory)
        data.endless = needs.endless
        worker = stack.enter_context(new_worker(request)) if runs_models else passes_worker
        if recipe.bench is not None:
            worker.require(recipe.bench.provider)
        datasets.fit_random(recipe, data, worker, loaded.path)
        context = Context(
            runner=runner,
            target=settings.target_of(recipe),
            calibration=data.calibration,
            seed=recipe.seed,
            progress=request.progress,
            calibrations=request.calibrations,
        )
        run = OpenRun(request, loaded, data, context, worker, scratch, changed_by)
        stack.callback(lambda: run.worker.close())  # the worker of that moment: it may have been renewed
        yield run


def _signature_after(recipe: Recipe, model: ir.Model) -> Signature:
    """The signature that the result will have: feeds that fit it fit the original as well."""
    signature = datasets.signature_of(model)
    for step in recipe.passes():
        signature = step.signature_after(signature)
    return signature
