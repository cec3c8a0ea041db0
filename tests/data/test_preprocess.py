"""The language of --preprocess, and what is guessed where it says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import Preprocess, open_data
from modelopt.data.preprocess import COLORS, LAYOUTS
from tests.data.image_files import flat, one, save, spec

CANONICAL = [
    "",
    "keep-aspect",
    "crop=center",
    "crop=center:0.875",
    "resize=224x160,layout=nchw,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,color=rgb,crop=center",
    "layout=nhwc,scale=2/255,mean=1,std=0.5,color=bgr,keep-aspect",
    "scale=-1,mean=0",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_preprocess_prints_the_text_that_made_it(text: str) -> None:
    assert str(Preprocess.parse(text)) == text


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
nonzero = numbers.filter(bool)


@given(
    st.builds(
        Preprocess,
        resize=st.none() | st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
        layout=st.none() | st.sampled_from(LAYOUTS),
        scale=st.none() | nonzero,
        mean=st.none() | st.lists(numbers, min_size=1, max_size=3).map(tuple),
        std=st.none() | st.lists(nonzero, min_size=1, max_size=3).map(tuple),
        color=st.none() | st.sampled_from(COLORS),
        crop=st.none() | st.floats(0, 1, exclude_min=True),
        keep_aspect=st.booleans(),
    )
)
def test_preprocess_round_trips(preprocess: Preprocess) -> None:
    assert Preprocess.parse(str(preprocess)) == preprocess


@pytest.mark.parametrize(
    "text",
    [
        *("rezise=2x2", "resize=2", "resize=0x4", "resize=99999x1", "resize=2x2,resize=2x2", "resize=²x2"),
        *("layout=cnhw", "scale=0", "scale=1/0", "scale=nan", "scale=x", "mean=1:", "std=0", "std=1:0"),
        *("color=rbg", "crop=left", "crop=center:0", "crop=center:2", "keep-aspect=1", "scale", "keep_aspect"),
    ],
)
def test_bad_preprocessing_is_one_error(text: str) -> None:
    with pytest.raises(InputError):
        Preprocess.parse(text)


def test_unknown_keys_suggest_the_known_one() -> None:
    with pytest.raises(InputError) as caught:
        Preprocess.parse("rezise=2x2")
    assert "did you mean 'resize'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (spec("n", 3, 5, 7), (1, 3, 5, 7)),
        (spec("n", 5, 7, 3), (1, 5, 7, 3)),
        (spec("n", 1, 5, 7), (1, 1, 5, 7)),
        (spec(1, 3, None, "w"), (1, 3, 4, 6)),
        (spec("n", 3, 8, "w"), (1, 3, 8, 12)),
        (spec("n", 3, "h", 3), (1, 3, 2, 3)),
        (spec(3, 5, 7), (3, 5, 7)),
        (spec(5, 7, 3), (5, 7, 3)),
        (spec("n", 5, 7), (1, 5, 7)),
        (spec(5, 7), (5, 7)),
        (spec(-1, 3, -1, -1), (1, 3, 4, 6)),
    ],
)
def test_layout_and_size_come_from_the_input(tmp_path: Path, tensor: TensorSpec, shape: tuple[int, ...]) -> None:
    feed = one(save(tmp_path / "a.png", flat(10, 20, 30)), tensor)
    assert feed.shape == shape
    assert feed.dtype == np.float32
    assert feed.flags.c_contiguous


def test_guesses_are_said(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", flat(10, 20, 30))
    assert "layout=nhwc,color=rgb,scale=1/255" in open_data(source, [spec("n", 5, 7, 3)]).notes[0]
    left = open_data(source, [spec("n", 3, 5, 7)], preprocess=Preprocess.parse("layout=nchw,color=rgb,scale=1"))
    assert left.guesses == ("mean=0", "std=1")
    assert "guessed" in left.notes[0]
    full = Preprocess.parse("layout=nchw,color=rgb,scale=1,mean=0,std=1")
    assert open_data(source, [spec("n", 3, 5, 7)], preprocess=full).notes == ()
