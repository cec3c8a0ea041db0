"""Hold the simulation of ``vpmaddubsw`` to onnxruntime's own AVX2 kernels, on a machine that has VNNI.

    python tests/bench/emulated_avx2.py                     # random products and convolutions, bit by bit
    python tests/bench/emulated_avx2.py EVAL.npz MODEL…     # top-1 of classifiers, here and there

It needs ``qemu-x86_64`` (Debian: qemu-user), which runs onnxruntime as on a Haswell: AVX2 without VNNI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from modelopt.quant.numerics import im2col, saturation

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
PRODUCTS = ((5, 37, 19), (1, 64, 32), (8, 128, 48), (1, 35, 16))  # rows, depth, columns
CONVS = ((8, 1, 3), (6, 1, 3), (8, 2, 3), (16, 1, 1), (8, 8, 3), (3, 1, 3))  # channels, groups, kernel
ZERO, SIDE, OUTPUTS = 9, 6, 16
HEADER = '<ir_version: 8, opset_import: ["" : 17]> net (uint8[{shape}] x) => ({kind} y) '


def run(model: Path, feeds: Path, output: Path) -> None:
    """Save the first output of `model` for the arrays of `feeds`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(feeds) as arrays:
        np.save(output, session.run(None, {spec.name: arrays[spec.name] for spec in session.get_inputs()})[0])


def on_haswell(model: Path, feeds: Path, output: Path) -> np.ndarray:
    """What `run` saves there."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        sys.exit("qemu-x86_64 is not installed: apt-get install qemu-user")
    command = [qemu, "-cpu", "Haswell", sys.executable, __file__, "--run", *map(str, (model, feeds, output))]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    found: np.ndarray = np.load(output)
    return found


def with_saturation(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """rows · weights by ``vpmaddubsw``, less the zero point's part, which kernels take off exactly."""
    padding = ((0, len(weights) % 2), (0, 0))
    inputs = np.pad(rows.T.astype(np.int64), padding).reshape(-1, 2, len(rows))
    pairs = np.pad(weights.astype(np.int64), padding).reshape(-1, 2, weights.shape[1])
    sums = np.clip(np.einsum("pkr,pkc->prc", inputs, pairs), -(2**15), 2**15 - 1).sum(axis=0)
    result: np.ndarray = sums - ZERO * weights.astype(np.int64).sum(axis=0)
    return result


def cases() -> Iterator[tuple[str, onnx.ModelProto, np.ndarray, np.ndarray]]:
    """(name, model, input, what the simulation says)."""
    rng = np.random.default_rng(0)
    zero = np.array(ZERO, np.uint8)
    for shape in PRODUCTS:
        weight = rng.integers(-127, 128, shape[1:]).astype(np.int8)
        x = rng.integers(0, 256, shape[:2]).astype(np.uint8)
        text = HEADER.format(shape="m,k", kind="int32[m,n]") + "{ y = MatMulInteger (x, w, z) }"
        yield f"product {shape}", _model(text, w=weight, z=zero), x, with_saturation(x, weight)
    for channels, groups, size in CONVS:
        depthwise = channels == groups
        outputs = channels if depthwise else OUTPUTS
        weight = rng.integers(-127, 128, (outputs, channels // groups, size, size)).astype(np.int8)
        x = rng.integers(0, 256, (1, channels, SIDE, SIDE)).astype(np.uint8)
        step = np.array(40 * channels // groups * size**2, np.float32)
        attributes = f"group = {groups}, pads = [{', '.join([str(size // 2)] * 4)}]"
        call = f"{{ y = QLinearConv <{attributes}> (x, one, z, w, ones, zeros, step, middle) }}"
        numbers = {"one": np.array(1, np.float32), "ones": np.ones(outputs, np.float32), "step": step}
        integers = {"z": zero, "w": weight, "zeros": np.zeros(outputs, np.int8), "middle": np.array(128, np.uint8)}
        text = HEADER.format(shape="n,c,h,v", kind="uint8[n,o,h,v]") + call
        window = im2col.Window((size, size), (1, 1), (1, 1), (size // 2,) * 4)
        rows = saturation.conv_rows(im2col.rows(x, window, padding=ZERO), groups)
        pairs = zip(rows, saturation.conv_matrices(weight, groups), strict=True)
        sums = [(r.astype(np.int64) - ZERO) @ m if depthwise else with_saturation(r, m) for r, m in pairs]
        scaled = np.clip(np.rint(np.concatenate(sums, axis=1).astype(np.float32) / step) + 128, 0, 255)
        expected = np.moveaxis(scaled.reshape(1, SIDE, SIDE, outputs), 3, 1)
        yield f"conv {channels, groups, size}", _model(text, **numbers, **integers), x, expected


def _model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def compare_bits(folder: Path) -> None:
    """Print where the simulation and the emulated kernels differ, and what the kernels of this machine say."""
    model, feeds = folder / "model.onnx", folder / "x.npz"
    for name, proto, x, expected in cases():
        onnx.save(proto, model)
        np.savez(feeds, x=x)
        there = on_haswell(model, feeds, folder / "there.npy")
        run(model, feeds, folder / "here.npy")
        lost = int(np.count_nonzero(np.load(folder / "here.npy") != there))
        wrong = int(np.count_nonzero(there != expected))
        print(f"{name}: {lost} of {there.size} results differ from this machine's, {wrong} from the simulation")


def compare_accuracy(data: Path, models: list[Path], folder: Path) -> None:
    """Print the top-1 accuracy of each model on both machines."""
    with np.load(data) as arrays:
        labels = arrays["label"]
    for model in models:
        run(model, data, folder / "here.npy")
        outputs = (np.load(folder / "here.npy"), on_haswell(model, data, folder / "there.npy"))
        here, there = (float(np.mean(output.argmax(axis=-1) == labels)) for output in outputs)
        print(f"{model}: top-1 {here:.4f} here, {there:.4f} on AVX2 without VNNI")


def main(arguments: list[str]) -> None:
    """See the module."""
    if arguments[:1] == ["--run"]:
        model, feeds, output = map(Path, arguments[1:])
        run(model, feeds, output)
        return
    with TemporaryDirectory() as folder:
        if arguments:
            compare_accuracy(Path(arguments[0]), [Path(name) for name in arguments[1:]], Path(folder))
        else:
            compare_bits(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
