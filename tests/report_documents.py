"""Holds the JSON documents that commands write against the schema that `modelopt check --schema` prints."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from modelopt.core import error_report
from modelopt.report.report_schema import report_schema, versions


@functools.cache
def validator(kind: str) -> Draft202012Validator:
    """What checks documents of one kind."""
    schema = report_schema()
    del schema["oneOf"]
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{versions()[kind].__name__}"})


def require_valid(document: dict[str, Any]) -> None:
    """Fail where a document of a kind that the schema knows is not as it says."""
    kind = document.get("schema")
    if kind in versions():
        validator(kind).validate(document)


def is_error(out: bytes, code: int) -> bool:
    """Whether stdout holds one document that says why the command failed with this exit code."""
    try:
        document = json.loads(out)
    except ValueError:
        return False
    return bool(document["schema"] == error_report.SCHEMA and document["exit_code"] == code)


def check_written(arguments: Sequence[str | Path], cwd: Path, code: int, out: bytes) -> None:
    """Check what a run of the command printed with ``--json``, and wrote with ``--report FILE.json``."""
    words = list(map(str, arguments))
    if "--json" in words and out:
        document = json.loads(out)
        require_valid(document)
        if code not in {0, 1, 5}:
            assert is_error(out, code), document
    else:
        assert error_report.SCHEMA.encode() not in out[:100]
    for path in _reports(words, cwd) if code in {0, 1, 5} else ():
        require_valid(json.loads(path.read_bytes()))


def _reports(words: Sequence[str], cwd: Path) -> Iterator[Path]:
    for flag, name in itertools.pairwise(words):
        if flag == "--report" and name.endswith(".json") and (cwd / name).is_file() and (cwd / name).stat().st_size:
            yield cwd / name
