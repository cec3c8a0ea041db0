"""The findings of the campaign of commands as Markdown: a table of all calls, what is wrong, and all that was said."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.campaigns.command_checks import CHECKS, REMARKS, Check, crashed, error_lines
from tests.campaigns.command_claims import claims_verified
from tests.campaigns.command_runs import REPORT, RESULT, Outcome

_JSON = " --json"
_WORDS = 7
_KINDS = ("modelopt: error: ", "note: ", "hint: ", "warning: ", "Verified", "Not verified", "Wrote ")


@dataclass(frozen=True)
class Finding:
    """Something that one call did or said.

    Attributes:
        outcome: The call.
        check: The name of the check.
        text: What was found.
    """

    outcome: Outcome
    check: str
    text: str

    def __str__(self) -> str:
        where = f"{self.outcome.subject.shown}, {self.outcome.call.column}"
        return f"{where}: {self.text} [{self.check}]\n  `{reproduction(self.outcome)}`"


def reproduction(outcome: Outcome) -> str:
    """The command line as one would type it; the output goes to the working directory."""
    own = {name: name for name in (RESULT, REPORT)}
    parts = [own.get(part.rpartition("/")[2], part) for part in outcome.command[1:]]
    return shlex.join(("modelopt", *parts))


def findings(outcomes: Sequence[Outcome], checks: Sequence[Check]) -> list[Finding]:
    """What the checks find."""
    return [
        Finding(outcome, check.__name__, text) for outcome in outcomes for check in checks for text in check(outcome)
    ]


def document(outcomes: Sequence[Outcome], left_out: Sequence[str]) -> str:
    """The whole document."""
    failures = findings(outcomes, CHECKS)
    crashes = findings(outcomes, (crashed,))
    remarks = findings(outcomes, REMARKS)
    parts = [
        "# What each command says of each model",
        *summary(outcomes, failures, crashes),
        *(f"- {line}" for line in left_out),
        "\n## Every command on every model\n",
        *_grid(outcomes, {id(failure.outcome) for failure in failures}),
        f"\n## Failures: {len(failures)}\n",
        *bullets(failures),
        f"\n## A child process crashed: {len(crashes)}\n",
        *bullets(crashes),
        f"\n## Words to look at: {len(remarks)}\n",
        *bullets(remarks),
        "\n## What onnxruntime answers to the original and to the result\n",
        *_answers(outcomes),
        "\n## All sentences\n",
        *_messages(outcomes, rows=False),
        "\n## All rows of tables\n",
        *_messages(outcomes, rows=True),
        "\n## All calls\n",
        *_calls(outcomes),
    ]
    return "\n".join(parts) + "\n"


def summary(outcomes: Sequence[Outcome], failures: Sequence[Finding], crashes: Sequence[Finding]) -> Iterator[str]:
    """A few figures."""
    models = len({outcome.subject.model for outcome in outcomes})
    codes = Counter("no end" if outcome.code is None else str(outcome.code) for outcome in outcomes)
    told = ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))
    asked = [outcome.answer for outcome in outcomes if outcome.answer is not None and outcome.answer.elements]
    yield f"\n{len(outcomes)} calls on {models} models; exit codes: {told}."
    yield f"{sum(claims_verified(outcome) for outcome in outcomes)} calls say that outputs are the same;"
    yield f"{len(asked)} results were run beside their originals on {sum(a.feeds for a in asked)} feeds."
    kinds = Counter(failure.check for failure in failures)
    yield f"{len(failures)} failures" + "".join(f", {count} of {kind}" for kind, count in kinds.most_common()) + ";"
    yield f"{len(crashes)} crashes of child processes.\n"


def _grid(outcomes: Sequence[Outcome], failed: set[int]) -> Iterator[str]:
    columns = list(dict.fromkeys(outcome.call.column.removesuffix(_JSON) for outcome in outcomes))
    yield _row(["model", *columns])
    yield _row(["---"] * (len(columns) + 1))
    for shown in dict.fromkeys(outcome.subject.shown for outcome in outcomes):
        cells: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.subject.shown == shown:
                mark = "**FAILED** " if id(outcome) in failed else ""
                cells.setdefault(outcome.call.column.removesuffix(_JSON), []).append(mark + cell(outcome))
        yield _row([shown, *("; ".join(cells.get(column, ["–"])) for column in columns)])


def cell(outcome: Outcome) -> str:
    """One call in a few words."""
    if outcome.code is None:
        return "no end"
    if outcome.code == 0:
        if outcome.call.as_json:
            return "json"
        notes = sum(line.startswith(("note: ", "warning: ")) for line in outcome.err.splitlines())
        said = ["copy" if outcome.copied else "ok", "same" if claims_verified(outcome) else ""]
        return ", ".join(filter(None, [*said, f"{notes} note{'s'[: notes != 1]}" if notes else ""]))
    fact = (error_lines(outcome) or ["?"])[0].removeprefix(_KINDS[0])
    kind = {1: "gate", 2: "input", 3: "refused", 4: "lacks", 70: "BUG"}.get(outcome.code, "code")
    return f"{kind} {outcome.code}: {' '.join(fact.split()[:_WORDS])}…"


def bullets(found: Sequence[Finding]) -> Iterator[str]:
    """Findings; those that differ only in names and numbers are one, with a count."""
    kinds: dict[str, list[Finding]] = {}
    for each in found:
        kinds.setdefault(f"{each.check} {_generic(each.text, each.outcome)}", []).append(each)
    for same in kinds.values():
        yield f"- {_escape(str(same[0]))}"
        if len(same) > 1:
            others = dict.fromkeys(f"{each.outcome.subject.shown}: {each.outcome.call.column}" for each in same[1:])
            yield f"  - and {len(same) - 1} more: {_escape('; '.join(others))}"


def _answers(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield _row(["model", "original", "feeds", "of the data", "elements on the data", "results held against it"])
    yield _row(["---"] * 6)
    for shown in dict.fromkeys(outcome.subject.shown for outcome in outcomes):
        ours = [outcome for outcome in outcomes if outcome.subject.shown == shown]
        asked = ours[0].original
        if asked is not None:
            same = [outcome.call.column for outcome in ours if outcome.answer is not None and outcome.answer.elements]
            state = "loads" if asked.loads else "crashes" if asked.crashed else "does not load"
            figures = [str(asked.feeds), str(asked.data_feeds), str(asked.data_elements)]
            yield _row([shown, f"{state} {_escape(asked.problem)}", *figures, ", ".join(same) or "none"])


def _messages(outcomes: Sequence[Outcome], *, rows: bool) -> Iterator[str]:
    """Each line that was said, once, with how often: lines that differ only in names and numbers are one.

    Args:
        outcomes: Of all calls.
        rows: Rows of tables, which have columns, or else sentences.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, Outcome]] = {}
    for outcome in outcomes:
        said = outcome.err if outcome.call.as_json else outcome.err + outcome.out
        for line in (each.strip() for each in said.splitlines()):
            if not line or ("  " in line) != rows:
                continue
            key = _generic(line, outcome)
            counts[key] += 1
            examples.setdefault(key, (line, outcome))

    def order(key: str) -> tuple[int, int]:
        return _kind(examples[key][0]), -counts[key]

    for key in sorted(counts, key=order):
        line, outcome = examples[key]
        yield f"- {counts[key]} × {_escape(line)} ({outcome.subject.shown}, {outcome.call.column})"


