"""The report as tables with notes, which the console and Markdown render."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelopt.core.changes import Effect
from modelopt.core.plural import counted
from modelopt.core.tables import Section
from modelopt.io.compressed_size import COMPRESSOR
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.measure.metric import NOTHING_COMPARED, Score
from modelopt.measure.speed import FEWEST, Verdict
from modelopt.report import GateOutcome, GateResult, Latency, PassResult, Report, refusals
from modelopt.report.process_rows import process_rows
from modelopt.report.pruning_tables import pruning_sections
from modelopt.report.units import fell, milliseconds, size, times_as_fast
from modelopt.report.verification_lines import error_bound, verification_lines
from modelopt.runtime.coverage import Coverage, Kind

_MAX_SKIPS = 40
_MAX_TENSORS = 12
_MAX_OUTPUTS = 20
_MAX_CAUTIONS = 2
_JUDGED = {GateOutcome.PASSED: "ok", GateOutcome.FAILED: "FAILED"}
_KINDS = {Kind.INTEGER: "integer", Kind.FLOAT: "float", Kind.OVERHEAD: "converting"}


def report_sections(report: Report, *, explain: bool = False, verbose: bool = False) -> list[Section]:
    """The tables of a report.

    Args:
        report: The report.
        explain: Every refusal too, with its reason.
        verbose: Passes that did nothing too.
    """
    told = (report.verdict, *([] if report.next is None else [f"next: {report.next}"]))
    details = detail_sections(report, explain=explain, verbose=verbose)
    return [Section("", None, (), told), *details, outcome_section(report), *gate_sections(report.gates)]


def detail_sections(
    report: Report, *, explain: bool = False, verbose: bool = False, most_tensors: int = _MAX_TENSORS
) -> list[Section]:
    """The tables between the verdict and the figures before and after.

    Args:
        report: The report.
        explain: As in `report_sections`.
        verbose: As in `report_sections`.
        most_tensors: How many of the quantized tensors to list.
    """
    sections = list(_passes(report, verbose=verbose))
    if explain:
        sections.append(refusals.section(report))
        sections += [_refusals(report)] if verbose and any(refusals.refusals(report)) else []
        sections += [] if report.coverage is None else [_slowest(report.coverage)]
        sections += _worst_tensors(report, most_tensors)
    if report.pruning is not None:
        sections += pruning_sections(report.pruning, explain=explain)
    elif report.trials:
        sections.append(_trials(report))
    if report.offenders:
        sections.append(_offenders(report))
    if report.accuracy is not None:
        sections += output_sections(report.accuracy)
    return sections


def gate_sections(gates: Sequence[GateResult]) -> list[Section]:
    """The gates, a row each; below them what would decide those that are open."""
    if not gates:
        return []
    rows = tuple((gate.gate, gate.limit, gate.found, _JUDGED.get(gate.outcome, gate.outcome.value)) for gate in gates)
    is_open = [gate for gate in gates if gate.outcome is GateOutcome.INCONCLUSIVE and gate.hint is not None]
    notes = tuple(f"warning: --{gate.gate} {gate.limit} is not decided: {gate.hint}" for gate in is_open)
    return [Section("gates", ("gate", "asked", "found", ""), rows, notes)]


def _passes(report: Report, *, verbose: bool) -> Iterator[Section]:
    totals: dict[str, list[PassResult]] = {}
    for result in report.passes:
        totals.setdefault(result.step, []).append(result)
    rows = []
    notes = []
    idle = [step for step, results in totals.items() if not any(result.rewrites for result in results)]
    for step, results in totals.items():
        rewrites = sum(result.rewrites for result in results)
        refusals = len(results[-1].skipped)
        if rewrites or verbose or refusals:
            wall = sum(result.wall_ns for result in results)
            effect = f"{results[0].effect}, onnxruntime only" if results[0].contrib else results[0].effect
            rows.append((step, effect, str(rewrites), str(refusals), milliseconds(wall)))
        lossy = results[0].effect != Effect.EXACT.value
        for key, fact in results[-1].facts.items() if rewrites and (lossy or verbose) else ():
            if fact == 0 and not verbose:
                continue
            notes.append(f"{step.split('(')[0]}: {key.removesuffix('_bytes').replace('_', ' ')}: {_fact(key, fact)}")
    if not rows:
        return  # the verdict says it
    for step in idle:
        skips = totals[step][-1].skipped
        if totals[step][0].effect != Effect.EXACT.value and skips:
            notes.append(f"{step} changed nothing: {counted(len(skips), 'place')} refused, --explain says why")
    yield Section("", ("pass", "effect", "rewrites", "refused", "time"), tuple(rows), tuple(notes))


def _trials(report: Report) -> Section:
    rows = []
    for trial in report.trials:
        speed = "" if trial.ratio is None else times_as_fast(trial.ratio)
        if trial.on_one_thread is not None:
            speed += f", {trial.on_one_thread.point:.2f}× on one thread"
        result = f"{'kept' if trial.kept else 'left out'}: {trial.reason}"
        rows.append((trial.group, str(trial.rewrites), fell(trial.drop), speed, result))
    return Section("tried", ("passes", "rewrites", "accuracy", "against the best so far", "result"), tuple(rows))


def _offenders(report: Report) -> Section:
    rows = [
        (
            ", ".join(each.nodes[:3]) + (f" and {len(each.nodes) - 3} more" if len(each.nodes) > 3 else ""),
            f"{each.share:.0%}",
            "" if each.gain is None else f"{each.gain:+.0%}",
            each.cause or "",
            "in float" if each.restored else "quantized",
        )
        for each in report.offenders
    ]
    header = ("node", "error if only it is quantized", "gain in float", "cause", "")
    return Section("what costs accuracy", header, tuple(rows))


def _slowest(coverage: Coverage) -> Section:
    """The nodes that take the longest, with their kernels; nodes that were fused into another's kernel are left out."""
    timed = sorted((cost for cost in coverage.nodes if cost.within is None), key=lambda cost: -cost.median_ns)
    rows = [(cost.node, cost.op_type, cost.kernel, _KINDS[cost.kind], milliseconds(cost.median_ns)) for cost in timed]
    return Section("slowest nodes", ("node", "operator", "kernel", "computes in", "time"), *_first(rows, _MAX_SKIPS))


