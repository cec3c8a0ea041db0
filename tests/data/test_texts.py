"""Text through a tokenizer.json: tokens, padding, cutting, labels, and what malformed or hostile files end in."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelopt.core.errors import InputError
from modelopt.data import Dataset, open_data
from modelopt.data.columns import Columns
from tests.command_line import modelopt
from tests.data.tokenizer_files import TEMPLATE, tokenizer
from tests.data_tools import spec

INPUTS = [spec(name, "n", "t", dtype="int64") for name in ("input_ids", "attention_mask", "token_type_ids")]
BERT = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}


def opened(path: Path, text: str, inputs: Any = INPUTS, label: str | None = None, batch: int = 1) -> Dataset:
    path.write_text(text, encoding="utf-8")
    columns = Columns(label, tokenizer=path.parent / "tokenizer.json")
    return open_data(str(path), inputs, columns=columns, batch=batch)


@pytest.mark.parametrize("around", [TEMPLATE, BERT, {"type": "Sequence", "processors": [BERT]}])
def test_lines_become_tokens_masks_and_kinds(tmp_path: Path, around: object) -> None:
    tokenizer(tmp_path, post_processor=around)
    data = opened(tmp_path / "t.txt", "The cats sat!\n\ncat\n", batch=2)
    (sample,) = data
    assert sample.feeds["input_ids"].tolist() == [[2, 4, 5, 7, 6, 8, 3], [2, 5, 3, 0, 0, 0, 0]]
    assert sample.feeds["attention_mask"].tolist() == [[1] * 7, [1] * 3 + [0] * 4]
    assert not sample.feeds["token_type_ids"].any()
    assert sample.rows == 2


def test_a_fixed_length_cuts_and_keeps_the_end(tmp_path: Path) -> None:
    tokenizer(tmp_path, padding={"pad_id": 1})
    data = opened(tmp_path / "t.txt", "the cat sat\ncat\n", [spec("ids", 1, 4, dtype="int32")])
    assert [each.feeds["ids"].tolist() for each in data] == [[[2, 4, 5, 3]], [[2, 5, 3, 1]]]
    assert data.notes == ("1 of 2 texts are cut after 4 tokens",)


def test_the_tokenizer_says_how_long_a_text_may_be(tmp_path: Path) -> None:
    tokenizer(tmp_path, truncation={"max_length": 3})
    inputs = [spec("input_ids", "n", "t", dtype="int64"), spec("position_ids", "n", "t", dtype="int64")]
    (sample,) = opened(tmp_path / "t.txt", "the cat sat\n", inputs)
    assert sample.feeds["input_ids"].tolist() == [[2, 4, 3]]
    assert sample.feeds["position_ids"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("t.jsonl", '{"text": "the cat", "label": 1}\n{"text": "sat", "label": 0}\n', None),
        ("t.jsonl", '{"body": "the cat", "kind": true, "id": 4}\n{"body": "sat", "kind": false, "id": 5}\n', "kind"),
        ("t.csv", 'sentence,id,label\n"the cat",x,1\nsat,y,0\n', None),
        ("t.tsv", "body\tkind\nthe cat\t1\nsat\t0\n", "kind"),
    ],
)
def test_labels_come_from_their_column(tmp_path: Path, name: str, text: str, label: str | None) -> None:
    tokenizer(tmp_path)
    data = opened(tmp_path / name, text, label=label)
    assert [each.feeds["input_ids"].tolist() for each in data] == [[[2, 4, 5, 3]], [[2, 6, 3]]]
    assert [each.label.tolist() for each in data if each.label is not None] == [[1], [0]]
    assert data.digest() != opened(tmp_path / name, text.replace("sat", "cat"), label=label).digest()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "\n\n", "holds no text"),
        ("t.jsonl", "{\n", "line 1: this is no JSON"),
        ("t.jsonl", "[" * 100_000 + "\n", r"nested too deep|no JSON"),
        ("t.jsonl", '{"a":' * 100_000 + "\n", r"nested too deep|no JSON"),
        ("t.jsonl", "17\n", "neither an object nor a text"),
        ("t.jsonl", '{"a": "x", "b": "y"}\n', "which column is the text"),
        ("t.jsonl", '{"text": "x", "label": [1]}\n', "is no label"),
        ("t.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}\n', "some texts have a label"),
        ("t.csv", "a,b\nx,y\n", "which column is the text"),
        ("t.csv", "text,b\nx\n", "line 2: 1 cells"),
    ],
)
def test_malformed_texts_are_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    tokenizer(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        list(opened(tmp_path / name, text))
    assert "\n" not in caught.value.fact


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no tokenizer.json"),
        (b"[" * 100_000, "is no tokenizer.json"),
        (b"{}", "it has no part 'model'"),
        (b'{"model": {"type": "Nothing"}}', "not supported"),
    ],
)
def test_a_malformed_tokenizer_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "t.txt", "the cat\n")
    assert message in f"{caught.value.fact} {caught.value.note}"


@pytest.mark.parametrize("step", [{"type": "Other"}, {"type": "BertProcessing"}, 7, {"type": "TemplateProcessing"}])
def test_an_unknown_post_processor_is_refused(tmp_path: Path, step: object) -> None:
    tokenizer(tmp_path, post_processor=step)
    with pytest.raises(InputError, match=r"not supported|malformed"):
        opened(tmp_path / "t.txt", "the cat\n")


def test_what_text_cannot_feed_is_refused(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    with pytest.raises(InputError, match="text does not feed the model's input"):
        opened(tmp_path / "t.txt", "cat\n", [*INPUTS, spec("image", "n", 3, 8, 8)])
    with pytest.raises(InputError, match="not data without a tokenizer"):
        open_data(str(tmp_path / "t.txt"), INPUTS)
    np.savez(tmp_path / "a.npz", input_ids=np.zeros((1, 2), np.int64))
    with pytest.raises(InputError, match="has no text"):
        open_data(str(tmp_path / "a.npz"), INPUTS[:1], columns=Columns(tokenizer=tmp_path / "tokenizer.json"))


def test_a_line_of_a_gigabyte_takes_little_memory(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    for name in ("t.txt", "t.jsonl", "t.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="too long"):
                open_data(str(tmp_path / name), INPUTS, columns=Columns(tokenizer=tmp_path / "tokenizer.json"))
            assert tracemalloc.get_traced_memory()[1] < 100 << 20
        finally:
            tracemalloc.stop()


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    code = (
        "import sys; sys.modules['kitoken'] = None\n"
        "from pathlib import Path\n"
        "from modelopt.data.tokenizer import open_tokenizer\n"
        "from modelopt.core.errors import EnvironmentLacks\n"
        "try: open_tokenizer(Path('tokenizer.json'))\n"
        "except EnvironmentLacks as error: print(error.fact, error.hint)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "text needs the package kitoken" in ran.stdout
    assert "modelopt-onnx[text]" in ran.stdout


def test_evaluate_reads_text_and_its_labels(tmp_path: Path) -> None:
    """The model answers class 1 where the first token after [CLS] is 'the'."""
    tokenizer(tmp_path)
    nodes = [
        helper.make_node("Gather", ["input_ids", "one"], ["second"], axis=1),
        helper.make_node("Equal", ["second", "the"], ["is"]),
        helper.make_node("Cast", ["is"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "one1"], ["column"]),
        helper.make_node("Sub", ["half", "column"], ["other"]),
        helper.make_node("Concat", ["other", "column"], ["scores"], axis=1),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        helper.make_tensor("one1", TensorProto.INT64, [1], [1]),
        helper.make_tensor("the", TensorProto.INT64, [], [4]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "the", [ids], [scores], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    lines = [json.dumps({"text": text, "label": int(text.startswith("the"))}) for text in ["the cat", "cat", "sat"] * 9]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    asked = ("evaluate", "m.onnx", "--eval", "t.jsonl")
    ran = modelopt(*asked, "--tokenizer", "tokenizer.json", cwd=tmp_path).succeeded()
    assert b"top1 100.00%" in ran.out
    modelopt(*asked, cwd=tmp_path).refused(2, "--tokenizer")
    modelopt(*asked, "--tokenizer", "no.json", cwd=tmp_path).refused(2, "no such file")
