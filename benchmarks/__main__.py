"""Runs every benchmark of this folder in its own process, one after another, and prints their result rows as one table.

A benchmark is a module with a command line; each line of its output that starts with "| " is a row of the table:
name, measured, anchor, ratio, note.
"""

import subprocess
import sys
from pathlib import Path

HEADER = "| benchmark | measured | anchor | ratio | note |\n| --- | --- | --- | --- | --- |"


def main() -> int:
    """Runs the benchmarks named on the command line, or all; the exit code is non-zero when one failed to run."""
    folder = Path(__file__).parent
    names = sys.argv[1:] or sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    rows: list[str] = []
    failed: list[str] = []
    for name in names:
        print(f"== {name}", flush=True)
        with subprocess.Popen(
            [sys.executable, str(folder / f"{name}.py")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.startswith("| "):
                    rows.append(line.rstrip())
        if process.returncode:
            failed.append(name)
    print(HEADER, *rows, sep="\n")
    if failed:
        print(f"did not run to the end: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
