"""`evaluate`: one model's scores on labelled data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.commands import option_groups, written_reports
from modelopt.commands.option_groups import EVALUATION, EvaluationOptions, LimitOptions
from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.engine import output_paths, run_files
from modelopt.engine.evaluation import Evaluation, evaluate_model
from modelopt.engine.run_files import RunFile
from modelopt.io.given_model import ModelLike
from modelopt.recipe.recipe import OnInconclusive
from modelopt.report.evaluation_report import EvaluationReport
from modelopt.runtime.session import SessionSpec


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(LimitOptions, EvaluationOptions):
    """Options of `evaluate`.

    Attributes:
        model: The model.
        batch: Samples of a run.
        provider: The execution provider.
        threads: Threads of one operator; 0 means all usable cores.
        min_score: The least value of the first metric, as a fraction.
        on_inconclusive: ``pass`` or ``fail``: what that gate does where it cannot be decided; None fails.
        progress: Called with (what, done, total or None).
    """

    model: ModelLike = field(kw_only=False)
    batch: int = 1
    provider: str = "cpu"
    threads: int = 0
    min_score: float | None = None
    on_inconclusive: str | None = None
    progress: Progress | None = None


def evaluate(options: EvaluateOptions, report_file: Path | None = None) -> EvaluationReport:
    """Score a model file.

    Args:
        options: The options.
        report_file: Where the report goes, .json, .md or .html; None for nowhere.

    Raises:
        ModeloptError: Any of its kinds but `GateFailed`: see `contract_options.stop_at`.
    """
    if not isinstance(options.model, str | os.PathLike):
        raise TypeError("a model in memory is written to a file first: see modelopt.commands.api")
    if options.eval is None:
        raise InputError("evaluate needs labelled data", hint="--eval DATA")
    data = option_groups.evaluation_spec(options, batch=options.batch)
    if data is None:
        raise ValueError(f"{EVALUATION} makes no section")
    model = Path(options.model)
    memory = option_groups.in_memory(eval=options.eval)
    if report_file is not None:
        written_reports.require(report_file)
        read = [RunFile("a model", model), *run_files.read_as_data("the data", data, memory)]
        output_paths.require_report(report_file, read)
    asked = options.on_inconclusive
    found = evaluate_model(
        Evaluation(
            model=model,
            data=data,
            session=SessionSpec(provider=options.provider, threads=options.threads),
            min_score=options.min_score,
            on_inconclusive=None if asked is None else OnInconclusive(asked),
            limits=option_groups.limits(options),
            accepted=option_groups.accepted(options),
            memory=memory,
            progress=options.progress or silent,
        )
    )
    if report_file is not None:
        written_reports.write_evaluation(found, report_file)
    return found
