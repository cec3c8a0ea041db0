"""Models whose outputs are of known kinds, as the field's models have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from modelopt.measure.output_kinds import OutputKind
from tests.campaigns.fitted_nets import (
    HIDDEN,
    WIDTH,
    Net,
    classes,
    conv,
    features,
    fitted,
    fitted_conv,
    one_hot,
    picture,
    random_weights,
    run,
    sequence,
    truth_of,
    vector,
)


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
    kinds: tuple[OutputKind, ...]

    def answers(self) -> list[list[np.ndarray]]:
        """By output, what the model gives for each sample."""
        return run(self.model, self.inputs)


def cases() -> list[Case]:
    """All of them."""
    return [_case(name, kinds, build, seed) for seed, (name, (kinds, build)) in enumerate(MODELS.items())]


def _case(name: str, kinds: Sequence[OutputKind], build: Callable[[int], Net], seed: int) -> Case:
    net = build(seed)
    return Case(name, net.model(), net.inputs, tuple(kinds))


def _classifier(end: str | None, count: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        scores = classes(net, seed, count)
        net.end(scores if end is None else net.add(end, scores, axis=-1), ["n", count])
        return net

    return build


def _conv_classifier(seed: int) -> Net:
    net = picture(seed)
    pooled = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", conv(net, seed, HIDDEN))))
    truth = net.inputs.mean((2, 3)) @ random_weights(seed, 3, 6) * 30
    net.end(fitted(net, pooled, one_hot(truth - truth.mean(0))), ["n", 6])
    return net


def _heads(counts: Sequence[int]) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        for i, count in enumerate(counts):
            net.end(net.add("Softmax", classes(net, seed + 100 * i, count), axis=-1), ["n", count])
        return net

    return build


def _class_and_number(seed: int) -> Net:
    net = vector(seed)
    net.end(classes(net, seed, 8), ["n", 8])
    net.end(fitted(net, features(net, seed + 1), truth_of(net, seed + 1, 1)), ["n", 1])
    return net


def _labels(end: str | None, count: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        truth = truth_of(net, seed, count)
        chosen = truth > np.quantile(truth, 0.9, axis=0)
        scores = fitted(net, features(net, seed), np.where(chosen, 6.0, -6.0))
        net.end(scores if end is None else net.add(end, scores), ["n", count])
        return net

    return build


def _number(end: str | None, offset: float = 0.0, outputs: int = 1) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        scales = 10.0 ** np.arange(outputs)
        value = fitted(net, features(net, seed), (truth_of(net, seed, outputs) + offset) * scales)
        net.end(value if end is None else net.add(end, value), ["n", outputs])
        return net

    return build


def _small_numbers(seed: int) -> Net:
    net = vector(seed)
    net.end(net.add("Exp", fitted(net, features(net, seed), truth_of(net, seed, 1) / 3)), ["n", 1])
    return net


def _detector(*, turned: bool) -> Callable[[int], Net]:
    """Boxes in pixels and scores side by side, at 40 places."""

    def build(seed: int) -> Net:
        net = sequence(seed, 40)
        truth = truth_of(net, seed, 3)
        there = truth > np.quantile(truth, 0.95)
        boxes = fitted(net, features(net, seed), 320 + 60 * truth_of(net, seed + 1, 4))
        scores = net.add("Sigmoid", fitted(net, features(net, seed + 2), np.where(there, 5.0, -5.0)))
        joined = net.add("Concat", boxes, scores, axis=-1)
        turn = net.add("Transpose", joined, perm=[0, 2, 1]) if turned else joined
        net.end(turn, ["n", 7, 40] if turned else ["n", 40, 7])
        return net

    return build


def _detector_apart(end: str) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = sequence(seed, 40)
        truth = truth_of(net, seed, 4)
        net.end(fitted(net, features(net, seed), 300 + 50 * truth_of(net, seed + 1, 4)), ["n", 40, 4])
        if end == "Softmax":
            truth[..., 0] += np.quantile(truth, 0.975)  # the background
            scores = net.add("Softmax", fitted(net, features(net, seed + 2), 3 * one_hot(truth)), axis=-1)
        else:
            there = truth > np.quantile(truth, 0.95)
            scores = net.add("Sigmoid", fitted(net, features(net, seed + 2), np.where(there, 5.0, -5.0)))
        net.end(scores, ["n", 40, 4])
        return net

    return build


def _segmenter(end: str | None, count: int = 5) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = picture(seed)
        mixed = np.einsum(
            "nchw,ck->nkhw", net.inputs - net.inputs.mean((0, 2, 3), keepdims=True), random_weights(seed, 3, count)
        )
        if count == 1:
            scores = fitted_conv(net, seed, np.where(mixed > np.quantile(mixed, 0.8), 8.0, -8.0))
            net.end(net.add("Sigmoid", net.add("Mul", scores, np.array(3, np.float32))), ["n", 1, 12, 12])
            return net
        wanted = 4.0 * np.moveaxis(np.eye(count)[mixed.argmax(1)], -1, 1)
        scores = fitted_conv(net, seed, wanted)
        net.end(scores if end is None else net.add(end, scores, axis=1), ["n", count, 12, 12])
        return net

    return build


def _mask(rank: int) -> Callable[[int], Net]:
    """A gain between 0 and 1 for each of 65 frequencies."""

    def build(seed: int) -> Net:
        net = vector(seed) if rank == 2 else sequence(seed, 10)
        wide = truth_of(net, seed, 65)
        smooth = np.sum([np.roll(wide, shift, -1) for shift in range(-3, 4)], axis=0) / 4
        net.end(net.add("Sigmoid", fitted(net, features(net, seed), smooth)), ["n", *([10] if rank == 3 else []), 65])
        return net

    return build


def _waveform(rank: int) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        time = np.arange(128)
        waves = np.stack([np.sin(2 * np.pi * time * (k + 1) / 128 + k) for k in range(8)])
        value = net.add("Tanh", fitted(net, features(net, seed), truth_of(net, seed, 8) @ waves / 4))
        if rank == 3:
            value = net.add("Unsqueeze", value, np.array([1], np.int64))
        net.end(value, ["n", 128] if rank == 2 else ["n", 1, 128])
        return net

    return build


def _enlarged(seed: int) -> Net:
    net = picture(seed)
    larger = net.add("Resize", "x", "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    blur = np.zeros((3, 3, 3, 3), np.float32)
    blur[range(3), range(3)] = 1 / 9
    net.end(net.add("Conv", larger, blur, pads=[1, 1, 1, 1]), ["n", 3, 24, 24])
    return net


def _depth(seed: int) -> Net:
    net = picture(seed)
    net.end(net.add("Softplus", fitted_conv(net, seed, 3 + net.inputs.mean(1, keepdims=True) * 4)), ["n", 1, 12, 12])
    return net


def _maps(seed: int) -> Net:
    net = picture(seed)
    net.end(net.add("Relu", conv(net, seed + 1, 20, net.add("Relu", conv(net, seed, 8)), 8)), ["n", 20, 12, 12])
    return net


def _embedding(end: str) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = sequence(seed) if end == "pool" else vector(seed)
        features = net.add("Tanh", net.add("MatMul", "x", random_weights(seed, WIDTH, 96)))
        projected = net.add("MatMul", features, random_weights(seed + 1, 96, 64))
        if end == "pool":
            projected = net.add("ReduceMean", net.add("Tanh", projected), axes=[1], keepdims=0)
        if end == "length":
            projected = net.add("Div", projected, net.add("ReduceL2", projected, axes=[-1], keepdims=1))
        net.end(projected, ["n", 64])
        return net

    return build


def _vocabulary(seed: int) -> Net:
    net = sequence(seed, 12)
    net.end(fitted(net, features(net, seed), 2 * one_hot(truth_of(net, seed, 1200))), ["n", 12, 1200])
    return net


def _tagger(end: str | None) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = sequence(seed)
        scores = fitted(net, features(net, seed), one_hot(truth_of(net, seed, 9)))
        net.end(scores if end is None else net.add(end, scores, axis=-1), ["n", 20, 9])
        return net

    return build


def _ctc(seed: int) -> Net:
    """Class 0 most of the time, and symbols between."""
    net = sequence(seed, 40)
    truth = truth_of(net, seed, 12)
    truth[..., 0] += np.quantile(truth, 0.97)
    net.end(net.add("Softmax", fitted(net, features(net, seed), 2 * one_hot(truth)), axis=-1), ["n", 40, 12])
    return net


def _probability(share: float) -> Callable[[int], Net]:
    def build(seed: int) -> Net:
        net = vector(seed)
        truth = truth_of(net, seed, 1)
        wanted = np.where(truth > np.quantile(truth, 1 - share), 3.0, -3.0) + truth / 4
        net.end(net.add("Sigmoid", fitted(net, features(net, seed), wanted)), ["n", 1])
        return net

    return build


def _series(seed: int) -> Net:
    """A forecast of 24 hours."""
    net = vector(seed)
    hours = np.sin(2 * np.pi * (np.arange(24)[None] / 24 + np.arange(4)[:, None] / 7))
    net.end(fitted(net, features(net, seed), 20 + truth_of(net, seed, 4) @ hours), ["n", 24])
    return net


def _table(seed: int) -> Net:
    net = vector(seed)
    scores = net.add("Softmax", classes(net, seed, 5), axis=-1)
    net.end(net.add("ArgMax", scores, axis=-1, keepdims=0), ["n"], TensorProto.INT64)
    net.end(scores, ["n", 5])
    return net


def _states(*, pooled: bool = False, decomposed: bool = False) -> Callable[[int], Net]:
    """Hidden states of an encoder: those of all steps, or their mean, whose width no one declared."""

    def build(seed: int) -> Net:
        net = sequence(seed)
        hidden = net.add("Tanh", net.add("MatMul", "x", random_weights(seed, WIDTH, 64)))
        states = net.add("MatMul", hidden, random_weights(seed, 64, 32))
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
    *(
        OutputKind.CLASSES,
        OutputKind.NUMBER,
        OutputKind.SIGNAL,
        OutputKind.LABELS,
        OutputKind.PROBABILITY,
        OutputKind.DETECTIONS,
        OutputKind.EMBEDDING,
    ),
    *(OutputKind.TOKENS, OutputKind.VALUES),
)

MODELS: dict[str, tuple[Sequence[OutputKind], Callable[[int], Net]]] = {
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
