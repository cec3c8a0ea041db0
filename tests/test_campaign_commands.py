"""The campaign of commands in small, and what each of its checks finds: `make commands` runs it whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests import command_line
from tests.campaigns import answers, command_calls, command_checks, command_table, commands
from tests.campaigns.answers import Answer
from tests.campaigns.command_calls import Call, Subject
from tests.campaigns.command_runs import Outcome

RNG = np.random.default_rng(0)

ERROR = "modelopt: error: the model is torn"
COMPARED = {"verification": {"real": 0, "constructed": 3, "exact_segments": 1, "max_relative_error": 0.0}}
BLANK = {"verification": {"real": 0, "constructed": 0, "exact_segments": 1, "max_relative_error": None}}
TWICE = {"point": 2.0, "low": 1.9, "high": 2.1, "verdict": "faster"}


def outcome(**changes: Any) -> Outcome:
    """A call that went well and said nothing."""
    fine = Outcome(
        subject=Subject(Path("/models/m.onnx"), "models/m.onnx"),
        call=Call("fold", ("fold", "/models/m.onnx"), makes_model=True, exact=True, has_data=True),
        command=("modelopt", "fold", "/models/m.onnx", "-o", "/scratch/out/result.onnx"),
        code=0,
        out="",
        err="",
        seconds=1.0,
        result=Path("/scratch/out/result.onnx"),
        report={
            "output": {"size_bytes": 100},
            "passes": [{"step": "fold-constants", "effect": "exact", "rewrites": 1}],
        },
        created=frozenset({"result.onnx", "report.json"}),
        size_bytes=100,
        original=Answer(loads=True, feeds=8, data_feeds=8, data_elements=80),
        answer=Answer(loads=True, feeds=8, data_feeds=8, elements=80, data_elements=80),
    )
    return dataclasses.replace(fine, **changes)


def failed(code: int | None, err: str, **changes: Any) -> Outcome:
    """A call that ended with an error and left nothing."""
    nothing: dict[str, Any] = {
        "code": code,
        "err": err,
        "result": None,
        "report": None,
        "created": frozenset(),
        "answer": None,
    }
    return outcome(**(nothing | changes))


def reporting(report: Mapping[str, Any], **changes: Any) -> Outcome:
    return outcome(report={**outcome().report, **report}, **changes)


def asking(column: str, **changes: Any) -> Call:
    return dataclasses.replace(outcome().call, column=column, **changes)


def test_what_is_fine_passes_every_check() -> None:
    fine = (
        outcome(),
        failed(3, f"{ERROR}\nnote: 3 of 9 bytes\nhint: copy it again\n"),
        reporting(COMPARED, err="Verified the exact passes on 3 constructed feeds: equal bit for bit.\n"),
        reporting({"latency": {"ratio": TWICE}}, err="latency  2.00× as fast (1.90–2.10): faster\n"),
        outcome(call=asking("fold --json", as_json=True), out="{}"),
    )
    assert command_table.findings(fine, command_checks.CHECKS) == []
    assert command_table.findings(fine, command_checks.REMARKS) == []


WRONG = {
    "ends": failed(None, ""),
    "no_traceback": failed(70, f"Traceback (most recent call last):\nValueError: no\n{ERROR}\n"),
    "documented_code": failed(-11, ""),
    "error_form": failed(2, "the model is torn\n"),
    "nothing_written": failed(1, ERROR, created=frozenset({"result.onnx"})),
    "output_loads": outcome(answer=Answer(loads=False, problem="invalid")),
    "sizes": outcome(size_bytes=99),
    "json_alone": outcome(call=asking("fold --json", as_json=True), out="Wrote it.", report=None),
    "verified": outcome(err="Verified on 0 feeds: equal.\n"),
    "same_answers": outcome(answer=Answer(loads=True, elements=8, difference="sample x[1]: 2 instead of 1")),
    "gates_measured": reporting({"gates": [{"gate": "must-gain", "found": "faster: 2×", "outcome": "passed"}]}),
    "speed_measured": outcome(err="latency, median  2.00× as fast (1.90–2.10): faster\n"),
    "accuracy_measured": reporting({"accuracy": {"n": 3, "fidelity": [{"name": "cosine", "value": 1.0, "n": 0}]}}),
    "same_as_itself": reporting(
        {"accuracy": {"n": 3, "fidelity": [{"name": "max-abs-error", "value": 0.5, "n": 3}]}},
        call=asking("compare self --json"),
    ),
    "kept_is_there": reporting({"trials": [{"group": "quantize", "rewrites": 2, "kept": True}]}, copied=True),
}


@pytest.mark.parametrize("check", command_checks.CHECKS, ids=lambda check: check.__name__)
def test_each_check_finds_what_it_is_for(check: command_checks.Check) -> None:
    assert len(list(check(WRONG[check.__name__]))) == 1


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        ("error_form", outcome(err=ERROR)),
        ("error_form", failed(2, f"{ERROR}\nhint: a\nnote: b\n")),
        ("error_form", failed(2, f"{ERROR}\nand more\n")),
        ("nothing_written", outcome(litter=frozenset({"modelopt-x"}))),
        ("nothing_written", outcome(created=frozenset({"result.onnx", "other"}))),
        ("output_loads", outcome(result=None, answer=None)),
        ("sizes", outcome(report={"output": {"size_bytes": 100}, "passes": []})),
        ("verified", reporting(BLANK, err="outputs (n=3)  the same\n")),
        ("gates_measured", reporting({"gates": [{"gate": "max-drop", "found": "0.00%", "outcome": "passed"}]})),
        (
            "accuracy_measured",
            reporting(
                {"accuracy": {"n": 3, "fidelity": [{"name": "cosine", "value": 1.0, "n": 3}]}},
                original=Answer(loads=True, data_feeds=8),
            ),
        ),
    ],
)
def test_and_other_forms_of_it(check: str, wrong: Outcome) -> None:
    assert [each.check for each in command_table.findings([wrong], command_checks.CHECKS)] == [check]


def test_words_that_help_nobody_are_listed() -> None:
    path = failed(3, f"{ERROR}\nnote: /onnxruntime_src/onnxruntime/core/graph.cc:12 it failed\n")
    bare = failed(3, ERROR)
    told = [each.text for each in command_table.findings([path, bare], command_checks.REMARKS)]
    assert ["onnxruntime/core" in told[0], told[1].startswith("neither note nor hint")] == [True, True]


def test_what_is_not_quantized_and_what_is_not_checked_is_listed() -> None:
    bare = outcome(call=asking("static", exact=False), operators=frozenset({"Conv"}), err="Wrote it.\n")
    lossy = reporting(
        {"passes": [{"step": "prune-magnitude", "effect": "lossy", "rewrites": 2}]},
        call=asking("prune", exact=False, has_data=False),
    )
    assert [each.check for each in command_table.findings([bare, lossy], command_checks.REMARKS)] == [
        "no_integers",
        "lossy_without_data",
    ]


def test_notes_about_what_was_not_done_are_listed() -> None:
    copied = outcome(copied=True, err="note: calibrated on random inputs: accuracy on real data may be worse\n")
    assert [each.check for each in command_table.findings([copied], command_checks.REMARKS)] == ["notes_about_nothing"]


def test_gains_within_noise_are_listed() -> None:
    wide = {"point": 0.82, "low": 0.6, "high": 1.2, "verdict": "no measurable difference"}
    gates = [{"gate": "must-gain", "outcome": "passed", "found": "no measurable difference: 0.820×"}]
    gained = reporting({"gates": gates, "latency": {"ratio": wide}})
    itself = outcome(call=asking("compare self"), err="latency  1.10× as fast (1.05–1.20): faster\n", report=None)
    assert [each.check for each in command_table.findings([gained, itself], command_checks.REMARKS)] == [
        "gain_within_noise",
        "faster_than_itself",
    ]


def test_lines_that_differ_in_numbers_are_one_with_a_count() -> None:
    said = [outcome(err=f"{ERROR} at byte {n}\n", code=2, result=None, created=frozenset()) for n in (1, 2)]
    text = command_table.document(said, ["models/big.onnx is left out: 200 MB"])
    assert f"- 2 × {ERROR} at byte 1 (models/m.onnx, fold)" in text
    assert "models/big.onnx is left out" in text


# On onnxruntime


def classifier(path: Path, scale: float = 1.0) -> Path:
    """A product and its Relu, with samples beside it."""
    weights = {"w": np.asarray(scale * RNG.normal(size=(6, 4)), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    command_line.save(
        path, nodes, [command_line.value("x", ["batch", 6])], [command_line.value("y", ["batch", 4])], weights
    )
    np.savez(path.with_suffix(".npz"), x=RNG.normal(size=(12, 6)).astype(np.float32))
    return path


def test_a_folder_may_be_named_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in another working directory."""
    model = classifier(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    (found,), _ = command_calls.subjects([Path()], max_bytes=1e6)
    assert (found.model, found.shown) == (model.resolve(), f"{tmp_path.name}/m.onnx")


def test_data_belong_to_the_model_whose_inputs_they_are(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx")
    other = classifier(tmp_path / "n.onnx")
    np.savez(other.with_suffix(".npz"), images=np.zeros((2, 6), np.float32))
    found, left_out = command_calls.subjects([tmp_path], max_bytes=1e6)
    assert [(each.model, each.calib) for each in found] == [(model, model.with_suffix(".npz")), (other, None)]
    assert left_out == []
    assert len(command_calls.subjects([tmp_path], max_bytes=10)[1]) == 2


def test_a_model_that_answers_otherwise_is_found(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx")
    other = classifier(tmp_path / "other.onnx", scale=1.01)
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(model.read_bytes()[:50])
    original, (same, wrong, broken) = answers.ask(
        model, [(model, True), (other, True), (torn, False)], model.with_suffix(".npz")
    )
    assert (original.loads, original.data_feeds, original.data_elements) == (True, 12, 48)
    assert (same.difference, same.feeds, same.elements > 48) == ("", original.feeds, True)
    assert wrong.difference.startswith("sample x[1, 6] up to ")
    assert not broken.loads


def test_the_campaign_runs_the_command(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"no model")
    subjects, _ = command_calls.subjects([tmp_path], max_bytes=1e6)
    chosen = ["inspect", "fold", "fuse --contrib", "compare fold"]
    done = commands.campaign(subjects, jobs=1, limit_seconds=100, budget_seconds=0.1, columns=chosen)
    outcomes = [each for one in done for each in one]
    assert command_table.findings(outcomes, command_checks.CHECKS) == []
    by_call = {(each.subject.model.stem, each.call.column): each for each in outcomes}
    assert {each.code for (model, _), each in by_call.items() if model == "m"} == {0}
    assert {each.code for (model, _), each in by_call.items() if model == "torn"} == {2}
    assert by_call["m", "inspect --json"].report
    table = command_table.document(outcomes, [])
    row = next(line for line in table.splitlines() if "/torn.onnx" in line)
    assert row.count("| input 2: ") == 3  # nothing is compared with what was not made
