"""The page of faults names tests that exist, at least one for each kind."""

import ast
import re

import pytest

from places import ROOT

PAGE = (ROOT / "experiments" / "FAULTS.md").read_text(encoding="utf8")
LINES = [line.strip("|") for line in PAGE.splitlines() if "`tests/" in line]
ROWS = [[cell.strip() for cell in line.split(" | ")] for line in LINES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_kind_is_held_by_tests_that_exist(row):
    kind, before, now, held_by = row
    named = re.findall(r"`([^`]+)`", held_by)
    assert kind and before and now and named
    for name in named:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf8"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name


def test_table_is_read_whole():
    assert len(ROWS) == PAGE.count("\n| ") - 1, "a line for each kind, below the heads of the columns"
    assert PAGE.count("`tests/") == sum(row[3].count("`tests/") for row in ROWS)
