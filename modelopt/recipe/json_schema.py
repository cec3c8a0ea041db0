"""A JSON schema of recipe files, for editors that complete YAML."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from modelopt import passes
from modelopt.passes.base import Pass
from modelopt.quant.static import overrides
from modelopt.recipe import gate_words, pipelines
from modelopt.recipe.pipelines import KEEP_OPSET, PIPELINE, PIPELINES
from modelopt.recipe.recipe import GROUP, SECTIONS, VERSION, Gates


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of recipe files, options of all passes included."""
    sections = {key: msgspec.json.schema(kind) for key, kind in SECTIONS.items()}
    definitions: dict[str, Any] = {}
    for schema in sections.values():
        definitions |= schema.pop("$defs", {})
    definitions[Gates.__name__] = gate_words.described(definitions[Gates.__name__])
    steps = [_pass_schema(passes.find(name), definitions) for name in passes.NAMES]
    one_pass: dict[str, Any] = {"anyOf": [{"enum": list(passes.NAMES)}, *steps]}
    group = {
        "type": "object",
        "properties": {GROUP: {"type": "array", "items": one_pass}},
        "required": [GROUP],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelopt recipe",
        "type": "object",
        "properties": {
            "version": {"const": VERSION},
            "steps": {"type": "array", "items": {"anyOf": [*one_pass["anyOf"], group, *_pipeline_schemas()]}},
            **sections,
        },
        "required": ["version", "steps"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _pipeline_schemas() -> list[dict[str, Any]]:
    """The schemas of a step that names a pipeline: with and without an option."""
    schemas = []
    for options, names in (
        ({KEEP_OPSET: {"type": "boolean"}}, [name for name in PIPELINES if pipelines.raises(name)]),
        ({}, [name for name in PIPELINES if not pipelines.raises(name)]),
    ):
        properties = {PIPELINE: {"enum": names}, **options}
        schemas.append(
            {"type": "object", "properties": properties, "required": [PIPELINE], "additionalProperties": False}
        )
    return schemas


def _of_overrides(kind: type) -> dict[str, Any]:
    if kind is not overrides.Overrides:
        raise NotImplementedError(f"no option is a {kind.__name__}")
    return overrides.schema()


def _pass_schema(kind: type[Pass], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = msgspec.json.schema(kind, schema_hook=_of_overrides)
    found = schema.pop("$defs", {})
    own = found.pop(kind.__name__)
    definitions |= found
    docs = {f.name: f.metadata["doc"] for f in dataclasses.fields(kind)}
    properties = {
        name.replace("_", "-"): {**described, "description": docs[name]}
        for name, described in own["properties"].items()
    }
    options = {"type": "object", "properties": properties, "additionalProperties": False}
    return {
        "type": "object",
        "description": kind.summary(),
        "properties": {kind.name: options},
        "required": [kind.name],
        "additionalProperties": False,
    }
