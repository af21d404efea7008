"""Pure: the tags that a tuning Workspace writes in a registry, and who else wants one of them.

Its result goes to one tag. Where the registry also keeps its checkpoints, they go to a second one, which is written over again
and again: another Workspace's result must not stand there.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

import msgspec

from kaito_api.meta import Key
from kaito_api.workspace import Workspace
from workspace_controller.tuning.checkpoints import checkpoint_tag


class Purpose(Enum):
    """What a Workspace writes to a tag."""

    RESULT = auto()
    CHECKPOINTS = auto()


class OutputRival(msgspec.Struct, frozen=True, kw_only=True):
    """An older Workspace that writes to a tag that this one would write to."""

    key: Key
    tag: str = ""
    """The reference, its tag written out."""
    theirs: Purpose = Purpose.RESULT
    ours: Purpose = Purpose.RESULT


def written_tags(workspace: Workspace, *, checkpoints: bool) -> dict[str, Purpose]:
    """Return the references that `workspace` writes, their tags written out.

    `checkpoints` says whether the operator lets runs without a volume keep their checkpoints in the registry. A dry run counts as
    the run that follows when its annotation goes.
    """
    output = workspace.tuning.output if workspace.tuning is not None else None
    if output is None or not output.image:
        return {}
    tagged = ":" in output.image.rpartition("/")[2]
    result = {(output.image if tagged else f"{output.image}:latest"): Purpose.RESULT}
    if not checkpoints or output.volume_source:
        return result
    return {checkpoint_tag(output.image): Purpose.CHECKPOINTS, **result}


def find_rival(workspace: Workspace, others: Iterable[Workspace], *, checkpoints: bool) -> OutputRival | None:
    """Return the oldest of `others` that writes to one of the tags of `workspace`, if it is older: the newer one loses."""
    mine = written_tags(workspace, checkpoints=checkpoints)
    for other in sorted(others, key=_age):
        if other.metadata.uid == workspace.metadata.uid or other.metadata.deleting:
            continue
        if _age(other) > _age(workspace):
            return None
        theirs = written_tags(other, checkpoints=checkpoints)
        # The result's tag is the one to tell of, where both are shared.
        shared = sorted((tag for tag in mine if tag in theirs), key=lambda tag: (mine[tag].value, theirs[tag].value))
        if shared:
            tag = shared[0]
            return OutputRival(key=other.metadata.key, tag=tag, theirs=theirs[tag], ours=mine[tag])
    return None


def _age(workspace: Workspace) -> tuple[float, str]:
    created = workspace.metadata.creation_timestamp
    return (created.timestamp() if created is not None else 0.0, workspace.metadata.uid)
