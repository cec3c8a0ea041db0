"""How each run begins, whether it optimizes or only tries candidates: the input is loaded and the data are opened."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from modelopt import io
from modelopt.calibration.context import Context
from modelopt.core import temporary
from modelopt.core.errors import ModeloptError
from modelopt.core.signature import Signature
from modelopt.engine import datasets, early_checks, error_notes, output_paths, run_limits, settings
from modelopt.engine.compiled_models import require_source
from modelopt.engine.request import Request
from modelopt.recipe.recipe import Recipe
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner


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
        return io.load(path, scratch=self.scratch, accepted=self.request.accepted).model

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
    output_paths.require(request)
    early_checks.require(recipe, request.memory)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(temporary.folder())
        runner = WorkerRunner(limits=request.limits, exact=settings.is_exact(recipe), children=request.children)
        stack.callback(runner.close)
        passes_worker = runner.start()  # it imports onnx while the model is loaded here
        stdin_folder = request.stdin_folder or scratch
        loaded = io.load(request.model, scratch=stdin_folder, accepted=request.accepted)
        output_paths.require_kept(request, loaded.data_files)
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
        try:
            yield run
        except ModeloptError:
            loaded.require_unchanged()  # where it was changed, that is the reason
            raise


def _signature_after(recipe: Recipe, model: ir.Model) -> Signature:
    """The signature that the result will have: feeds that fit it fit the original as well."""
    signature = datasets.signature_of(model)
    for step in recipe.passes():
        signature = step.signature_after(signature)
    return signature
