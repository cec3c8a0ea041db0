"""Targets that are not this machine; which machine this is, see `test_machines`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelopt.core import targets
from tests.machines.families import BY_NAME, Family


@pytest.mark.parametrize(
    ("target", "provider", "words"),
    [
        ("auto", "cpu", None),
        ("x86-vnni", "cpu", None),
        ("tensorrt", "tensorrt", None),
        ("x86-avx2", "cpu", "not measured for {target} (this machine is x86-vnni)"),
        ("arm64", "cpu", "not measured for {target} (this machine is x86-vnni)"),
        ("auto", "openvino", None),
        ("x86-vnni", "openvino", None),
        ("tensorrt", "TensorrtExecutionProvider", None),
        ("x86-vnni", "cuda", "not measured for {target} (the provider is cuda)"),
        ("x86-avx2", "openvino", "not measured for {target} (this machine is x86-vnni)"),
        ("cuda", "cpu", "not measured for {target} (the provider is cpu)"),
    ],
)
def test_a_foreign_target(
    this_machine_is: Callable[[Family], None], target: str, provider: str, words: str | None
) -> None:
    this_machine_is(BY_NAME["avx512-vnni"])
    found = targets.why_not_timed(targets.resolve(target), provider)
    assert found == (None if words is None else words.format(target=target))
