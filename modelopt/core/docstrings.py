"""What a class or a function says of itself, also where Python drops docstrings (``PYTHONOPTIMIZE=2``)."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def docstring(of: type | Callable[..., Any]) -> str:
    """The docstring without its indentation, from the source where Python has dropped it; "" where there is none."""
    if sys.flags.optimize < 2:  # a dataclass without a docstring is given another text
        return inspect.cleandoc(of.__doc__ or "")
    file = getattr(inspect.getmodule(of), "__file__", None)
    return "" if file is None else _written(file).get(of.__qualname__, "")


@functools.cache
def _written(file: str) -> dict[str, str]:
    """The docstrings of a module's own classes and functions, by name."""
    try:
        statements = ast.parse(Path(file).read_text(encoding="utf-8")).body
    except OSError:
        return {}
    kinds = ast.ClassDef | ast.FunctionDef
    return {each.name: ast.get_docstring(each) or "" for each in statements if isinstance(each, kinds)}
