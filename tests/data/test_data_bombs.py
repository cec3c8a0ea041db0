"""A small or endless file of each kind of data that would take much memory: one line each, and less than 300 MB."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.data.tokenizer_files import tokenizer

_GIGABYTE = (1 << 30) - 100

SAID = {
    "claims.npy": "cut short or damaged",
    "fields.csv": "the row is too long",
    "header.npy": "impossible header",
    "hours.flac": "too long",
    "hours.wav": "is damaged",
    "line.csv": "line 2: the row is too long",
    "line.jsonl": "line 1: the row is too long",
    "line.txt": "line 1: the row is too long",
    "nested.jsonl": "nested too deep",
    "objects.jsonl": "nested too deep",
    "side.png": "too large",
    "silence.wav": "too long",
    "zeros.npz": "unpacks to more than memory should hold",
}
"""What the error of each file says."""

_OPEN = """
import json, sys
from pathlib import Path
from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import open_data
from modelopt.data.columns import Columns

KINDS = {
    ".png": TensorSpec("x", "float32", (1, 3, 8, 8)),
    ".wav": TensorSpec("x", "float32", (1, 160)),
    ".flac": TensorSpec("x", "float32", (1, 160)),
    ".jsonl": TensorSpec("x", "int64", ("n", "t")),
    ".txt": TensorSpec("x", "int64", ("n", "t")),
}
found = {}
for path in map(Path, sys.argv[1:]):
    text = path.suffix in (".jsonl", ".txt")
    try:
        data = open_data(
            str(path),
            [KINDS.get(path.suffix, TensorSpec("x", "float32", ("n", 4)))],
            columns=Columns(tokenizer=Path("tokenizer.json")) if text else None,
        )
        list(data)
    except InputError as error:
        found[path.name] = error.fact
held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([found, int(held.split()[1]) / 1000]))
"""


def _sparse(path: Path, head: bytes, n_bytes: int = _GIGABYTE) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + n_bytes)


def _npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _wav(n_bytes: int) -> bytes:
    format_ = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    whole = struct.pack("<4sI4s", b"RIFF", 36 + n_bytes, b"WAVE")
    return whole + format_ + struct.pack("<4sI", b"data", n_bytes)


def _png(side: int) -> bytes:
    """A PNG whose header is right and whose pixels are all black."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = zlib.compress(bytes(side * 64))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bombs(folder: Path) -> None:
    (folder / "side.png").write_bytes(_png(65_535))
    with (
        zipfile.ZipFile(folder / "zeros.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(_npy("(8388608, 4)"))
        for _ in range(128):
            member.write(bytes(1 << 20))
    (folder / "claims.npy").write_bytes(_npy("(268435456, 4)"))
    _sparse(folder / "header.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), 4 << 30)
    (folder / "hours.wav").write_bytes(_wav(36_000 * 32_000) + bytes(320))
    _sparse(folder / "silence.wav", _wav(36_000 * 32_000), 36_000 * 32_000)
    # A stream of 16,000 values a second, one channel of 16 bits, with 576,000,000 values
    packed = 16_000 << 44 | 15 << 36 | 36_000 * 16_000
    body = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    (folder / "hours.flac").write_bytes(b"fLaC" + b"\x80" + len(body).to_bytes(3, "big") + body)
    _sparse(folder / "line.csv", b"a,b,c,d\n")
    (folder / "fields.csv").write_bytes(b"a,b,c,d\n" + b'"1\n",' * 500_000)
    (folder / "nested.jsonl").write_bytes(b"[" * 100_000 + b"]" * 100_000 + b"\n")
    (folder / "objects.jsonl").write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n")
    _sparse(folder / "line.jsonl", b'{"text": "')
    _sparse(folder / "line.txt", b"the")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says how much memory a process took")
def test_bombs_of_all_kinds_are_refused_within_300_mb(tmp_path: Path) -> None:
    bombs(tmp_path)
    tokenizer(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json")
    ran = subprocess.run(
        [sys.executable, "-c", _OPEN, *names], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    found, megabytes = json.loads(ran.stdout)
    assert sorted(found) == names == sorted(SAID)
    for name, said in SAID.items():
        assert said in found[name], (name, found[name])
        assert "\n" not in found[name]
    assert megabytes < 300
