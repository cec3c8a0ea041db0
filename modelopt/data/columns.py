"""What the user says of the columns of a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """How the columns of a table are used.

    Attributes:
        label: The name of the column that holds the labels; None for ``label`` or ``labels``, where there is one.
        require_label: Whether a table without the column `label` is an error.
    """

    label: str | None = None
    require_label: bool = True
