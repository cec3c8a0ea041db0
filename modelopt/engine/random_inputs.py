"""Finds random inputs that a model runs on: without data, latency and outputs are measured on them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from modelopt.core.errors import ModeloptError, Refused
from modelopt.core.signature import Signature
from modelopt.data.synthetic import NO_RANDOM, RandomDataset, is_picture
from modelopt.runtime.worker_session import Session
from modelopt.verification.feed_maker import Maker
from modelopt.verification.feeds import Shape
from modelopt.verification.fitting import LIKELY_ATTEMPTS, Needs, attempts, with_names
from modelopt.verification.nothing_runs import nothing_runs
from modelopt.verification.prepare import PATIENCE_TO_START_SECONDS, RUN_SECONDS

_PICTURE_SIDE = 224
"""The side of a random image, in pixels, where the model leaves it free: that of most ImageNet models. With the least
size that runs, often one pixel, latency would say nothing."""


def find(
    session: Session,
    signature: Signature,
    needs: Needs,
    *,
    n: int,
    seed: int,
    free_dims: Mapping[str, int] | None = None,
    hint: str,
) -> RandomDataset:
    """`n` samples of noise that the model runs on. Sizes of free dimensions and ranges of integers are found by trying.

    Args:
        session: The model, open.
        signature: Its inputs.
        needs: What its graph asks of them.
        n: How many samples.
        seed: Of the noise.
        free_dims: Sizes of free dimensions that the user named.
        hint: What helps where none runs.

    Raises:
        InputError: The model runs on none, a free dimension is not there, or a sample would be too large.
        Refused: An input is a string, or no tensor.
    """
    maker = Maker(with_names(signature), needs.uses, seed)
    started = time.monotonic()
    note: str | None = None
    first = (_PICTURE_SIDE,) if any(map(is_picture, signature.inputs)) else ()
    for number, attempt in enumerate(attempts(maker.signature, needs, free_dims, first=first)):
        each, shape = replace(maker, fit=attempt.fit), Shape(1, attempt.length)
        if number >= LIKELY_ATTEMPTS and time.monotonic() - started > PATIENCE_TO_START_SECONDS:
            break
        try:
            shapes = each.shapes(shape, 1)
        except ModeloptError as error:
            error.hint = hint if error.hint == NO_RANDOM else error.hint
            raise
        too_large = None if free_dims else needs.why_too_large(sum(map(math.prod, shapes)))
        if too_large is not None:  # sizes that the user gave are meant
            note = note or too_large
            continue
        found = RandomDataset.of(
            signature.inputs, shapes, n=n, seed=seed, ranges=each.ranges(shape), words=each.words()
        )
        try:
            session.execute(next(iter(found)).feeds, seconds=RUN_SECONDS - (time.monotonic() - started))
        except Refused as refusal:
            note = note or refusal.note
            if time.monotonic() - started > RUN_SECONDS:
                break
            continue
        return found
    raise nothing_runs("random", note, signature, hint=hint)
