"""WAV and FLAC files, read with bounds on what a hostile one can take."""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.data import user_files
from modelopt.data.preprocess import RATES

AUDIO_SUFFIXES = (".wav", ".flac")

MAX_VALUES = 16_000_000
"""The longest file, in values of one channel, before and after resampling: 16 minutes at 16,000 a second."""

MAX_CHANNELS = 64
"""The most channels, which are mixed into one."""

_FORMATS = ("WAV", "WAVEX", "FLAC")
_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class Sound:
    """What the header of a file says.

    Attributes:
        rate: Values per second.
        length: Values of each channel.
        channels: Their number.
    """

    rate: int
    length: int
    channels: int

    def length_at(self, rate: int) -> int:
        """About how many values a channel has at another rate."""
        return round(self.length * rate / self.rate)


def is_audio(path: Path) -> bool:
    """Whether the file's name is that of a sound file."""
    return path.suffix.lower() in AUDIO_SUFFIXES


def sound_of(path: Path) -> Sound:
    """What the header says; the sound itself is not read.

    Raises:
        EnvironmentLacks: The package soundfile is not installed.
        InputError: The file is damaged, no WAV or FLAC, empty, or longer than is read.
    """
    size_bytes = user_files.regular_size(path)
    library = _library("soundfile")
    _check_chunks(path, size_bytes)
    try:
        found = library.info(str(path))
    except (library.SoundFileError, RuntimeError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged or no sound file", note=str(error), hint="WAV and FLAC are read") from None
    if found.format not in _FORMATS:
        raise InputError(f"{path} is a {found.format} file", hint="WAV and FLAC are read")
    if not found.frames:
        raise InputError(f"{path} holds no sound")
    if found.frames > MAX_VALUES or found.channels > MAX_CHANNELS or found.samplerate not in RATES:
        seconds = found.frames / max(1, found.samplerate)
        raise InputError(
            f"{path} is too long",
            note=f"a file of {size_bytes} bytes that says {seconds:.0f} s of {found.channels} channels at "
            f"{found.samplerate} a second; the limit is {MAX_VALUES:,} values of {MAX_CHANNELS} channels",
            hint="cut it into several files",
        )
    return Sound(found.samplerate, found.frames, found.channels)


def _check_chunks(path: Path, size_bytes: int) -> None:
    """Refuse a WAV file that says more sound than it holds: what reads it takes what is there, in silence."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            place = len(head)
            while head[:4] == b"RIFF" and len(chunk := file.read(8)) == 8:
                name, n_bytes = struct.unpack("<4sI", chunk)
                place += 8 + n_bytes + n_bytes % 2
                if name == b"data":
                    if place - n_bytes % 2 > size_bytes:
                        note = f"its header says {n_bytes} bytes of sound, the file has {size_bytes}"
                        raise InputError(f"{path} is damaged", note=note)
                    return
                file.seek(place)
    except OSError as error:
        raise InputError(f"cannot read {path}", note=str(error)) from None


def read_mono(path: Path, rate: int) -> np.ndarray:
    """The mean of all channels, float32[length] in -1 to 1, at this rate.

    Raises:
        EnvironmentLacks: A package is not installed.
        InputError: The file is damaged, or it would be too long.
    """
    sound = sound_of(path)
    library = _library("soundfile")
    mono = np.zeros(sound.length, np.float32)
    done = 0
    try:
        for block in library.blocks(
            str(path), blocksize=max(1, _BLOCK_VALUES // sound.channels), dtype="float32", always_2d=True
        ):
            mono[done : done + len(block)] = block.mean(axis=1)[: sound.length - done]
            done += len(block)
    except (library.SoundFileError, RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged", note=str(error)) from None
    if done < sound.length:
        raise InputError(f"{path} is damaged", note=f"it says {sound.length} values and holds {done}")
    if sound.rate == rate:
        return mono
    if sound.length_at(rate) > MAX_VALUES:
        raise InputError(f"{path} is too long at {rate} values per second", hint="cut it into several files")
    resampled: np.ndarray = _library("soxr").resample(mono, sound.rate, rate)
    return resampled


def _library(name: str) -> ModuleType:
    """A library of the extra `audio`.

    Raises:
        EnvironmentLacks: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # soundfile raises OSError where libsndfile is not there
        hint = "pip install 'modelopt-onnx[audio]'"
        raise EnvironmentLacks(f"sound needs the package {name}, which is not installed", hint=hint) from None
