"""Mounts beneath a folder, found and undone."""

from pathlib import Path

from kaito_local.command import run
from kaito_local.errors import CommandError


def beneath(folder: Path) -> list[str]:
    """Mount points at or under the folder, the last mounted first."""
    prefix = str(folder.resolve())
    points = [_unescape(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point == prefix or point.startswith(f"{prefix}/")]


async def undo(folder: Path) -> None:
    """Unmounts everything at or under the folder; what is busy is detached."""
    for point in beneath(folder):
        try:
            await run("umount", point)
        except CommandError:
            if point in beneath(folder):
                await run("umount", "--lazy", point)


def _unescape(path: str) -> str:
    """mountinfo writes blanks, tabs, newlines and backslashes in octal."""
    for code in ("040", "011", "012", "134"):
        path = path.replace(f"\\{code}", chr(int(code, 8)))
    return path
