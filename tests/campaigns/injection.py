"""Names that are made to be read as something else, in every place of a model that holds text, through every command.

    python -m tests.campaigns.injection --jobs 2

No raw control or bidirectional character may reach the terminal, a report or the log; each error stays one line; JSON
is valid; markup is shown as it is written; and no line begins with what a build server takes for a command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.campaigns import in_process

SIGN = "INJ"
"""In front of each payload: what follows it in an output is the payload as it is shown."""

_SECONDS = 60.0
_LONG = 100_000

PAYLOADS: tuple[bytes, ...] = (
    *(b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07", b"\x1b[2J\x1b[H", b"\xc2\x9b31m", b"\xc2\x85next", b"\x07\x08\x7f"),
    *(b"\rover", b"\nmodelopt: error: forged", b"\n\nhint: rm -rf", b"\n::error::forged", b"\n##[error]forged"),
    *("\u2028line\u2029".encode(), b"::warning::forged", b"##vso[task.setvariable]x", b"[red]markup[/red]", b"[/]"),
    *(
        b":smile:",
        b"<script>alert(1)</script>",
        b"<!-- ",
        b"| cell | `code`",
        b"[a](javascript:x)",
        b'","x":{"',
        b"\\u0000",
    ),
    *(b"$(touch new)`touch new`", b"; touch new #", b"$(shell touch new)", b"%s%n{0}{x.__class__}", b"'\"\\"),
    *("\u202egnp.exe".encode(), "\u2066\u2067\u2069".encode(), "\u200b\ufeff\U000e0041".encode(), b"\x00nul"),
    *(b"\xed\xa0\x80\xff", b"y" * _LONG),
)
"""Terminal escapes (also C1), line ends, build servers, markup, HTML, Markdown, JSON, shells, make, formats, bidi, …"""


@dataclass
class Parts:
    """A small model before it is put together.

    Attributes:
        name: The payload, with the sign in front.
        model: The model: y = Relu(x @ w), with a body and a function; each place changes it.
    """

    name: str
    model: onnx.ModelProto


Put = Callable[[Parts], None]


def _model() -> onnx.ModelProto:
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    bodies: dict[str, Any] = {}
    for which in ("then_branch", "else_branch"):
        node = helper.make_node("Neg" if which == "then_branch" else "Abs", ["h"], ["b"], name=which)
        bodies[which] = helper.make_graph([node], which, [], [helper.make_tensor_value_info("b", 1, None)])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("If", ["c"], ["i"], name="if", **bodies),
        helper.make_node("F", ["i"], ["f"], name="call", domain="local"),
        helper.make_node("LeakyRelu", ["f"], ["y"], name="relu", alpha=0.1),
    ]
    graph = helper.make_graph(
        *(nodes, "g"),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones((), bool), "c")],
    )
    inner = [helper.make_node("Relu", ["a"], ["r"], name="inner")]
    function = helper.make_function("local", "F", ["a"], ["r"], inner, [helper.make_opsetid("", 17)])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)


def _renamed(old: str) -> Put:
    """A value, an initializer, an input or an output, with all its users."""

    def put(parts: Parts) -> None:
        graph = parts.model.graph
        bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        for scope in (graph, *bodies):
            for node in scope.node:
                for names in (node.input, node.output):
                    names[:] = [parts.name if name == old else name for name in names]
        named: list[Any] = [*graph.input, *graph.output, *graph.initializer]
        for value in named:
            value.name = parts.name if value.name == old else value.name

    return put


def _dim(parts: Parts) -> None:
    for value in (*parts.model.graph.input, *parts.model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = parts.name


def _function_name(parts: Parts) -> None:
    parts.model.functions[0].name = parts.model.graph.node[2].op_type = parts.name


def _function_domain(parts: Parts) -> None:
    parts.model.functions[0].domain = parts.model.graph.node[2].domain = parts.name
    parts.model.opset_import[1].domain = parts.name


def _attribute_value(parts: Parts) -> None:
    parts.model.graph.node[3].attribute.append(helper.make_attribute("note", parts.name))


def _external(parts: Parts) -> None:
    tensor = parts.model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=parts.name)


def _broken_tensor(parts: Parts) -> None:
    parts.model.graph.initializer[0].name = parts.name
    parts.model.graph.initializer[0].dims[0] = 99


def _log(parts: Parts) -> None:
    """Provenance as modelopt writes it, forged."""
    entry = {"modelopt": parts.name, "recipe": parts.name, "input_sha256": parts.name, "target": parts.name}
    parts.model.metadata_props.add(key="modelopt", value=json.dumps([entry]))


def _set(change: Callable[[onnx.ModelProto, str], object]) -> Put:
    def put(parts: Parts) -> None:
        change(parts.model, parts.name)

    return put


PLACES: dict[str, Put] = {
    "node": _set(lambda model, name: setattr(model.graph.node[0], "name", name)),
    "value": _renamed("h"),
    "input": _renamed("x"),
    "output": _renamed("y"),
    "initializer": _renamed("w"),
    "dim": _dim,
    "operator": _set(lambda model, name: setattr(model.graph.node[3], "op_type", name)),
    "domain": _set(lambda model, name: setattr(model.graph.node[3], "domain", name)),
    "imported domain": _set(lambda model, name: model.opset_import.add(domain=name, version=1)),
    "attribute": _set(lambda model, name: setattr(model.graph.node[3].attribute[0], "name", name)),
    "attribute's value": _attribute_value,
    "metadata key": _set(lambda model, name: model.metadata_props.add(key=name, value="v")),
    "metadata value": _set(lambda model, name: model.metadata_props.add(key="k", value=name)),
    "log": _log,
    "doc string": _set(lambda model, name: setattr(model, "doc_string", name)),
    "graph": _set(lambda model, name: setattr(model.graph, "name", name)),
    "producer": _set(lambda model, name: setattr(model, "producer_name", name)),
    "function": _function_name,
    "function's domain": _function_domain,
    "node of a body": _set(lambda model, name: setattr(model.graph.node[1].attribute[0].g.node[0], "name", name)),
    "node of a function": _set(lambda model, name: setattr(model.functions[0].node[0], "name", name)),
    "missing value": _set(lambda model, name: model.graph.node[3].input.append(name)),
    "broken tensor": _broken_tensor,
    "data file": _external,
    "file": lambda parts: None,
}

_LIMITS = ("--timeout", "20", "--memory-limit", "1GB")
_MADE = ("--no-bench", *_LIMITS, "MODEL", "-o", "out.onnx")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("inspect", "-v", "MODEL"),
    ("inspect", "--json", "MODEL"),
    ("fold", "--explain", "-v", *_MADE),
    ("fuse", "--report", "report.md", *_MADE),
    ("prune", "--report", "report.json", "--explain", *_MADE),
    ("quantize", "--mode", "dynamic", "--json", *_MADE),
    ("quantize", "--calib", "random", "--no-search", "--explain", "-v", *_MADE),
    ("bench", "--budget", "0.1", "--warmup", "0", "--rounds", "2", "--processes", "1", *_LIMITS, "MODEL"),
    ("compare", "--no-bench", *_LIMITS, "MODEL", "MODEL"),
    ("run", "cpu-latency", "-v", *_MADE),
    ("log", "MODEL"),
    ("log", "--json", "MODEL"),
)

Item = tuple[int, str, int]
"""The number of a payload, the name of a place, and the number of a command."""


def items(*, reduced: bool) -> list[Item]:
    """All payloads in all places through all commands; or each payload, each place and each command a few times."""
    places = list(PLACES)
    if reduced:
        return [(n % len(PAYLOADS), places[n % len(places)], n * 7 % len(COMMANDS)) for n in range(len(PAYLOADS))]
    return [(n, place, at) for n in range(len(PAYLOADS)) for place in places for at in range(len(COMMANDS))]


def content(payload: bytes, place: str) -> bytes | None:
    """The model with the payload in this place; None where it fits no model."""
    name = SIGN.encode() + payload
    standing_in = "Q" * len(name)  # protobuf takes no text that is not UTF-8: it goes into the bytes
    parts = Parts(_decoded(name) or standing_in, _model())
    PLACES[place](parts)
    made = parts.model.SerializeToString()
    return made.replace(standing_in.encode(), name)


def _decoded(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _file_name(payload: bytes) -> str:
    name = (SIGN.encode() + payload).replace(b"/", b"_").replace(b"\0", b"0")[:200]
    return os.fsdecode(name) + ".onnx"


def attempt(folder: Path, item: Item) -> tuple[int | None, list[str]]:
    """Run one command on one model below `folder`; returns the exit code and what went wrong."""
    number, place, at = item
    work, temporary = in_process.emptied(folder / "work"), in_process.emptied(folder / "tmp")
    name = _file_name(PAYLOADS[number]) if place == "file" else "model.onnx"
    (work / name).write_bytes(content(PAYLOADS[number], place) or b"")
    before = set(in_process.snapshot(work))
    arguments = [name if part == "MODEL" else part for part in COMMANDS[at]]
    ended = in_process.call(arguments, work, temporary=temporary)
    found = in_process.wrong(ended)
    texts = {"stdout": ended.out, "stderr": ended.err}
    for report in ("report.md", "report.json"):
        if (work / report).exists():
            texts[report] = (work / report).read_text(encoding="utf-8", errors="surrogateescape")
            found += in_process.raw(report, texts[report])
    if ended.code == 0 and "--json" in arguments:
        found += _invalid_json("stdout", ended.out)
    if "report.json" in texts:
        found += _invalid_json("report.json", texts["report.json"])
    found += _shown(PAYLOADS[number].replace(b"/", b"_") if place == "file" else PAYLOADS[number], texts)
    new = {path for path in in_process.snapshot(work) if path not in before}
    found += [f"it made {path}" for path in new if not path.startswith(("out.onnx", "report."))]
    label = f"{PAYLOADS[number][:30]!r} as {place}, {' '.join(COMMANDS[at][:3])}"
    return ended.code, [f"{label}: {what}" for what in found]


def _invalid_json(where: str, text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [f"{where} is no JSON: {error}"]
    return []


def _shown(payload: bytes, texts: dict[str, str]) -> Iterator[str]:
    """What is not shown as it is written; only ASCII payloads that need no escape outside JSON and Markdown."""
    for where, text in texts.items():
        for line in text.splitlines():
            if line.lstrip().startswith(("::", "##[", "##vso[")):
                yield f"{where} has a line for a build server: {line[:60]!r}"
    if payload.isascii() and payload.decode().isprintable() and len(payload) < 40 and b"\\" not in payload:
        plain = payload.decode()
        for where in ("stdout", "stderr"):
            text = texts[where]
            if text[:1] == "{":  # JSON has escapes of its own
                continue
            for after in text.split(SIGN)[1:]:
                seen = after.replace("\n", "").partition("…")[0][: len(plain)]  # "…": a cell that was cut there
                if not plain.startswith(seen[:4]):
                    yield f"{where} shows {seen!r}"
    if "report.md" in texts and b"<script" in payload and "\n<script" in texts["report.md"].replace("\\<", ""):
        yield "report.md holds HTML"


def campaign(chosen: Sequence[Item], *, jobs: int) -> tuple[Counter[str], list[str]]:
    """Run all; returns how many ended in which way, and what went wrong."""
    return in_process.campaign(
        attempt,
        chosen,
        lambda item: f"{PAYLOADS[item[0]][:30]!r} as {item[1]}, {COMMANDS[item[2]][0]}",
        jobs=jobs,
        seconds=_SECONDS,
    )


def main() -> int:
    """Run the campaign and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--reduced", action="store_true", help="each payload and each place a few times")
    parser.add_argument("--step", type=int, default=1, help="take each N-th only")
    parser.add_argument("--first", type=int, default=0, help="and begin with this one: 0 to N-1 together are all")
    given = parser.parse_args()
    chosen = items(reduced=given.reduced)[given.first :: given.step]
    codes, failures = campaign(chosen, jobs=given.jobs)
    ended = ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))
    print(f"{len(PAYLOADS)} payloads in {len(PLACES)} places, {len(chosen)} calls: {ended}")
    print("\n".join(f"  {ascii(failure)[1:-1]}" for failure in failures))
    print(f"failed: {len(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
