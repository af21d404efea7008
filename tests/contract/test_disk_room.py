"""`make` looks for room before it fetches the Python environment: half of one on a full disk helps nobody."""

import asyncio
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


async def make(folder: Path, gib: int) -> tuple[int, str]:
    """`make room` in a folder with nothing but the Makefile; returns its exit code and what it said."""
    shutil.copy(REPOSITORY / "Makefile", folder)
    run = await asyncio.create_subprocess_exec(
        *("make", "--no-print-directory", "room", f"ENVIRONMENT_GIB={gib}"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(run.communicate(), 60)
    return run.returncode or 0, said.decode()


@pytest.mark.parametrize(
    ("gib", "stands", "fails"),
    [(0, False, False), (1_000_000, False, True), (1_000_000, True, False)],
    ids=["enough", "too little", "the environment is there"],
)
async def test_a_full_disk_is_told_before_anything_is_fetched(
    tmp_path: Path, gib: int, stands: bool, fails: bool
) -> None:
    if stands:
        (tmp_path / ".venv").mkdir()
    code, said = await make(tmp_path, gib)
    assert (code != 0) is fails, said
    assert ("takes 1000000 GiB" in said and "nothing was started" in said) is fails


def test_the_environment_is_made_only_where_there_is_room() -> None:
    (rule,) = [line for line in (REPOSITORY / "Makefile").read_text().splitlines() if line.startswith("sync:")]
    assert rule.split("##")[0].split() == ["sync:", "room", "uv"]
