"""What a pass is: a frozen value whose fields are its options and whose `apply` rewrites a model in place."""

from __future__ import annotations

import dataclasses
import re
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.core.docstrings import docstring
from modelopt.core.plural import counted
from modelopt.core.signature import Signature
from modelopt.graph.match import Mismatch
from modelopt.patterns.rewriter import Rewrite, rewrite_nodes
from modelopt.quant.static.overrides import Overrides


def option(default: Any, text: str) -> Any:
    """A pass option: a dataclass field with a default and a line of documentation."""
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """Base of all passes. Line 1 of a subclass's docstring is its summary; its fields are its options.

    Attributes:
        name: What recipes call it: the name of the class in lower case, with hyphens (``FuseGelu``: ``fuse-gelu``).
        effect: What it claims about the outputs.
        needs_data: Whether it runs the model on calibration data.
        keeps_signature: Whether inputs and outputs stay as declared; where they do not, see `signature_after`.
        contrib: Whether it leaves operators of onnxruntime's own domain, which no other runtime knows; where
            options decide it, see `leaves_contrib`.
        finite_only: Whether an exact pass promises equal outputs for finite inputs only, because the operator that it
            makes treats NaN and infinities in another way.
        prepares: Whether it only prepares a model for the passes behind it: its result alone is not an optimization.
        shrinks: Whether its purpose is a smaller file, so that a larger one is not an optimization.
    """

    name: ClassVar[str]
    effect: ClassVar[Effect]
    needs_data: ClassVar[bool] = False
    keeps_signature: ClassVar[bool] = True
    contrib: ClassVar[bool] = False
    finite_only: ClassVar[bool] = False
    prepares: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Derive the name of a subclass, and refuse one that claims no effect or has no summary."""
        super().__init_subclass__()
        derived = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        if cls.__dict__.get("name", derived) != derived:
            raise TypeError(f"{cls.__name__}.name must be {derived!r}, not {cls.name!r}")
        cls.name = derived
        if not hasattr(cls, "effect"):
            raise TypeError(f"{cls.__name__} must set the class attribute 'effect'")
        if not cls.__doc__ and sys.flags.optimize < 2:  # Python drops docstrings there
            raise TypeError(f"{cls.__name__} needs a docstring: its first line is the pass's summary")

    @abstractmethod
    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Rewrite `model` in place and say what was done.

        A pass never prints, saves, times or catches broadly. It raises `Refused` for what it does not
        support.
        """

    def check(self) -> None:
        """Refuse options that suit no model. The engine calls it before it reads a model.

        Raises:
            InputError: An option cannot be read, or names what does not exist.
        """
        return

    def calibrates(self) -> bool:
        """Whether it reads calibration data where there are some, with these options."""
        return self.needs_data

    def leaves_contrib(self) -> bool:
        """Whether, with these options, it leaves operators of onnxruntime's own domain."""
        return self.contrib

    def signature_after(self, signature: Signature) -> Signature:
        """The signature after this pass; a pass with ``keeps_signature = False`` overrides it.

        Data are opened for the signature that the recipe ends with, and must fit the original too.
        """
        return signature

    def declared_after(self, signature: Signature) -> Signature:
        """The signature that the model itself declares after this pass; the engine checks it.

        It differs from `signature_after` where the model takes another type than the data have.
        """
        return self.signature_after(signature)

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return docstring(cls).splitlines()[0]

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, by their written names (``per-channel``)."""
        return {
            f.name.replace("_", "-"): plain(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={_shown(value)}" for key, value in self.options().items())
        return f"{self.name}({chosen})" if chosen else self.name


_LONGEST = 24
"""Characters of an option's list that a column of a report has room for; the recipe in the report has all of it."""


def _shown(value: object) -> str:
    """An option in a report: of a long list, such as the nodes that a search left in float, only how long it is."""
    text = str(value)
    return f"[{counted(len(value), 'item')}]" if isinstance(value, list) and len(text) > _LONGEST else text


class RewritePass(Pass):
    """A pass that looks at each node by itself and rewrites where its pattern holds, until it holds nowhere.

    A subclass gives `rule`. The loop around it is `rewrite_nodes`, which also removes what nothing reads any more.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Apply the rule to every node of every scope."""
        return rewrite_nodes(model, partial(self.rule, names=graph.NameSource(model)))

    @abstractmethod
    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        """The edit for the pattern that `node` belongs to, or why there is none. It changes nothing itself.

        Args:
            node: The node that the pattern starts or ends with.
            opset: The version of the standard operators in its scope.
            names: Names for the values that the edit makes.
        """


def plain(value: Any) -> Any:
    """An option's value as YAML and JSON hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Overrides):
        return value.plain()
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value
