"""How messages name the model that onnxruntime was given, and which part of onnxruntime's text they quote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelopt.core import temporary
from modelopt.graph.walking import CONTRIB_DOMAIN

OURS = "the model that modelopt made"
_MADE = frozenset({"result", "candidate"})
_SHOWN_TYPES = 3


def called(path: Path, what: str) -> str:
    """How messages name a model: by its path where it is the user's file; the path of a temporary file says nothing.

    Args:
        path: Its file.
        what: What the code that opens it calls it.
    """
    if what.startswith("model that"):
        return f"the {what}"
    ours_alone = temporary.is_temporary(path)
    if ours_alone and path.name == "stdin.onnx":
        return "the model on stdin"
    return OURS if ours_alone or what in _MADE or path.name.endswith(".tmp.onnx") else f"the model {path}"


_LONGEST = 4000
"""Names in a hostile model may be long, and what they make of a message need not be searched to its end."""

_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ :\s*")
_LOADING = re.compile(r"Load model from .*? failed:\s*")
_RUNNING = re.compile(
    r"Non-zero status code returned while (?:running|initializing) (?P<type>\w+) node\. "
    r"Name:'(?P<name>[^\n]*?)' Status Message:\s*"
)
_IN_NODE = re.compile(r"This is an invalid model\. In Node, \(\"(?P<name>[^\n]*?)\", (?P<type>\w+), .*? , Error\s+")
_PLACE = re.compile(r"(?:/[^\s:]*/)?\w+\.(?:cc|cpp|cu|cuh|h|hpp):\d+\s+")
_SIGNATURE = re.compile(
    r"(?:[\w:<>,*&~\[\]]+\s+)*?[\w<>,*&~]*::[\w:<>,*&~=()\[\]+\-]*?\((?:[^()]|\([^()]*\))*\)(?:\s*const\b)?"
    r"(?:\s*\[with [^\]]*\])?\s*"
)
_FUNCTION = re.compile(r"[\w:~]+\s+")
_CONDITION = re.compile(r"\S[^\n]{0,300}? was false\.\s*(?=\S)")
_ADVICE = re.compile(r"\s*Please fix either the inputs/outputs or the model\.\s*")


def plain(text: str) -> str:
    """onnxruntime's text without what only its developers can use.

    That is the file that it was given, its status code, and the place in its sources: a file, a line, a function's
    signature, and the condition that failed where words follow it. Lists of types are sorted and cut.
    """
    text = _LOADING.sub("", _STATUS.sub("", text[:_LONGEST]))
    text = _RUNNING.sub(_node, text)
    text = _IN_NODE.sub(_node, text)
    text = _ADVICE.sub("", _without_places(text))
    text = re.sub(r"(inferred types: index=\d+,)(\S+)", lambda found: found[1] + _types(found[2]), text)
    return " ".join(text.split())


def _node(found: re.Match[str]) -> str:
    """How a node is called: by its operator, and by its name where it has one."""
    return f"{found['type']} '{found['name']}': " if found["name"] else f"{found['type']}: "


def _without_places(text: str) -> str:
    """Take out each file and line of C++, and the function and condition that follow it."""
    kept = []
    while (place := _PLACE.search(text)) is not None:
        kept.append(text[: place.start()])
        text = text[place.end() :]
        function = _SIGNATURE.match(text) or _FUNCTION.match(text)
        if function is not None:
            text = text[function.end() :]
        condition = _CONDITION.match(text)
        if condition is not None:
            text = text[condition.end() :]
    return "".join([*kept, text])


@dataclass(frozen=True)
class Operator:
    """An operator that onnxruntime does not have.

    Attributes:
        name: Its type.
        domain: Its domain; empty for the standard one.
        opset: The version that the model asks for, where onnxruntime says it.
    """

    name: str
    domain: str
    opset: str = ""

    @property
    def is_custom(self) -> bool:
        """Whether a library may bring it: neither ONNX nor onnxruntime themselves define its domain."""
        return self.domain not in _OWN_DOMAINS

    def __str__(self) -> str:
        where = f" of the domain '{self.domain}'" if self.domain else ""
        return f"operator '{self.name}'{where}" + (f" in opset {self.opset}" if self.opset else "")


_OWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", CONTRIB_DOMAIN, "com.microsoft.nchwc"})


def missing_operator(text: str) -> Operator | None:
    """The operator that onnxruntime says it does not have; None where it says something else."""
    found = re.search(r"Fatal error: (\S*):([^\s:]+)\(-?[0-9]+\) is not a registered function/op", text)
    if found is not None:
        return Operator(found[2], "" if found[1] == "ai.onnx" else found[1])
    found = re.search(
        r'In Node, \(".*", ([^\s,"]+), "([^"]*)", .*No Op registered for \1 with domain_version of (\d+)', text
    )
    return None if found is None else Operator(found[1], found[2], found[3])


def why_no_library(text: str, library: str) -> str:
    """What onnxruntime says of a library of operators, without its path."""
    if "symbol RegisterCustomOps" in text:
        return "it does not export RegisterCustomOps"
    return text.rpartition(f"{library}: ")[2] or text


def _types(listed: str) -> str:
    """The first of a set of types, sorted: onnxruntime prints it in another order each time."""
    types = sorted(re.findall(r"\w+\((?:[^()]|\([^()]*\))*\)", listed))
    more = f" and {len(types) - _SHOWN_TYPES} more" if len(types) > _SHOWN_TYPES else ""
    return f"{','.join(types[:_SHOWN_TYPES])}{more}" if types else listed
