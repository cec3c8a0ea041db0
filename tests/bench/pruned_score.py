"""The accuracy of a model and of what a recipe makes of it, by the product's own evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from main_job import data_flags  # type: ignore[import-not-found]

from modelopt.core.errors import ModeloptError
from modelopt.engine.optimize import Request, run
from modelopt.recipe.recipe import DataSpec, EvaluateSpec, Recipe, Step


def pruned_score(folder: Path, steps: Sequence[Step], limit: int | None = None) -> tuple[float, float] | str:
    """The original's score and the pruned model's, or why there is none.

    Args:
        folder: Holds ``model.onnx`` and labelled data as `main_job.py` wants them.
        steps: What makes the pruned model.
        limit: Samples to calibrate on; None for all.
    """
    words = data_flags(folder, ["quantize"])
    flags = dict(zip(words[::2], words[1::2], strict=True))
    preprocess = flags.get("--preprocess")
    recipe = Recipe(
        steps=tuple(steps),
        verify=False,
        calibration=DataSpec(data=flags["--calib"], limit=limit, preprocess=preprocess),
        evaluate=EvaluateSpec(data=flags["--eval"], metric=flags.get("--metric"), preprocess=preprocess),
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            report = run(Request(recipe=recipe, model=folder / "model.onnx", output=Path(scratch) / "out.onnx"))
        except ModeloptError as error:
            return error.fact
    accuracy = report.accuracy
    if accuracy is None or not accuracy.tasks:
        return "no task"
    task = accuracy.tasks[0]
    if task.reference.value is None or task.candidate.value is None:
        return "no score"
    return task.reference.value, task.candidate.value
