"""docs/follow-a-workspace.md names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "follow-a-workspace.md"


def rows() -> list[tuple[Path, tuple[str, ...]]]:
    """Return (file, names) of each table row; the folder is the last one that the text has named."""
    found, folder = [], REPOSITORY
    for line in DOCUMENT.read_text().splitlines():
        if (named := re.search(r"services/[\w/-]+/src/\w+", line)) is not None:
            folder = REPOSITORY / named[0]
        if line.startswith("| `"):
            file, names = line.split("|")[1:3]
            found.append((folder / file.strip(" `"), tuple(re.findall(r"`(\w+)`", names))))
    return found


def defined(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize(("path", "names"), rows(), ids=lambda value: getattr(value, "name", ""))
def test_the_file_defines_what_the_row_names(path: Path, names: tuple[str, ...]) -> None:
    assert path.is_file(), f"{path.relative_to(REPOSITORY)} does not exist"
    assert names
    assert sorted(set(names) - defined(path)) == []