def _kind(line: str) -> int:
    return next((number for number, start in enumerate(_KINDS) if line.startswith(start)), len(_KINDS))


def _generic(line: str, outcome: Outcome) -> str:
    text = line.replace(str(outcome.subject.model), "MODEL")
    for part in outcome.command:
        text = text.replace(part, "FILE") if "/" in part else text
    text = re.sub(r"(modelopt-[a-z]*-?|commands-|run_)\w{8}[-\w]*(\.json)?", r"\1…", text)
    text = re.sub(r"'[^']*'", "'NAME'", text)
    return " ".join(re.sub(r"[-+]?\d[\d.,e]*", "#", text).split())


def _calls(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield _row(["model", "call", "exit", "seconds", "first line", "loads", "says the same"])
    yield _row(["---"] * 7)
    for outcome in outcomes:
        first = next(iter(error_lines(outcome) or filter(str.strip, outcome.err.splitlines())), "")
        loads = "" if outcome.answer is None else "yes" if outcome.answer.loads else "NO"
        code = "–" if outcome.code is None else str(outcome.code)
        said = "yes" if claims_verified(outcome) else ""
        start = [outcome.subject.shown, outcome.call.column, code, f"{outcome.seconds:.1f}"]
        yield _row([*start, _escape(" ".join(first.split())[:160]), loads, said])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    printable = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
    return printable.replace("|", "\\|").replace("<", "\\<")
