"""Models, archives and recipes that try to read or write outside their folder, through every command.

    python -m tests.campaigns.paths_attacks --jobs 2

Beside the working directory lies a folder with a secret: files whose bytes repeat one mark. After each call the mark
must be in no output and in no message, the secret must be as before, and no file may be new outside the working
directory. A model that keeps its weights outside is refused by every command; no call may hang.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from tests.campaigns import in_process
from tests.campaigns.attack_parts import (
    MARK,
    MODEL,
    OUTPUT,
    ROWS,
    WEIGHT_BYTES,
    Attack,
    Place,
    Setup,
    inline_model,
    model_of,
    write_model,
)
from tests.campaigns.external_data_attacks import EXTERNAL, bound_socket

_SECONDS = 60.0
_LIMITS = ("--timeout", "20", "--memory-limit", "1GB")
_MADE = ("--no-bench", *_LIMITS, MODEL, "-o", OUTPUT)


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "-v", MODEL),
    "fold": ("fold", "--external-data", "always", *_MADE),
    "fuse": ("fuse", "--report", "report.md", *_MADE),
    "prune": ("prune", "--dump-dir", "dump", *_MADE),
    "dynamic": ("quantize", "--mode", "dynamic", *_MADE),
    "weights": ("quantize", "--mode", "weights", *_MADE),
    "static": ("quantize", "--calib", "random", "--no-search", "--explain", *_MADE),
    "bench": ("bench", "--budget", "0.1", "--warmup", "0", "--rounds", "2", "--processes", "1", *_LIMITS, MODEL),
    "compare": ("compare", "--no-bench", *_LIMITS, MODEL, MODEL),
    "run": ("run", "cpu-latency", "--json", *_MADE),
    "log": ("log", "--json", MODEL),
}


# Attacks by names


def _named(name: str) -> Setup:
    """Everything in the model has a name that is a path."""

    def setup(place: Place) -> None:
        path = name.replace("OUTSIDE", str(place.outside))
        product = helper.make_node("MatMul", ["x", path], ["h"], name=path)
        same = helper.make_node("Identity", ["h"], ["y"], name=f"{path}.onnx", doc_string=path)
        model = model_of([product, same], [inline_model(path)], graph=path)
        for key in (path, "modelopt", "ort_config", "location"):
            model.metadata_props.add(key=key, value=path)
        model.producer_name = model.doc_string = path
        write_model(place, model)

    return setup


def _domain(place: Place) -> None:
    library = str(place.outside / "new.so")
    model = model_of([helper.make_node("Op", ["x", "w"], ["y"], domain=library)], [inline_model()])
    model.opset_import.add(domain=library, version=1)
    write_model(place, model)


def _cached_context(cache: str, embed: int) -> Setup:
    """A compiled model for a provider, which names a file."""

    def setup(place: Place) -> None:
        said = cache.replace("OUTSIDE", str(place.outside))
        node = helper.make_node(
            *("EPContext", ["x"], ["y"]),
            domain="com.microsoft",
            embed_mode=embed,
            ep_cache_context=said,
            source="TensorrtExecutionProvider",
            main_context=1,
            partition_name=said,
        )
        write_model(place, model_of([node]))

    return setup


NAMES = (
    *(
        Attack(f"names are {name}", _named(name), refused=False)
        for name in ("../outside/new", "OUTSIDE/new", "../outside/kept.bin", "a/../../outside/new", "/dev/stdout", "-o")
    ),
    Attack("domain is a library", _domain, refused=False),
    *(
        Attack(f"compiled context {cache} {embed}", _cached_context(cache, embed), refused=False)
        for cache, embed in (("../outside/kept.bin", 0), ("OUTSIDE/kept.bin", 0), ("../outside/new", 1))
    ),
)


# Attacks by what else is named


def _good(place: Place) -> None:
    write_model(place, model_of(tensors=[inline_model()]))


def _model_is(target: str) -> Setup:
    """The model's path is a link to `target`."""

    def setup(place: Place) -> None:
        (place.work / MODEL).symlink_to(target.replace("OUTSIDE", str(place.outside)))

    return setup


def _model_is_fifo(place: Place) -> None:
    os.mkfifo(place.work / MODEL)


def _model_is_socket(place: Place) -> None:
    bound_socket(place.work / MODEL)


def _archive(*names: str, link: bool = False) -> Setup:
    """Calibration data whose members have these names."""

    def setup(place: Place) -> None:
        _good(place)
        np.save(place.work / "x.npy", np.zeros((4, 2, ROWS), np.float32))
        content = (place.work / "x.npy").read_bytes()
        (place.work / "x.npy").unlink()
        with zipfile.ZipFile(place.work / "calib.npz", "w") as archive:
            for name in names:
                info = zipfile.ZipInfo(name.replace("OUTSIDE", str(place.outside)))
                info.external_attr = 0o120777 << 16 if link else 0o100644 << 16
                archive.writestr(info, b"../outside/kept.bin" if link else content)

    return setup


def _recipe(text: str) -> Setup:
    def setup(place: Place) -> None:
        _good(place)
        said = text.replace("OUTSIDE", str(place.outside))
        (place.work / "recipe.yaml").write_text(f"version: 1\nsteps:\n  - fold-constants\n{said}\n")

    return setup