def _worst_tensors(report: Report, most: int) -> Iterator[Section]:
    """The tensors that were quantized, and those that were pruned, those with the largest relative error first."""
    tensors = [tensor for result in report.passes for tensor in result.tensors]
    worst = sorted((each for each in tensors if each.sqnr_db is not None), key=lambda each: each.sqnr_db or 0.0)
    quantized = [
        (each.name, each.kind, f"[{each.low:.4g}, {each.high:.4g}]", f"{each.sqnr_db:.1f} dB")
        for each in worst
        if each.sparsity is None
    ]
    pruned = [
        (each.name, f"{each.sparsity:.1%}", each.kind, f"{each.sqnr_db:.1f} dB")
        for each in worst
        if each.sparsity is not None
    ]
    if quantized:
        header = ("tensor", "kind", "range", "signal to noise")
        yield Section("quantized tensors, worst first", header, *_first(quantized, most))
    if pruned:
        header = ("tensor", "zeros", "error of its", "signal to noise")
        yield Section("pruned tensors, worst first", header, *_first(pruned, _MAX_SKIPS))


def _first(rows: Sequence[tuple[str, ...]], most: int) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """At most `most` rows, and a note that counts the others."""
    more = (f"… and {len(rows) - most} more: --json has all of them",) if len(rows) > most else ()
    return tuple(rows[:most]), more


