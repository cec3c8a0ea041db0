"""Images: decoding, layouts, class folders and label files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelopt.core.errors import InputError, ModeloptError
from modelopt.core.signature import TensorSpec
from modelopt.data import Preprocess, open_data
from tests.data.image_files import flat, one, save, spec

RAW = Preprocess.parse("scale=1")


def error(*args: Any, **options: Any) -> ModeloptError:
    with pytest.raises(InputError) as caught:
        list(open_data(*args, **options))
    return caught.value


def test_values_follow_the_formula(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", flat(0, 51, 255))
    feed = one(source, spec("n", 3, 4, 6), "scale=1/255,mean=0.5:0.2:0,std=0.5:1:2")
    np.testing.assert_allclose(feed[0, :, 0, 0], [-1, 0, 0.5], atol=1e-6)
    assert one(source, spec("n", 3, 4, 6), "scale=1,color=bgr")[0, :, 0, 0].tolist() == [255, 51, 0]
    assert one(source, spec("n", 3, 4, 6), None).max() == 1
    assert one(source, spec("n", 3, 4, 6, dtype="float64"), "scale=1/3").max() == 85
    assert one(source, spec("n", 3, 4, 6, dtype="bfloat16")).dtype.name == "bfloat16"


def test_integer_inputs_get_raw_pixels(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", flat(0, 51, 255))
    feed = one(source, spec("n", 3, 4, 6, dtype="uint8"), None)
    assert feed.dtype == np.uint8
    assert feed[0, :, 0, 0].tolist() == [0, 51, 255]
    assert "raw pixels" in error(source, [spec("n", 3, 4, 6, dtype="uint8")], preprocess=RAW).fact
    error(source, [spec("n", 3, 4, 6, dtype="int8")])


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("1", "png", [255, 255, 255]),
        ("L", "png", [227, 227, 227]),
        ("P", "png", [255, 255, 0]),
        ("CMYK", "jpg", [255, 255, 0]),
        ("RGBA", "webp", [255, 255, 0]),
        ("RGB", "bmp", [255, 255, 0]),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str, expected: list[int]) -> None:
    source = save(tmp_path / f"a.{suffix}", flat(255, 255, 0, size=(16, 16)), mode)
    feed = one(source, spec("n", 3, 16, 16))
    np.testing.assert_allclose(feed.mean(axis=(0, 2, 3)), expected, atol=4 if mode != "1" else 40)


def test_transparency_lies_on_white_and_sixteen_bits_scale(tmp_path: Path) -> None:
    clear = save(tmp_path / "clear.png", flat(9, 9, 9, 0))
    assert one(clear, spec("n", 3, 4, 6)).min() == 255
    Image.fromarray(np.full((4, 6), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert np.unique(one(str(tmp_path / "deep.png"), spec("n", 1, 4, 6))).tolist() == [128]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    source = save(tmp_path / "a.jpg", flat(1, 2, 3, size=(4, 6)), exif=exif)
    assert one(source, spec("n", 3, None, None)).shape == (1, 3, 6, 4)


def test_crop_and_keep_aspect(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255  # the central square is white
    source = save(tmp_path / "a.png", pixels)
    assert one(source, spec("n", 3, 4, 4), "scale=1,crop=center").min() == 255
    assert one(source, spec("n", 3, 2, 2), "scale=1,crop=center:0.5").min() == 255
    white = save(tmp_path / "white.png", flat(255, 255, 255, size=(4, 12)))
    boxed = one(white, spec("n", 3, 12, 12), "scale=1,keep-aspect")[0, 0]
    assert boxed[4:8].min() == 255
    assert boxed[:4].max() == boxed[8:].max() == 0


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("side", [8001, 10000, 65535])
def test_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(_png_header(side, side) + bytes(100))
    error(str(tmp_path / "a.png"), [spec("n", 3, 4, 6)])


@pytest.mark.parametrize("content", [b"", b"hello", _png_header(4, 4), b"\xff\xd8\xff\xe0", b"BM", b"RIFF"])
def test_damaged_images_are_input_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "damaged" in error(str(tmp_path / "a.png"), [spec("n", 3, 4, 6)]).fact


def test_class_folders_give_labels_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.jpg", "cat/1.png", "bird/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("empty class")
        else:
            save(tmp_path / name, flat(1, 2, 3))
    dataset = open_data(str(tmp_path), [spec("n", 3, 4, 6)])
    assert [s.name for s in dataset] == ["cat/1.png", "cat/2.jpg", "dog/1.png"]
    labels = [np.asarray(s.label) for s in dataset]
    assert [label.tolist() for label in labels] == [[1], [1], [2]]
    assert labels[0].dtype == np.int64
    save(tmp_path / "stray.png", flat(1, 2, 3))
    assert "beside class folders" in error(str(tmp_path), [spec("n", 3, 4, 6)]).fact


def test_one_sub_folder_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", flat(1, 2, 3))
    dataset = open_data(str(tmp_path), [spec("n", 3, 4, 6)])
    assert not dataset.has_labels
    assert "only sub-folder" in dataset.notes[0]


def three(folder: Path) -> str:
    for name in "abc":
        save(folder / f"{name}.png", flat(1, 2, 3))
    return str(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png,5\nb.png,6\nc.png,7\n", [5, 6, 7]),
        ("c.png\t7\na.png\t5\nb.png\t6", [5, 6, 7]),
        ("\ufefffilename,label\nb.png, 6\na.png,5\nc.png,7\n", [5, 6, 7]),
        ("a.png 5\nb.png 6\nc.png 7", [5, 6, 7]),
        ('a.png,"x, y"\nb.png,z\nc.png,z', ["x, y", "z", "z"]),
        ("5\n6\n\n7\n", [5, 6, 7]),
        ("0.5\n6\n7", [0.5, 6, 7]),
        ("golden retriever\nblack cat\nred fox", ["golden retriever", "black cat", "red fox"]),
        ("a.png,5\nb.png,6\nc.png,7\nd.png,8", [5, 6, 7]),
    ],
)
def test_label_files(tmp_path: Path, text: str, expected: list[Any]) -> None:
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    dataset = open_data(three(tmp_path / "images"), [spec("n", 3, 4, 6)], labels=tmp_path / "labels.txt")
    assert [np.asarray(s.label).item() for s in dataset] == expected
    assert any("not there" in note for note in dataset.notes) == ("d.png" in text)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"a.png,5\nb.png,6\n", "no label for 'c.png'"),
        (b"a.png,5\na.png,6\nb.png,6\nc.png,6", "two labels"),
        (b"1\n2\n", "2 labels for 3 samples"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_label_files(tmp_path: Path, content: bytes, fact: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    caught = error(three(tmp_path / "images"), [spec("n", 3, 4, 6)], labels=tmp_path / "labels.csv")
    assert fact in caught.fact


def test_batches_of_images(tmp_path: Path) -> None:
    source = three(tmp_path / "images")
    free = open_data(source, [spec("n", 3, 4, 6)], batch=2)
    assert [s.feeds["x"].shape[0] for s in free] == [2, 1]
    fixed = open_data(source, [spec(2, 3, 4, 6)])
    assert (len(fixed), len(list(fixed)), fixed.dropped) == (1, 1, 1)
    assert "4 at a time" in error(source, [spec(4, 3, 4, 6)]).fact
    save(tmp_path / "images" / "b.png", flat(1, 2, 3, size=(9, 9)))
    assert "differ in size" in error(source, [spec("n", 3, None, None)], batch=2).fact
    with pytest.raises(IndexError):
        list(free.select([2]))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([spec("n", 3, 4, 6), TensorSpec("y", "float32", ())], ""),
        ([TensorSpec("x", "float32", None)], ""),
        ([spec("n")], ""),
        ([spec("n", 3, 4, 6)], "resize=5x6"),
        ([spec("n", 3, 4, 6)], "color=gray"),
        ([spec("n", 4, 4, 6)], ""),
        ([spec("n", 3, 4, 6)], "mean=1:2"),
        ([spec("n", 3, 4, 6)], "layout=hwc"),
    ],
)
def test_what_no_image_fits(tmp_path: Path, inputs: list[TensorSpec], text: str) -> None:
    source = save(tmp_path / "a.png", flat(1, 2, 3))
    error(source, inputs, preprocess=Preprocess.parse(text))


def test_an_image_that_would_grow_beyond_reason(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", flat(1, 2, 3, size=(1, 5000)))
    assert "too large" in error(source, [spec("n", 3, 1000, "w")]).fact


def test_the_digest_follows_preprocessing(tmp_path: Path) -> None:
    source = three(tmp_path / "images")
    plain = open_data(source, [spec("n", 3, 4, 6)])
    scaled = open_data(source, [spec("n", 3, 4, 6)], preprocess=RAW)
    assert plain.digest() != scaled.digest()
    (tmp_path / "l.txt").write_text("1\n2\n3")
    assert plain.digest() != open_data(source, [spec("n", 3, 4, 6)], labels=tmp_path / "l.txt").digest()


def test_a_small_file_does_not_decode_to_a_large_image(tmp_path: Path) -> None:
    Image.new("L", (4100, 4000)).save(tmp_path / "x.png")
    size = (tmp_path / "x.png").stat().st_size
    with pytest.raises(InputError, match="too large") as caught:
        list(open_data(str(tmp_path / "x.png"), [spec(1, 1, 8, 8)]))
    assert caught.value.note == f"16400000 pixels, the limit is 16000000 for a file of {size} bytes"
    Image.new("L", (4000, 4000)).save(tmp_path / "x.png")
    assert len(open_data(str(tmp_path / "x.png"), [spec(1, 1, 8, 8)])) == 1
