"""What child processes may use for a certain model, and the refusal of a model that needs more."""

from __future__ import annotations

import onnx_ir as ir

from modelopt.consteval.run_needs import RunNeeds, run_needs
from modelopt.core.errors import Refused
from modelopt.io import Loaded
from modelopt.runtime.limits import FEED_FACTOR, FREE_BYTES, OWN_FACTOR, Limits

_GIB = 2**30


def for_model(limits: Limits | None, model: ir.Model, size_bytes: int) -> tuple[Limits, RunNeeds]:
    """The limits for child processes that run this model, and what a run of it needs.

    Args:
        limits: What the user asked for; None for the default.
        model: The model.
        size_bytes: Of the model with its external data.
    """
    needs = run_needs(model)
    return (limits or Limits.default()).for_model(size_bytes, needs.total_bytes), needs


def require(limits: Limits, needs: RunNeeds, shown: str) -> None:
    """Refuse to run a model where one of its values alone is larger than the limit of memory.

    Raises:
        Refused: It is.
    """
    growth = limits.growth(needs.input_bytes)
    allowed = limits.memory_bytes if growth is None else min(limits.memory_bytes, growth)
    by_inputs = FEED_FACTOR * needs.input_bytes >= needs.memory_bytes  # such inputs are not made: see `feed_maker`
    if needs.memory_bytes <= allowed or by_inputs:
        return
    why = f"{OWN_FACTOR} × the model's size + {_gib(FREE_BYTES)}, and {FEED_FACTOR} × the size of its inputs"
    raise Refused(
        f"a run of {shown} needs at least {_gib(needs.memory_bytes)} of memory, and may use {_gib(allowed)}",
        note=f"{needs.of} alone takes that" + (f"; the limit is {why}" if limits.is_default else ""),
        hint=f"--memory-limit {-(-4 * needs.memory_bytes // _GIB)}GiB, if this is meant to be so large",
    )


def required(limits: Limits | None, loaded: Loaded) -> tuple[Limits, RunNeeds]:
    """`for_model` of a model that is going to run, and `require`.

    Raises:
        Refused: One of its values alone is larger than the limit of memory.
    """
    allowed, needs = for_model(limits, loaded.model, loaded.size_bytes)
    require(allowed, needs, loaded.shown)
    return allowed, needs


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:,.1f} GiB" if n_bytes < 2**60 else f"2^{n_bytes.bit_length() - 1} bytes"
