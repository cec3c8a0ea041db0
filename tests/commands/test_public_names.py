"""The public names and their signatures: a change of the API is a change of ``public_names.txt``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import modelopt
import modelopt.commands.api

LISTED = Path(__file__).with_name("public_names.txt")


def described() -> Iterator[str]:
    for name in sorted(modelopt.__all__):
        found = getattr(modelopt, name)
        if inspect.isfunction(found):
            yield f"{name}("
            yield from (f"    {_plain(str(each))}" for each in inspect.signature(found).parameters.values())
            yield f") -> {inspect.signature(found).return_annotation}"
        elif dataclasses.is_dataclass(found):
            yield f"class {name}: {', '.join(field.name for field in dataclasses.fields(found))}"
        else:
            yield f"class {name}"


def _plain(parameter: str) -> str:
    """A parameter without the quotes of its annotation, and with an empty mapping as its default."""
    return parameter.replace("'", "").replace("<factory>", "{}")


def test_the_public_names_are_those_that_are_listed() -> None:
    assert "\n".join(described()) + "\n" == LISTED.read_text(encoding="utf-8")


def test_no_public_name_is_a_folder_of_the_package() -> None:
    """The import of a folder ``modelopt/prune`` would put itself in the place of the function `modelopt.prune`."""
    folders = {path.name for path in Path(modelopt.__file__).parent.iterdir() if path.is_dir()}
    assert not folders & {*modelopt.__all__}


REPORTS = {"Result", "BenchReport", "CheckReport", "EvaluationReport", "Inspection"}


def test_every_public_name_is_documented_and_typed() -> None:
    for name in modelopt.__all__:
        assert getattr(modelopt, name).__doc__, name
    functions = [getattr(modelopt, name) for name in modelopt.__all__ if inspect.isfunction(getattr(modelopt, name))]
    assert len(functions) == 10
    for function in functions:
        assert "Example::" in function.__doc__
        assert function.__annotations__["return"] in REPORTS
    assert Path(modelopt.__file__).with_name("py.typed").is_file()
