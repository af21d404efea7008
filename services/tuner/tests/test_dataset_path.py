"""DatasetConfig.dataset_path: only the file that it names is trained on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tuner import options, sources
from tuner.exits import ExitCode, FatalError

NAMES = ["a.jsonl", "train/b.jsonl", "train/c.jsonl", "train2/b.jsonl"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", NAMES),
        ("a.jsonl", ["a.jsonl"]),
        ("data/a.jsonl", ["a.jsonl"]),
        ("/mnt/data/a.jsonl", ["a.jsonl"]),
        ("train", ["train/b.jsonl", "train/c.jsonl"]),
        ("./train/", ["train/b.jsonl", "train/c.jsonl"]),
        ("data/train/b.jsonl", ["train/b.jsonl"]),
    ],
)
def test_a_path_means_a_file_or_a_folder(wanted: str, found: list[str]) -> None:
    assert [NAMES[number] for number in sources.chosen(NAMES, wanted)] == found


@pytest.mark.parametrize("wanted", ["b.jsonl", "tra", "a.jsonl/x", "../a"])
def test_a_path_that_is_not_there_is_named(wanted: str) -> None:
    with pytest.raises(FatalError, match=f"there is no {wanted} in the data; there is a.jsonl, ") as caught:
        sources.chosen(NAMES, wanted)
    assert caught.value.code is ExitCode.CONFIG_INVALID


async def test_the_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    settings = options.parse(["run", "--data", str(tmp_path)], {})
    found = await sources.fetch(settings, "/mnt/data/b.jsonl", lambda done, total: None)
    assert [file.shown for file in found] == ["b.jsonl"]


AS_SOMEBODY_ELSE = """
import asyncio, os, sys
from tuner import options, sources
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    asyncio.run(sources.fetch(options.parse(["run", "--data", sys.argv[1]], {}), "", lambda done, total: None))
except sources.FatalError as error:
    print(error.code.name, error)
"""


def test_data_that_the_tuner_may_not_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("x")
        path.chmod(0)
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", AS_SOMEBODY_ELSE, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"DATA_INVALID {path} may not be read by user "), done.stderr
