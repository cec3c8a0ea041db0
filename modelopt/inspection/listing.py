"""An inspection for people: plain sections of strings."""

from __future__ import annotations

from collections.abc import Iterable

from modelopt.consteval.known_shapes import BoundDim
from modelopt.core.plural import counted
from modelopt.core.signature import Dim
from modelopt.core.tables import Section
from modelopt.inspection.data import Inspection, Layer, OpCount

_VALUES_SHOWN = 100
"""A table of thousands of rows takes longer to draw than the model to read."""

_OPS_SHOWN = 12
_EXAMPLES_SHOWN = 1
_TEXT_SHOWN = 60
_UNKNOWN = "–"


def render_inspection(inspection: Inspection, *, verbose: bool = False) -> list[Section]:
    """The sections in reading order; `verbose` shows all operators, the metadata and more examples."""
    sections = [
        _model(inspection, verbose=verbose),
        _values(inspection),
        _operators(inspection, verbose=verbose),
        _weights(inspection),
        _macs(inspection),
        _layers(inspection),
        _foldable(inspection),
        _blockers(inspection, verbose=verbose),
    ]
    return [section for section in sections if section.rows or section.notes]


def _model(inspection: Inspection, *, verbose: bool) -> Section:
    file = inspection.file
    inside = "with external data" if file.has_external_data else "all in one file"
    rows = [
        ("size", f"{size(file.size_bytes)}, {inside}"),
        ("weights", size(inspection.weight_bytes)),
        ("parameters", f"{count(inspection.parameters)} ({inspection.parameters:,})"),
        ("MACs", _total(inspection)),
        ("opsets", ", ".join(f"{opset.domain} {opset.version}" for opset in inspection.opsets)),
        ("IR version", str(inspection.ir_version)),
        ("producer", inspection.producer or "not named"),
        ("sha256", file.sha256),
    ]
    if verbose:
        rows += [(f"metadata {key}", _cut(text)) for key, text in inspection.metadata.items()]
    elif inspection.metadata:
        rows.append(("metadata", f"{len(inspection.metadata)} entries (-v shows them)"))
    notes = ("Parameters are stored floating-point and 8-bit or narrower integer elements, in all scopes.",)
    return Section(file.path, None, tuple(rows), notes if verbose else ())


def _total(inspection: Inspection) -> str:
    macs = inspection.macs
    if not macs.by_op:
        return "none: nothing multiplies matrices"
    sizes = ", ".join(f"{dim.name} = {dim.size}" for dim in inspection.dims if dim.size is not None)
    suffix = f" for {sizes}" if sizes else ""
    if macs.total is not None:
        return f"{count(macs.total)}{suffix}"
    return f"at least {count(macs.known)}{suffix}; unknown for {counted(macs.unknown_nodes, 'node')}"


def _values(inspection: Inspection) -> Section:
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for kind, specs in (("input", inspection.inputs), ("output", inspection.outputs)):
        rows += [(kind, spec.name, spec.dtype, _shape(spec.shape)) for spec in specs[:_VALUES_SHOWN]]
        if len(specs) > _VALUES_SHOWN:
            notes.append(f"{len(specs) - _VALUES_SHOWN:,} more {kind}s: --json has all of them.")
    if number := inspection.overridable_initializers:
        notes.append(f"{number} initializers are inputs too: a caller may replace them.")
    return Section("Inputs and outputs", ("", "name", "type", "shape"), tuple(rows), tuple(notes))


def _operators(inspection: Inspection, *, verbose: bool) -> Section:
    shown = inspection.ops if verbose else inspection.ops[:_OPS_SHOWN]
    inner = inspection.nodes_in_bodies + inspection.nodes_in_functions
    header = ("operator", "nodes", "in bodies", "in functions") if inner else ("operator", "nodes")
    rows = tuple(_op_row(op)[: len(header)] for op in shown)
    title = counted(inspection.nodes, "node")
    if inner:
        title += f", of these {inspection.nodes_in_bodies} in If, Loop or Scan bodies"
        title += f" and {inspection.nodes_in_functions} in functions"
    hidden = len(inspection.ops) - len(shown)
    return Section(title, header, rows, (f"and {hidden} more operators (-v shows them)",) if hidden else ())


def _op_row(op: OpCount) -> tuple[str, ...]:
    return op.op, str(op.count), str(op.in_bodies), str(op.in_functions)


def _weights(inspection: Inspection) -> Section:
    rows = tuple((row.dtype, str(row.tensors), count(row.elements), size(row.size_bytes)) for row in inspection.weights)
    return Section("Weights", ("type", "tensors", "elements", "size"), rows, tuple(_sparsity(inspection)))


