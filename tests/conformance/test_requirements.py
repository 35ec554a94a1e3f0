"""README.md beside this file names a test for each requirement; each of them must exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (Path(__file__).parent / "README.md").read_text()
ROWS = {int(number): row for row in TEXT.splitlines() for number in re.findall(r"^\| (\d+) \|", row)}
NAMED = sorted(set(re.findall(r"`([a-z0-9_/]+\.py)::(test_\w+)`", TEXT)))
REQUIREMENTS = 56


@cache
def defined_in(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_requirement_has_a_row() -> None:
    assert sorted(ROWS) == list(range(1, REQUIREMENTS + 1))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_every_row_names_a_test_or_a_reason(number: int) -> None:
    assert re.search(r"\.py::test_|Deviation:", ROWS[number])


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_named_test_exists(path: str, name: str) -> None:
    assert name in defined_in(path)
