"""`check`: a stored report beside its baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.commands import written_reports
from modelopt.core import quantities
from modelopt.core.errors import InputError
from modelopt.core.quantities import Allowed, BadQuantity
from modelopt.engine import baseline, output_paths
from modelopt.engine.baseline import CheckLimits
from modelopt.engine.run_files import RunFile
from modelopt.recipe.recipe import OnInconclusive
from modelopt.report import stored
from modelopt.report.check_report import CheckReport

DEFAULTS = {"max_latency": "+5%", "max_memory": "+10%", "max_size": "+1%", "max_drop": "1%"}
"""The limits where none is given."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `check`. A limit is ``+3%`` of what it was, or a value such as ``2ms``.

    Attributes:
        new: A report that `--report` wrote as JSON.
        baseline: An earlier one of the same models.
        max_latency: How long a run may take.
        max_memory: How large the peak memory of a process may be.
        max_load: How long creating a session may take.
        max_size: How large the file may be.
        max_drop: How much accuracy may fall, as a fraction.
        on_inconclusive: ``pass`` or ``fail``: what a gate does that cannot be decided; None fails.
        across_machines: Compare ratios to the first model in place of times.
    """

    new: str | Path = field(kw_only=False)
    baseline: str | Path
    max_latency: str | None = None
    max_memory: str | None = None
    max_load: str | None = None
    max_size: str | None = None
    max_drop: float | None = None
    on_inconclusive: str | None = None
    across_machines: bool = False

    def limits(self) -> CheckLimits:
        """The limits as the engine takes them.

        Raises:
            InputError: A text is no limit.
        """
        names = ("max_latency", "max_memory", "max_load", "max_size", "max_drop")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        asked = given or DEFAULTS
        drop = asked.get("max_drop")
        return CheckLimits(
            latency=_allowed("--max-latency", asked.get("max_latency"), quantities.nanoseconds),
            memory=_allowed("--max-memory", asked.get("max_memory"), quantities.n_bytes),
            load=_allowed("--max-load", asked.get("max_load"), quantities.nanoseconds),
            size=_allowed("--max-size", asked.get("max_size"), quantities.n_bytes),
            drop=quantities.share(drop) if isinstance(drop, str) else drop,
            are_defaults=not given,
            on_inconclusive=None if self.on_inconclusive is None else OnInconclusive(self.on_inconclusive),
        )


def _allowed(flag: str, text: str | None, parse: Callable[[str], int]) -> Allowed | None:
    if text is None:
        return None
    try:
        return quantities.allowed(text, parse)
    except BadQuantity as error:
        raise InputError(f"{flag}: {error}") from None


def check(options: CheckOptions, written: Sequence[Path] = ()) -> CheckReport:
    """Judge a report beside its baseline.

    Args:
        options: The options.
        written: Files that take what was found: .json, .md, .html, or .xml for JUnit.

    Raises:
        InputError: A report cannot be read, or the two cannot be compared.
    """
    paths = Path(options.new), Path(options.baseline)
    limits = options.limits()
    for path in written:
        _require(path, paths)
    new, old = map(stored.load, paths)
    found = baseline.check(new, old, limits, across_machines=options.across_machines)
    for path in written:
        written_reports.write_check(found, path)
    return found


def _require(path: Path, read: Sequence[Path]) -> None:
    written_reports.require_check(path)
    output_paths.require_report(path, [RunFile("a report that is read", one) for one in read])
