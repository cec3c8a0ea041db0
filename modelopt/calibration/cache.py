"""A cache of calibrations by model and data, so that passes that need the same one run it once; in a file if asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import io
from modelopt.calibration.histogram import Collector, State
from modelopt.core.errors import InputError
from modelopt.data import Dataset, user_files
from modelopt.io import serialize

_FORMAT = "modelopt-calibration-1"
_MAX_FILE_BYTES = 256 << 20
"""The largest file that is read: histograms of a thousand tensors take some ten megabytes."""

_HINT = "name another file, or --force replaces this one"


@dataclass(frozen=True)
class Seen:
    """What the samples showed of one value.

    Attributes:
        collector: None for one that was not observed.
        reason: Why it was not; a clause whose subject is the tensor.
        runs: How often a sample executed its control-flow body, on average; None for the main graph.
    """

    collector: Collector | None = None
    reason: str | None = None
    runs: float | None = None


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    state: State | None = None
    counts: tuple[int, ...] = ()
    reason: str | None = None
    runs: float | None = None


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    samples: int
    tensors: dict[str, _Tensor]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    entries: dict[str, _Entry]


class Calibrations:
    """All calibrations of a run; of earlier runs too when they have a file.

    Args:
        path: A JSON file, read now if it is there and rewritten with each calibration; None to keep nothing.
        force: Whether a file that holds something else may be replaced; an empty one always may.

    Raises:
        InputError: The file holds something else, or cannot be read.
    """

    def __init__(self, path: Path | None = None, *, force: bool = False) -> None:
        self._path = path
        self._samples: dict[str, int] = {}
        self._seen: dict[str, dict[str, Seen]] = {}
        if path is not None and path.exists() and not (path.is_file() and path.stat().st_size == 0):
            self._read(path, force=force)

    def samples(self, key: str) -> int:
        """How many samples that calibration ran; 0 when there was none."""
        return self._samples.get(key, 0)

    def known(self, key: str, bins: int) -> Mapping[str, Seen]:
        """By name, what was seen with at least so many bins."""
        known = self._seen.get(key, {})
        return {name: seen for name, seen in known.items() if seen.collector is None or seen.collector.bins >= bins}

    def add(self, key: str, samples: int, seen: Mapping[str, Seen]) -> None:
        """Remember what was seen.

        Raises:
            EnvironmentLacks: The disk is full.
            InputError: The file's folder cannot be written to.
        """
        self._samples[key] = samples
        self._seen.setdefault(key, {}).update(seen)
        if self._path is not None:
            self._write(self._path)

    def _read(self, path: Path, *, force: bool) -> None:
        try:
            stored = msgspec.json.decode(user_files.read_bytes(path, _MAX_FILE_BYTES), type=_File)
            if stored.format != _FORMAT:
                raise ValueError(f"its format is {stored.format!r}")
            self._samples = {key: entry.samples for key, entry in stored.entries.items()}
            self._seen = {
                key: {name: _seen(tensor) for name, tensor in entry.tensors.items()}
                for key, entry in stored.entries.items()
            }
        except OSError as error:
            raise InputError(f"the calibration cache {path} cannot be read", note=error.strerror) from None
        except (ValueError, OverflowError, RecursionError, msgspec.DecodeError) as error:
            self._samples, self._seen = {}, {}
            if force:
                return
            raise InputError(f"{path} is not a calibration cache", note=str(error), hint=_HINT) from None

    def _write(self, path: Path) -> None:
        entries = {
            key: _Entry(self._samples[key], {name: _tensor(one) for name, one in seen.items()})
            for key, seen in self._seen.items()
        }
        io.replace_file(path, msgspec.json.encode(_File(_FORMAT, entries)))


def key_of(model: ir.Model, data: Dataset) -> str:
    """A SHA-256 (hex) over the serialized model and the data's digest."""
    total = hashlib.sha256()
    for chunk in serialize.chunks(model):
        total.update(chunk)
    return hashlib.sha256(f"{total.hexdigest()} {data.digest()} {len(data)}".encode()).hexdigest()


def _seen(stored: _Tensor) -> Seen:
    collector = None if stored.state is None else Collector.restored(stored.state, np.array(stored.counts, np.int64))
    return Seen(collector, stored.reason, stored.runs)


def _tensor(seen: Seen) -> _Tensor:
    if seen.collector is None:
        return _Tensor(None, (), seen.reason, seen.runs)
    state, counts = seen.collector.state()
    return _Tensor(state, tuple(counts.tolist()), seen.reason, seen.runs)
