"""The noise floor of this machine: the ratio of latencies that a model and its own copy show, kept between runs.

It is measured when the user asks for it (``bench --calibrate-noise``), and stored per processor and number of threads
in ``$XDG_CACHE_HOME/modelopt/noise.json`` (``~/.cache`` where that is not set). Nothing else is written there.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import msgspec

from modelopt.io import replace_file
from modelopt.measure.environment import Environment
from modelopt.measure.speed import FLOOR, Ratio


def of(copies: Ratio) -> float:
    """The floor that a model and its copy show: the largest distance from 1 within the interval of their ratio."""
    return max(FLOOR, math.exp(max(-math.log(copies.low), math.log(copies.high))) - 1)


def stored(env: Environment) -> float:
    """The floor that was measured on such a machine, or `FLOOR`."""
    return max(FLOOR, _read().get(_key(env), FLOOR))


def store(env: Environment, floor: float) -> Path:
    """Keep a floor for later runs on such a machine; returns the file.

    Raises:
        OSError: The folder cannot be made.
        EnvironmentLacks: The disk is full.
        InputError: The folder cannot be written to.
    """
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(_read() | {_key(env): floor})))
    return path


def _key(env: Environment) -> str:
    return f"{env.cpu}, {env.cores} cores, {env.threads} threads"


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelopt" / "noise.json"


def _read() -> dict[str, float]:
    """What is stored; nothing where the file is missing, unreadable or of another form."""
    with contextlib.suppress(OSError, RuntimeError, msgspec.MsgspecError):  # RuntimeError: there is no home
        return msgspec.json.decode(_file().read_bytes(), type=dict[str, float])
    return {}
