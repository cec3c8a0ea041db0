"""What a search over the widths of channels, or over residual blocks, found, as data."""

from __future__ import annotations

import msgspec


class PruningStep(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a search: some channels removed from each group, or some blocks.

    Attributes:
        removed: The share of all channels or blocks that is removed.
        macs: Its multiply-accumulates as a share of the input's; None where they are not known.
        size_bytes: Its size.
        kernels_ns: The nanoseconds that onnxruntime's kernels take, by its profile; None where that was not measured.
        drop: How much accuracy fell on the data that the choice is made with, as a fraction; None where that is not
            known.
        checked: How much it fell on data that the choice was not made with; None where that was not measured.
        kept: Whether it is the result of the search.
    """

    removed: float
    macs: float | None
    size_bytes: int
    kernels_ns: float | None = None
    drop: float | None = None
    checked: float | None = None
    kept: bool = False


class GroupWidth(msgspec.Struct, frozen=True, kw_only=True):
    """A group of channels, or a residual block, which is there (1) or not (0).

    Attributes:
        group: The name of the first node that makes them; of a block, of the node that adds.
        kind: ``channel``, ``head`` or ``block``.
        before: How many there are in the input.
        after: How many there are in the result.
        error: The squared error over the squared output with some of its channels removed, as measured.
        error_at: How many channels that model kept.
        importance: How much a block matters, by the measure of the pass; None for channels.
    """

    group: str
    kind: str
    before: int
    after: int
    error: float | None = None
    error_at: int | None = None
    importance: float | None = None


class PruningFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a search over widths or blocks found.

    Attributes:
        steps: The models that were run, the float model first, by what was removed.
        widths: The groups, or the blocks.
        unit: What is removed: ``channel``, of groups and heads, or ``block``.
        align: The multiple that widths are kept at.
        align_measured: Whether that was measured here.
        refused: By reason, how many channels, or sums that look like the end of a block, must stay.
        missed: Targets that are not met, as clauses.
    """

    steps: tuple[PruningStep, ...] = ()
    widths: tuple[GroupWidth, ...] = ()
    unit: str = "channel"
    align: int = 1
    align_measured: bool = False
    refused: dict[str, int] = {}
    missed: tuple[str, ...] = ()
