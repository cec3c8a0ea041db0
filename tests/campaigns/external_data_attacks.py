"""Models whose external data lead out of their folder, or are no regular file."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.campaigns.attack_parts import DATA, WEIGHT_BYTES, Attack, Place, Setup, model_of, weight_tensor, write_model

# Attacks by external data


def _at(location: str, entries: Mapping[str, object] | None = None) -> Setup:
    """The weight lies at `location`, where ``OUTSIDE`` stands for the folder outside."""

    def setup(place: Place) -> None:
        (place.work / "a").mkdir()
        write_model(place, model_of(tensors=[weight_tensor(location.replace("OUTSIDE", str(place.outside)), entries)]))

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
    bound_socket(place.work / DATA)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # the whole path may be longer than an address can be
        one.bind(path.name)


def _in_constant(place: Place) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=weight_tensor("../outside/kept.bin"))
    write_model(place, model_of([constant, helper.make_node("MatMul", ["x", "w"], ["y"])]))


def _in_body(place: Place) -> None:
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["b"])], name, [], [out])
        body.initializer.append(weight_tensor("../outside/kept.bin"))
        bodies[name] = body
    condition = numpy_helper.from_array(np.ones((), bool), "c")
    write_model(place, model_of([helper.make_node("If", ["c"], ["y"], **bodies)], [condition]))


def _in_function(place: Place) -> None:
    inner = [
        helper.make_node("Constant", [], ["w"], value=weight_tensor("../outside/kept.bin")),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    function = helper.make_function("local", "F", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="local")])
    model.functions.append(function)
    write_model(place, model)


def _two_locations(first: str, second: str) -> Setup:
    def setup(place: Place) -> None:
        (place.work / DATA).write_bytes(bytes(WEIGHT_BYTES))
        tensor = weight_tensor(first)
        tensor.external_data.add(key="location", value=second)
        write_model(place, model_of(tensors=[tensor]))

    return setup


def _beside_good_data(entries: Mapping[str, object]) -> Setup:
    """The data file is there and good; the other entries are not."""

    def setup(place: Place) -> None:
        (place.work / DATA).write_bytes(bytes(WEIGHT_BYTES))
        write_model(place, model_of(tensors=[weight_tensor(DATA, entries)]))

    return setup


def _marker(place: Place) -> None:
    """What the parser writes for itself in place of large tensors."""
    write_model(place, model_of(tensors=[weight_tensor("modelopt:blob:0\0")]))


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
    Attack("an offset behind the end", _beside_good_data({"offset": 2**63, "length": WEIGHT_BYTES})),
    Attack("a length past the end", _beside_good_data({"length": 2**40})),
    Attack("the parser's own mark", _marker),
)
