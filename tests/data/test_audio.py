"""Sound files: frames, mixing, resampling, labels, and what damaged or hostile files end in."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

from modelopt.core.errors import InputError
from modelopt.data import Preprocess, open_data
from tests.command_line import modelopt
from tests.data_tools import spec


def sound(path: Path, values: np.ndarray, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, subtype="PCM_16")
    return path


def tone(seconds: float, rate: int, hertz: float = 100) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_is_cut_into_frames_and_a_short_one_filled_up(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(25) / 32
    sound(tmp_path / "d" / f"a{suffix}", ramp)
    sound(tmp_path / "d" / f"b{suffix}", ramp[:4])
    data = open_data(str(tmp_path / "d"), [spec("x", "n", 10)])
    frames = [each.feeds["x"] for each in data]
    assert [frame.shape for frame in frames] == [(1, 10)] * 3
    assert np.allclose(np.concatenate(frames[:2], axis=1)[0], ramp[:20], atol=1e-4)
    assert np.allclose(frames[2][0], [*ramp[:4], *[0] * 6], atol=1e-4)
    assert [each.name for each in data] == [f"a{suffix}[0]", f"a{suffix}[1]", f"b{suffix}[0]"]
    assert data.guesses == ("rate=8000",)
    (one,) = data.select([1])
    assert np.array_equal(one.feeds["x"], frames[1])


@pytest.mark.parametrize(("shape", "found"), [((1, 1, 10), (1, 1, 10)), (("n", 10, 1), (1, 10, 1)), ((10,), (10,))])
def test_channels_are_mixed_into_the_shape_of_the_input(
    tmp_path: Path, shape: tuple[int | str, ...], found: tuple[int, ...]
) -> None:
    path = sound(tmp_path / "a.wav", np.stack([np.full(10, 0.5), np.full(10, -0.25)], axis=1))
    (sample,) = open_data(str(path), [spec("x", *shape)])
    assert sample.feeds["x"].shape == found
    assert np.allclose(sample.feeds["x"], 0.125, atol=1e-4)


def test_sound_is_resampled_and_a_free_length_takes_the_whole_file(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", tone(1, 8000))
    (sample,) = open_data(str(path), [spec("x", "n", "t")], preprocess=Preprocess(rate=16000))
    resampled = sample.feeds["x"][0]
    assert abs(len(resampled) - 16000) <= 1
    assert np.abs(resampled[2000:14000] - tone(1, 16000)[2000:14000]).max() < 1e-3


def test_integers_and_batches(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", np.arange(12) / 32768)
    data = open_data(str(path), [spec("x", "n", 4, dtype="int16")], batch=2)
    first, second = data
    assert first.feeds["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert second.feeds["x"].tolist() == [[8, 9, 10, 11]]
    fixed = open_data(str(path), [spec("x", 2, 4)])
    assert (len(fixed), fixed.dropped) == (1, 1)


def test_class_folders_and_files_of_labels(tmp_path: Path) -> None:
    for name, n in (("no/a.wav", 8), ("yes/b.wav", 4), ("yes/c.wav", 4)):
        sound(tmp_path / "d" / name, np.zeros(n))
    data = open_data(str(tmp_path / "d"), [spec("x", "n", 4)])
    assert [each.label.tolist() for each in data if each.label is not None] == [[0], [0], [1], [1]]
    (labels := tmp_path / "labels.csv").write_text("a.wav,7\nb.wav,8\nc.wav,9\n")
    named = open_data(str(tmp_path / "d"), [spec("x", "n", 4)], labels=labels)
    assert [each.label.tolist() for each in named if each.label is not None] == [[7], [7], [8], [9]]


def test_rates_that_differ_need_a_word(tmp_path: Path) -> None:
    sound(tmp_path / "d" / "a.wav", np.zeros(8), 8000)
    sound(tmp_path / "d" / "b.wav", np.zeros(8), 16000)
    with pytest.raises(InputError, match="has 16000 values per second") as caught:
        open_data(str(tmp_path / "d"), [spec("x", "n", 4)])
    assert "rate=8000" in (caught.value.hint or "")
    with pytest.raises(InputError, match="not preprocessed as images"):
        open_data(str(tmp_path / "d"), [spec("x", "n", 4)], preprocess=Preprocess.parse("rate=8000,scale=2"))
    with pytest.raises(InputError, match="is not a rate"):
        Preprocess.parse("rate=1")
    assert str(Preprocess.parse("rate=8000")) == "rate=8000"


def wav(claimed_bytes: int, held: bytes = bytes(64)) -> bytes:
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    whole = struct.pack("<4sI4s", b"RIFF", 36 + claimed_bytes, b"WAVE")
    return whole + head + struct.pack("<4sI", b"data", claimed_bytes) + held


def flac(tmp_path: Path, values: int) -> bytes:
    """A FLAC file whose header says so many values."""
    content = bytearray(sound(tmp_path / "base.flac", np.zeros(4096)).read_bytes())
    packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | values  # the length has the last 36 bits
    content[18:26] = packed.to_bytes(8, "big")
    return bytes(content)


@pytest.mark.parametrize("bomb", ["ten hours", "flac of ten hours", "long", "empty", "text", "cut"])
def test_a_bomb_is_one_line_and_takes_little_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / ("t.flac" if "flac" in bomb else "t.wav")
    if bomb == "long":
        with path.open("wb") as file:
            file.write(wav(36_000 * 32_000))
            file.truncate(44 + 36_000 * 32_000)
    else:
        path.write_bytes(
            {
                "ten hours": wav(36_000 * 32_000),
                "flac of ten hours": flac(tmp_path, 36_000 * 16_000),
                "empty": wav(0, b""),
                "text": b"hello",
                "cut": wav(64)[:30],
            }[bomb]
        )
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"is damaged|too long|holds no sound") as caught:
            list(open_data(str(path), [spec("x", "n", 10)]))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in caught.value.fact


def test_what_sound_cannot_feed_is_refused(tmp_path: Path) -> None:
    path = str(sound(tmp_path / "a.wav", np.zeros(8)))
    for inputs in ([spec("x", "n", 3, 8)], [spec("x", "n", 8, dtype="int64")], [spec("x", "n", 8), spec("y", "n")]):
        with pytest.raises(InputError, match="sound does not feed"):
            open_data(path, inputs)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, package: str) -> None:
    sound(tmp_path / "a.wav", np.zeros(800))
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pathlib import Path\n"
        "from modelopt.data.sound_file import read_mono\n"
        "from modelopt.core.errors import EnvironmentLacks\n"
        "try: read_mono(Path('a.wav'), 16000)\n"
        "except EnvironmentLacks as error: print(error.fact, error.hint)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"sound needs the package {package}" in ran.stdout
    assert "modelopt-onnx[audio]" in ran.stdout


def test_evaluate_reads_a_folder_of_sound(tmp_path: Path) -> None:
    """The model answers class 1 where the sound is loud."""
    for number in range(12):
        sound(tmp_path / "d" / "loud" / f"{number}.wav", tone(0.01, 8000, 400))
        sound(tmp_path / "d" / "soft" / f"{number}.wav", 0.01 * tone(0.01, 8000, 400))
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["loud"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["half", "loud"], ["soft"]),
        helper.make_node("Concat", ["loud", "soft"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "loudness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 160])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("half", TensorProto.FLOAT, [], [0.1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    ran = modelopt("evaluate", "m.onnx", "--eval", "d", "--preprocess", "rate=16000", cwd=tmp_path).succeeded()
    assert b"top1 100.00%" in ran.out
    (tmp_path / "bomb.wav").write_bytes(wav(36_000 * 32_000))
    modelopt("evaluate", "m.onnx", "--eval", "bomb.wav", cwd=tmp_path).refused(2, "is damaged", "bytes of sound")
