"""modelopt optimizes ONNX models and proves it.

Each command of the command line is a function here: `fold`, `fuse`, `prune`, `quantize`, `bench`, `compare`, `inspect`
and `run`. Their options are keywords with the names of the flags. Errors are `ModeloptError`. What is listed in
``__all__`` is imported when it is first used: ``import modelopt`` itself loads neither numpy nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modelopt.core import lazy_sympy

if TYPE_CHECKING:
    from modelopt.commands.api import Result as Result
    from modelopt.commands.api import bench as bench
    from modelopt.commands.api import check as check
    from modelopt.commands.api import compare as compare
    from modelopt.commands.api import evaluate as evaluate
    from modelopt.commands.api import fold as fold
    from modelopt.commands.api import fuse as fuse
    from modelopt.commands.api import inspect as inspect
    from modelopt.commands.api import prune as prune
    from modelopt.commands.api import quantize as quantize
    from modelopt.commands.api import run as run
    from modelopt.core.errors import EnvironmentLacks as EnvironmentLacks
    from modelopt.core.errors import GateFailed as GateFailed
    from modelopt.core.errors import GateInconclusive as GateInconclusive
    from modelopt.core.errors import InputError as InputError
    from modelopt.core.errors import ModeloptError as ModeloptError
    from modelopt.core.errors import Refused as Refused
    from modelopt.core.errors import VerificationFailed as VerificationFailed
    from modelopt.core.errors import WorkerDied as WorkerDied
    from modelopt.inspection.data import Inspection as Inspection
    from modelopt.recipe.recipe import Recipe as Recipe
    from modelopt.report import Report as Report
    from modelopt.report.bench_report import BenchReport as BenchReport
    from modelopt.report.check_report import CheckReport as CheckReport
    from modelopt.report.evaluation_report import EvaluationReport as EvaluationReport

__version__ = "0.1.0"

_API, _ERRORS = "modelopt.commands.api", "modelopt.core.errors"
_HOMES = {
    **dict.fromkeys(("Result", "bench", "check", "compare", "evaluate", "fold", "fuse"), _API),
    **dict.fromkeys(("inspect", "prune", "quantize", "run"), _API),
    **dict.fromkeys(
        ("EnvironmentLacks", "GateFailed", "GateInconclusive", "InputError", "ModeloptError", "Refused"), _ERRORS
    ),
    **dict.fromkeys(("VerificationFailed", "WorkerDied"), _ERRORS),
    "BenchReport": "modelopt.report.bench_report",
    "CheckReport": "modelopt.report.check_report",
    "EvaluationReport": "modelopt.report.evaluation_report",
    "Inspection": "modelopt.inspection.data",
    "Recipe": "modelopt.recipe.recipe",
    "Report": "modelopt.report",
}
"""The module that defines each public name."""

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # to a type checker, a name that is not public is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'modelopt' has no attribute '{name}'")
        found = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return [*globals(), *_HOMES]


lazy_sympy.install()