def _sparsity(inspection: Inspection) -> Iterable[str]:
    found = inspection.sparsity
    if found.fraction is None:
        return
    how = "" if found.is_exact else f", estimated from {found.read_elements / found.all_elements:.2%} of them"
    yield f"{found.fraction:.2%} of the floating-point weights are zero{how}"


def _macs(inspection: Inspection) -> Section:
    rows = tuple(
        (op.op, str(op.nodes), count(op.macs), str(op.unknown_nodes) if op.unknown_nodes else "")
        for op in inspection.macs.by_op
    )
    notes: list[str] = []
    if rows:
        notes += [_assumption(dim) for dim in inspection.dims]
    if inspection.nodes_in_bodies + inspection.nodes_in_functions:
        notes.append("Each body and each function is counted once, however often it runs.")
    if inspection.shape_failure is not None:
        notes.append(f"shapes: inference failed: {inspection.shape_failure}; only shapes in the file are used")
    title = "Multiply-accumulates (no element-wise work)"
    return Section(title, ("operator", "nodes", "MACs", "of unknown shape"), rows, tuple(notes))


def _assumption(dim: BoundDim) -> str:
    flag = f"--dim '{dim.name}=N'"
    if dim.source == "free":
        return f"'{dim.name}' is open, so what depends on it is unknown: set it with {flag}"
    if dim.source == "assumed":
        return f"'{dim.name}' is assumed to be a batch of {dim.size}: change it with {flag}"
    return f"'{dim.name}' is {dim.size}, as given"


def _layers(inspection: Inspection) -> Section:
    rows = tuple(_layer_row(layer) for layer in inspection.layers)
    title = f"The largest {len(rows)} of {inspection.layer_count} nodes with weights or MACs"
    if not rows:
        return Section(title, None, ())
    return Section(title, ("name", "operator", "output", "parameters", "size", "MACs"), rows)


def _layer_row(layer: Layer) -> tuple[str, ...]:
    where = "" if layer.scope == "main" else f" (in a {layer.scope})"
    macs = _UNKNOWN if layer.macs is None else count(layer.macs)
    shape = _shape(layer.output_shape)
    return layer.name + where, layer.op, shape, count(layer.parameters), size(layer.weight_bytes), macs


def _foldable(inspection: Inspection) -> Section:
    found = inspection.foldable
    rows = [
        (str(found.constant_nodes), "nodes compute from constants alone", "modelopt fold"),
        (str(found.identities), "nodes hand on their input", "modelopt fold"),
        (str(found.batchnorms_after_conv), "BatchNormalizations directly behind a convolution", "modelopt fuse"),
        (size(found.duplicate_bytes), "stored more than once", "modelopt fold"),
        (size(found.likely_duplicate_bytes), "look stored more than once (compared at both ends)", "modelopt fold"),
        (size(found.unused_bytes), "of initializers that nothing reads", "modelopt fold"),
    ]
    rows = [row for row in rows if row[0] not in {"0", "0 B"}]
    return Section(
        "What may be simplified, by looking at the graph", None, tuple(rows), () if rows else ("nothing was found",)
    )


def _blockers(inspection: Inspection, *, verbose: bool) -> Section:
    title = "What quantization will meet, by looking at the graph"
    if not inspection.blockers:
        return Section(title, None, (), ("nothing was found in its way",))
    rows = []
    for blocker in inspection.blockers:
        examples = blocker.examples if verbose else blocker.examples[:_EXAMPLES_SHOWN]
        shown = ", ".join(_cut(example) for example in examples)
        if shown and blocker.count > len(examples):
            shown += ", …"
        text = f"{blocker.text}: {shown}" if shown else blocker.text
        rows.append((blocker.severity, blocker.code, str(blocker.count or ""), text))
    return Section(title, None, tuple(rows))


def _shape(dims: tuple[Dim, ...] | None) -> str:
    if dims is None:
        return "unknown rank"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_SHOWN else f"{text[: _TEXT_SHOWN - 1]}…"


def size(size_bytes: int) -> str:
    """Bytes in decimal units: ``102.5 MB``."""
    return _scaled(size_bytes, ("B", "kB", "MB", "GB", "TB"))


def count(number: int) -> str:
    """A number with a metric prefix: ``4.09 G``."""
    return _scaled(number, ("", "k", "M", "G", "T", "P", "E")).strip()


def _scaled(number: int, units: tuple[str, ...]) -> str:
    scaled, step = float(number), 0
    while scaled >= 999.5 and step < len(units) - 1:
        scaled, step = scaled / 1000, step + 1
    if step == 0:
        return f"{number} {units[0]}"
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {units[step]}"
