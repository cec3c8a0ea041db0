"""Which feeds a verification constructs, and in which sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelopt.verification.feed_maker import Maker
from modelopt.verification.feeds import Shape, Values

BATCHES = (1, 2, 3)
"""Batch sizes of constructed feeds, where the batch is free."""

MANY = 17
"""A batch of many samples, for models that run quickly: the first axis may be a sequence where no other is free."""

_LONG = 7
_CHEAP_VALUES = 2**16

HEAVY_BYTES = 32 * 2**20
"""Above this size of weights runs take long: several kinds of values then share a feed, each in a row of its batch."""


def plan(maker: Maker, base: Shape, *, heavy: bool) -> Iterator[tuple[Sequence[Shape], tuple[Values, ...]]]:
    """The feeds after an ordinary one of sizes `base`: for each the shapes to try until one runs, and its values.

    Args:
        maker: Makes the feeds.
        base: Sizes that the model runs on.
        heavy: The model is large: several kinds of values share a feed where the batch is free.
    """
    batch = maker.has_free_batch
    ordinary = (Values.ORDINARY,)
    longer, shorter = _longer(base), _shorter(base)
    free = bool(maker.free_lengths())
    packed = batch and heavy
    if batch or free:
        pair = (Values.SCALED_UP, Values.SCALED_DOWN) if packed and maker.has_floats else ordinary
        yield _sized(longer if free else (base,), BATCHES[1] if batch else base.batch), pair
        three = (Values.ORDINARY, Values.ZEROS, Values.LARGE) if packed else ordinary
        yield _sized(shorter if free else (base,), BATCHES[2] if batch else base.batch), three
    else:
        yield (base,), ordinary
    wide = Shape(MANY if batch else base.batch, _LONG * base.length if free else base.length)
    if (batch or free) and not heavy and maker.count_values(wide) <= _CHEAP_VALUES:
        yield (wide, *_sized((base,), wide.batch)), ordinary
    if not packed:
        scales = (Values.SCALED_UP, Values.SCALED_DOWN) if maker.has_floats else ()
        yield from (((base,), (kind,)) for kind in (*scales, Values.ZEROS, Values.LARGE))
    if maker.has_constants:
        yield (base,), (Values.NEAR_CONSTANTS,)
    if len(maker.free_lengths()) > 1:
        unlike = {name: base.length + i for i, name in enumerate(maker.free_lengths()) if name != "?"}
        yield (Shape(base.batch, base.length, unlike),), ordinary
    if maker.has_floats:
        yield (base,), (Values.NAN,)
        yield (base,), (Values.INFINITE,)


def _sized(shapes: Sequence[Shape], batch: int) -> tuple[Shape, ...]:
    return tuple(Shape(batch, shape.length, shape.lengths) for shape in shapes)


def _longer(base: Shape) -> tuple[Shape, ...]:
    """Lengths above the one that runs, multiples among them, which strides and patches may need."""
    n = base.length
    return tuple(Shape(base.batch, length) for length in (n + 13, n + 16, 2 * n, n))


def _shorter(base: Shape) -> tuple[Shape, ...]:
    n = base.length
    return tuple(Shape(base.batch, length) for length in dict.fromkeys((max(n - 3, 1), max(n // 2, 1), n)))
