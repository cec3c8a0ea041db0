"""Coverage-guided inputs for the parts that read files: models, arrays and recipes.

    .venv-atheris/bin/python -m tests.campaigns.fuzz_parser --seconds 1800

Only `ModeloptError` may leave them. Anything else is a finding: the input is saved under the place that raised it, and
the search goes on. Atheris measures the coverage; it is no dependency of the project (`make fuzz-parser` installs it in
an environment of its own).
"""

from __future__ import annotations

import argparse
import importlib
import io as streams
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

Read = Callable[[bytes], None]
"""Reads one input; anything but a `ModeloptError` that leaves it is a finding."""

_LONGEST = 1 << 14
_SLOW_SECONDS = 10
_MEMORY_MB = 2048


def _models(folder: Path) -> Read:
    from modelopt import io
    from modelopt.io import serialize

    def read(data: bytes) -> None:
        path = folder / "model.onnx"
        path.unlink(missing_ok=True)  # what is mapped must not shrink
        path.write_bytes(data)
        model = io.load(path, scratch=folder).model
        again = serialize.to_bytes(model)
        serialize.from_bytes(again)

    return read


def _arrays(folder: Path) -> Read:
    from modelopt.data.arrayfile import NpyFile, NpzFile

    def read(data: bytes) -> None:
        if data[:1] == b"P":
            path = folder / "a.npz"
            path.write_bytes(data)
            archive = NpzFile(path)
            archive.load(archive.headers())
            return
        path = folder / "a.npy"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        NpyFile(path).load()

    return read


def _recipes(folder: Path) -> Read:
    from modelopt.recipe import dumping, parsing

    path = folder / "recipe.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        recipe = parsing.load(path)
        assert parsing.parse(dumping.dump(recipe)) == recipe, "a recipe changes when it is printed and read again"

    return read


TARGETS: dict[str, Callable[[Path], Read]] = {"models": _models, "arrays": _arrays, "recipes": _recipes}


def corpus(target: str) -> list[bytes]:
    """Inputs to begin with."""
    if target == "models":
        from tests.campaigns import mutations

        found = [mutations.mutant(seed) for seed in range(60)]
        return [one.content for one in found if len(one.content) < _LONGEST]
    if target == "arrays":
        return _array_files()
    from modelopt.recipe import shipped_recipes

    return [shipped_recipes.text_of(name).encode() for name in shipped_recipes.names()]


def _array_files() -> list[bytes]:
    arrays = [np.zeros((2, 3), np.float32), np.array(["a", "bc"]), np.zeros(0, "<i8"), np.ones((), np.float16)]
    found = []
    for array in arrays:
        stream = streams.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    for save in (np.savez, np.savez_compressed):
        stream = streams.BytesIO()
        save(stream, **{str(number): array for number, array in enumerate(arrays)})  # type: ignore[arg-type]
        found.append(stream.getvalue())
    return found


def mutate_model(data: bytes, rng: Random) -> bytes:
    """Another model that protobuf still reads, or other bytes where it does not read `data`."""
    import onnx

    from tests.campaigns import mutations

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        rng.choice(mutations.CHANGES)(rng, proto)
        return proto.SerializeToString()
    except (DecodeError, ValueError, TypeError, UnicodeError):
        return mutations.damaged(rng, data)


def finding(error: BaseException) -> str:
    """The place in modelopt that an error left, and its type: errors with the same name are one finding."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/modelopt/" in frame.filename] or frames
    return f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].name}"


def holding(read: Read, save: Path) -> Read:
    """`read` that saves what is a finding, once each, and never raises."""
    from modelopt.core.errors import ModeloptError

    seen: set[str] = set()

    def held(data: bytes) -> None:
        try:
            read(data)
        except ModeloptError:
            return
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            name = finding(error)
            if name not in seen:
                seen.add(name)
                save.mkdir(parents=True, exist_ok=True)
                (save / name).write_bytes(data)
                print(f"FOUND {name}: {error}", file=sys.stderr, flush=True)

    return held


def search(target: str, seconds: int, save: Path) -> None:
    """Let atheris search for `seconds`; it ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["modelopt", "onnx_ir", "yaml", "numpy.lib", "zipfile"]):
        importlib.import_module("modelopt.io")
        importlib.import_module("modelopt.data.arrayfile")
        importlib.import_module("modelopt.recipe.parsing")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs = folder / "corpus"
        inputs.mkdir()
        for number, content in enumerate(corpus(target)):
            (inputs / str(number)).write_bytes(content)

        def mutate(data: bytes, longest: int, seed: int) -> bytes:
            rng = Random(seed)
            made = mutate_model(data, rng) if rng.random() < 0.5 else atheris.Mutate(data, longest)
            return bytes(made[:longest])

        more = {"custom_mutator": mutate} if target == "models" else {}
        options = [f"-max_total_time={seconds}", f"-timeout={_SLOW_SECONDS}", f"-rss_limit_mb={_MEMORY_MB}"]
        options += [f"-max_len={_LONGEST}", f"-artifact_prefix={save}/", "-print_final_stats=1", str(inputs)]
        save.mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], *options], holding(TARGETS[target](folder), save), **more)
        atheris.Fuzz()


def main() -> int:
    """Search each target in a process of its own; returns 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1800, help="for all targets together")
    parser.add_argument("--save", type=Path, default=Path("build/fuzz-parser"))
    parser.add_argument("--target", choices=list(TARGETS), help="this one only")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        search(given.target, given.seconds, given.save)
        return 0
    targets = [given.target] if given.target else list(TARGETS)
    failed = False
    for target in targets:
        save = given.save.resolve() / target
        seconds = given.seconds // len(targets)
        command = [sys.executable, "-m", __spec__.name, "--here", "--target", target]
        done = subprocess.run([*command, "--seconds", str(seconds), "--save", str(save)], check=False)
        found = sorted(path.name for path in save.iterdir())
        print(f"{target}: exit code {done.returncode}, {len(found)} findings: {', '.join(found) or 'none'}")
        failed = failed or bool(found) or done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
