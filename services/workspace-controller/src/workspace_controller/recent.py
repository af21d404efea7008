"""What this process did or found out that no cache shows: by Workspace, for a short time.

The informers take in our own writes at once (`Informer.record`). Three things they cannot know: that the deletion of an
object was asked for, which generation our last apply gave, and that a stranger stands under a name that our label
selectors do not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kaito_api.meta import Key, Object
from kubecore.clock import Clock
from workspace_controller.observed import ChildId

TTL: Final = 30.0
"""Seconds after which a deletion is asked for again and a stranger is looked at again."""


@dataclass(slots=True)
class _Notes:
    deletions: dict[str, float] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    strangers: dict[ChildId, tuple[float, Object]] = field(default_factory=dict)


class Recent:
    """Notes about Workspaces. Lost at a restart without harm: everything here saves a write or a second look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._notes: dict[Key, _Notes] = {}

    def applied(self, workspace: Key, found: Object) -> None:
        """Remember the generation that our apply gave."""
        self._of(workspace).generations[found.metadata.uid] = found.metadata.generation

    def deleted(self, workspace: Key, uid: str) -> None:
        """Remember that the deletion of that object was accepted."""
        self._of(workspace).deletions[uid] = self._clock.monotonic() + TTL

    def deletion_asked(self, workspace: Key, uid: str) -> bool:
        """Whether the deletion of that object was accepted a moment ago."""
        notes = self._notes.get(workspace)
        return notes is not None and notes.deletions.get(uid, 0.0) > self._clock.monotonic()

    def met(self, workspace: Key, child: ChildId, found: Object) -> None:
        """Remember an object of somebody else's that stands where one of ours should."""
        self._of(workspace).strangers[child] = (self._clock.monotonic() + TTL, found)

    def strangers(self, workspace: Key) -> Mapping[ChildId, Object]:
        """Return the strangers met a moment ago."""
        notes = self._notes.get(workspace)
        if notes is None or not notes.strangers:
            return {}
        now = self._clock.monotonic()
        return {child: found for child, (expires, found) in notes.strangers.items() if expires > now}

    def generations(self, workspace: Key) -> Mapping[str, int]:
        """Return the generation that our last apply gave, by UID."""
        notes = self._notes.get(workspace)
        return notes.generations if notes is not None else {}

    def forget(self, workspace: Key) -> None:
        """Drop everything about a Workspace that is gone."""
        self._notes.pop(workspace, None)

    def _of(self, workspace: Key) -> _Notes:
        return self._notes.setdefault(workspace, _Notes())