def _fact(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and key.endswith("_bytes"):
        return size(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _refusals(report: Report) -> Section:
    """Each refusal with its node."""
    rows = [(step, skip.node, skip.reason) for step, skip in refusals.refusals(report)]
    return Section("left alone, by node", ("pass", "node", "reason"), *_first(rows, _MAX_SKIPS))


def outcome_section(report: Report) -> Section:
    """The figures before and after; below them how they were measured, and what was written."""
    rows = list(_size_rows(report))
    if report.latency is not None:
        rows += [_latency_row(report.latency), *process_rows(report.latency.before, report.latency.after)]
    elif report.not_timed is not None:
        rows.append(("latency", "", "–", report.not_timed))
    if report.coverage is not None:
        found = ", ".join(f"{report.coverage.share(kind):.0%} {_KINDS[kind]}" for kind in Kind)
        rows.append(("time in kernels", "", found, ""))
    if report.accuracy is not None:
        rows.extend(accuracy_rows(report.accuracy))
    elif report.verification is not None and report.verification.max_relative_error is not None:
        error = report.verification.max_relative_error
        found = "the same" if error == 0 else f"within {error_bound(error)} of their scale"
        feeds = report.verification.real + report.verification.constructed
        rows.append((f"outputs (n={feeds})", "", found, ""))
    timed = [] if report.latency is None else [f"Latency {covered((report.latency.before, report.latency.after))}."]
    notes = (*timed, *verification_lines(report), *_warnings(report), _end(report))
    return Section("", ("", "before", "after", "change"), tuple(rows), notes)


def _size_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    sizes = {"size": (report.input.size_bytes, report.output.size_bytes)}
    if report.input.external_bytes or report.output.external_bytes:
        sizes["of it in a data file"] = (report.input.external_bytes, report.output.external_bytes)
    if report.input.compressed_bytes is not None and report.output.compressed_bytes is not None:
        sizes[f"compressed ({COMPRESSOR})"] = (report.input.compressed_bytes, report.output.compressed_bytes)
    for name, (before, after) in sizes.items():
        yield name, size(before), size(after), f"{after / before - 1:+.1%}" if before else ""


def _latency_row(latency: Latency) -> tuple[str, str, str, str]:
    before, after = milliseconds(latency.before.median_ns), milliseconds(latency.after.median_ns)
    return "latency, median", before, after, times_as_fast(latency.ratio)


def covered(results: Sequence[BenchResult]) -> str:
    """How latencies were timed together, and what their intervals cover."""
    count = len(results[0].samples_ns)
    timed = f"timed in {counted(count, 'fresh process')} of each model"
    if len(results) == 1:
        return timed
    measured = count >= FEWEST
    known = "what differs between processes and rounds" if measured else "rounds, and an assumed spread of processes"
    return f"{timed}; intervals cover {known}"


def accuracy_rows(accuracy: Accuracy) -> Iterator[tuple[str, str, str, str]]:
    """Rows for a score before and after, and for how close the outputs are."""
    for task in accuracy.tasks:
        delta = task.delta
        change = "" if delta is None else f"{delta.point:+.4f}" + interval(delta.low, delta.high)
        name = f"{task.candidate.name.split('/')[-1]} (n={task.candidate.n:,})"
        yield name, score(task.reference), score(task.candidate), change
    if accuracy.fidelity and all(each.note == NOTHING_COMPARED for each in accuracy.fidelity):
        yield "outputs", "", "–", NOTHING_COMPARED
        return
    for fidelity in accuracy.fidelity:
        yield f"outputs, {fidelity.name} (n={fidelity.n:,})", "", score(fidelity), fidelity.note or ""


def output_sections(accuracy: Accuracy) -> list[Section]:
    """A table of the outputs: what each stands for, and by how much it differs from the original's."""
    rows = []
    for each in accuracy.outputs:
        shown = each.scores if each.bound is None or each.error is None else (*each.scores, each.error)
        for i, found in enumerate(shown):
            first = (each.output, each.kind, each.why) if i == 0 else ("", "", "")
            most = f"{each.bound:.0%} at most" if found is each.error and each.bound is not None else ""
            bounds = "" if found.low is None or found.high is None else f"{found.low:.4g} to {found.high:.4g}"
            rows.append((*first, f"{found.name} (n={found.n:,})", score(found), bounds or most))
    header = ("output", "kind", "evidence", "metric", "value", "95 % interval")
    return [Section("outputs compared with the original's", header, *_first(rows, _MAX_OUTPUTS))] if rows else []


def score(found: Score) -> str:
    """A score with its unit; a dash where it has no finite value."""
    if found.value is None:
        return "–"
    unit = " dB" if found.unit == "dB" else ""
    return f"{found.value:.4g}{unit}"


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets, empty where there is none."""
    return "" if low is None or high is None else f" ({low:+.4f} to {high:+.4f})"


def _warnings(report: Report) -> Iterator[str]:
    accuracy = report.accuracy
    yield from (f"note: {note}" for note in (*report.notes, *(accuracy.notes if accuracy is not None else ())))
    yield from (f"warning: {warning}" for warning in (accuracy.warnings if accuracy is not None else ()))
    if report.latency is not None:
        cautions = report.latency.after.warnings
        yield from (f"warning: {caution}" for caution in cautions[:_MAX_CAUTIONS])
        if len(cautions) > _MAX_CAUTIONS:
            yield f"warning: {len(cautions) - _MAX_CAUTIONS} more about the timing: --json has all of them"


def _end(report: Report) -> str:
    if not report.written:
        return "A gate failed: nothing was written."
    unchanged = not any(result.rewrites for result in report.passes)
    place = "the model to stdout" if report.output.path == "-" else report.output.path
    if unchanged:
        return f"Wrote {place} (a copy of the input: nothing changed)."
    slower = report.latency is not None and report.latency.ratio.verdict is Verdict.SLOWER
    return f"Wrote {place}" + (", which is slower than the input: --min-speedup 1 refuses that." if slower else ".")
