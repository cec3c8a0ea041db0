"""Some of the models of `tests.campaigns.bombs` through some commands: little memory, one line, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import bomb_models, bombs


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bombs.Cost]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: found for name, found, _ in bombs.measure(bomb_models.tiny, ("fold", "inspect", "bench"), folder)}


@pytest.mark.parametrize(
    ("bomb", "command", "code"),
    [
        ("range", "inspect", 0),
        ("concat_of_constants", "fold", 3),
        ("constant_of_shape", "bench", 3),
        ("many_large_outputs", "fold", 3),
        ("loop_without_end", "fold", 0),
        ("loop_without_end", "bench", 2),
        ("string_joined", "fold", 3),
        ("functions_that_double", "inspect", 2),
        ("large_input", "bench", 2),
    ],
)
def test_a_bomb_costs_little(
    bomb: str, command: str, code: int, ordinary: dict[str, bombs.Cost], tmp_path: Path
) -> None:
    ((_, found, size),) = bombs.measure(bomb_models.MODELS[bomb], (command,), tmp_path)
    assert found.code == code, found.err
    wrong = bombs.problem(found, ordinary[command], size).split(", ")
    assert set(wrong) <= {"", "time"}, found.err


def test_the_refusal_says_what_needs_the_memory_and_what_helps(tmp_path: Path) -> None:
    ((_, found, _),) = bombs.measure(bomb_models.MODELS["expand"], ("fold",), tmp_path)
    assert found.err.splitlines() == [
        "modelopt: error: a run of model.onnx needs at least 2.0 GiB of memory, and may use 1.0 GiB",
        (
            "note: big (Expand) alone takes that; the limit is 8 × the model's size + 1.0 GiB, "
            "and 64 × the size of its inputs"
        ),
        "hint: --memory-limit 8GiB, if this is meant to be so large",
    ]


def test_what_went_wrong_is_named() -> None:
    tiny = bombs.Cost(0, 1.0, 10**8, "")
    assert bombs.problem(bombs.Cost(0, 2.0, 2 * 10**8, ""), tiny) == ""
    assert bombs.problem(bombs.Cost(None, 5.0, 10**9, ""), tiny) == "does not end, time, memory"
    assert bombs.problem(bombs.Cost(70, 1.0, 10**8, "Traceback"), tiny) == "exit code 70, traceback, no error line"
