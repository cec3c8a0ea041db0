"""A JSON schema of the documents that ``--report FILE.json`` and ``--json`` write about models, and of errors."""

from __future__ import annotations

from typing import Any

import msgspec

from modelopt.core.error_report import ErrorReport
from modelopt.report import Report
from modelopt.report.bench_report import BenchReport
from modelopt.report.check_report import CheckReport
from modelopt.report.evaluation_report import EvaluationReport

KINDS: tuple[type[msgspec.Struct], ...] = (Report, BenchReport, EvaluationReport, CheckReport, ErrorReport)


def report_schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of all kinds of reports. The member ``schema`` of a report says which it is."""
    references, definitions = msgspec.json.schema_components(KINDS, ref_template="#/$defs/{name}")
    for kind in KINDS:
        definition = definitions[kind.__name__]
        version = definition["properties"]["schema"].pop("default")
        definition["properties"]["schema"] = {"const": version}
        definition["required"] = ["schema", *definition.get("required", [])]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelopt report",
        "oneOf": list(references),
        "$defs": definitions,
    }


def versions() -> dict[str, type[msgspec.Struct]]:
    """The kinds by what their member ``schema`` holds."""
    fields = ((kind, field) for kind in KINDS for field in msgspec.structs.fields(kind) if field.name == "schema")
    return {str(field.default): kind for kind, field in fields}
