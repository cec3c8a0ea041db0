"""The only helpers that change a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from modelopt.graph.values import constant_tensor, holder_of, scope_of
from modelopt.graph.walking import STANDARD_DOMAINS, all_graphs, all_nodes, bodies, nodes_below

_FIRST_IR_WITH_PLAIN_INITIALIZERS = 4


def forget_shapes(model: ir.Model, *, keep: frozenset[str]) -> None:
    """Drop the inferred types and shapes of intermediate values, so that the file does not grow; outputs keep theirs.

    So do the outputs of operators of other domains: onnx cannot infer them again.
    """
    for scope in all_graphs(model):
        outputs = set(scope.outputs)
        for node in scope:
            for value in node.outputs if node.domain in STANDARD_DOMAINS else ():
                if value not in outputs and value.name not in keep:
                    value.type, value.shape = None, None


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Make every user of `old` use `new`; when `old` is a graph output the new value takes over its name.

    The caller makes sure that `new` is in scope wherever `old` was used, and that `new` is neither a graph input, nor
    an initializer, nor already a graph output when `old` is a graph output.
    """
    if old.is_graph_output():
        name, shape, type_ = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}_replaced"
        new.name = name
        new.shape = new.shape if shape is None else shape
        new.type = new.type if type_ is None else type_
        return
    old.replace_all_uses_with(new)


def can_replace(old: ir.Value, new: ir.Value) -> str | None:
    """Why `replace_value(old, new)` would change the signature, else None."""
    if not old.is_graph_output():
        return None
    if new.producer() is None:
        return "a graph output would become a graph input or an initializer"
    if new.is_graph_output():
        return "two graph outputs would become one value"
    if new.graph is not old.graph:
        return "a graph output would leave its scope"
    return None


class NameSource:
    """Hands out value names that no scope of the model uses. Call it with a stem.

    Args:
        model: The model.
        nodes: Keep clear of the names of nodes as well, to name nodes; onnxruntime refuses two of one name.
    """

    def __init__(self, model: ir.Model, *, nodes: bool = False) -> None:
        self._taken: set[str] = {node.name or "" for node in all_nodes(model)} if nodes else set()
        for graph in all_graphs(model):
            self._taken.update(value.name or "" for value in graph.inputs)
            if isinstance(graph, ir.Graph):
                self._taken.update(graph.initializers)
            for node in graph:
                self._taken.update(value.name or "" for value in node.outputs)

    def __call__(self, stem: str) -> str:
        """Return `stem` when it is free, else ``stem_1``, ``stem_2`` …."""
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register `array` as an initializer of `graph` and return its value. `name` must be free."""
    value = stored_value(ir.tensor(np.array(array, order="C"), name=name))
    graph.register_initializer(value)
    return value


def stored_value(tensor: ir.TensorProtocol) -> ir.Value:
    """A value that holds `tensor` and has its name, in no graph yet."""
    type_ = ir.TensorType(tensor.dtype)
    return ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=type_, const_value=tensor)


def allows_plain_initializers(model: ir.Model) -> bool:
    """Whether an initializer may be no graph input: since IR version 4."""
    return model.ir_version >= _FIRST_IR_WITH_PLAIN_INITIALIZERS


def allow_plain_initializers(model: ir.Model) -> None:
    """Raise the model's IR version, where `allows_plain_initializers` says no."""
    model.ir_version = max(model.ir_version, _FIRST_IR_WITH_PLAIN_INITIALIZERS)


def set_constant(value: ir.Value, array: np.ndarray) -> None:
    """Store `array` behind a value that `constant_tensor` knows; its name stays and all its users see the change."""
    old = constant_tensor(value)
    tensor = ir.tensor(np.array(array, order="C"), name=None if old is None else old.name)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        producer.attributes.clear()
        producer.attributes.add(ir.AttrTensor("value", tensor))
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(tensor.dtype)


def constant_beside(like: ir.Value, node: ir.Node, name: str, array: np.ndarray) -> ir.Value:
    """A new constant for `node`, stored the way its constant input `like` is; `name` must be free.

    Beside an initializer it is an initializer of the same graph, which `node` sees as it sees `like`. Beside a Constant
    node it is a Constant node: a function holds no initializers, and before IR version 4 each had to be a graph input.
    """
    if like.producer() is None:
        if like.graph is None:
            raise ValueError(f"{like!r} belongs to no graph")
        return add_initializer(like.graph, name, array)
    tensor = ir.tensor(np.array(array, order="C"))
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    scope_of(node).insert_before(node, ir.node("Constant", [], {"value": tensor}, outputs=[value], name=name))
    return value


