"""What messages call a model that onnxruntime was given, and what they quote of its own text."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

OURS = "the model that modelopt made"
_MADE = frozenset({"result", "candidate"})
_SHOWN_TYPES = 3


def called(path: Path, what: str) -> str:
    """The model by its file where it is the user's; temporary files say nothing to anybody.

    Args:
        path: Its file.
        what: What the code that opens it calls it.
    """
    if what.startswith("model that"):
        return f"the {what}"
    ours_alone = path.parent.name.startswith("modelopt-") and path.parent.parent == Path(tempfile.gettempdir())
    if ours_alone and path.name == "stdin.onnx":
        return "the model on stdin"
    return OURS if ours_alone or what in _MADE or path.name.endswith(".tmp.onnx") else f"the model {path}"


def plain(text: str) -> str:
    """onnxruntime's text without the file that it names, and with lists of types in one order and cut."""
    text = re.sub(r"Load model from .*? failed:\s*", "", text)
    return re.sub(r"(inferred types: index=\d+,)(\S+)", lambda found: found[1] + _types(found[2]), text)


def _types(listed: str) -> str:
    """A set that is printed in another order each time."""
    types = sorted(re.findall(r"\w+\((?:[^()]|\([^()]*\))*\)", listed))
    more = f" and {len(types) - _SHOWN_TYPES} more" if len(types) > _SHOWN_TYPES else ""
    return f"{','.join(types[:_SHOWN_TYPES])}{more}" if types else listed
