"""Runs items in child processes, so that a crash or a stall is one finding and not the end of a campaign."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Setup = Callable[[], AbstractContextManager[Callable[[Item], Result]]]
"""Opens what a child keeps for all its items and gives the function that handles one."""


@dataclass(frozen=True)
class Died:
    """What became of a child that did not answer.

    Attributes:
        reason: ``signal 11``, ``exit code 1`` or ``no answer in 120 s``.
    """

    reason: str


def run(
    setup: Setup[Item, Result], items: Sequence[Item], *, jobs: int, seconds: float
) -> Iterator[tuple[Item, Result | Died]]:
    """Handle all items in `jobs` children, or in this process when `jobs` is 0; yields in order of completion.

    Args:
        setup: Called in each child.
        items: What to handle.
        jobs: How many children.
        seconds: A child that takes longer for one item is ended.
    """
    if not jobs:
        with setup() as handle:
            for item in items:
                yield item, handle(item)
        return
    waiting = deque(items)
    children = [_Child(setup) for _ in range(min(jobs, len(items)))]
    try:
        busy = {child: child.give(waiting.popleft()) for child in children}
        while busy:
            ready = wait([child.pipe for child in busy], timeout=seconds)
            for child in [child for child in busy if child.pipe in ready or not ready]:
                item = busy.pop(child)
                yield item, child.answer(seconds, answered=child.pipe in ready)
                if waiting:
                    busy[child] = child.give(waiting.popleft())
    finally:
        for child in children:
            child.end()


class _Child:
    def __init__(self, setup: Setup[Any, Any]) -> None:
        self._setup = setup
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # children share what the parent has generated
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(self._setup, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, item: Item) -> Item:
        """Hand it one item."""
        if not self._process.is_alive():
            self._start()
        self.pipe.send(item)
        return item

    def answer(self, seconds: float, *, answered: bool) -> Any:
        """What it made of the item."""
        if not answered:
            self.end()
            return Died(f"no answer in {seconds:.0f} s")
        try:
            return self.pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            return Died(f"signal {-code}" if code < 0 else f"exit code {code}")

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(setup: Setup[Any, Any], pipe: Connection) -> None:
    with setup() as handle:
        while True:
            try:
                item = pipe.recv()
            except EOFError:
                return
            pipe.send(handle(item))
