"""The options of a contract: limits that a result must meet."""

from __future__ import annotations

from collections.abc import Callable

import click

from modelopt.cli.declaring import Decorated, group, option
from modelopt.cli.parameter_types import Quantity
from modelopt.core import quantities


def limit(
    *names: str,
    read: Callable[[str], float],
    kind: str,
    help: str,  # noqa: A002
) -> Callable[[Decorated], Decorated]:
    """The option of a gate on one figure.

    Args:
        names: Of the option, and of its parameter where that is called otherwise.
        read: A function of `core.quantities`.
        kind: What it reads, for ``--help`` and errors.
        help: Its help.
    """
    return option(*names, type=Quantity(read, kind), heading="Gates", help=help)


_DROP = limit(
    "--max-drop",
    read=quantities.share,
    kind="fraction",
    help="Fail if the metric falls by more than this, e.g. 1%.",
)
_SPEEDUP = option(
    "--min-speedup",
    type=click.FloatRange(0, min_open=True),
    metavar="RATIO",
    heading="Gates",
    help="Fail if it is not at least this many times as fast as what it is compared with.",
)
_LATENCY = limit(
    "--max-latency",
    "max_latency_ns",
    read=quantities.nanoseconds,
    kind="time",
    help="Fail if a run takes longer: 2ms.",
)
_MEMORY = limit(
    "--max-memory",
    "max_memory_bytes",
    read=quantities.n_bytes,
    kind="size",
    help="Fail if the peak memory of a process that runs it is larger: 200MB.",
)
_LOAD = limit(
    "--max-load",
    "max_load_ns",
    read=quantities.nanoseconds,
    kind="time",
    help="Fail if creating a session takes longer: 100ms.",
)
_SIZE = limit(
    "--max-size",
    read=quantities.size,
    kind="size",
    help="Fail if the result is larger: 50% (of the input) or 3MB.",
)
ON_INCONCLUSIVE = option(
    "--on-inconclusive",
    type=click.Choice(["pass", "fail"]),
    heading="Gates",
    help="What a gate does that cannot be decided on what was measured: pass with a warning, or end with exit code 5. "
    "[default: pass where the loss on the samples is within --max-drop, else fail]",
)

MEASURED = group(_SPEEDUP, _LATENCY, _MEMORY, _LOAD, ON_INCONCLUSIVE)
"""The gates of `bench`."""

COMPARED = group(_DROP, _SPEEDUP, _SIZE, _LATENCY, _MEMORY, _LOAD, ON_INCONCLUSIVE)
"""The gates of `compare`."""

GATES = group(
    COMPARED,
    option(
        "--require-verified",
        is_flag=True,
        heading="Gates",
        help="Fail if what exact passes changed could not be compared with the original.",
    ),
    option("--keep", is_flag=True, heading="Gates", help="Write the output even when a gate fails."),
)
"""The gates of commands that make a model."""
