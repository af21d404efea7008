"""Can the output volume be written? Asked before the training: hours later the answer costs all of it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from kaito_api.conditions import Reason
from tuner.exits import ExitCode, FatalError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})


def require_writable(folder: Path) -> None:
    """Make the folder, and a file in it that goes again. Raises FatalError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".kaito-probe-"):
            pass
    except OSError as error:
        cause = failure(folder, error)
        if cause is None:
            raise
        raise cause from error


def failure(folder: Path, error: OSError) -> FatalError | None:
    """What an error of writing into the folder means for the user, None where it is none of the volume's."""
    if error.errno in _FULL:
        words = f"{folder} has no room for the adapter: {error.strerror}; give the output volume more"
        return FatalError(ExitCode.DISK_FULL, words)
    if error.errno in _REFUSED:
        return FatalError(
            ExitCode.DISK_FULL,
            f"{folder} cannot be written by user {os.getuid()}, as which the tuner runs: {error.strerror}; let the output "
            "volume be writable for it (accessModes, readOnly, a share's mount options uid and gid), with a folder at that path",
            Reason.OUTPUT_UNWRITABLE,
        )
    return None


def refusal(error: BaseException, folder: Path) -> FatalError | None:
    """What an error means where the volume refuses something inside `folder`: another user's file lies there, or the mount became
    read-only. None for every other error."""
    where = error.filename if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or error.errno not in _REFUSED or not isinstance(where, str):
        return None
    return failure(Path(where), error) if Path(where).is_relative_to(folder) else None
