"""Pure: which workload the apiserver is asked about before a machine is bought for it.

A pod template and a volume are the user's own JSON: only the apiserver knows whether it takes them, and the workload is made
when the machines are there. A word misspelt in them would be found out on a machine that costs already. What the presets
make of a Workspace needs no such question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kaito_api.resources import JOBS, STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.manifest import Manifest

_WORKLOADS: Final = (STATEFULSETS, JOBS)


def trials(workspace: Workspace, desired: Sequence[Manifest], claims: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """Return the workload among the `desired` objects where `claims` are about to be made and it holds JSON of the user."""
    if not claims or not _written(workspace):
        return ()
    return tuple(manifest for manifest in desired if manifest.resource in _WORKLOADS)


def _written(workspace: Workspace) -> bool:
    """Whether a part of the workload stands in the Workspace as plain JSON."""
    inference, tuning = workspace.inference, workspace.tuning
    if inference is not None:
        return inference.template is not None or any(each.source.volume_source for each in inference.adapters)
    ends = (tuning.input, tuning.output) if tuning is not None else ()
    return any(end is not None and end.volume_source for end in ends)
