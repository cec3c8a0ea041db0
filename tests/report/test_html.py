"""HTML reports: complete, safe with hostile names, and usable in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from modelopt.core.tables import Section
from modelopt.report import FileInfo, GateOutcome, GateResult, PassResult, Report, distribution, html
from modelopt.report.markdown import to_markdown
from tests import chromium
from tests.command_line import CNN, CNN_CALIB, CNN_EVAL, EVAL, FAST, MLP, QUICK, modelopt

QUANTIZE = (
    "quantize",
    CNN,
    "--calib",
    CNN_CALIB,
    "--eval",
    CNN_EVAL,
    "--no-search",
    "--everywhere",
    "--max-drop",
    "5%",
)
ABOUT = "input, sha256"
HOSTILE = (
    """<script>document.title='run'</script>"'><img src=x onerror="document.title='run'">\u202e\u2066\x1b[31m\x07\r\n"""
)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with everything in it."""
    folder = tmp_path_factory.mktemp("quantized")
    run = modelopt(*QUANTIZE, *FAST, "--keep", "-o", "x.onnx", "--report", "r.html", cwd=folder)
    assert run.code in {0, 1, 5}, run.err
    return folder / "r.html"


def test_the_parts_in_order(quantized: Path) -> None:
    text = quantized.read_text()
    places = [
        text.index(each)
        for each in ("<h1>", 'id="figures"', ">before<", 'id="gates"', "<td>max-drop", "<svg", 'id="provenance"', ABOUT)
    ]
    assert places == sorted(places)
    for words in ("top1 (n=629)", "signal to noise", "rewrites", "target", "seed", "onnxruntime", "version: 1"):
        assert words in text, words
    assert len(re.findall(r'<path class="curve', text)) == 2


def test_it_needs_nothing_else(quantized: Path) -> None:
    text = quantized.read_text()
    assert not re.findall(r"https?://", text)
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", text)) <= {"data:,"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("bench", MLP, MLP, *FAST), ("p50", "<svg", "baseline")),
        (("bench", MLP, *FAST), ("a run, median", "<svg")),
        (("compare", MLP, MLP, "--eval", EVAL, *FAST), ("<svg", "top1")),
        (("compare", MLP, MLP, "--no-bench"), ("outputs", "sha256")),
        (("evaluate", MLP, "--eval", EVAL, "--min-score", "10%"), ("top1", "recall", "min-score", "passed")),
        (("fold", MLP, "-o", "x.onnx", *QUICK), ("size", "provenance")),
    ],
    ids=("bench-two", "bench-one", "compare", "compare-outputs", "evaluate", "fold"),
)
def test_each_command_writes_one(tmp_path: Path, words: tuple[str | Path, ...], parts: tuple[str, ...]) -> None:
    modelopt(*words, "--report", "r.html", cwd=tmp_path).succeeded()
    text = (tmp_path / "r.html").read_text()
    assert re.search(r"<h1>[^<]+</h1>", text)
    assert all(part in text for part in parts), text


def test_check_writes_one(tmp_path: Path) -> None:
    modelopt("bench", MLP, "--report", "a.json", *FAST, cwd=tmp_path).succeeded()
    modelopt(
        "check", "a.json", "--baseline", "a.json", "--max-size", "+1%", "--report", "r.html", cwd=tmp_path
    ).succeeded()
    text = (tmp_path / "r.html").read_text()
    assert "<h1>No worse than the baseline.</h1>" in text
    assert "max-size" in text


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        modelopt("compare", MLP, MLP, "--no-bench", "--report", "r.html", cwd=tmp_path).succeeded()
    (tmp_path / "index.html").write_text("<!doctype html>\n<html lang='en'>\n<p>mine</p>")
    modelopt("bench", MLP, "--report", "index.html", *FAST, cwd=tmp_path).refused(2, "index.html")
    assert "mine" in (tmp_path / "index.html").read_text()


def hostile(name: str = HOSTILE) -> Report:
    """A report in which every name out of a model is `name`."""
    stats = {"nodes": 1, "weight_bytes": 1}
    tensor = {"name": name, "kind": "weight", "low": -1.0, "high": 1.0, "sqnr_db": 3.0}
    result = {
        "step": "quantize-static",
        "effect": "approximate",
        "rewrites": 1,
        "skipped": [{"node": name, "reason": f"its input {name} is shared"}],
        "facts": {name: name},
        "tensors": [tensor],
        "wall_ns": 1,
        "before": stats,
        "after": stats,
    }
    return Report(
        verdict=name,
        next=name,
        input=FileInfo(path=name, size_bytes=10),
        output=FileInfo(path=name, size_bytes=5),
        written=True,
        recipe=f"version: 1\nname: |\n  ```\n  {name}\n",
        target="generic",
        seed=0,
        passes=(msgspec.convert(result, PassResult),),
        verification=None,
        latency=None,
        accuracy=None,
        gates=(GateResult(gate="max-drop", limit=name, found=name, outcome=GateOutcome.INCONCLUSIVE, hint=name),),
        notes=(name,),
        versions={name: name},
    )


def test_hostile_names_are_text() -> None:
    text = html.to_html(hostile())
    assert "&lt;script&gt;" in text
    assert len(re.findall(r"<script", text)) == 1
    assert not re.findall(r"<img", text)
    assert text.replace("\n", "").isprintable()
    assert "\\u202e" in text


def test_names_that_are_no_unicode_can_be_written() -> None:
    assert html.to_html(hostile("\udcff.onnx")).encode()


def test_markdown_folds_all_but_verdict_figures_and_gates() -> None:
    text = to_markdown(hostile("a"))
    open_part, *folded = text.split("<details>")
    assert open_part.index("**a**") < open_part.index("| size |") < open_part.index("## gates")
    assert [re.search(r"<summary>(.*?)</summary>", each).group(1) for each in folded] == [  # type: ignore[union-attr]
        "passes (1)",
        "left alone (1)",
        "quantized tensors, worst first (1)",
        "recipe and versions",
    ]
    assert text.count("</details>") == len(folded)
    assert "```yaml" in folded[-1]


def test_markdown_with_hostile_names_opens_nothing() -> None:
    text = to_markdown(hostile())
    before_recipe = text.split("````yaml\n")[0]  # the recipe has a longer fence than what it holds
    assert before_recipe != text
    assert before_recipe.replace("\n", "").isprintable()
    assert not re.findall(r"(?<!\\)<(?!/?(?:details|summary)>)", before_recipe)


needs_browser = pytest.mark.skipif(
    chromium.BROWSER is None, reason="no Chromium is installed: apt-get install chromium"
)


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_in_a_browser(tmp_path: Path, quantized: Path, width: int, dark: bool) -> None:
    with chromium.browser(tmp_path / "profile") as page:
        page.open(quantized, width, dark=dark)
        page.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        header = "[...document.querySelectorAll('th button')].find((each) => each.textContent === 'signal to noise')"
        column = f"""[...{header}.closest('table').tBodies[0].rows].map(
            (row) => parseFloat(row.cells[{header}.parentElement.cellIndex].textContent))"""
        found = page.value(column)
        assert len(found) > 3
        page.value(f"{header}.click()")
        assert page.value(column) == sorted(found)
        page.value(f"{header}.click()")
        assert page.value(column) == sorted(found, reverse=True)
        assert page.value(f"{header}.parentElement.ariaSort") == "descending"
        assert page.value("document.documentElement.scrollWidth") <= width
        paper = page.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 200) is dark
        page.screenshot(tmp_path / f"{width}.png")
        assert page.problems == []
        assert page.requests == [quantized.as_uri()]
    assert (tmp_path / f"{width}.png").stat().st_size > 10_000


@needs_browser
def test_units_are_sorted_by_value_in_a_browser(tmp_path: Path) -> None:
    times = ("2.00 ms", "", "900.0 µs", "1.50 s", "1,000.00 ms")
    table = Section("t", ("time",), tuple((each,) for each in times))
    path = tmp_path / "t.html"
    path.write_text(html._rendered(html._Page(title="t", verdict="v", figures=[table])))
    with chromium.browser(tmp_path / "profile") as page:
        page.open(path, 1280)
        page.value("document.querySelector('th button').click()")
        cells = page.value("[...document.querySelectorAll('td')].map((each) => each.textContent)")
        assert cells == ["900.0 µs", "2.00 ms", "1,000.00 ms", "1.50 s", ""]
        assert page.problems == []


@needs_browser
def test_hostile_names_run_nothing_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(html.to_html(hostile()))
    with chromium.browser(tmp_path / "profile") as page:
        page.open(path, 400)
        assert page.value("document.title").startswith("<script>")
        assert page.value("document.images.length") == 0
        assert page.problems == []
        page.value("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert page.value("window.ran") is None  # the page's own policy forbids scripts that it does not name
        assert page.value("document.documentElement.scrollWidth") <= 400


def test_the_chart_leaves_rare_slow_runs_out() -> None:
    random = np.random.default_rng(0)
    usual = random.normal(1e6, 2e4, 1000)
    low, high = distribution._ends(np.concatenate([usual, np.full(20, 5e7)]))
    assert 0.9e6 < low < high < 1.5e6
