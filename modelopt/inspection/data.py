"""What an inspection finds, as versioned data: the document that ``modelopt inspect --json`` prints.

Sizes are bytes, counts are elements or nodes, MACs are multiply-accumulate operations. None means unknown.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from modelopt.consteval.known_shapes import BoundDim
from modelopt.core.signature import Dim, TensorSpec


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The file.

    Attributes:
        path: As the user wrote it.
        size_bytes: Of the model file and its external data.
        sha256: Of the model file in hex; external data are not in it.
        has_external_data: Whether weights are in files of their own.
    """

    path: str
    size_bytes: int
    sha256: str
    has_external_data: bool


class OpsetImport(msgspec.Struct, frozen=True, kw_only=True):
    """An operator set that the model imports; the standard one has the domain ``ai.onnx``."""

    domain: str
    version: int


class OpCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often an operator occurs.

    Attributes:
        op: Its type, with ``domain::`` before it unless it is a standard one.
        count: In all scopes.
        in_bodies: Of these, inside bodies of If, Loop and Scan.
        in_functions: Of these, inside functions (and their bodies).
    """

    op: str
    count: int
    in_bodies: int
    in_functions: int


class DtypeWeights(msgspec.Struct, frozen=True, kw_only=True):
    """The stored tensors of one dtype, in all scopes, each stored tensor once."""

    dtype: str
    tensors: int
    elements: int
    size_bytes: int


class Sparsity(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the floating-point weights are zero.

    Attributes:
        zeros: Zeros among the elements that were read.
        read_elements: How many elements were read.
        all_elements: How many there are; all were read when the two agree.
    """

    zeros: int
    read_elements: int
    all_elements: int

    @property
    def fraction(self) -> float | None:
        """Zeros / elements read, None when there are none."""
        return self.zeros / self.read_elements if self.read_elements else None

    @property
    def is_exact(self) -> bool:
        """Whether all elements were read."""
        return self.read_elements == self.all_elements


class OpMacs(msgspec.Struct, frozen=True, kw_only=True):
    """MACs of all nodes of one operator.

    Attributes:
        op: As in `OpCount`.
        nodes: How many there are.
        unknown_nodes: Of these, how many have a shape that is not known.
        macs: Of the others, together.
    """

    op: str
    nodes: int
    unknown_nodes: int
    macs: int


class Macs(msgspec.Struct, frozen=True, kw_only=True):
    """Multiply-accumulates of one run, with each body and each function counted once.

    Attributes:
        total: None when the shape of any node that multiplies matrices is unknown.
        known: Of the nodes with known shapes.
        unknown_nodes: How many nodes are not in `known`.
        by_op: The largest first.
    """

    total: int | None
    known: int
    unknown_nodes: int
    by_op: tuple[OpMacs, ...]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A node with weights or MACs.

    Attributes:
        name: Of the node, else of its first output.
        op: As in `OpCount`.
        scope: Where it is.
        output_shape: For the sizes in `Inspection.dims`; None when the rank is unknown.
        parameters: Elements of its weights; a shared weight counts at each of its users.
        weight_bytes: Of these.
        macs: None when unknown, and for operators that do not multiply matrices.
    """

    name: str
    op: str
    scope: Literal["main", "body", "function"]
    output_shape: tuple[Dim, ...] | None
    parameters: int
    weight_bytes: int
    macs: int | None


class Foldable(msgspec.Struct, frozen=True, kw_only=True):
    """What ``modelopt fold`` and ``modelopt fuse`` would look at; lower bounds, found without running anything.

    Attributes:
        constant_nodes: Nodes whose inputs are all constant, or computed from constants alone.
        identities: Nodes that hand on their input.
        batchnorms_after_conv: BatchNormalizations directly behind a convolution with constant weights.
        duplicate_bytes: Stored more than once, compared byte by byte.
        likely_duplicate_bytes: Large tensors of equal shape and dtype that agree at both ends; the rest was not read.
        unused_bytes: Initializers that nothing reads.
    """

    constant_nodes: int
    identities: int
    batchnorms_after_conv: int
    duplicate_bytes: int
    likely_duplicate_bytes: int
    unused_bytes: int


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """Something that quantization meets in this model.

    Attributes:
        code: A fixed word for scripts.
        severity: ``stops`` it, ``hampers`` it (some nodes stay in float), or ``note`` where it only informs.
        count: How many nodes or tensors.
        text: One sentence.
        examples: A few of the nodes or tensors.
    """

    code: str
    severity: Literal["stops", "hampers", "note"]
    count: int
    text: str
    examples: tuple[str, ...] = ()


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``modelopt inspect`` finds.

    Attributes:
        schema: The version of this structure.
        file: The file.
        producer: Name and version of the program that wrote the model, as it says; may be empty.
        ir_version: Of the file format.
        opsets: What it imports.
        metadata: The model's own notes.
        inputs: Without initializers that are also inputs.
        outputs: The results.
        overridable_initializers: Initializers that are also inputs.
        nodes: In all scopes, Constant nodes included.
        nodes_in_bodies: Of these, inside bodies of If, Loop and Scan.
        nodes_in_functions: Of these, inside functions.
        ops: The most frequent first.
        parameters: Stored elements in all scopes (initializers, Constant nodes, bodies) that are floating-point or
            integers of at most 8 bits; wider integers are shapes and indices.
        weight_bytes: Of all stored tensors.
        weights: By dtype, the largest first.
        sparsity: Of floating-point weights of 8 bits and more.
        dims: The open dimensions and what was taken for them.
        shape_failure: Why shape inference gave nothing, None when it worked.
        macs: Multiply-accumulates for `dims`.
        layers: The largest by weight bytes, then by MACs.
        layer_count: How many there are.
        foldable: What could be simplified.
        blockers: What quantization meets, the worst first.
    """

    schema: Literal["modelopt-inspect/1"] = "modelopt-inspect/1"
    file: FileFacts
    producer: str
    ir_version: int
    opsets: tuple[OpsetImport, ...]
    metadata: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    overridable_initializers: int
    nodes: int
    nodes_in_bodies: int
    nodes_in_functions: int
    ops: tuple[OpCount, ...]
    parameters: int
    weight_bytes: int
    weights: tuple[DtypeWeights, ...]
    sparsity: Sparsity
    dims: tuple[BoundDim, ...]
    shape_failure: str | None
    macs: Macs
    layers: tuple[Layer, ...]
    layer_count: int
    foldable: Foldable
    blockers: tuple[Blocker, ...]
