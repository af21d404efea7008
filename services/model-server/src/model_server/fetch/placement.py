"""A folder that is filled beside its content and then by renames, with a marker that says what it holds.

The folder is a mount point, so it cannot itself be renamed into place: files are staged in a hidden folder of the same
volume, verified there, renamed one by one, and the marker is written last.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from model_server.exits import ExitCode, FatalError

MARKER: Final = ".fetched.json"
_STAGE_PREFIX: Final = ".fetch-"


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """The marker: the source and the size in bytes of each file."""

    source: str
    files: dict[str, int]


class Placement:
    """The folder `to`, for one source."""

    def __init__(self, to: Path, source: str, identity: str) -> None:
        self._to = to
        self._source = source
        self.stage = to / f"{_STAGE_PREFIX}{identity}"

    def complete(self) -> bool:
        """Return whether an earlier run put this very source there and all of it still is."""
        try:
            fetched = msgspec.json.decode((self._to / MARKER).read_bytes(), type=Fetched)
        except (OSError, msgspec.MsgspecError):
            return False
        return fetched.source == self._source and all(
            (self._to / name).is_file() and (self._to / name).stat().st_size == size
            for name, size in fetched.files.items()
        )

    def prepare(self, needed_bytes: int) -> None:
        """Make the stage (an earlier one of this source is continued) and check the free space. Raises FatalError."""
        try:
            self.stage.mkdir(parents=True, exist_ok=True)
            for other in self._to.glob(f"{_STAGE_PREFIX}*"):
                if other != self.stage:
                    shutil.rmtree(other)
            staged = sum(path.stat().st_size for path in self.stage.rglob("*") if path.is_file())
            free = shutil.disk_usage(self._to).free
        except OSError as error:
            raise FatalError(
                ExitCode.WEIGHTS_MISSING, f"cannot write to {self._to}: {error.strerror}; check the volume and fsGroup"
            ) from error
        if needed_bytes - staged > free:
            raise FatalError(
                ExitCode.WEIGHTS_MISSING,
                f"the weights need {needed_bytes >> 20} MiB and {self._to} has {free >> 20} MiB free: "
                "give the weights volume more space",
            )

    def publish(self, names: list[str]) -> None:
        """Move the named files from the stage into the folder, readable for everybody, and write the marker."""
        files: dict[str, int] = {}
        (self._to / MARKER).unlink(missing_ok=True)
        for name in sorted(names):
            staged = self.stage / name
            staged.chmod(0o644)
            files[name] = staged.stat().st_size
            os.replace(staged, self._to / name)
        temporary = self.stage / MARKER
        temporary.write_bytes(msgspec.json.encode(Fetched(source=self._source, files=files)))
        os.replace(temporary, self._to / MARKER)
        shutil.rmtree(self.stage, ignore_errors=True)
