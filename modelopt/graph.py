"""Pure helpers over `onnx_ir`: what a node sees, what a value is, who uses it.

Nothing here changes a model except the functions under "Edits", and nothing here runs one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt.signature import Signature, TensorSpec

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


# Walking


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node in every scope: the main graph, bodies of If/Loop/Scan, functions.

    It is safe to remove or insert nodes while iterating.
    """
    for graph in all_graphs(model):
        yield from graph


def all_graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    """The main graph, its nested bodies, then each function with its bodies; outer scopes come first."""
    yield from _with_bodies(model.graph)
    for function in model.functions.values():
        yield from _with_bodies(function)


def _with_bodies(graph: ir.Graph | ir.Function) -> Iterator[ir.Graph | ir.Function]:
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from _with_bodies(body)


def nodes_with_opset(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """Every node in every scope, with the version of the standard operator set that it is written in.

    A function imports its own version; bodies inherit that of the graph or function around them. As with `all_nodes`,
    nodes may be removed or inserted while iterating.
    """
    roots: list[tuple[ir.Graph | ir.Function, Mapping[str, int]]] = [(model.graph, model.opset_imports)]
    roots += [(function, function.opset_imports) for function in model.functions.values()]
    for root, imports in roots:
        version = _standard_version(imports)
        for graph in _with_bodies(root):
            for node in graph:
                yield node, version


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs that hang on `node` as attributes."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def scopes(model: ir.Model) -> Iterator[tuple[ir.Graph | ir.Function, int, bool]]:
    """Every scope as in `all_graphs`, with its standard opset version and whether it lies inside a function.

    The version is 0 where none is imported. Inside a function there are no initializers: constants are Constant nodes.
    """
    for graph in _with_bodies(model.graph):
        yield graph, opset(model), False
    for function in model.functions.values():
        imports = function.opset_imports.items()
        version = max((v for domain, v in imports if domain in STANDARD_DOMAINS), default=0)
        for graph in _with_bodies(function):
            yield graph, version, True


# Values


def is_standard(node: ir.Node, op_type: str) -> bool:
    """Whether `node` is the standard operator `op_type` (not one of the same name in another domain)."""
    return node.op_type == op_type and node.domain in STANDARD_DOMAINS


def is_overridable(value: ir.Value) -> bool:
    """Whether `value` is an initializer that a caller may override because it is also a graph input."""
    return value.is_graph_input()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a value that never changes, without reading its bytes.

    A value is constant when it is an initializer that is not also a graph input, or the output of a Constant node
    that holds a tensor or plain numbers. Values captured from an outer scope count.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is not None:
        return _constant_node_tensor(producer) if is_standard(producer, "Constant") else None
    if is_overridable(value):
        return None
    return value.const_value


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for key, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if key == "value" and attribute.type == ir.AttributeType.TENSOR:
            tensor: ir.TensorProtocol = attribute.value  # as_tensor() checks a protocol's members, at 0.1 ms each
            return tensor
        if key in {"value_float", "value_floats"}:
            return ir.tensor(np.array(attribute.value, np.float32))
        if key in {"value_int", "value_ints"}:
            return ir.tensor(np.array(attribute.value, np.int64))
    return None


def constant(value: ir.Value | None, *, max_bytes: int | None = None) -> np.ndarray | None:
    """The array behind a constant value, else None.

    Args:
        value: Any value, or None for an omitted optional input.
        max_bytes: Return None for larger tensors instead of reading them.
    """
    tensor = constant_tensor(value)
    if tensor is None or (max_bytes is not None and tensor.nbytes > max_bytes):
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """The single number behind a constant value with one element, else None."""
    array = constant(value, max_bytes=64)
    if array is None or array.size != 1 or array.dtype.kind not in "fiub":
        return None
    number: float | int | bool = array.reshape(()).item()
    return number


def rank(value: ir.Value | None) -> int | None:
    """The number of axes, None when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known integer, else None. Some exporters write -1 for one that is not."""
    if value is None or value.shape is None:
        return None
    known = tuple(dim for dim in value.shape if isinstance(dim, int) and dim >= 0)
    return known if len(known) == len(value.shape) else None


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that uses `value`, when it uses it once and `value` is not a graph output; else None.

    Uses inside If/Loop/Scan bodies count as uses.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def why_not_sole(value: ir.Value) -> str:
    """Why `sole_consumer` is None for `value`, as a clause for `Skip`."""
    if value.is_graph_output():
        return "its output is also a graph output"
    return f"its output has {len(value.uses())} consumers"


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_float()


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list-of-integers attribute, or None."""
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else tuple(attribute.as_ints())


def attribute_string(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_string()


def opset(model: ir.Model) -> int:
    """The version of the standard operator set that the main graph uses; 0 when it imports none."""
    return _standard_version(model.opset_imports)


def _standard_version(imports: Mapping[str, int]) -> int:
    return max((version for domain, version in imports.items() if domain in STANDARD_DOMAINS), default=0)


def label(node: ir.Node) -> str:
    """How messages call a node: its name, else its first output's, always with its operator."""
    own = node.name or next((out.name for out in node.outputs if out.name), None) or "unnamed"
    return f"{own} ({node.op_type})"


# Statistics


def signature(model: ir.Model) -> Signature:
    """Inputs (without initializers) and outputs of the main graph."""
    initializers = model.graph.initializers
    return Signature(
        tuple(_spec(value) for value in model.graph.inputs if value.name not in initializers),
        tuple(_spec(value) for value in model.graph.outputs),
    )


def _spec(value: ir.Value) -> TensorSpec:
    shape = None
    if value.shape is not None:
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    if not isinstance(value.type, ir.TensorType):
        return TensorSpec(value.name or "", "unknown" if value.type is None else str(value.type), shape)
    dtype = value.type.dtype
    name = "string" if dtype == ir.DataType.STRING else dtype.numpy().name
    return TensorSpec(value.name or "", name, shape)


def tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every stored tensor in every scope, once each: initializers, and `value` of Constant nodes, with a name."""
    seen: set[int] = set()
    for graph in all_graphs(model):
        if isinstance(graph, ir.Graph):
            for name, value in graph.initializers.items():
                if value.const_value is not None and id(value.const_value) not in seen:
                    seen.add(id(value.const_value))
                    yield name, value.const_value
        for node in graph:
            if is_standard(node, "Constant"):
                tensor = _constant_node_tensor(node)
                if tensor is not None:
                    yield node.outputs[0].name or "", tensor


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all stored tensors."""
    return sum(tensor.nbytes for _, tensor in tensors(model))


def declared_values(model: ir.Model) -> frozenset[str]:
    """Names of intermediate values in any scope whose type the model states."""
    return frozenset(
        out.name
        for scope in all_graphs(model)
        for node in scope
        for out in node.outputs
        if out.name and out.type is not None
    )


# Edits


def forget_shapes(model: ir.Model, *, keep: frozenset[str]) -> None:
    """Drop what was inferred of intermediate values, so that it does not make the file grow; outputs keep theirs.

    So do the outputs of operators of other domains: nobody could infer them again.
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


def unique_name(model: ir.Model, stem: str) -> str:
    """A value name that no scope of `model` uses; deterministic. For many names use `NameSource`."""
    return NameSource(model)(stem)


class NameSource:
    """Hands out value names that no scope of the model uses. Call it with a stem."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
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
    tensor = ir.tensor(np.array(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


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
    if node.graph is None:
        raise ValueError(f"{node!r} belongs to no graph")
    tensor = ir.tensor(np.array(array, order="C"))
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    node.graph.insert_before(node, ir.node("Constant", [], {"value": tensor}, outputs=[value], name=name))
    return value


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
        if any(node.domain == domain for node in root.all_nodes()):
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


def owning_graph(node: ir.Node) -> ir.Graph | None:
    """The graph that can hold initializers for `node`; None inside a function, which has no initializers."""
    return node.graph if isinstance(node.graph, ir.Graph) else None


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


def drop_if_unused(value: ir.Value) -> bool:
    """Remove a constant that nothing uses any more, initializer or Constant node; says whether it did."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return False
    producer = value.producer()
    if producer is not None:
        return remove_if_dead(producer)
    if value.graph is None or value.name is None or not isinstance(value.graph, ir.Graph):
        return False
    return value.graph.initializers.pop(value.name, None) is not None


def replace_contents(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the graph, functions and versions of `other`, which is of no more use afterwards.

    Metadata and producer stay those of `model`.
    """
    model.graph = other.graph
    model.ir_version = max(model.ir_version, other.ir_version)
    model.functions.clear()
    model.functions.update(other.functions)


def sweep(model: ir.Model, *, keep: Callable[[ir.Node], bool] = lambda _node: False) -> int:
    """Remove nodes and initializers that nothing uses, in all scopes, until none is left; returns how many.

    Graph inputs and outputs are never touched; an initializer that is also a graph input stays.
    """
    removed = 0
    for graph in reversed(list(all_graphs(model))):  # bodies first: they capture outer values
        for node in reversed(list(graph)):
            if not keep(node):
                removed += remove_if_dead(node)
        if isinstance(graph, ir.Graph):
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    del graph.initializers[name]
                    removed += 1
    return removed
