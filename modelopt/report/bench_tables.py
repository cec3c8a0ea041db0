"""The report of `bench` and `compare` as tables."""

from __future__ import annotations

from modelopt.core.tables import Section
from modelopt.measure import noise_floor
from modelopt.measure.latency import BenchResult
from modelopt.measure.process_figures import over_processes
from modelopt.report.bench_report import BenchReport
from modelopt.report.layer_tables import layer_sections
from modelopt.report.process_rows import process_rows
from modelopt.report.summary import accuracy_rows, covered, gate_sections, output_sections
from modelopt.report.units import milliseconds, size, times_as_fast


def measured_sections(report: BenchReport, *, verbose: bool = False) -> list[Section]:
    """`measured_tables` and the gates."""
    return [*measured_tables(report, verbose=verbose), *gate_sections(report.gates)]


def measured_tables(report: BenchReport, *, verbose: bool = False) -> list[Section]:
    """What was measured: figures in a table without a title, outputs and layers in others; `verbose` lists all layers.

    `bench` has a row for each model, and `compare` a column for each of its two.
    """
    figures = [_bench_table(report)] if report.command == "bench" else _compare_tables(report)
    return [*figures, *layer_sections(report, verbose=verbose)]


def _bench_table(report: BenchReport) -> Section:
    """Latency, a row for each model."""
    rows = []
    for info, result, ratio in zip(report.models, report.results, report.ratios, strict=True):
        found = result.percentiles_ns
        rows.append(
            (
                info.path,
                size(info.size_bytes),
                *("" if ns is None else milliseconds(ns) for ns in (found["p50"], found["p90"], found["p99"])),
                milliseconds(over_processes(result.loads_ns).point),
                milliseconds(over_processes(result.first_runs_ns).point),
                size(over_processes(result.peaks_bytes).point),
                "" if ratio is None else f"{ratio.point:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})",
                "baseline" if ratio is None else ratio.verdict.value,
            )
        )
    header = ("model", "size", "p50", "p90", "p99", "load", "first run", "memory", "times as fast", "verdict")
    env = report.results[0].env
    about = [f"{env.cpu}, {env.threads} threads, onnxruntime {env.onnxruntime}, on {report.source}"]
    if report.noise is not None:
        noise, floor = report.noise, noise_floor.of(report.noise)
        about.append(
            f"noise floor of this machine: a copy is {noise.point:.3f}× as fast ({noise.low:.3f}–{noise.high:.3f}), "
            f"so that differences below {floor:.1%} are noise; kept for later runs"
        )
    about.append(covered(report.results))
    providers = [f"{info.path}: {_ran_on(result)}" for info, result in zip(report.models, report.results, strict=True)]
    notes = (*about, *providers, *(f"warning: {line}" for line in report.warnings))
    return Section("", header, tuple(rows), notes)


def _ran_on(result: BenchResult) -> str:
    return ", ".join(f"{count} nodes on {provider}" for provider, count in sorted(result.node_providers.items()))


def _compare_tables(report: BenchReport) -> list[Section]:
    """Each output, then size, latency and accuracy of two models, a row each."""
    first, second = report.models
    change = f"{second.size_bytes / first.size_bytes - 1:+.1%}"
    rows: list[tuple[str, str, str, str]] = [("size", size(first.size_bytes), size(second.size_bytes), change)]
    if report.results:
        a, b = report.results
        ratio = report.ratios[1]
        change = "" if ratio is None else times_as_fast(ratio)
        rows.append(("latency, median", milliseconds(a.median_ns), milliseconds(b.median_ns), change))
        rows += process_rows(a, b)
    if report.accuracy is not None:
        rows.extend(accuracy_rows(report.accuracy))
    notes = [f"on {report.source}", *([covered(report.results)] if report.results else [])]
    notes += [f"{info.path}: {_ran_on(result)}" for info, result in zip(report.models, report.results, strict=False)]
    notes += [f"warning: {line}" for line in report.warnings]
    outputs = [] if report.accuracy is None else output_sections(report.accuracy)
    table = Section("", ("", first.path, second.path, "change"), tuple(rows), tuple(notes))
    return [*outputs, table]
