"""What a pass says of itself, for `modelopt passes`."""

from __future__ import annotations

import dataclasses
from typing import Any

from modelopt.core.docstrings import docstring
from modelopt.core.tables import Section
from modelopt.passes import NAMES, find
from modelopt.passes.base import Pass, plain


def overview() -> Section:
    """All passes, a row each."""
    rows = []
    for name in NAMES:
        kind = find(name)
        runs_on = "onnxruntime" if kind.contrib else ""
        rows.append((name, kind.effect.value, "yes" if kind.needs_data else "", runs_on, kind.summary()))
    return Section("", ("pass", "effect", "needs data", "runs only on", "what it does"), tuple(rows))


def describe(kind: type[Pass]) -> list[Section]:
    """One pass: its documentation and its options."""
    about = docstring(kind).splitlines()
    facts = (
        ("effect", kind.effect.value),
        ("needs data", "yes, --calib" if kind.needs_data else "no"),
        ("leaves operators of", "com.microsoft: onnxruntime only" if kind.contrib else "the standard domain"),
        ("in a recipe", f"- {kind.name}"),
    )
    sections = [Section(kind.name, None, (), tuple(about)), Section("", None, facts)]
    fields = dataclasses.fields(kind)
    if fields:
        rows = tuple((f.name.replace("_", "-"), _default(f), f.metadata["doc"]) for f in fields)
        sections.append(Section("options", ("option", "default", "what it does"), rows))
    return sections


def as_data(kind: type[Pass]) -> dict[str, Any]:
    """One pass for ``--json``."""
    return {
        "name": kind.name,
        "summary": kind.summary(),
        "effect": kind.effect.value,
        "needs_data": kind.needs_data,
        "contrib": kind.contrib,
        "options": [
            {"name": f.name.replace("_", "-"), "default": plain(f.default), "doc": f.metadata["doc"]}
            for f in dataclasses.fields(kind)
        ],
    }


def _default(field: dataclasses.Field[Any]) -> str:
    value = plain(field.default)
    if value is None:
        return "automatic"
    if value in ([], {}):
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
