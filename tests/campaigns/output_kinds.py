"""Small models whose outputs are of known kinds, and what is done to their answers: damage and harmless rounding.

    python -m tests.campaigns.output_kinds

Prints what each output is taken for, what a contract of 1 % says where 2 % of the answers are damaged, and what it says
of noise at 40 dB that leaves the answers as they are.

Each model is real ONNX: a layer of random features and a last layer that was fitted to a made-up truth, so that its
answers vary and hang together as those of a trained model do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from modelopt.measure.heads import heads_of
from modelopt.measure.output_kinds import OutputKind as Kind
from modelopt.measure.output_kinds import Recognized, recognize
from modelopt.measure.outputs import OutputScore, OutputScores

SAMPLES = 200
_WIDTH = 16
_HIDDEN = 48


@dataclass
class Net:
    """A graph under construction. Its input is ``x``, of the shape of `inputs` without the first axis.

    Attributes:
        inputs: What the model runs on, one sample a row.
        nodes: So far.
        weights: By name.
        outputs: Names and ranks.
    """

    inputs: np.ndarray
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[tuple[str, list[int | str], int]] = field(default_factory=list)

    def add(self, op_type: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Append a node; arrays become initializers."""
        names = []
        for each in inputs:
            if isinstance(each, np.ndarray):
                names.append(f"w{len(self.weights)}")
                self.weights[names[-1]] = each
            else:
                names.append(each)
        result = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [result], **attributes))
        return result

    def end(self, value: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> None:
        """Make a value an output."""
        self.outputs.append((value, shape, dtype))

    def values(self, name: str) -> np.ndarray:
        """What a value is on all inputs."""
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        found: np.ndarray = np.concatenate(_run(self._model(info), self.inputs)[0])
        return found

    def model(self) -> onnx.ModelProto:
        """The model, its batch dimension free."""
        info = [helper.make_tensor_value_info(name, dtype, shape) for name, shape, dtype in self.outputs]
        return self._model(info)

    def _model(self, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        shape = ["n", *self.inputs.shape[1:]]
        stored = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "g", info, outputs, stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass(frozen=True)
class Case:
    """A model of a known kind.

    Attributes:
        name: What it is like.
        model: The model.
        inputs: One sample a row.
        kinds: Of its outputs, in order.
    """

    name: str
    model: onnx.ModelProto
    inputs: np.ndarray
    kinds: tuple[Kind, ...]

    def answers(self) -> list[list[np.ndarray]]:
        """By output, what the model gives for each sample."""
        return _run(self.model, self.inputs)


def _run(model: onnx.ModelProto, inputs: np.ndarray) -> list[list[np.ndarray]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"x": row[None]}) for row in inputs]
    return [[run[position] for run in runs] for position in range(len(session.get_outputs()))]


# Parts of models


def _rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SAMPLES, *(shape or (_WIDTH,)))).astype(np.float32)


