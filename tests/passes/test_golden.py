"""Runs every golden case: the text, the invariants, the signature, idempotence, honest counts, equal outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph, passes
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.data import random_data
from modelopt.graph import invariants
from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from modelopt.recipe.pass_options import make_pass
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns.site import Site
from tests.golden import FOLDER, Case, all_cases, normalized


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """Runs what verification compares."""
    with Worker() as one:
        yield one


def _context(model: ir.Model, runner: WorkerRunner, *, data: bool) -> Context:
    samples = random_data(graph.signature(model).inputs, n=8, seed=1) if data else None
    return Context(runner=runner, target=targets.resolve("x86-vnni"), calibration=samples)


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_golden(case: Case, runner: WorkerRunner, worker: Worker, tmp_path: Path) -> None:
    kind = make_pass(case.pass_name, case.options)
    model = ir.from_onnx_text(case.before)
    assert invariants.check(model) == []
    original = ir.from_onnx_text(case.before)

    changes = kind.apply(model, _context(original, runner, data=kind.needs_data))

    assert invariants.check(model) == []
    if kind.keeps_signature or case.after is None:
        assert graph.signature(model) == graph.signature(original)
    if case.after is None:
        assert changes.rewrites == 0
        assert normalized(model) == normalized(original)
        reasons = [skip.reason for skip in changes.skipped]
        expected = case.reason or ""
        assert expected == "nothing to do" or any(expected in reason for reason in reasons), reasons
        return
    assert normalized(model) == normalized(ir.from_onnx_text(case.after))
    assert changes.rewrites > 0
    assert kind.apply(model, _context(model, runner, data=kind.needs_data)).rewrites == 0
    if kind.effect is Effect.EXACT and kind.keeps_signature and not kind.needs_data:
        site = Site(ir.to_proto(original), tmp_path / "site" / "model.onnx", runner, worker)
        assert site.check([kind]) is None
    elif kind.effect is Effect.EXACT:
        _assert_same_outputs(original, model, runner)


def _assert_same_outputs(original: ir.Model, model: ir.Model, runner: WorkerRunner) -> None:
    signature = graph.signature(model)  # where a pass narrows it, both models take what is left
    feeds = [sample.feeds for sample in random_data(signature.inputs, n=3, seed=2)]
    names = [spec.name for spec in signature.outputs]
    references = list(runner.run(original, feeds))
    for reference, candidate in zip(references, runner.run(model, feeds), strict=True):
        assert not isinstance(compare_outputs(reference, candidate, names), OutputMismatch)


def test_every_pass_has_a_golden_file() -> None:
    assert {path.stem.replace("_", "-") for path in FOLDER.glob("*.md")} == set(passes.NAMES)


@pytest.mark.parametrize("name", passes.NAMES)
def test_every_pass_has_a_rewrite_and_a_refusal(name: str) -> None:
    own = [case for case in all_cases() if case.pass_name == name]
    if passes.find(name).effect is Effect.EXACT and name != "onnxsim":
        assert any(case.after for case in own)
    assert any(case.after is None for case in own)


@pytest.mark.parametrize("name", passes.NAMES)
def test_every_option_is_documented(name: str) -> None:
    import dataclasses

    for field in dataclasses.fields(passes.find(name)):
        assert field.metadata["doc"].strip()


def test_numbers_are_compared_at_all() -> None:
    assert isinstance(compare_outputs([np.ones(3, np.float32)], [np.zeros(3, np.float32)], ["y"]), OutputMismatch)