_CALIB = ("quantize", "--calib", "calib.npz", "--no-search", *_MADE)
_RUN = ("run", "recipe.yaml", *_MADE)


OTHER = (
    *(
        Attack(f"the model is a link to {target}", _model_is(target))
        for target in (
            "OUTSIDE/kept.bin",
            "/dev/zero",
            "/proc/self/mem",
            "/proc/self/environ",
            "/dev/stdin",
            "model.onnx",
            "..",
        )
    ),
    Attack("the model is a fifo", _model_is_fifo),
    Attack("the model is a socket", _model_is_socket),
    *(
        Attack(f"a member of an archive is {name!r}", _archive(name), _CALIB)
        for name in (
            "../outside/new.npy",
            "OUTSIDE/new.npy",
            "..\\outside\\new.npy",
            "x/../../outside/new.npy",
            "~/new.npy",
        )
    ),
    Attack("members of an archive are links", _archive("x.npy", link=True), _CALIB),
    Attack("members of an archive go outside, too", _archive("x.npy", "../outside/new.npy"), _CALIB, refused=False),
    *(
        Attack(f"a recipe says {text.splitlines()[-1].strip()[:60]!r}", _recipe(text), _RUN)
        for text in (
            "evaluate:\n  data: ../outside/kept.bin",
            "evaluate:\n  data: OUTSIDE/kept.npz",
            "evaluate:\n  data: ../outside",
            "evaluate:\n  data: random\n  labels: ../outside/kept.txt",
            "evaluate:\n  data: /dev/zero",
            "name: !!python/object/apply:os.system ['touch ../outside/new']",
            "name: !!python/name:os.system",
            "name: !include ../outside/kept.txt",
            "output: ../outside/new.onnx",
            "op-library: ../outside/new.so",
        )
    ),
)


ATTACKS: tuple[Attack, ...] = (*EXTERNAL, *NAMES, *OTHER)


# The campaign


Item = tuple[int, str]
"""The number of an attack and the name of a command; an empty one stands for the attack's own."""


def items(*, reduced: bool) -> list[Item]:
    """All attacks by all commands, or each third attack by one command."""
    found: list[Item] = []
    for number, attack in enumerate(ATTACKS):
        if reduced and number % 3:
            continue
        names = [""] if attack.arguments else list(COMMANDS)
        found += [(number, name) for name in (names[number % len(names) :][:1] if reduced else names)]
    return found


def attempt(folder: Path, item: Item) -> tuple[int | None, list[str]]:
    """Make one attack below `folder`; returns the exit code and what went wrong."""
    number, name = item
    attack = ATTACKS[number]
    place = Place(in_process.emptied(folder / "work"), in_process.emptied(folder / "outside"))
    temporary = in_process.emptied(folder / "tmp")
    place.secret.write_bytes(MARK * (WEIGHT_BYTES // len(MARK)))
    (place.outside / "kept.txt").write_bytes(b"".join(b"x,%b\n" % MARK for _ in range(99)))
    np.savez(place.outside / "kept.npz", x=np.frombuffer(MARK * 50, np.float32).reshape(4, ROWS))
    attack.setup(place)
    os.chdir(folder)
    before, secret = in_process.snapshot(folder), in_process.snapshot(place.outside)
    ended = in_process.call(attack.arguments or COMMANDS[name], place.work, temporary=temporary)
    after = in_process.snapshot(folder)
    found = in_process.wrong(ended)
    if in_process.snapshot(place.outside) != secret:
        found.append("the folder outside changed")
    new = {path: content for path, content in after.items() if path not in before}
    strays = [path for path in new if not path.startswith(("work/out.onnx", "work/report.md", "work/dump/"))]
    found += [f"it made {path}" for path in strays]
    leaks = [path for path, content in new.items() if isinstance(content, bytes) and MARK in content]
    found += [f"the secret is in {path}" for path in leaks]
    if MARK in (ended.out + ended.err).encode(errors="replace"):
        found.append("the secret is in a message")
    if attack.refused and ended.code not in {2, 3}:
        found.append(f"exit code {ended.code} where it must be refused")
    if attack.refused and new:
        found.append("it was refused and wrote a file")
    return ended.code, [f"{attack.name}, {name or attack.arguments[0]}: {what}" for what in found]


def campaign(chosen: Sequence[Item], *, jobs: int) -> tuple[Counter[str], list[str]]:
    """Make all attacks; returns how many ended in which way, and what went wrong."""
    return in_process.campaign(
        attempt, chosen, lambda item: f"{ATTACKS[item[0]].name}, {item[1]}", jobs=jobs, seconds=_SECONDS
    )


def main() -> int:
    """Run the campaign and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--reduced", action="store_true", help="each third attack by one command")
    given = parser.parse_args()
    chosen = items(reduced=given.reduced)
    codes, failures = campaign(chosen, jobs=given.jobs)
    print(
        f"{len(ATTACKS)} attacks, {len(chosen)} calls: "
        + ", ".join(f"{n} × {code}" for code, n in sorted(codes.items()))
    )
    for name, many in itertools.groupby(sorted(failures)):
        print(f"  {name}" + (f" ({count} times)" if (count := len(list(many))) > 1 else ""))
    print(f"failed: {len(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
