"""Models of images whose outputs are of known kinds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.campaigns.fitted_nets import (
    Net,
    features,
    fitted,
    fitted_conv,
    one_hot,
    picture,
    random_weights,
    sequence,
    truth_of,
    vector,
)


def detector_model(*, turned: bool) -> Callable[[int], Net]:
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


def detector_apart_model(end: str) -> Callable[[int], Net]:
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


def segmenter_model(end: str | None, count: int = 5) -> Callable[[int], Net]:
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


def mask_model(rank: int) -> Callable[[int], Net]:
    """A gain between 0 and 1 for each of 65 frequencies."""

    def build(seed: int) -> Net:
        net = vector(seed) if rank == 2 else sequence(seed, 10)
        wide = truth_of(net, seed, 65)
        smooth = np.sum([np.roll(wide, shift, -1) for shift in range(-3, 4)], axis=0) / 4
        net.end(net.add("Sigmoid", fitted(net, features(net, seed), smooth)), ["n", *([10] if rank == 3 else []), 65])
        return net

    return build


def waveform_model(rank: int) -> Callable[[int], Net]:
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


def enlarged_model(seed: int) -> Net:
    net = picture(seed)
    larger = net.add("Resize", "x", "", np.array([1, 1, 2, 2], np.float32), mode="linear")
    blur = np.zeros((3, 3, 3, 3), np.float32)
    blur[range(3), range(3)] = 1 / 9
    net.end(net.add("Conv", larger, blur, pads=[1, 1, 1, 1]), ["n", 3, 24, 24])
    return net


def depth_model(seed: int) -> Net:
    net = picture(seed)
    net.end(net.add("Softplus", fitted_conv(net, seed, 3 + net.inputs.mean(1, keepdims=True) * 4)), ["n", 1, 12, 12])
    return net
