"""Where the checkpoints of a run go: onto the output's volume, or beside its image in the registry."""

from __future__ import annotations

from typing import Final

from kaito_api.workspace import Workspace
from workspace_controller.options import Options
from workspace_controller.settings import Settings

_SUFFIX: Final = "-ckpt"
_LONGEST_TAG: Final = 128


def checkpoint_image(workspace: Workspace, settings: Settings, options: Options) -> str:
    """Return the image under which the newest checkpoint is kept, "" where the volume has it or nothing is kept."""
    output = workspace.tuning.output if workspace.tuning is not None else None
    if output is None or not output.image or output.volume_source:
        return ""
    if options.dry_run or not settings.tuning.registry_checkpoints:
        return ""
    return checkpoint_tag(output.image)


def checkpoint_tag(image: str) -> str:
    """Return the tag beside `image` that is written over with each checkpoint, and removed after success."""
    folder, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}:{(tag or 'latest')[: _LONGEST_TAG - len(_SUFFIX)]}{_SUFFIX}"
