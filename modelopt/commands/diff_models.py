"""`diff`: what two model files differ in, without running them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelopt import io
from modelopt.commands import option_groups
from modelopt.core import temporary
from modelopt.inspection.difference import ModelDiff
from modelopt.inspection.model_diff import differences


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Options of `diff`.

    Attributes:
        a: The first model.
        b: The second one.
        allow_hardlinks: Accept external data files that are hardlinks.
        max_nodes: How many nodes and initializers to accept; None: `io.MAX_NODES`.
    """

    a: Path = field(kw_only=False)
    b: Path = field(kw_only=False)
    allow_hardlinks: bool = False
    max_nodes: int | None = None


def diff(options: DiffOptions) -> ModelDiff:
    """Compare two model files.

    Raises:
        ModeloptError: Any of its kinds.
    """
    accepted = option_groups.accepted(options)
    with temporary.folder() as scratch:
        first, second = (io.load(path, scratch=scratch, accepted=accepted) for path in (options.a, options.b))
        return differences(first, second)
