"""What `check` found: two stored reports compared, as versioned data, tables, JUnit XML and annotations for GitHub."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from xml.etree import ElementTree as ET  # it only writes here

import msgspec

from modelopt.core.printable import printable
from modelopt.core.tables import Section
from modelopt.report import GateOutcome, GateResult
from modelopt.report.summary import gate_sections

SCHEMA = "modelopt-check/1"


class CheckedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model beside its baseline.

    Attributes:
        model: Its file, without folders.
        baseline: That of the baseline.
        gates: The gates, in order.
    """

    model: str
    baseline: str
    gates: tuple[GateResult, ...]


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` found.

    Attributes:
        schema: The version of this structure.
        verdict: The result in one sentence.
        report: The report that was checked.
        baseline: The report that it was compared with.
        models: The models, in order.
        notes: What the reader should know.
    """

    schema: str = SCHEMA
    verdict: str
    report: str
    baseline: str
    models: tuple[CheckedModel, ...]
    notes: tuple[str, ...] = ()

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """The gates of all models."""
        return tuple(gate for model in self.models for gate in model.gates)


def verdict_of(models: tuple[CheckedModel, ...]) -> str:
    """The result in one sentence."""
    gates = [gate for model in models for gate in model.gates]
    failed = [gate.gate for gate in gates if gate.outcome is GateOutcome.FAILED]
    is_open = [gate.gate for gate in gates if gate.outcome is GateOutcome.INCONCLUSIVE]
    if failed:
        return f"Worse than the baseline: {', '.join(dict.fromkeys(failed))}."
    if is_open:
        return f"Not decided: {', '.join(dict.fromkeys(is_open))}."
    return "No worse than the baseline." if gates else "Nothing was compared."


def check_sections(report: CheckReport) -> list[Section]:
    """The verdict, and the gates of each model."""
    told = Section("", None, (), (report.verdict, *report.notes))
    if len(report.models) == 1:
        return [told, *gate_sections(report.gates)]
    named = [(model.model, section) for model in report.models for section in gate_sections(model.gates)]
    return [told, *(dataclasses.replace(section, title=name) for name, section in named)]


def junit(report: CheckReport) -> str:
    """The gates as test cases of JUnit's XML, one suite for each model."""
    root = ET.Element("testsuites", name="modelopt check")
    for model in report.models:
        failures = sum(gate.stops for gate in model.gates)
        skipped = sum(gate.outcome is GateOutcome.NOT_JUDGED for gate in model.gates)
        attributes = {
            "name": printable(model.model),
            "tests": str(len(model.gates)),
            "failures": str(failures),
            "errors": "0",
            "skipped": str(skipped),
            "time": "0",
        }
        suite = ET.SubElement(root, "testsuite", attributes)
        for gate in model.gates:
            case = ET.SubElement(
                suite, "testcase", classname=printable(model.model), name=f"{gate.gate} {gate.limit}", time="0"
            )
            _outcome(case, gate)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _outcome(case: ET.Element, gate: GateResult) -> None:
    said = printable(": ".join(filter(None, (gate.found, gate.hint))))
    if gate.stops:
        ET.SubElement(case, "failure", message=said, type=gate.outcome.value)
    elif gate.outcome is GateOutcome.NOT_JUDGED:
        ET.SubElement(case, "skipped", message=said)
    else:
        ET.SubElement(case, "system-out").text = f"{gate.outcome.value}: {said}"


def github_annotations(report: CheckReport) -> Iterator[str]:
    """A workflow command of GitHub for each gate that did not pass."""
    for model in report.models:
        for gate in model.gates:
            if gate.outcome is GateOutcome.PASSED:
                continue
            level = "error" if gate.stops else "warning" if gate.outcome is GateOutcome.INCONCLUSIVE else "notice"
            title = f"{model.model}: {gate.gate} {gate.limit} {gate.outcome.value}"
            body = ": ".join(filter(None, (gate.found, gate.hint)))
            yield f"::{level} title={_property(title)}::{_data(body)}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
