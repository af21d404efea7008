"""Fails when a source file outgrows the house's limits or has a name that says nothing.

A source file holds one noun and at most 500 lines, a test file at most 800.
"""

import sys
from pathlib import Path

SOURCE_LIMIT = 500
TEST_LIMIT = 800
NAMELESS = {"utils.py", "helpers.py", "common.py", "misc.py"}
ROOTS = ("libs", "services", "deploy", "tests", "benchmarks", "tools")


def faults(root: Path) -> list[str]:
    """Every Python file below `root` that breaks a limit, one sentence each."""
    found = []
    for top in ROOTS:
        for path in sorted((root / top).rglob("*.py")):
            relative = path.relative_to(root)
            if any(part.startswith(".") for part in relative.parts):
                continue
            is_test = "tests" in relative.parts
            limit = TEST_LIMIT if is_test else SOURCE_LIMIT
            lines = len(path.read_text().splitlines())
            if lines > limit:
                found.append(f"{relative}: {lines} lines, the limit is {limit}")
            if path.name in NAMELESS:
                found.append(f"{relative}: a name that says nothing")
    return found


if __name__ == "__main__":
    problems = faults(Path(__file__).resolve().parent.parent)
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    sys.exit(1 if problems else 0)
