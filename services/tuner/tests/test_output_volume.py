"""Output volumes that are no ordinary disk: shares that refuse chmod, foreign content, folders that cannot be written."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tuner import checkpoints, folder_manifest, options
from tuner.exits import ExitCode, FatalError
from tuner.output_volume import refusal, require_writable
from tuner.reporter import Reporter
from tuner.supervisor import Supervisor

REFUSES_CHMOD = """
import ctypes, os, platform, struct, sys
from pathlib import Path
from tuner import result

def refuse(*numbers):
    '''A seccomp filter: these system calls give EPERM.'''
    code = [(0x20, 0, 0, 0)]  # load the call's number
    for left, number in zip(range(len(numbers) - 1, -1, -1), numbers):
        code.append((0x15, left + 1, 0, number))  # equal: to the last line
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]
    lines = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(lines)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())

refuse(*{"x86_64": (90, 91, 268, 452), "aarch64": (52, 53, 452)}[platform.machine()])
staging, output = Path(sys.argv[1]), Path(sys.argv[2])
try:
    staging.chmod(0o700)
except PermissionError:
    result.publish(staging, output, "k")
    print(result.finished(output, key="k").key)
"""


def test_an_adapter_is_written_to_a_share_that_refuses_chmod(tmp_path: Path) -> None:
    """Azure Files over SMB: whose files are the mount's, and chmod is refused to everybody else."""
    staging, output = tmp_path / "staging", tmp_path / "out"
    staging.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "training_report.json"):
        (staging / name).write_text(name)
    command = [sys.executable, "-c", REFUSES_CHMOD, str(staging), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o022)
    assert (done.returncode, done.stdout) == (0, "k\n"), done.stderr
    assert {oct(path.stat().st_mode & 0o777) for path in output.glob("adapter_*")} == {"0o644"}


def test_a_file_system_that_cannot_sync_folders() -> None:
    """procfs answers EINVAL, as some shares do."""
    folder_manifest.sync_folder(Path("/proc"))


def sealed(folder: Path, step: int, key: str = "k") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "state").write_text(str(step))
    checkpoints.seal(folder, step, key)
    return path


def test_what_has_the_name_of_a_checkpoint_and_is_none_goes(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "c", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    nine, ten = sealed(folder, 9), sealed(folder, 10)
    (folder / "checkpoint-11").write_text("a file where the trainer will want a folder")
    (folder / "checkpoint-12").symlink_to(elsewhere)
    (folder / "checkpoint-13").symlink_to(tmp_path / "nowhere")
    for others in ("checkpoint-014", "checkpoint-15.bak", "lost+found", ".snapshot"):
        (folder / others).mkdir()
    assert checkpoints.latest_whole(folder, "k") == ten
    assert {path.name for path in folder.iterdir()} == {
        *(nine.name, ten.name),
        *("checkpoint-014", "checkpoint-15.bak", "lost+found", ".snapshot"),
    }
    assert (elsewhere / "precious").exists()


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (2, None, {9, 10, 50}),
        (1, None, {10, 50}),
        (2, 8, {8, 9, 10, 50}),
        (1, 10, {10, 50}),
        (0, None, {8, 9, 10, 50}),
    ],
)
def test_checkpoints_go_by_their_steps(tmp_path: Path, keep: int, best: int | None, left: set[int]) -> None:
    """One of a later step that could not be deleted is nobody's newest."""
    made = {step: sealed(tmp_path, step) for step in (50, 10, 9, 8)}
    checkpoints.rotate(tmp_path, 10, keep, made[best] if best is not None else None)
    assert {step for step, path in made.items() if path.exists()} == left


async def test_an_output_that_cannot_be_written_is_found_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "out").write_text("a file where a folder must be")
    words = ["run", "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--model", str(tmp_path)]
    supervisor = Supervisor(
        options.parse([*words, "--output", str(tmp_path / "out")], {}),
        Reporter(None, tmp_path / "last"),
        launch=lambda *_: [sys.executable, "-c", f"open({str(tmp_path / 'launched')!r}, 'w')"],
    )
    with pytest.raises(FatalError, match="out cannot be written by user ") as caught:
        await supervisor.execute()
    assert (caught.value.code, caught.value.reason) == (ExitCode.DISK_FULL, "OutputUnwritable")
    assert not (tmp_path / "launched").exists()


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"/sys/kernel.*cannot be written"):
        require_writable(Path("/sys/kernel"))
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_what_the_volume_refuses_is_told_from_other_errors(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").touch()
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "checkpoint-5").mkdir()
    found = refusal(caught.value, tmp_path)
    assert found is not None
    assert (found.code, found.reason) == (ExitCode.DISK_FULL, "OutputUnwritable")
    assert f"{tmp_path}/checkpoint-5 cannot be written by user " in str(found)
    assert refusal(caught.value, tmp_path / "elsewhere") is None
    assert refusal(FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "gone")), tmp_path) is None
    assert refusal(ValueError("x"), tmp_path) is None
