"""What a model consists of, and what the commands would find in it.

It runs no model, and reads no more than a bounded part of the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.consteval.refine_shapes import ShapeInference
from modelopt.graph.types import dtype_name
from modelopt.inspection import layers, sampling
from modelopt.inspection.blockers import blockers
from modelopt.inspection.data import DtypeWeights, FileFacts, Inspection, OpsetImport
from modelopt.inspection.foldable import foldable
from modelopt.io import Loaded

__all__ = ["Inspection", "inspect"]


def inspect(
    loaded: Loaded, inference: ShapeInference, *, sizes: Mapping[str, int] | None = None, layer_limit: int = 10
) -> Inspection:
    """Inspect a model. It is the same afterwards.

    Args:
        loaded: The model, through the gate.
        inference: Who infers shapes; when it fails the inspection goes on without.
        sizes: Sizes of open dimensions by name: see `known_shapes.bind`.
        layer_limit: How many of the largest layers to keep.

    Raises:
        InputError: `sizes` names no open dimension, or a stored tensor is broken.
    """
    model = loaded.model
    signature = graph.signature(model)
    dims = bind(signature, sizes or {})
    stored = [tensor for _, tensor in graph.tensors(model)]
    ops = layers.histogram(model)
    with inferred(model, dims, inference) as shape_failure:
        largest, macs = layers.layers(model), layers.total(model)
    return Inspection(
        file=FileFacts(
            path=loaded.shown,
            size_bytes=loaded.size_bytes,
            sha256=loaded.sha256,
            has_external_data=loaded.has_external_data,
        ),
        producer=" ".join(text for text in (model.producer_name, model.producer_version) if text),
        ir_version=model.ir_version,
        opsets=tuple(OpsetImport(domain=d or "ai.onnx", version=v) for d, v in model.opset_imports.items()),
        metadata=dict(model.metadata_props),
        inputs=signature.inputs,
        outputs=signature.outputs,
        overridable_initializers=sum(map(graph.is_overridable, model.graph.initializers.values())),
        nodes=sum(op.count for op in ops),
        nodes_in_bodies=sum(op.in_bodies for op in ops),
        nodes_in_functions=sum(op.in_functions for op in ops),
        ops=ops,
        parameters=sum(tensor.size for tensor in stored if layers.holds_parameters(tensor)),
        weight_bytes=sum(tensor.nbytes for tensor in stored),
        weights=_by_dtype(stored),
        sparsity=sampling.sparsity(stored),
        dims=dims,
        shape_failure=shape_failure,
        macs=macs,
        layers=tuple(largest[:layer_limit]),
        layer_count=len(largest),
        foldable=foldable(model),
        blockers=blockers(model),
    )


def _by_dtype(tensors: Iterable[ir.TensorProtocol]) -> tuple[DtypeWeights, ...]:
    found: dict[str, list[ir.TensorProtocol]] = defaultdict(list)
    for tensor in tensors:
        found[dtype_name(tensor.dtype)].append(tensor)
    rows = [
        DtypeWeights(
            dtype=dtype,
            tensors=len(group),
            elements=sum(tensor.size for tensor in group),
            size_bytes=sum(tensor.nbytes for tensor in group),
        )
        for dtype, group in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.dtype)))
