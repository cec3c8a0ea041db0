"""Which weights --include and --exclude name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.core.errors import InputError
from modelopt.graph import match
from tests.pruning.magnitude import model_of, prune


def test_a_mistyped_include_is_an_error_with_a_hint() -> None:
    with pytest.raises(InputError, match="include 'nodes' matches no") as caught:
        prune(model_of("MatMul", np.ones((4, 4), np.float32)), include=("nodes",))
    assert caught.value.hint == "did you mean 'node'?"


def test_a_mistyped_exclude_is_an_error_with_a_hint() -> None:
    with pytest.raises(InputError, match="exclude 'nodes' matches no") as caught:
        prune(model_of("MatMul", np.ones((4, 4), np.float32)), exclude=("nodes",))
    assert caught.value.hint == "did you mean 'node'?"


def test_names() -> None:
    known = ["/a/Conv", "a[red]", "b.0", "B.0"]
    assert match.names("a[red]", known) == ["a[red]"]
    assert match.names("/a/*", known) == ["/a/Conv"]
    assert match.names("b.?", known) == ["b.0"]
    assert match.names("re:(?i)b.*", known) == ["b.0", "B.0"]
    assert match.names("re:a", known) == []
    with pytest.raises(InputError, match="not a regular expression"):
        match.names("re:(", known)


@pytest.mark.parametrize(
    ("options", "zeroed"),
    [
        ({"include": ("op:Conv",)}, {"k"}),
        ({"include": ("op:Conv*", "v")}, {"k", "t", "v"}),
        ({"exclude": ("op:MatMul", "t")}, {"k"}),
        ({"include": ("op:MatMul", "k"), "exclude": ("op:Conv",)}, {"w", "v"}),
    ],
)
def test_operator_types_name_the_weights_that_they_use(options: dict[str, Any], zeroed: set[str]) -> None:
    model = ir.from_onnx_text("""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,2,8,8] x) => (float y)
    { a = Conv (x, k)  b = ConvTranspose (a, t)  c = MatMul (b, w)  y = MatMul (c, v) }
    """)
    shapes = {"k": (2, 2, 3, 3), "t": (2, 2, 3, 3), "w": (8, 8), "v": (8, 8)}
    for name, shape in shapes.items():
        tensor = ir.tensor(np.random.default_rng(1).random(shape).astype(np.float32) + 1, name=name)
        given = next(v for n in model.graph for v in n.inputs if v is not None and v.name == name)
        given.const_value = tensor
        model.graph.register_initializer(given)
    prune(model, min_elements=1, **options)
    found = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert {name for name, array in found.items() if not array.all()} == zeroed


def test_a_mistyped_operator_type_is_an_error_with_a_hint() -> None:
    with pytest.raises(InputError) as caught:
        prune(model_of("MatMul", np.ones((4, 4), np.float32)), include=("op:Matmul",))
    assert caught.value.hint == "did you mean 'op:MatMul'?"
