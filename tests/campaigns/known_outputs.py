"""Models whose outputs are of known kinds, as the field's models have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
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
    one_hot,
    picture,
    random_weights,
    sequence,
    truth_of,
    vector,
)
from tests.campaigns.known_image_outputs import (
    depth_model,
    detector_apart_model,
    detector_model,
    enlarged_model,
    mask_model,
    segmenter_model,
    waveform_model,
)
from tests.campaigns.known_output_case import Case, case_of


def cases() -> list[Case]:
    """All of them."""
    return [case_of(name, kinds, build, seed) for seed, (name, (kinds, build)) in enumerate(MODELS.items())]


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
    "detector": ([_D], detector_model(turned=False)),
    "detector, turned": ([_D], detector_model(turned=True)),
    "boxes and sigmoid scores": ([_S, _L], detector_apart_model("Sigmoid")),
    "boxes and softmax scores": ([_S, _C], detector_apart_model("Softmax")),
    "segmenter, logits": ([_C], segmenter_model(None)),
    "segmenter, softmax": ([_C], segmenter_model("Softmax")),
    "foreground": ([_L], segmenter_model("Sigmoid", 1)),
    "gains of a frame": ([_S], mask_model(2)),
    "gains of frames": ([_S], mask_model(3)),
    "waveform": ([_S], waveform_model(2)),
    "waveform with a channel": ([_S], waveform_model(3)),
    "enlarged picture": ([_S], enlarged_model),
    "depth": ([_S], depth_model),
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
