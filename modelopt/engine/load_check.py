"""Loads a result that nothing else has run: nothing is written that onnxruntime does not load as users will."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from modelopt.core.errors import ModeloptError, Refused, WorkerDied
from modelopt.engine import settings
from modelopt.engine.findings import Findings
from modelopt.recipe.recipe import Recipe
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker


def was_run(findings: Findings) -> bool:
    """Whether measuring has loaded and run the result already."""
    return findings.unchanged or findings.latency is not None or findings.accuracy is not None


def require(recipe: Recipe, original: Path, result: Path, worker: Worker, limits: Limits | None) -> str | None:
    """Load the result once.

    There are two exceptions, in which a result that does not load is written. Its input does not load either, such as
    a model with custom operators. Or the recipe is for another machine, whose providers may load it.

    Args:
        recipe: What made the result.
        original: The input's file.
        result: The result's file.
        worker: Opens it; it is of no more use where that crashes.
        limits: Of a child process that tries the input.

    Returns:
        What the reader should know of a result that was not loaded; None where it was.

    Raises:
        Refused: onnxruntime loads the input, and not the result.
        WorkerDied: onnxruntime loads the input and crashes on the result, or needs too much time or memory for it.
    """
    spec = msgspec.structs.replace(settings.session_spec(recipe.bench), spin=False)
    try:
        worker.open(result, spec, what="result").close()
    except (Refused, WorkerDied) as error:
        if not _loads(original, spec, limits):
            return "onnxruntime loads neither the input nor the result: nothing is known of the result"
        if isinstance(error, Refused) and settings.is_elsewhere(recipe):
            return f"onnxruntime does not load the result here: {error.note}"
        raise
    return None


def _loads(model: Path, spec: SessionSpec, limits: Limits | None) -> bool:
    with contextlib.suppress(ModeloptError), Worker(limits) as worker:
        worker.open(model, spec).close()
        return True
    return False
