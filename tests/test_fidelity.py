"""docs/fidelity.md names code and tests: they are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "fidelity.md").read_text()
FOLDERS = {"numerics/": "tests/numerics", "tests/": "tests"}


def _section_of(position: int) -> str:
    return re.findall(r"^## (.*)$", TEXT[:position], re.MULTILINE)[-1]


def _file_of(name: str, position: int) -> Path:
    if name.startswith("numerics/"):
        return ROOT / "tests" / name
    if name.startswith("tests/"):
        return ROOT / name
    folder = "training" if _section_of(position).startswith("Training") else "modeling"
    return ROOT / "tests" / folder / name


NAMED = [
    (found[1], found[2], found.start())
    for found in re.finditer(r"`([\w/]*test_\w+\.py)(?:::(test_\w+))?`", TEXT)
]


@pytest.mark.parametrize(("file", "test", "position"), NAMED)
def test_a_named_test_is_there(file: str, test: str | None, position: int) -> None:
    source = _file_of(file, position).read_text()
    if test is not None:
        assert f"def {test}(" in source


def test_every_row_of_a_fact_names_a_test() -> None:
    rows = [line for line in TEXT.split("## Ablations")[0].splitlines() if line.startswith("| ")]
    facts = [row for row in rows if not row.startswith("| fact")]
    assert len(facts) > 40
    assert [row for row in facts if "test_" not in row] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(?:training/)?(\w+)\.py`", TEXT))))
def test_a_named_module_is_there(name: str) -> None:
    folders = ("modeling", "training", "tests/modeling", "tests/training", "tests/numerics")
    assert any((ROOT / folder / f"{name}.py").exists() for folder in folders)
