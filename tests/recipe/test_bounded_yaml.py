"""YAML that is made to take time or memory without end is refused, in time that its length bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelopt.core.errors import InputError
from modelopt.recipe import bounded_yaml
from modelopt.recipe.parsing import MAX_STEPS, load, parse

TAG = "tag:yaml.org,2002:"

BOMBS: dict[str, tuple[Callable[[], str], str]] = {
    "open brackets": (lambda: "[" * 100_000, "r:1: nested too deeply: more than 32 levels"),
    "brackets": (lambda: "[" * 2000 + "]" * 2000, "r:1: nested too deeply"),
    "braces": (lambda: "{a: " * 30_000, "r:1: nested too deeply"),
    "dashes": (lambda: "- " * 100_000 + "a", "r:1: nested too deeply"),
    "question marks": (lambda: "? " * 100_000 + "a", "r:1: nested too deeply"),
    "indentation": (lambda: "".join(f"{' ' * i}a:\n" for i in range(500)), "r:32: nested too deeply"),
    "aliases": (lambda: "a: &a [x]\nb: [*a, *a]", "r:2: aliases (*a) are not supported"),
    "merge keys": (lambda: "a: 1\n<<: {b: 1}", "r:2: merge keys (<<) are not supported"),
    "values": (lambda: "a: [" + "1," * 100_000 + "]", "r:1: more than 20000 keys and values"),
    "length": (lambda: "a" * (bounded_yaml.MAX_BYTES + 1), "r is too long"),
    "a tag": (lambda: "a: !!python/object/apply:os.system [ls]", f"r:1: tags ({TAG}python/object/apply:os.system)"),
    "a set": (lambda: "a: !!set {b, c}", f"r:1: tags ({TAG}set) are not supported"),
    "a tag of its own": (lambda: "a: !x 1", "r:1: tags (!x) are not supported"),
    "digits": (lambda: f"a: {'9' * 100_000}", "r:1: a number of 100000 characters"),
    "digits of base 16": (lambda: f"a: 0x{'f' * 100_000}", "r:1: a number of 100002 characters"),
    "digits of base 60": (lambda: f"a: 1{':1' * 100_000}", "r:1: a number of 200001 characters"),
    "an integer of 64 bits": (lambda: "a:\n- 18446744073709551615", "r:2: 18446744073709551615 is too large"),
    "a float of base 60": (lambda: f"a: 1{':1' * 300}.5", "r:1: a number of 603 characters"),
    "NaN": (lambda: "a: .nan", "r:1: .nan is not a finite number"),
    "infinity": (lambda: "a: -.inf", "r:1: -.inf is not a finite number"),
    "too large": (lambda: "a: 1.0e+999", "r:1: 1.0e+999 is not a finite number"),
    "two documents": (lambda: "a: 1\n---\na: 2", "r:2: not YAML"),
    "a control character": (lambda: "a: \x07", "r: not YAML"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    make, fact = BOMBS[name]
    with pytest.raises(InputError) as caught:
        bounded_yaml.read(make(), source="r")
    assert caught.value.fact.startswith(fact)


def test_the_limits_are_above_what_recipes_hold() -> None:
    nested = "[" * 31 + "x" + "]" * 31
    assert bounded_yaml.read(nested, source="r")[0] != []
    names = [f"/layer.{i}/Conv" for i in range(8000)]
    found, _ = bounded_yaml.read(f"exclude: [{', '.join(names)}]", source="r")
    assert found == {"exclude": names}
    plain = "[-9223372036854775807, 1.5e-3, 1.0e+300, true, null, '1', {}, []]"
    assert bounded_yaml.read(plain, source="r")[0] == [-(2**63) + 1, 0.0015, 1e300, True, None, "1", {}, []]


def test_a_long_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(InputError, match="too long"):
        load(path)
    with pytest.raises(InputError, match=r"/dev/zero is too long"):
        load(Path("/dev/zero"))


def test_a_recipe_has_a_bounded_number_of_steps() -> None:
    steps = "- fold-constants\n" * MAX_STEPS
    assert len(parse(f"version: 1\nsteps:\n{steps}").steps) == MAX_STEPS
    with pytest.raises(InputError, match=f"r:{MAX_STEPS + 3}: a recipe has at most {MAX_STEPS} steps"):
        parse(f"version: 1\nsteps:\n{steps}- fold-constants\n", source="r")
    group = ", ".join(["fold-constants"] * (MAX_STEPS + 1))
    with pytest.raises(InputError, match=f"r:2: until-stable takes at most {MAX_STEPS} passes"):
        parse(f"version: 1\nsteps: [until-stable: [{group}]]", source="r")


@pytest.mark.parametrize(
    "line",
    [
        *("threads: 1000000000", "processes: 1000000000", "rounds: 1000000000", "budget-seconds: 1.0e+300"),
        *("warmup-seconds: 1.0e+300", "warmup-seconds: -1.0", "threads: -1", "threads: 1.5", "threads: true"),
    ],
)
def test_numbers_without_end_are_refused(line: str) -> None:
    with pytest.raises(InputError, match="r:3: bench: Expected"):
        parse(f"version: 1\nsteps: []\nbench: {{{line}}}", source="r")
