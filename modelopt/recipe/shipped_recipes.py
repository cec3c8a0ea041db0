"""Finds the recipes that come with the package by their names."""

from __future__ import annotations

from pathlib import Path

from modelopt.core.errors import InputError, did_you_mean

FOLDER = Path(__file__).parent / "shipped"


def names() -> tuple[str, ...]:
    """The names of the recipes, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def path_of(said: str) -> Path:
    """The file of a recipe that is named by its path, or by its name where the package holds it.

    A file of that name in the working directory is taken before a recipe of the package.

    Raises:
        InputError: There is neither.
    """
    path = Path(said)
    if path.exists() and not (path.is_dir() and said in names()):
        return path
    if said in names():
        return FOLDER / f"{said}.yaml"
    note = f"there is no such file, and the package holds: {', '.join(names())}"
    raise InputError(f"unknown recipe '{said}'", note=note, hint=did_you_mean(said, names()) or "modelopt recipes")


def text_of(name: str) -> str:
    """The YAML of a recipe of the package.

    Raises:
        InputError: The package holds no recipe of that name.
    """
    if name not in names():
        note = f"recipes: {', '.join(names())}"
        raise InputError(f"unknown recipe '{name}'", note=note, hint=did_you_mean(name, names()) or "modelopt recipes")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """What a recipe is for: the first sentence of the comment that its file begins with."""
    lines = text_of(name).splitlines()
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    return comment.partition(". ")[0].removesuffix(".")
