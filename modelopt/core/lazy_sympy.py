"""Imports sympy only when something computes with symbolic dimensions: its import takes a third of our start-up.

onnx_ir imports it for arithmetic on symbolic dimensions, which modelopt's own commands do not do. A stand-in takes its
place; the first use of anything in it, except by onnx_ir's own tables while it is being imported, loads sympy itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_NAME = "sympy"


class StandIn(ModuleType):
    """What `import sympy` finds until sympy is used."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__path__" or "onnx_ir" not in sys.modules or _is_imported("onnx_ir"):
            return getattr(_load(), attribute)
        return _called_later(attribute)


def install() -> None:
    """Put the stand-in in place, unless sympy or onnx_ir is imported already."""
    if _NAME not in sys.modules and "onnx_ir" not in sys.modules:
        sys.modules[_NAME] = StandIn(_NAME)


def _load() -> ModuleType:
    if isinstance(sys.modules.get(_NAME), StandIn):
        del sys.modules[_NAME]
    return importlib.import_module(_NAME)


def _is_imported(name: str) -> bool:
    specification = sys.modules[name].__spec__
    return not getattr(specification, "_initializing", False)


def _called_later(attribute: str) -> Callable[..., Any]:
    """A function of sympy that onnx_ir puts into a table."""

    def call(*arguments: Any) -> Any:
        return getattr(_load(), attribute)(*arguments)

    return call
