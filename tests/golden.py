"""Reads golden files: Markdown with one case per ``## title``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import yaml

from modelopt import graph

FOLDER = Path(__file__).parent / "golden"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UNCHANGED = re.compile(r"^unchanged: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        pass_name: The pass that it is for.
        title: What it shows.
        options: The pass's options by their written names.
        before: ONNX text.
        after: ONNX text, or None when nothing may change.
        reason: What the refusal says, for a case in which nothing may change.
    """

    pass_name: str
    title: str
    options: dict[str, Any]
    before: str
    after: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.title}"


def cases(path: Path) -> list[Case]:
    """The cases of one golden file."""
    name = path.stem.replace("_", "-")
    sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [_case(name, section) for section in sections]


def all_cases() -> list[Case]:
    """The cases of every golden file."""
    return [case for path in sorted(FOLDER.glob("*.md")) for case in cases(path)]


def _case(pass_name: str, section: str) -> Case:
    title, _, body = section.partition("\n")
    blocks = _FENCE.findall(body)
    options: dict[str, Any] = next((yaml.safe_load(text) for kind, text in blocks if kind == "options"), {})
    models = [text for kind, text in blocks if kind == "onnx"]
    unchanged = _UNCHANGED.search(_FENCE.sub("", body))
    if len(models) != (1 if unchanged else 2):
        raise ValueError(f"{pass_name}: {title}: needs a model before, and a model after or a line 'unchanged: reason'")
    return Case(
        pass_name, title.strip(), options, models[0], None if unchanged else models[1], unchanged and unchanged[1]
    )


def normalized(model: ir.Model) -> str:
    """The model's text without what no golden case is about: value_info and metadata."""
    copy = model.clone()
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
                value.type = None
    copy.metadata_props.clear()
    # Values are listed here, because releases of onnx differ in which of them their text spells out.
    stored = [
        f"{name} = {value.const_value.dtype}{value.const_value.shape} {value.const_value.numpy().tolist()}"
        for scope in graph.all_graphs(copy)
        if isinstance(scope, ir.Graph)
        for name, value in scope.initializers.items()
        if value.const_value is not None
    ]
    text = re.sub(r"(float16\[[0-9,]*\])\.\.\.", r"\1", ir.to_onnx_text(copy, exclude_initializers=True))
    return "\n".join([text, *stored])
