"""Which sizes and trip counts no feed has: the report lists them as not compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from modelopt.core.signature import FIRST, Signature, is_free, symbol_of, symbols_of
from modelopt.verification.feeds import Feed
from modelopt.verification.input_uses import InputUse


def not_reached(feeds: Sequence[Feed], signature: Signature, uses: Mapping[str, InputUse]) -> tuple[str, ...]:
    """What lies beyond all feeds, in words."""
    return (*_sizes_above(feeds, signature), *_trips_above(feeds, uses))


def _sizes_above(feeds: Sequence[Feed], signature: Signature) -> Iterator[str]:
    """The largest sizes of free dimensions in the feeds."""
    batches: list[int] = []
    lengths: dict[str, list[int]] = {}
    firsts = symbols_of(signature.inputs, FIRST)
    for feed in feeds:
        for spec in signature.inputs:
            for axis, (dim, size) in enumerate(zip(spec.shape or (), feed.arrays[spec.name].shape, strict=False)):
                if not is_free(dim):
                    continue
                if axis == 0 or symbol_of(dim) in firsts:
                    batches.append(size)
                else:
                    lengths.setdefault(symbol_of(dim) or "?", []).append(size)
    if batches:
        yield f"batch sizes above {max(batches)}"
    for name, sizes in lengths.items():
        what = "free dimensions" if name == "?" else f"sizes of '{name}'"
        yield f"{what} above {max(sizes)}"


def _trips_above(feeds: Sequence[Feed], uses: Mapping[str, InputUse]) -> Iterator[str]:
    """The largest trip counts in the feeds."""
    for name, use in uses.items():
        counts = [int(feed.arrays[name].max()) for feed in feeds if use.is_count and feed.arrays[name].size]
        if counts:
            yield f"more than {max(counts)} trips by '{name}'"
