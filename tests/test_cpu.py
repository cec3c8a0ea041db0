"""Targets that are not this machine; which machine this is, see `test_machines`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelopt.runtime import cpu
from tests.machines.families import BY_NAME, Family


@pytest.mark.parametrize(
    ("target", "provider", "words"),
    [
        ("auto", "cpu", None),
        ("x86-vnni", "cpu", None),
        ("tensorrt", "tensorrt", None),
        ("x86-avx2", "cpu", "this machine x86-vnni"),
        ("arm64", "cpu", "this machine x86-vnni"),
        ("cuda", "cpu", "provider 'cpu'"),
    ],
)
def test_a_foreign_target(
    this_machine_is: Callable[[Family], None], target: str, provider: str, words: str | None
) -> None:
    this_machine_is(BY_NAME["avx512-vnni"])
    note = cpu.why_latency_says_nothing(cpu.resolve(target), provider)
    assert note is None if words is None else words in (note or "")
