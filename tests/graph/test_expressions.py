"""Regular expressions over names end, however they are written."""

from __future__ import annotations

import signal
import threading

import pytest

from modelopt.core.errors import InputError
from modelopt.graph import expressions, match
from modelopt.graph.expressions import Expression


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)+b", "(a|a)*b", "(.*)*b", "(?:a*)*(?:a*)*b"])
def test_an_expression_that_tries_all_ways_is_ended(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", 0.05)
    with pytest.raises(InputError, match="takes too long to match names"):
        Expression(f"re:{pattern}").matches("a" * 5000)


def test_many_slow_matches_are_too_slow_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", 1e-6)  # each match is slow, none is ended
    slow = Expression("re:a*a*a*b")
    with pytest.raises(InputError, match="takes too long"):
        any(slow.matches("a" * 100) for _ in range(100))


def test_the_timer_of_the_program_goes_on() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000)
        assert Expression("re:a+").matches("aaa")
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < left <= 1000
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_other_threads_match_too() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(Expression("re:a+").matches("aaa")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize("pattern", ["(" * 3000, "(" * 9000 + ")" * 9000, "a{99999999999}", "a" * 10_001, "[", "(?P<a"])
def test_what_cannot_be_compiled_is_refused(pattern: str) -> None:
    with pytest.raises(InputError):
        match.expression(f"re:{pattern}")


def test_a_glob_takes_no_time_without_end() -> None:
    assert match.names("*a*a*a*a*a*a*a*a*a*a*b", ["a" * 2000]) == []
