"""The nodes that a value comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from modelopt import graph


def producers(value: ir.Value, goes_on: Callable[[ir.Node], bool], most: int) -> Iterator[ir.Node]:
    """The node that makes a value, and those before it, depth first along the first input; constants are left out.

    Args:
        value: Where to start.
        goes_on: Whether to follow the inputs of a node.
        most: How many nodes to look at.
    """
    waiting, seen = [value], set[ir.Node]()
    while waiting and len(seen) < most:
        node = waiting.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if goes_on(node):
            waiting += reversed(varying_inputs(node))


def varying_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that are given and are no constants."""
    return [each for each in node.inputs if each is not None and graph.constant_tensor(each) is None]
