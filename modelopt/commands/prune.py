"""`prune`: the smallest weights become zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.recipe.pass_options import make_pass


@dataclass(frozen=True, kw_only=True)
class PruneOptions(OptimizeOptions):
    """Options of `prune`; None leaves a default of the pass prune-magnitude.

    Attributes:
        sparsity: The fraction of weights to set to zero.
        scope: Rank weights within each layer ("layer"), or over all of them ("global").
        pattern: Where zeros may be: unstructured, 2:4 or 4:8.
        include: Only nodes and tensors of these names: a glob, re:REGEX, or op:TYPE.
        exclude: Not nodes and tensors of these names.
    """

    sparsity: float | None = None
    scope: str | None = None
    pattern: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def plan(self) -> Plan:
        """The recipe; nothing is tried beside it."""
        asked: dict[str, Any] = {
            name: getattr(self, name) for name in ("sparsity", "scope", "pattern") if getattr(self, name) is not None
        }
        asked |= {name: list(getattr(self, name)) for name in ("include", "exclude") if getattr(self, name)}
        return Plan(make_recipe("prune", [make_pass("prune-magnitude", asked)], self), "pruned")