def _random(seed: int, *shape: int) -> np.ndarray:
    found: np.ndarray = (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
    return found


def _features(net: Net, seed: int) -> str:
    """Random features of a vector."""
    return net.add("Relu", net.add("MatMul", "x", _random(seed, net.inputs.shape[-1], _HIDDEN)))


def _fitted(net: Net, features: str, targets: np.ndarray) -> str:
    """A linear layer that was fitted to targets, float[samples…, outputs], by ridge regression."""
    rows = net.values(features)
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    design = np.c_[flat, np.ones(len(flat))]
    wanted = targets.reshape(len(flat), -1)
    solved = np.linalg.solve(design.T @ design + 0.1 * np.eye(design.shape[1]), design.T @ wanted)
    product = net.add("MatMul", features, solved[:-1].astype(np.float32))
    return net.add("Add", product, solved[-1].astype(np.float32))


def _truth(net: Net, seed: int, count: int) -> np.ndarray:
    """Numbers that depend on the inputs: float[samples…, count]."""
    hidden = np.tanh(net.inputs @ _random(seed, net.inputs.shape[-1], 24) * 1.5)
    found: np.ndarray = hidden @ _random(seed + 1, 24, count) * 3
    return found


def _one_hot(scores: np.ndarray) -> np.ndarray:
    """4 for the highest class and 0 for the others, as sure as a trained classifier is."""
    found: np.ndarray = 4.0 * np.eye(scores.shape[-1])[scores.argmax(-1)]
    return found


def _classes(net: Net, seed: int, count: int) -> str:
    return _fitted(net, _features(net, seed), _one_hot(_truth(net, seed, count)))


def _vector(seed: int) -> Net:
    return Net(_rows(seed))


def _sequence(seed: int, steps: int = 20) -> Net:
    """Steps of a sequence, each like the one before it."""
    noise = _rows(seed, steps, _WIDTH)
    for step in range(1, steps):
        noise[:, step] = 0.6 * noise[:, step - 1] + 0.8 * noise[:, step]
    return Net(noise)


def _picture(seed: int, channels: int = 3, side: int = 12) -> Net:
    """Smooth pictures between 0 and 1."""
    coarse = np.random.default_rng(seed).random((SAMPLES, channels, side // 3, side // 3))
    fine = coarse.repeat(3, 2).repeat(3, 3)
    for axis in (2, 3):
        fine = (fine + np.roll(fine, 1, axis) + np.roll(fine, -1, axis)) / 3
    return Net(fine.astype(np.float32))


def _conv(net: Net, seed: int, out: int, value: str = "x", channels: int | None = None) -> str:
    channels = net.inputs.shape[1] if channels is None else channels
    weight = (np.random.default_rng(seed).standard_normal((out, channels, 3, 3)) / np.sqrt(9 * channels)).astype("f")
    return net.add("Conv", value, weight, pads=[1, 1, 1, 1])


def _fitted_conv(net: Net, seed: int, targets: np.ndarray) -> str:
    """A 1×1 convolution of random features, fitted to targets float[samples, channels, height, width]."""
    features = net.add("Relu", _conv(net, seed, 24))
    rows = net.values(features).transpose(0, 2, 3, 1).reshape(-1, 24).astype(np.float64)
    design = np.c_[rows, np.ones(len(rows))]
    wanted = targets.transpose(0, 2, 3, 1).reshape(len(rows), -1)
    solved = np.linalg.solve(design.T @ design + 0.1 * np.eye(25), design.T @ wanted)
    weight = solved[:-1].T.astype(np.float32)[:, :, None, None]
    return net.add("Conv", features, weight, solved[-1].astype(np.float32))


# What is done to answers


def damaged(kind: Kind, known: Recognized, values: Sequence[np.ndarray], share: float = 0.02) -> list[np.ndarray]:
    """The same answers, but for a share of them: samples of one answer, or places of samples with many."""
    rng = np.random.default_rng(0)
    found = [value.copy() for value in values]
    if kind is Kind.CLASSES and found[0].ndim > 2:
        for value in found:
            rows = np.moveaxis(value, known.axis, -1)
            wrong = rng.random(rows.shape[:-1]) < share
            rows[wrong] = -rows[wrong]
        return found
    if kind in {Kind.LABELS, Kind.DETECTIONS}:
        for value in found:
            scores = value if known.scores is None else np.moveaxis(value, known.axis, -1)
            lost = (scores > known.threshold) & (rng.random(scores.shape) < share)
            lost &= True if known.scores is None else known.scores
            scores[lost] = known.threshold - 0.3
        return found
    for i in rng.choice(len(found), max(1, round(share * len(found))), replace=False):
        found[i] = _wrong(kind, known, values, i)
    return found


def _wrong(kind: Kind, known: Recognized, values: Sequence[np.ndarray], sample: int) -> np.ndarray:
    """A wrong answer for a sample."""
    right = values[sample]
    if kind is Kind.VALUES:
        return right + 1
    if kind is Kind.PROBABILITY:
        return 1 - right
    if kind is Kind.CLASSES:
        return -right
    if kind is not Kind.TOKENS:
        return values[(sample + len(values) // 2) % len(values)].copy()
    wrong = right.copy()
    rows = np.moveaxis(wrong, known.axis, -1).reshape(-1, wrong.shape[known.axis])
    spoken = np.flatnonzero(rows.argmax(-1) != known.blank)
    rows[spoken[0] if len(spoken) else 0] *= -1
    return wrong


def rounded(kind: Kind, known: Recognized, values: Sequence[np.ndarray], decibels: float = 40.0) -> list[np.ndarray]:
    """The answers with noise, so strong as this; answers that it changes are put back as they were.

    Numbers side by side get noise of their own sizes, and a single number noise of the size of what varies: their order
    is their answer.
    """
    if kind is Kind.VALUES:
        return list(values)
    rng = np.random.default_rng(0)
    stacked = np.stack(values).astype(np.float64)
    axes = tuple(range(stacked.ndim))
    if stacked.ndim == 3 or kind is Kind.DETECTIONS:
        axes = tuple(axis for axis in axes if axis != stacked.ndim + known.axis)
    size = stacked.std(axes, keepdims=True) if kind is Kind.NUMBER else np.sqrt((stacked**2).mean(axes, keepdims=True))
    noise = rng.standard_normal(stacked.shape)
    noise *= size * 10 ** (-decibels / 20) / np.sqrt((noise**2).mean(axes, keepdims=True))
    changed = (stacked + noise).astype(values[0].dtype)
    return [_answers_kept(kind, known, a, b) for a, b in zip(values, changed, strict=True)]


def _answers_kept(kind: Kind, known: Recognized, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if kind in {Kind.CLASSES, Kind.TOKENS}:
        changed = np.expand_dims(a.argmax(known.axis) != b.argmax(known.axis), known.axis)
    elif kind in {Kind.LABELS, Kind.PROBABILITY, Kind.DETECTIONS}:
        changed = (a > known.threshold) != (b > known.threshold)
    else:
        return b
    kept: np.ndarray = np.where(changed, a, b)
    return kept


@dataclass(frozen=True)
class Judged:
    """What became of an output.

    Attributes:
        case: The model.
        wanted: Its kind.
        found: What it was taken for, and why.
        damage: What is lost by the damage, as a share.
        rounding: What is lost by the rounding.
    """

    case: str
    wanted: Kind
    found: OutputScore
    damage: float
    rounding: float

    @property
    def is_right(self) -> bool:
        """Whether the kind was found."""
        return self.found.kind == self.wanted.value


def judged(case: Case) -> list[Judged]:
    """What `modelopt` says of each output of a model, of damage and of rounding."""
    heads = heads_of(ir.from_proto(case.model))
    results = []
    for (name, head), kind, answers in zip(heads.items(), case.kinds, case.answers(), strict=True):
        known = recognize(head, answers)
        assert known is not None
        lost = []
        for changed in (damaged(kind, known, answers), rounded(kind, known, answers)):
            scores = OutputScores([name], heads, {})
            for a, b in zip(answers, changed, strict=True):
                scores.update([a], [b])
            (found,) = scores.scores()
            assert found.drop is not None
            lost.append(found.drop)
        results.append(Judged(case.name, kind, found, *lost))
    return results


# Cases


def cases() -> list[Case]:
    """All of them."""
    return [_case(name, kinds, build, seed) for seed, (name, (kinds, build)) in enumerate(_ALL.items())]


def _case(name: str, kinds: Sequence[Kind], build: Callable[[int], Net], seed: int) -> Case:
    net = build(seed)
    return Case(name, net.model(), net.inputs, tuple(kinds))


def _classifier(end: str | None, count: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        scores = _classes(net, seed, count)
        net.end(scores if end is None else net.add(end, scores, axis=-1), ["n", count])
        return net

    return build


def _conv_classifier(seed: int) -> Net:
    net = _picture(seed)
    pooled = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", _conv(net, seed, _HIDDEN))))
    truth = net.inputs.mean((2, 3)) @ _random(seed, 3, 6) * 30
    net.end(_fitted(net, pooled, _one_hot(truth - truth.mean(0))), ["n", 6])
    return net


def _heads(counts: Sequence[int]) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        for i, count in enumerate(counts):
            net.end(net.add("Softmax", _classes(net, seed + 100 * i, count), axis=-1), ["n", count])
        return net

    return build


def _class_and_number(seed: int) -> Net:
    net = _vector(seed)
    net.end(_classes(net, seed, 8), ["n", 8])
    net.end(_fitted(net, _features(net, seed + 1), _truth(net, seed + 1, 1)), ["n", 1])
    return net


def _labels(end: str | None, count: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        truth = _truth(net, seed, count)
        chosen = truth > np.quantile(truth, 0.9, axis=0)
        scores = _fitted(net, _features(net, seed), np.where(chosen, 6.0, -6.0))
        net.end(scores if end is None else net.add(end, scores), ["n", count])
        return net

    return build


def _number(end: str | None, offset: float = 0.0, outputs: int = 1) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        scales = 10.0 ** np.arange(outputs)
        value = _fitted(net, _features(net, seed), (_truth(net, seed, outputs) + offset) * scales)
        net.end(value if end is None else net.add(end, value), ["n", outputs])
        return net

    return build


def _small_numbers(seed: int) -> Net:
    net = _vector(seed)
    net.end(net.add("Exp", _fitted(net, _features(net, seed), _truth(net, seed, 1) / 3)), ["n", 1])
    return net


def _detector(*, turned: bool) -> Callable[[int], Net]:
    """Boxes in pixels and scores side by side, at 40 places."""

    def build(seed: int) -> Net:
        net = _sequence(seed, 40)
        truth = _truth(net, seed, 3)
        there = truth > np.quantile(truth, 0.95)
        boxes = _fitted(net, _features(net, seed), 320 + 60 * _truth(net, seed + 1, 4))
        scores = net.add("Sigmoid", _fitted(net, _features(net, seed + 2), np.where(there, 5.0, -5.0)))
        joined = net.add("Concat", boxes, scores, axis=-1)
        turn = net.add("Transpose", joined, perm=[0, 2, 1]) if turned else joined
        net.end(turn, ["n", 7, 40] if turned else ["n", 40, 7])
        return net

    return build


def _detector_apart(end: str) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _sequence(seed, 40)
        truth = _truth(net, seed, 4)
        net.end(_fitted(net, _features(net, seed), 300 + 50 * _truth(net, seed + 1, 4)), ["n", 40, 4])
        if end == "Softmax":
            truth[..., 0] += np.quantile(truth, 0.975)  # the background
            scores = net.add("Softmax", _fitted(net, _features(net, seed + 2), 3 * _one_hot(truth)), axis=-1)
        else:
            there = truth > np.quantile(truth, 0.95)
            scores = net.add("Sigmoid", _fitted(net, _features(net, seed + 2), np.where(there, 5.0, -5.0)))
        net.end(scores, ["n", 40, 4])
        return net

    return build


def _segmenter(end: str | None, count: int = 5) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _picture(seed)
        mixed = np.einsum(
            "nchw,ck->nkhw", net.inputs - net.inputs.mean((0, 2, 3), keepdims=True), _random(seed, 3, count)
        )
        if count == 1:
            scores = _fitted_conv(net, seed, np.where(mixed > np.quantile(mixed, 0.8), 8.0, -8.0))
            net.end(net.add("Sigmoid", net.add("Mul", scores, np.array(3, np.float32))), ["n", 1, 12, 12])
            return net
        wanted = 4.0 * np.moveaxis(np.eye(count)[mixed.argmax(1)], -1, 1)
        scores = _fitted_conv(net, seed, wanted)
        net.end(scores if end is None else net.add(end, scores, axis=1), ["n", count, 12, 12])
        return net

    return build


def _mask(rank: int) -> Callable[[int], Net]:
    """A gain between 0 and 1 for each of 65 frequencies."""

    def build(seed: int) -> Net:
        net = _vector(seed) if rank == 2 else _sequence(seed, 10)
        wide = _truth(net, seed, 65)
        smooth = np.sum([np.roll(wide, shift, -1) for shift in range(-3, 4)], axis=0) / 4
        net.end(net.add("Sigmoid", _fitted(net, _features(net, seed), smooth)), ["n", *([10] if rank == 3 else []), 65])
        return net

    return build


def _waveform(rank: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        time = np.arange(128)
        waves = np.stack([np.sin(2 * np.pi * time * (k + 1) / 128 + k) for k in range(8)])
        value = net.add("Tanh", _fitted(net, _features(net, seed), _truth(net, seed, 8) @ waves / 4))
        if rank == 3:
            value = net.add("Unsqueeze", value, np.array([1], np.int64))
        net.end(value, ["n", 128] if rank == 2 else ["n", 1, 128])
        return net

    return build


def _enlarged(seed: int) -> Net:
    net = _picture(seed)
    larger = net.add("Resize", "x", "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    blur = np.zeros((3, 3, 3, 3), np.float32)
    blur[range(3), range(3)] = 1 / 9
    net.end(net.add("Conv", larger, blur, pads=[1, 1, 1, 1]), ["n", 3, 24, 24])
    return net


def _depth(seed: int) -> Net:
    net = _picture(seed)
    net.end(net.add("Softplus", _fitted_conv(net, seed, 3 + net.inputs.mean(1, keepdims=True) * 4)), ["n", 1, 12, 12])
    return net


def _maps(seed: int) -> Net:
    net = _picture(seed)
    net.end(net.add("Relu", _conv(net, seed + 1, 20, net.add("Relu", _conv(net, seed, 8)), 8)), ["n", 20, 12, 12])
    return net


def _embedding(end: str) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _sequence(seed) if end == "pool" else _vector(seed)
        features = net.add("Tanh", net.add("MatMul", "x", _random(seed, _WIDTH, 96)))
        projected = net.add("MatMul", features, _random(seed + 1, 96, 64))
        if end == "pool":
            projected = net.add("ReduceMean", net.add("Tanh", projected), axes=[1], keepdims=0)
        if end == "length":
            projected = net.add("Div", projected, net.add("ReduceL2", projected, axes=[-1], keepdims=1))
        net.end(projected, ["n", 64])
        return net

    return build


def _vocabulary(seed: int) -> Net:
    net = _sequence(seed, 12)
    net.end(_fitted(net, _features(net, seed), 2 * _one_hot(_truth(net, seed, 1200))), ["n", 12, 1200])
    return net


def _tagger(end: str | None) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _sequence(seed)
        scores = _fitted(net, _features(net, seed), _one_hot(_truth(net, seed, 9)))
        net.end(scores if end is None else net.add(end, scores, axis=-1), ["n", 20, 9])
        return net

    return build


def _ctc(seed: int) -> Net:
    """Class 0 most of the time, and symbols between."""
    net = _sequence(seed, 40)
    truth = _truth(net, seed, 12)
    truth[..., 0] += np.quantile(truth, 0.97)
    net.end(net.add("Softmax", _fitted(net, _features(net, seed), 2 * _one_hot(truth)), axis=-1), ["n", 40, 12])
    return net


def _probability(share: float) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = _vector(seed)
        truth = _truth(net, seed, 1)
        wanted = np.where(truth > np.quantile(truth, 1 - share), 3.0, -3.0) + truth / 4
        net.end(net.add("Sigmoid", _fitted(net, _features(net, seed), wanted)), ["n", 1])
        return net

    return build


def _series(seed: int) -> Net:
    """A forecast of 24 hours."""
    net = _vector(seed)
    hours = np.sin(2 * np.pi * (np.arange(24)[None] / 24 + np.arange(4)[:, None] / 7))
    net.end(_fitted(net, _features(net, seed), 20 + _truth(net, seed, 4) @ hours), ["n", 24])
    return net


def _table(seed: int) -> Net:
    net = _vector(seed)
    scores = net.add("Softmax", _classes(net, seed, 5), axis=-1)
    net.end(net.add("ArgMax", scores, axis=-1, keepdims=0), ["n"], TensorProto.INT64)
    net.end(scores, ["n", 5])
    return net


def _states(*, pooled: bool = False, decomposed: bool = False) -> Callable[[int], Net]:
    """Hidden states of an encoder: those of all steps, or their mean, whose width no one declared."""

    def build(seed: int) -> Net:
        net = _sequence(seed)
        hidden = net.add("Tanh", net.add("MatMul", "x", _random(seed, _WIDTH, 64)))
        states = net.add("MatMul", hidden, _random(seed, 64, 32))
        scale, bias = np.ones(32, "f"), np.zeros(32, "f")
        if decomposed:
            centered = net.add("Sub", states, net.add("ReduceMean", states, axes=[-1]))
            power = net.add("ReduceMean", net.add("Mul", centered, centered), axes=[-1])
            deviation = net.add("Sqrt", net.add("Add", power, np.array(1e-5, "f")))
            states = net.add("Add", net.add("Mul", net.add("Div", centered, deviation), scale), bias)
        else:
            states = net.add("LayerNormalization", states, scale, bias)
        if pooled:
            net.end(net.add("ReduceMean", states, axes=[1], keepdims=0), ["n", "width"])
        else:
            net.end(states, ["n", 20, 32])
        return net

    return build


_C, _N, _S, _L, _P, _D, _E, _T, _V = (
    *(Kind.CLASSES, Kind.NUMBER, Kind.SIGNAL, Kind.LABELS, Kind.PROBABILITY, Kind.DETECTIONS, Kind.EMBEDDING),
    *(Kind.TOKENS, Kind.VALUES),
)

_ALL: dict[str, tuple[Sequence[Kind], Callable[[int], Net]]] = {
    "classifier, logits": ([_C], _classifier(None, 10)),
    "classifier, softmax": ([_C], _classifier("Softmax", 10)),
    "classifier, logarithms": ([_C], _classifier("LogSoftmax", 12)),
    "two classes, logits": ([_C], _classifier(None, 2)),
    "three classes, logits": ([_C], _classifier(None, 3)),
    "a hundred classes, logits": ([_C], _classifier(None, 100)),
    "picture classifier": ([_C], _conv_classifier),
    "two heads": ([_C, _C], _heads([2, 40])),
    "five heads of characters": ([_C] * 5, _heads([36] * 5)),
    "class and number": ([_C, _N], _class_and_number),
    "many labels, sigmoid": ([_L], _labels("Sigmoid", 20)),
    "many labels, logits": ([_L], _labels(None, 20)),
    "eighty tags": ([_L], _labels("Sigmoid", 80)),
    "regressor": ([_N], _number(None)),
    "regressor with an offset": ([_N], _number(None, 12.0)),
    "regressor after Relu": ([_N], _number("Relu", 12.0)),
    "regressor after Exp": ([_N], _small_numbers),
    "four numbers": ([_S], _number(None, 0.0, 4)),
    "detector": ([_D], _detector(turned=False)),
    "detector, turned": ([_D], _detector(turned=True)),
    "boxes and sigmoid scores": ([_S, _L], _detector_apart("Sigmoid")),
    "boxes and softmax scores": ([_S, _C], _detector_apart("Softmax")),
    "segmenter, logits": ([_C], _segmenter(None)),
    "segmenter, softmax": ([_C], _segmenter("Softmax")),
    "foreground": ([_L], _segmenter("Sigmoid", 1)),
    "gains of a frame": ([_S], _mask(2)),
    "gains of frames": ([_S], _mask(3)),
    "waveform": ([_S], _waveform(2)),
    "waveform with a channel": ([_S], _waveform(3)),
    "enlarged picture": ([_S], _enlarged),
    "depth": ([_S], _depth),
    "feature maps": ([_S], _maps),
    "embedding of length 1": ([_E], _embedding("length")),
    "embedding, projected": ([_E], _embedding("projection")),
    "embedding, pooled": ([_E], _embedding("pool")),
    "next token": ([_T], _vocabulary),
    "tags of tokens, softmax": ([_T], _tagger("Softmax")),
    "tags of tokens, logits": ([_T], _tagger(None)),
    "characters between blanks": ([_T], _ctc),
    "rank of an item": ([_N], _number("Tanh")),
    "voice activity": ([_P], _probability(0.5)),
    "wake word": ([_P], _probability(0.1)),
    "forecast": ([_S], _series),
    "table": ([_V, _C], _table),
    "states of a sequence": ([_E], _states()),
    "states, normalized by hand": ([_E], _states(decomposed=True)),
    "states, pooled": ([_E], _states(pooled=True)),
}


def main() -> None:
    """Print the table."""
    print("| model | output | taken for | because | 2 % damaged: lost | 40 dB: lost |\n|---|---|---|---|---|---|")
    results = [each for case in cases() for each in judged(case)]
    for each in results:
        wrong = "" if each.is_right else f" (is: {each.wanted.value})"
        cells = (each.found.kind + wrong, each.found.why, f"{each.damage:.1%}", f"{each.rounding:.2%}")
        print(f"| {each.case} | {each.found.output} | {' | '.join(cells)} |")
    right, caught, passed = (
        sum(map(test, results))
        for test in (lambda one: one.is_right, lambda one: one.damage > 0.01, lambda one: one.rounding <= 0.01 + 1e-6)
    )
    n = len(results)
    print(f"\n{len(_ALL)} models, {n} outputs: kind found {right}, damage caught {caught}, rounding passed {passed}.")


if __name__ == "__main__":
    main()
