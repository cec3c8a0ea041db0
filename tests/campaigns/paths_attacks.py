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
import socket
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.campaigns import in_process

MARK = b"CaNaRy42"
_SECONDS = 60.0
_ROWS, _COLUMNS = 25, 40
MODEL, DATA, OUTPUT = "model.onnx", "w.bin", "out.onnx"
_WEIGHT_BYTES = 4 * _ROWS * _COLUMNS


@dataclass(frozen=True)
class Place:
    """Where an attack is set up.

    Attributes:
        work: The working directory, with the model.
        outside: The folder beside it, with the secret.
    """

    work: Path
    outside: Path

    @property
    def secret(self) -> Path:
        """A file whose bytes could be the weights."""
        return self.outside / "kept.bin"


Setup = Callable[[Place], None]


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Attributes:
        name: For the table.
        setup: Writes the model and what it needs.
        arguments: Of one command of its own, in place of all commands.
        refused: Whether each command that reads weights must fail.
    """

    name: str
    setup: Setup
    arguments: tuple[str, ...] = ()
    refused: bool = True


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


# Models


def _weight(location: str, entries: Mapping[str, object] | None = None) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(_ROWS, _COLUMNS))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **(entries or {})}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _model(
    nodes: Sequence[NodeProto] | None = None, tensors: Sequence[TensorProto] = (), graph: str = "g"
) -> onnx.ModelProto:
    """A matrix product, or `nodes` from x to y."""
    steps = list(nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, _ROWS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, _COLUMNS])]
    whole = helper.make_graph(steps, graph, inputs, outputs, list(tensors))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=imports, ir_version=9)


def _inline(name: str = "w") -> TensorProto:
    values = np.linspace(-1, 1, _ROWS * _COLUMNS, dtype=np.float32).reshape(_ROWS, _COLUMNS)
    return numpy_helper.from_array(values, name)


def _write(place: Place, model: onnx.ModelProto) -> None:
    (place.work / MODEL).write_bytes(model.SerializeToString())


# Attacks by external data


def _at(location: str, entries: Mapping[str, object] | None = None) -> Setup:
    """The weight lies at `location`, where ``OUTSIDE`` stands for the folder outside."""

    def setup(place: Place) -> None:
        (place.work / "a").mkdir()
        _write(place, _model(tensors=[_weight(location.replace("OUTSIDE", str(place.outside)), entries)]))

    return setup


_LOCATIONS = (
    *("OUTSIDE/kept.bin", "/OUTSIDE/kept.bin", "../outside/kept.bin", "./../outside/kept.bin"),
    *(".//..//outside/kept.bin", "a/../../outside/kept.bin", "a/./../../outside/kept.bin", "x/../../outside/kept.bin"),
    *("..\\outside\\kept.bin", "w.bin/../../outside/kept.bin", "../outside/kept.bin/", "../outside/kept.bin\0"),
    *("kept.bin\0/w.bin", "../outside/KEPT.BIN", " ../outside/kept.bin", "../outside/kept.bin ", "../outside/*.bin"),
    *("../outside/kept.b?n", "file://OUTSIDE/kept.bin", "file:../outside/kept.bin", "FILE://localhost/OUTSIDE/kept.bin"),
    *("http://127.0.0.1:9/w", "%2e%2e/outside/kept.bin", "..%2foutside%2fkept.bin", "%252e%252e/outside/kept.bin"),
    *("..%c0%afoutside/kept.bin", "‥/outside/kept.bin", "．．/outside/kept.bin", "..∕outside∕kept.bin"),
    *("..⁄outside⁄kept.bin", "file:///../outside/kept.bin"),
    *("․․/outside/kept.bin", "....//....//outside/kept.bin", "...\\outside", "\\\\127.0.0.1\\share\\w", "C:\\w.bin"),
    *("C:/w.bin", "//127.0.0.1/w", "~/../outside/kept.bin", "~root/.profile", "${HOME}/w", "%HOME%/w"),
    *("$HOME/../outside/kept.bin", "$(cat ../outside/kept.bin)", "`cat ../outside/kept.bin`"),
    *("| cat ../outside/kept.bin", "; touch ../outside/new", "", ".", "..", "/", "-", "a", "a/", "a/.", "./a/.."),
    *("\n../outside/kept.bin", "\x1b[31m", "w" * 5000, "a/" * 2500, "/dev/zero", "/dev/stdin", "/dev/full"),
    *("/dev/tty", "/proc/self/environ"),
    *("/proc/self/mem", "/proc/self/fd/0", "/proc/self/cwd/../outside/kept.bin", "/proc/self/root/OUTSIDE/kept.bin"),
    "/etc/passwd",
    "/sys/kernel/notes",
)  # fmt: skip


def _linked(target: str, location: str = DATA) -> Setup:
    """``w.bin`` is a link to `target`."""

    def setup(place: Place) -> None:
        _at(location)(place)
        (place.work / DATA).symlink_to(target.replace("OUTSIDE", str(place.outside)))

    return setup


def _links_in_a_row(place: Place) -> None:
    _linked("second")(place)
    (place.work / "second").symlink_to("a/third")
    (place.work / "a" / "third").symlink_to("../../outside/kept.bin")


def _hard_link(place: Place) -> None:
    _at(DATA)(place)
    os.link(place.secret, place.work / DATA)


def _fifo(place: Place) -> None:
    _at(DATA)(place)
    os.mkfifo(place.work / DATA)


def _link_to_fifo(place: Place) -> None:
    _linked("pipe")(place)
    os.mkfifo(place.work / "pipe")


def _socket(place: Place) -> None:
    _at(DATA)(place)
    _bind(place.work / DATA)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # the whole path may be longer than an address can be
        one.bind(path.name)


def _in_constant(place: Place) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=_weight("../outside/kept.bin"))
    _write(place, _model([constant, helper.make_node("MatMul", ["x", "w"], ["y"])]))


def _in_body(place: Place) -> None:
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"])], name, [], [out])
        body.initializer.append(_weight("../outside/kept.bin"))
        bodies[name] = body
    condition = numpy_helper.from_array(np.ones((), bool), "c")
    _write(place, _model([helper.make_node("If", ["c"], ["y"], **bodies)], [condition]))


def _in_function(place: Place) -> None:
    inner = [
        helper.make_node("Constant", [], ["w"], value=_weight("../outside/kept.bin")),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "F", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    model = _model([helper.make_node("F", ["x"], ["y"], domain="local")])
    model.functions.append(function)
    _write(place, model)


def _two_locations(first: str, second: str) -> Setup:
    def setup(place: Place) -> None:
        (place.work / DATA).write_bytes(bytes(_WEIGHT_BYTES))
        tensor = _weight(first)
        tensor.external_data.add(key="location", value=second)
        _write(place, _model(tensors=[tensor]))

    return setup


def _beside_good_data(entries: Mapping[str, object]) -> Setup:
    """The data file is there and good; the other entries are not."""

    def setup(place: Place) -> None:
        (place.work / DATA).write_bytes(bytes(_WEIGHT_BYTES))
        _write(place, _model(tensors=[_weight(DATA, entries)]))

    return setup


def _marker(place: Place) -> None:
    """What the parser writes for itself in place of large tensors."""
    _write(place, _model(tensors=[_weight("modelopt:blob:0\0")]))


EXTERNAL = (
    *(Attack(f"location {location[:40]!r}", _at(location)) for location in _LOCATIONS),
    *(
        Attack(f"link to {target}", _linked(target))
        for target in (
            *(
                "OUTSIDE/kept.bin",
                "../outside/kept.bin",
                "/proc/self/environ",
                "/proc/self/mem",
                "/dev/zero",
                "/dev/stdin",
            ),
            *(
                "../outside/new.bin",
                "w.bin",
                "/proc/self/fd/0",
                "/proc/self/root/OUTSIDE/kept.bin",
                "/dev/full",
                "a",
                "..",
            ),
        )
    ),
    Attack("link to a folder outside", _linked("../outside", f"{DATA}/kept.bin")),
    Attack("link, named in other case", _linked("../outside/kept.bin", "W.BIN")),
    Attack("links in a row", _links_in_a_row),
    Attack("hard link", _hard_link),
    Attack("fifo", _fifo),
    Attack("link to a fifo", _link_to_fifo),
    Attack("socket", _socket),
    Attack("in a Constant", _in_constant),
    Attack("in a body", _in_body),
    Attack("in a function", _in_function),
    Attack("two locations, the second outside", _two_locations(DATA, "../outside/kept.bin")),
    Attack("a negative offset", _beside_good_data({"offset": -8})),
    Attack("an offset behind the end", _beside_good_data({"offset": 2**63, "length": _WEIGHT_BYTES})),
    Attack("a length past the end", _beside_good_data({"length": 2**40})),
    Attack("the parser's own mark", _marker),
)


# Attacks by names


def _named(name: str) -> Setup:
    """Everything in the model has a name that is a path."""

    def setup(place: Place) -> None:
        path = name.replace("OUTSIDE", str(place.outside))
        product = helper.make_node("MatMul", ["x", path], ["h"], name=path)
        same = helper.make_node("Identity", ["h"], ["y"], name=f"{path}.onnx", doc_string=path)
        model = _model([product, same], [_inline(path)], graph=path)
        for key in (path, "modelopt", "ort_config", "location"):
            model.metadata_props.add(key=key, value=path)
        model.producer_name = model.doc_string = path
        _write(place, model)

    return setup


def _domain(place: Place) -> None:
    library = str(place.outside / "new.so")
    model = _model([helper.make_node("Op", ["x", "w"], ["y"], domain=library)], [_inline()])
    model.opset_import.add(domain=library, version=1)
    _write(place, model)


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
        _write(place, _model([node]))

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
    _write(place, _model(tensors=[_inline()]))


def _model_is(target: str) -> Setup:
    """The model's path is a link to `target`."""

    def setup(place: Place) -> None:
        (place.work / MODEL).symlink_to(target.replace("OUTSIDE", str(place.outside)))

    return setup


def _model_is_fifo(place: Place) -> None:
    os.mkfifo(place.work / MODEL)


def _model_is_socket(place: Place) -> None:
    _bind(place.work / MODEL)


def _archive(*names: str, link: bool = False) -> Setup:
    """Calibration data whose members have these names."""

    def setup(place: Place) -> None:
        _good(place)
        np.save(place.work / "x.npy", np.zeros((4, 2, _ROWS), np.float32))
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
    place.secret.write_bytes(MARK * (_WEIGHT_BYTES // len(MARK)))
    (place.outside / "kept.txt").write_bytes(b"".join(b"x,%b\n" % MARK for _ in range(99)))
    np.savez(place.outside / "kept.npz", x=np.frombuffer(MARK * 50, np.float32).reshape(4, _ROWS))
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
