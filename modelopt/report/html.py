"""A report as one HTML file that needs no other file and no network.

Every name in it may be hostile: the template escapes all text, what is not printable is written as Python writes it,
and the page's own policy lets a browser run no script but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from modelopt.core.printable import printable
from modelopt.core.tables import Section
from modelopt.measure.environment import Environment
from modelopt.report import GateResult, Report, distribution
from modelopt.report.bench_report import BenchReport
from modelopt.report.bench_tables import measured_tables
from modelopt.report.check_report import CheckReport, check_sections
from modelopt.report.distribution import Chart
from modelopt.report.evaluation_report import EvaluationReport, evaluation_tables
from modelopt.report.measured_words import times
from modelopt.report.summary import detail_sections, outcome_section
from modelopt.report.units import milliseconds, size

_MOST_TENSORS = 1000
_TEMPLATE, _SCRIPT = "page.html", "page.js"


@dataclass(frozen=True)
class _Page:
    """What the template shows, from the top down.

    Attributes:
        title: The command, or the files.
        verdict: The result in one sentence.
        next: What the user may do next.
        figures: Tables that are shown open.
        gates: The gates.
        chart: How latencies are spread.
        details: Tables that are folded.
        facts: Where the figures come from.
        recipe: Lines of YAML.
    """

    title: str
    verdict: str
    figures: Sequence[Section]
    next: str | None = None
    gates: Sequence[GateResult] = ()
    chart: Chart | None = None
    details: Sequence[Section] = ()
    facts: Sequence[tuple[str, str]] = ()
    recipe: Sequence[str] = ()


def to_html(report: Report) -> str:
    """The report of a run."""
    latency = report.latency
    names = ("before", "after")
    timed = [] if latency is None else list(zip(names, (latency.before, latency.after), strict=True))
    return _rendered(
        _Page(
            title=f"{report.input.path} → {report.output.path}",
            verdict=report.verdict,
            next=report.next,
            figures=[outcome_section(report)],
            gates=report.gates,
            chart=distribution.chart(timed),
            details=detail_sections(report, explain=True, verbose=True, most_tensors=_MOST_TENSORS),
            facts=[
                *((name, version) for name, version in report.versions.items()),
                ("target", report.target),
                ("seed", str(report.seed)),
                ("input, sha256", report.input.sha256 or ""),
                ("output, sha256", report.output.sha256 or "not written"),
                *([] if latency is None else _machine(latency.after.env)),
            ],
            recipe=report.recipe.splitlines(),
        )
    )


def measured_to_html(report: BenchReport) -> str:
    """The report of `bench` or `compare`."""
    tables = measured_tables(report)
    timed = [(info.path, result) for info, result in zip(report.models, report.results, strict=False)]
    return _rendered(
        _Page(
            title=f"modelopt {report.command}: {' → '.join(each.path for each in report.models)}",
            verdict=_measured_verdict(report),
            figures=[each for each in tables if not each.title],
            gates=report.gates,
            chart=distribution.chart(timed),
            details=[each for each in tables if each.title],
            facts=[
                *((f"{info.path}, sha256", info.sha256 or "") for info in report.models),
                ("data", report.source),
                *(_machine(report.results[0].env) if report.results else []),
            ],
        )
    )


def evaluation_to_html(report: EvaluationReport) -> str:
    """The report of `evaluate`."""
    _, scores, *classes = evaluation_tables(report)
    return _rendered(
        _Page(
            title=f"modelopt evaluate: {report.model.path}",
            verdict=report.verdict,
            figures=[scores],
            gates=report.gates,
            details=classes,
            facts=[("model, sha256", report.model.sha256 or ""), ("data, digest", report.data_sha256 or "")],
        )
    )


def check_to_html(report: CheckReport) -> str:
    """The report of `check`."""
    told, *gates = check_sections(report)
    notes = [Section("", None, (), told.notes[1:])] if told.notes[1:] else []
    return _rendered(
        _Page(
            title="modelopt check",
            verdict=report.verdict,
            figures=[*gates, *notes],
            facts=[("report", report.report), ("baseline", report.baseline)],
        )
    )


def _measured_verdict(report: BenchReport) -> str:
    """How fast each model is beside the first, or the latency where there is one model; the size without both."""
    first, *others = report.models
    if not report.results:
        return "; ".join(
            f"{info.path}: {size(info.size_bytes)}, {first.path}: {size(first.size_bytes)}" for info in others
        )
    if not others:
        return f"{first.path}: {milliseconds(report.results[0].median_ns)} a run, median"
    ratios = zip(others, report.ratios[1:], strict=True)
    return "; ".join(f"{info.path}: {times(ratio)}" for info, ratio in ratios if ratio is not None)


def _machine(env: Environment) -> list[tuple[str, str]]:
    return [
        ("machine", f"{env.cpu}, {env.system}, {env.machine}"),
        ("threads", f"{env.threads or env.cores} of {env.cores} cores"),
        ("timed with", f"onnxruntime {env.onnxruntime}, Python {env.python}"),
    ]


def _rendered(page: _Page) -> str:
    import jinja2  # only who asks for such a report waits for it

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        page=page, script_hash=_script_hash(), width=distribution.WIDTH, height=distribution.HEIGHT
    )


def _shown(value: object) -> object:
    """Text without characters that are not printable; what the template's own macros made is text already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script_hash() -> str:
    """Of the script as the page holds it: jinja2 drops the last newline of a file."""
    digest = hashlib.sha256(_source(_SCRIPT).removesuffix("\n").encode()).digest()
    return base64.b64encode(digest).decode()
