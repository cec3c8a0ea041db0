"""Every node and every scope of a model, safely while it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

CONTRIB_DOMAIN = "com.microsoft"
"""The domain of the operators that only onnxruntime has (its ContribOperators.md)."""


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node in every scope: the main graph, bodies of If/Loop/Scan, functions.

    It is safe to remove or insert nodes while iterating.
    """
    for graph in all_graphs(model):
        yield from graph


def all_graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """The main graph, its nested bodies, then each function with its bodies; outer scopes come first."""
    yield from with_bodies(model.graph)
    for function in model.functions.values():
        yield from with_bodies(function)


def with_bodies(graph: ir.Graph | ir.Function) -> Iterator[ir.Graph | ir.Function]:
    """`graph`, then every body below it, outer scopes first."""
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from with_bodies(body)


def nodes_below(root: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Every node of `root` and of the bodies below it; onnx_ir's own walk fails at an attribute that is a reference."""
    for graph in with_bodies(root):
        yield from graph


def nodes_with_opset(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """Every node in every scope, with the version of the standard operator set that it is written in.

    A function imports its own version; bodies inherit that of the graph or function around them. As with `all_nodes`,
    nodes may be removed or inserted while iterating.
    """
    for graph, version, _ in scopes(model):
        for node in graph:
            yield node, version


def values_of(scope: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    """The values of one scope, each once: its inputs, its initializers, and what its nodes make."""
    yield from scope.inputs
    if isinstance(scope, ir.Graph):
        yield from (value for value in list(scope.initializers.values()) if not value.is_graph_input())
    for node in scope:
        yield from node.outputs


def bodies(node: ir.Node) -> Sequence[ir.Graph]:
    """The subgraphs that hang on `node` as attributes."""
    if not len(node.attributes):  # most walks of a model spend their time here, and views of a UserDict are slow
        return ()
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def scopes(model: ir.Model) -> Iterator[tuple[ir.Graph | ir.Function, int, bool]]:
    """Every scope as in `all_graphs`, with its standard opset version and whether it lies inside a function.

    The version is 0 where none is imported. Inside a function there are no initializers: constants are Constant nodes.
    """
    version = opset(model)
    for graph in with_bodies(model.graph):
        yield graph, version, False
    for function in model.functions.values():
        version = standard_version(function.opset_imports)
        for graph in with_bodies(function):
            yield graph, version, True


def opset(model: ir.Model) -> int:
    """The version of the standard operator set that the main graph uses; 0 when it imports none."""
    return standard_version(model.opset_imports)


def standard_version(imports: Mapping[str, int]) -> int:
    """The version of the standard operator set among these imports; 0 where there is none."""
    return max((version for domain, version in imports.items() if domain in STANDARD_DOMAINS), default=0)
