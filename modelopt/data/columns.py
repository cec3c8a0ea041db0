"""What the user says of the columns of a table or a file of texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Columns:
    """How the columns of a table are used.

    Attributes:
        label: The name of the column that holds the labels; None for ``label`` or ``labels``, where there is one.
        require_label: Whether a table without the column `label` is an error.
        tokenizer: The ``tokenizer.json`` that makes tokens of texts; None for data that are no texts.
    """

    label: str | None = None
    require_label: bool = True
    tokenizer: Path | None = None
