"""What a run is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelopt import io
from modelopt.calibration.cache import Calibrations
from modelopt.core.progress import Progress, silent
from modelopt.data import MemoryData
from modelopt.recipe.recipe import Recipe
from modelopt.report import Report
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool


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
        force: Whether a file may be replaced that is not of the kind that is written in its place.
        report_file: Where the report goes; None for nowhere. `finish` writes it.
        calibration_cache: The file of `calibrations`; None without one.
        recipe_file: The file that the recipe was read from; None where there was none.
        children: Child processes that were started ahead; None starts each when it is needed.
        stdin_folder: Where the bytes of stdin are kept, so that several runs can load them; None for one run only.
        accepted: What the input file may be.
        external_data: Whether the output's weights go to a file of their own.
        verify_samples: How many samples of the user's data verification uses, beside the feeds that it constructs.
        memory: Data in memory, by how the recipe calls them.
        calibrations: Remembers what calibration observed; runs that share it observe once.
        progress: Called with (what, done, total or None).
        finish: Called with the report of a run before its output gets its name: keeps the report, and gives it back
            with what only the caller knows.
    """

    recipe: Recipe
    model: Path
    output: Path
    if_exact: Path | None = None
    if_unchanged: Path | None = None
    keep: bool = False
    dump_folder: Path | None = None
    limits: Limits | None = None
    force: bool = False
    report_file: Path | None = None
    calibration_cache: Path | None = None
    recipe_file: Path | None = None
    children: ChildPool | None = None
    stdin_folder: Path | None = None
    accepted: io.Accepted = io.Accepted()  # noqa: RUF009 - it is frozen
    external_data: io.ExternalData = io.ExternalData.AUTO
    verify_samples: int = 4
    memory: Mapping[str, MemoryData] = field(default_factory=dict)
    calibrations: Calibrations | None = None
    progress: Progress = silent
    finish: Callable[[Report], Report] = lambda report: report

    @property
    def outputs(self) -> tuple[Path, Path | None, Path | None]:
        """`output`, `if_exact` and `if_unchanged`: the arguments of `output_paths.choose`."""
        return self.output, self.if_exact, self.if_unchanged
