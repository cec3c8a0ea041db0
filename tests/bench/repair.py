#!/usr/bin/env python3
"""Accuracy of int8 with each repair, on every model of a folder: one table.

    python tests/bench/repair.py FOLDER [MODEL …]

Sub-folders of FOLDER are as `main_job.py` wants them. Every model is folded and fused, then quantized by
``quantize-static(everywhere)``, so that a repair has something to repair where int8 would not pay. A cell holds the
task's score (where there are labels) and how far the outputs are from the float model's, as SQNR in dB.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from main_job import data_flags  # type: ignore[import-not-found]

from modelopt.core.errors import ModeloptError
from modelopt.engine.optimize import Request, run
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.pipelines import EXACT, until_stable
from modelopt.recipe.recipe import DataSpec, EvaluateSpec, Recipe

QUANTIZE = "quantize-static"
PER_TENSOR = {"per-channel": False}
CORRECT = {"correct-bias": True}
FEEDBACK = {"rounding": "gptq"}
MSE = {"method": "mse"}
VARIANTS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "int8": ((QUANTIZE, {}),),
    "correct-bias": ((QUANTIZE, CORRECT),),
    "gptq": ((QUANTIZE, FEEDBACK),),
    "gptq, correct-bias": ((QUANTIZE, FEEDBACK | CORRECT),),
    "mse": ((QUANTIZE, MSE),),
    "mse, gptq, correct-bias": ((QUANTIZE, MSE | FEEDBACK | CORRECT),),
    "smooth": (("smooth-activations", {}), (QUANTIZE, {})),
    "per tensor": ((QUANTIZE, PER_TENSOR),),
    "per tensor, correct-bias": ((QUANTIZE, PER_TENSOR | CORRECT),),
    "per tensor, equalize": (("equalize-layers", {}), (QUANTIZE, PER_TENSOR)),
    "per tensor, both": (("equalize-layers", {}), (QUANTIZE, PER_TENSOR | CORRECT)),
}


def main(folder: Path, chosen: list[str]) -> None:
    """Print the table as Markdown, row by row."""
    models = [path for path in sorted(folder.glob("*/model.onnx")) if not chosen or path.parent.name in chosen]
    if not models:
        sys.exit(f"no {folder}/*/model.onnx")
    print("| model | n | float |", " | ".join(VARIANTS), "|")
    print("|", " | ".join(["---"] * (len(VARIANTS) + 3)), "|")
    for model in models:
        print("|", model.parent.name, end=" |", flush=True)
        for number, steps in enumerate(VARIANTS.values()):
            *first, last = cell(model, steps)
            print(*(first if number == 0 else ()), last, end=" |", flush=True)
        print()


def cell(model: Path, steps: tuple[tuple[str, dict[str, Any]], ...]) -> tuple[str, str, str]:
    """Samples, the float model's score and that of the model which these passes make."""
    words = data_flags(model.parent, ["quantize"])
    flags = dict(zip(words[::2], words[1::2], strict=True))
    preprocess = flags.get("--preprocess")
    made = [make_pass(name, options | ({"everywhere": True} if name == QUANTIZE else {})) for name, options in steps]
    recipe = Recipe(
        steps=(until_stable(EXACT), *made),
        verify=False,
        calibration=DataSpec(data=flags["--calib"], limit=128, preprocess=preprocess),
        evaluate=EvaluateSpec(data=flags["--eval"], metric=flags.get("--metric"), preprocess=preprocess),
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            report = run(Request(recipe=recipe, model=model, output=Path(scratch) / "out.onnx"))
        except ModeloptError as error:
            return "", "", error.fact
    accuracy = report.accuracy
    if accuracy is None:
        return "", "", "unchanged"
    fidelity = {score.name: score.value for score in accuracy.fidelity}
    shown = f"{fidelity['sqnr']:.1f} dB" if fidelity.get("sqnr") is not None else ""
    if not accuracy.tasks:
        return f"{accuracy.n} |", "|", shown
    task = accuracy.tasks[0]
    return f"{accuracy.n} |", f"{task.reference.value:.4f} |", f"{task.candidate.value:.4f} {shown}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
