"""The nodes that a search leaves in float or tries alone: which they are, how many, and the patterns that name them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import onnx_ir as ir

from modelopt import graph
from modelopt.passes.base import Pass
from modelopt.quant.static.kernels import KERNELS

MAX_TRIES = 8
"""How many sets of nodes are tried in float: a guess. Each builds a model and runs it on the evaluation data."""

_Found = TypeVar("_Found")


def fewest(most: int, attempt: Callable[[int], _Found | None], max_tries: int = MAX_TRIES) -> tuple[int, _Found] | None:
    """The smallest count of nodes in float with which an attempt keeps the contract, by galloping search.

    It is the exponential search of Bentley and Yao (1976), "An almost optimal algorithm for unbounded searching". It
    takes about 2 · log2(count) attempts, so that it is short where one or two nodes cost most of the accuracy.

    Args:
        most: The largest count to try; where it is below 1 nothing is tried.
        attempt: Tries the `count` worst nodes in float; None where that breaks the contract.
        max_tries: How often `attempt` is called.

    Returns:
        The count and what `attempt` gave for it; None where no count that was tried keeps the contract. It is not the
        smallest count where `max_tries` ends the search.
    """
    too_few, count, tries = 0, 0, 0
    found: _Found | None = None
    # Gallop: double the count until the contract holds. Each count that breaks it is a lower bound from then on.
    while found is None and too_few < most and tries < max_tries:
        count = min(max(1, 2 * too_few), most)
        found = attempt(count)
        tries += 1
        if found is None:
            too_few = count
    if found is None:
        return None
    # Bisect: the answer lies above `too_few` and is `count` at most. Halve what is between them.
    while count - too_few > 1 and tries < max_tries:
        middle = (too_few + count) // 2
        fewer = attempt(middle)
        tries += 1
        if fewer is None:
            too_few = middle
        else:
            count, found = middle, fewer
    return count, found


def changed(before: ir.Model, after: ir.Model, *, tables: bool = False) -> list[str]:
    """The convolutions and products of `before` that do not compute with a float32 weight in `after`, in graph order.

    They are integers there, or half precision, or have weights of few bits.

    Args:
        before: The float model.
        after: What a pass made of it.
        tables: Whether to name look-ups in tables too.
    """
    left = {graph.name_of(node) for node in graph.all_nodes(after) if _is_float(node, tables=tables)}
    names = [graph.name_of(node) for node in graph.all_nodes(before) if _is_float(node, tables=tables)]
    return [name for name in names if name not in left]


def has_tables(model: ir.Model) -> bool:
    """Whether the model looks rows of a float32 table up."""
    return any(_is_float_table(node) for node in graph.all_nodes(model))


def without(step: Any, names: Iterable[str]) -> Pass:
    """The pass `step` with these nodes left in float."""
    changed_step: Pass = dataclasses.replace(step, exclude=(*step.exclude, *map(exactly, names)))
    return changed_step


def only(step: Any, names: Iterable[str]) -> Pass:
    """The pass `step` for these nodes alone, whether or not it pays there."""
    options: dict[str, Any] = {"include": tuple(map(exactly, names))}
    if hasattr(step, "everywhere"):
        options["everywhere"] = True
    changed_step: Pass = dataclasses.replace(step, **options)
    return changed_step


def exactly(name: str) -> str:
    """The pattern that names this node and no other."""
    return f"re:{re.escape(name)}"


def _is_float(node: ir.Node, *, tables: bool) -> bool:
    return _is_float_kernel(node) or (tables and _is_float_table(node))


def _is_float_table(node: ir.Node) -> bool:
    if not graph.is_standard(node, "Gather"):
        return False
    table = graph.constant_tensor(node.inputs[0])
    return table is not None and table.dtype == ir.DataType.FLOAT and len(table.shape) > 1


def _is_float_kernel(node: ir.Node) -> bool:
    if node.op_type not in KERNELS or node.domain not in graph.STANDARD_DOMAINS or len(node.inputs) < 2:
        return False
    weight = graph.constant_tensor(node.inputs[1])
    return weight is not None and weight.dtype == ir.DataType.FLOAT
