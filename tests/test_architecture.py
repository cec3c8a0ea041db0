"""The tree is the architecture: docs/architecture.md lists the rooms, and imports go only down that list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modelopt"
TEXT = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = re.findall(r"^  (\w+)/ ", TEXT, re.MULTILINE)
LONGEST = 300
"""Lines of a file; a longer one is split by subject."""

QUANT = {
    "correction": {"static", "numerics"},
    "dynamic": {"static", "numerics"},
    "static": {"numerics"},
    "weight_only": {"numerics"},
    "float16": set[str](),
    "numerics": set[str](),
}
"""Which parts of `modelopt.quant` import which."""


def _modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    """The dotted names that a module imports, those in functions too; of a ``from`` import both parts."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _parts(dotted: str) -> list[str]:
    return dotted.split(".")


def test_the_page_lists_the_folders_that_exist() -> None:
    assert sorted(ROOMS) == sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__")


def test_the_page_lists_files_that_exist() -> None:
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/]+\.py)`", TEXT)
    assert named
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_the_package_holds_folders_only() -> None:
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    allowed = {*ROOMS[ROOMS.index(room) :]}
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules(PACKAGE / room)
        for name in _imports(path)
        if name.startswith("modelopt.") and _parts(name)[1] in ROOMS and _parts(name)[1] not in allowed
    ]
    assert upward == []


@pytest.mark.parametrize("part", QUANT)
def test_a_part_of_quant_imports_only_what_it_may(part: str) -> None:
    others = [
        f"{path.name} imports {name}"
        for path in _modules(PACKAGE / "quant" / part)
        for name in _imports(path)
        if name.startswith("modelopt.quant.") and _parts(name)[2] not in {part, *QUANT[part]}
    ]
    assert others == []


def test_the_parts_of_quant_are_listed() -> None:
    quant = PACKAGE / "quant"
    assert sorted(QUANT) == sorted(p.name for p in quant.iterdir() if p.is_dir() and p.name != "__pycache__")
    assert [path.name for path in quant.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in PACKAGE.glob("*/**/__init__.py")), ids=lambda p: p.name
)
def test_a_room_says_what_it_is_for_and_what_it_must_not_do(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    purpose, _, rest = text.partition("\n\n")
    assert purpose.endswith(".")
    assert re.search(r"\b(no|not|never|nothing|only)\b", rest, re.IGNORECASE), (
        "the second paragraph says what it must not do"
    )


def test_no_two_modules_share_a_name() -> None:
    seen: dict[str, list[str]] = {}
    for path in _modules(PACKAGE):
        if path.name not in {"__init__.py", "base.py"}:
            seen.setdefault(path.stem, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in seen.items() if len(places) > 1} == {}


_TEST_MODULE = re.compile(r"\btests\.(\w+\.)*test_\w+")


def _names_and_texts(path: Path) -> Iterator[str]:
    yield from _imports(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_test_file_imports_another_one() -> None:
    """What several test files need stands in a module of helpers, also where a test starts Python on a text."""
    imports = [
        f"{path.relative_to(ROOT)} imports {found[0]}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for text in _names_and_texts(path)
        if (found := _TEST_MODULE.search(text))
    ]
    assert imports == []


def test_no_two_public_classes_share_a_name() -> None:
    seen: dict[str, list[str]] = {}
    for path in _modules(PACKAGE):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                seen.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in seen.items() if len(places) > 1} == {}


def test_files_are_short() -> None:
    long = {str(path.relative_to(PACKAGE)): lines for path in _modules(PACKAGE) if (lines := _lines(path)) > LONGEST}
    assert long == {}


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
