"""Small models whose outputs are of known kinds, and what is done to their answers: damage and harmless rounding.

    python -m tests.campaigns.output_kinds

Prints what each output is taken for, what a contract of 1 % says where 2 % of the answers are damaged, and what it says
of noise at 40 dB that leaves the answers as they are.

Each model is real ONNX: a layer of random features and a last layer that was fitted to a made-up truth, so that its
answers vary and hang together as those of a trained model do.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from modelopt.measure.heads import heads_of
from modelopt.measure.output_kinds import OutputKind, recognize
from modelopt.measure.outputs import OutputScore, OutputScores
from tests.campaigns.answer_changes import damaged, rounded
from tests.campaigns.known_output_case import Case
from tests.campaigns.known_outputs import MODELS, cases


@dataclass(frozen=True)
class Judged:
    """What became of an output.

    Attributes:
        case: The model.
        wanted: Its kind.
        found: What it was taken for, and why.
        damage: What is lost by the damage, as a share.
        rounding: What is lost by the rounding.
    """

    case: str
    wanted: OutputKind
    found: OutputScore
    damage: float
    rounding: float

    @property
    def is_right(self) -> bool:
        """Whether the kind was found."""
        return self.found.kind == self.wanted.value


def judged(case: Case) -> list[Judged]:
    """What `modelopt` says of each output of a model, of damage and of rounding."""
    heads = heads_of(ir.from_proto(case.model))
    results = []
    for (name, head), kind, answers in zip(heads.items(), case.kinds, case.answers(), strict=True):
        known = recognize(head, answers)
        assert known is not None
        lost = []
        for changed in (damaged(kind, known, answers), rounded(kind, known, answers)):
            scores = OutputScores([name], heads, {})
            for a, b in zip(answers, changed, strict=True):
                scores.update([a], [b])
            (found,) = scores.scores()
            assert found.drop is not None
            lost.append(found.drop)
        results.append(Judged(case.name, kind, found, *lost))
    return results


def main() -> None:
    """Print the table."""
    print("| model | output | taken for | because | 2 % damaged: lost | 40 dB: lost |\n|---|---|---|---|---|---|")
    results = [each for case in cases() for each in judged(case)]
    for each in results:
        wrong = "" if each.is_right else f" (is: {each.wanted.value})"
        cells = (each.found.kind + wrong, each.found.why, f"{each.damage:.1%}", f"{each.rounding:.2%}")
        print(f"| {each.case} | {each.found.output} | {' | '.join(cells)} |")
    right, caught, passed = (
        sum(map(test, results))
        for test in (lambda one: one.is_right, lambda one: one.damage > 0.01, lambda one: one.rounding <= 0.01 + 1e-6)
    )
    n = len(results)
    print(f"\n{len(MODELS)} models, {n} outputs: kind found {right}, damage caught {caught}, rounding passed {passed}.")


if __name__ == "__main__":
    main()