def insert_first(scope: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Put nodes before all others of a graph."""
    first = next(iter(scope), None)
    if first is None:
        scope.extend(nodes)
    else:
        scope.insert_before(first, nodes)


def insert_behind(value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put nodes where all users of `value` see them: behind its producer, else first in the graph that holds it.

    Raises:
        ValueError: It is in no graph, or in a function.
    """
    producer, holder = value.producer(), holder_of(value)
    if producer is None:
        insert_first(holder, nodes)
    else:
        holder.insert_after(producer, nodes)


def become(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Iterable[ir.Attr] = (),
    *,
    domain: str = "",
) -> None:
    """Turn `node` into another operator in place; its outputs, their names, types and users stay.

    The nodes and constants that fed it stay too: the caller removes those that are left without users, and imports
    the operator's domain where it is not the standard one.
    """
    node.domain = domain
    node.op_type = op_type
    node.attributes.clear()
    node.attributes.update({attribute.name: attribute for attribute in attributes})
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def import_domain(model: ir.Model, domain: str, version: int) -> None:
    """Import `domain` in the main graph and in each function that uses it, where that is not done yet."""
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        if any(node.domain == domain for node in nodes_below(root)):
            root.opset_imports.setdefault(domain, version)


def remove_with_constants(node: ir.Node) -> None:
    """Remove `node` when nothing uses any of its outputs, and then the constants that only it used."""
    inputs = dict.fromkeys(node.inputs)
    if remove_if_dead(node):
        drop_unused_constants(inputs)


def drop_unused_constants(values: Iterable[ir.Value | None]) -> None:
    """Remove those of `values` that are constants without users."""
    for value in values:
        if value is None or constant_tensor(value) is None or value.uses() or value.is_graph_output():
            continue
        producer = value.producer()
        if producer is not None:
            remove_if_dead(producer)
        elif value.graph is not None and value.name is not None:
            value.graph.initializers.pop(value.name, None)


def remove_unread(values: Iterable[ir.Value | None]) -> None:
    """Remove the nodes and constants that make `values` where nothing reads them, and then what only these read."""
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        producer = None if value is None else value.producer()
        if producer is None:
            drop_unused_constants([value])
            continue
        inputs = list(producer.inputs)
        if remove_if_dead(producer):
            waiting += inputs


def remove_if_dead(node: ir.Node) -> bool:
    """Remove `node` when nothing uses any of its outputs; says whether it did."""
    if node.graph is None or any(out.uses() or out.is_graph_output() for out in node.outputs):
        return False
    _detach_bodies(node)
    node.graph.remove(node, safe=True)
    return True


def _detach_bodies(node: ir.Node) -> None:
    """End the uses of outer values by the bodies of a node that goes: removing the node alone leaves them."""
    for body in bodies(node):
        for inner in body:
            _detach_bodies(inner)
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)


def replace_contents(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the graph, functions and versions of `other`, which must not be used afterwards.

    Metadata and producer stay those of `model`.
    """
    model.graph = other.graph
    model.ir_version = max(model.ir_version, other.ir_version)
    model.functions.clear()
    model.functions.update(other.functions)


def cut_to(model: ir.Model, outputs: Iterable[ir.Value]) -> None:
    """Make these values the outputs of a model, and remove what they do not need; inputs stay."""
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    sweep(model)


def prefix(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of a model whose outputs are the values of these names, without what they do not need; inputs stay."""
    copy = model.clone()
    made = {value.name: value for node in copy.graph for value in node.outputs}
    made |= {value.name: value for value in copy.graph.inputs}
    cut_to(copy, (made[name] for name in dict.fromkeys(names)))
    return copy


def sweep(model: ir.Model) -> int:
    """Remove nodes and initializers that nothing uses, in all scopes, until none is left; returns how many.

    Graph inputs and outputs are never touched; an initializer that is also a graph input stays.
    """
    removed = 0
    for graph in reversed(list(all_graphs(model))):  # bodies first: they capture outer values
        for node in reversed(list(graph)):
            removed += remove_if_dead(node)
        if isinstance(graph, ir.Graph):
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    del graph.initializers[name]
                    removed += 1
    return removed
