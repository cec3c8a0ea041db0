"""Shapes for stated sizes of the open dimensions: binding them, and inference in the limited child."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import msgspec
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.refine_shapes import ShapeInference, refine
from modelopt.core.errors import ModeloptError
from modelopt.core.signature import Signature, name_in, no_dimension
from modelopt.graph import macs


class BoundDim(msgspec.Struct, frozen=True, kw_only=True):
    """A dimension of an input that the model leaves open.

    Attributes:
        name: Its symbolic name, or ``INPUT:AXIS`` where it has none: what ``--dim`` takes.
        size: The size that MACs and shapes are computed for, None when it is left open.
        source: ``given`` by the user, ``assumed`` to be a batch of 1, or ``free``.
    """

    name: str
    size: int | None
    source: Literal["given", "assumed", "free"]


def bind(signature: Signature, given: Mapping[str, int]) -> tuple[BoundDim, ...]:
    """Decide on a size for each open dimension of the inputs.

    A dimension is taken for a batch, of 1, when it is the first axis of an input with two axes or more and its name
    stands on no later axis. All others stay free unless they are given.

    Args:
        signature: The model's inputs.
        given: Sizes by symbolic name, or by ``INPUT:AXIS`` for dimensions without a name.

    Raises:
        InputError: A name in `given` is not an open dimension.
    """
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape or ()):
            name = name_in(spec.name, axis, dim)
            if name is not None:
                places[name].append((axis, len(spec.shape or ())))
    for name in given:
        if name not in places:
            raise no_dimension(name, places, "a dimension without a name is INPUT:AXIS")
    return tuple(_decide(name, found, given) for name, found in places.items())


def _decide(name: str, places: list[tuple[int, int]], given: Mapping[str, int]) -> BoundDim:
    if name in given:
        return BoundDim(name=name, size=given[name], source="given")
    if all(axis == 0 and rank >= 2 for axis, rank in places):
        return BoundDim(name=name, size=1, source="assumed")
    return BoundDim(name=name, size=None, source="free")


@contextmanager
def inferred(model: ir.Model, dims: tuple[BoundDim, ...], inference: ShapeInference) -> Iterator[str | None]:
    """Give the values of `model` the shapes they have for `dims`, for a while; afterwards it is as before.

    Yields:
        Why inference failed, None when it did not. What the file declares is used either way.
    """
    sizes = {dim.name: dim.size for dim in dims if dim.size is not None}
    values = list(_values(model))
    declared = [(value, value.shape, value.type) for value in values]
    try:
        for value in values:
            if value.is_graph_input():
                value.shape = _substituted(value, sizes)
            elif not macs.is_settled(value):
                value.shape = None  # inferred anew, for these sizes
        failure = _infer(model, inference)
        for value, shape, _ in declared:
            if shape is not None and not macs.is_settled(value):
                learned, value.shape = value.shape, shape
                substituted = _substituted(value, sizes)
                value.shape = substituted if learned is None else _merged(learned, substituted)
        if failure is None and any(macs.counts(n) and macs.macs(n) is None for n in graph.all_nodes(model)):
            refine(model, inference)
        yield failure
    finally:
        for value, shape, type_ in declared:
            value.shape = shape
            value.type = type_


def _infer(model: ir.Model, inference: ShapeInference) -> str | None:
    try:
        inference.infer_shapes(model)
    except ModeloptError as error:
        return f"{error.fact} ({error.note})" if error.note else error.fact
    return None


def _values(model: ir.Model) -> Iterator[ir.Value]:
    initializers = model.graph.initializers
    for scope in graph.all_graphs(model):
        yield from (value for value in scope.inputs if value.name not in initializers)
        for node in scope:
            yield from node.outputs


def _substituted(value: ir.Value, sizes: Mapping[str, int]) -> ir.Shape | None:
    plain = graph.dims(value)
    if plain is None:
        return None
    names = [name_in(value.name or "", axis, dim) for axis, dim in enumerate(plain)]
    return ir.Shape([dim if name is None else sizes.get(name, dim) for dim, name in zip(plain, names, strict=True)])


def _merged(learned: ir.Shape, declared: ir.Shape | None) -> ir.Shape:
    """For each axis the inferred size, else the declared one."""
    if declared is None or len(declared) != len(learned):
        return learned
    return ir.Shape([mine if isinstance(mine, int) else theirs for mine, theirs in zip(learned, declared, strict=True)])
