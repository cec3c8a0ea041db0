"""What a search over the widths of channels found, as data."""

from __future__ import annotations

import msgspec


class PruningStep(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a search: some channels removed from each group.

    Attributes:
        removed: The share of all channels that is removed.
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
    """A group of channels.

    Attributes:
        group: The name of the first node that makes them.
        kind: ``channel`` or ``head``.
        before: How many there are in the input.
        after: How many there are in the result.
        error: The squared error over the squared output with some of its channels removed, as measured.
        error_at: How many channels that model kept.
    """

    group: str
    kind: str
    before: int
    after: int
    error: float | None = None
    error_at: int | None = None


class PruningFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a search over widths found.

    Attributes:
        steps: The models that were run, the float model first, by what was removed.
        widths: The groups.
        align: The multiple that widths are kept at.
        align_measured: Whether that was measured here.
        refused: By reason, how many channels must stay.
        missed: Targets that are not met, as clauses.
    """

    steps: tuple[PruningStep, ...] = ()
    widths: tuple[GroupWidth, ...] = ()
    align: int = 1
    align_measured: bool = False
    refused: dict[str, int] = {}
    missed: tuple[str, ...] = ()
