"""Which request a tuning Job is for, and whether that request is over.

A run is told by two digests: of the spec's tuning part (and whether it is a dry run), and of its configuration. A Job of
another run is replaced. What has succeeded is over as long as the spec's part stays: an edit of the ConfigMap trains nothing
anew. What has failed is tried again when the configuration changes, or when the user deletes the Job.
"""

from __future__ import annotations

import hashlib

import msgspec

from kaito_api import labels
from kaito_api.core import Job
from kaito_api.resources import JOBS
from kaito_api.workspace_status import TuningState
from workspace_controller.observed import Observed
from workspace_controller.options import read_options
from workspace_controller.tuning.config import digest

_DIGITS = 10
_GOOD = frozenset({TuningState.DONE, TuningState.DRY_RUN_DONE})


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The present request, and what stands of it."""

    name: str
    dry: bool = False
    job: Job | None = None
    """The Workspace's Job for this run."""
    stale: Job | None = None
    """Its Job for another run: to be deleted before this one's is made."""
    over: bool = False
    """The status says how this run ended: its nodes are not needed any more."""

    @property
    def kept(self) -> Run:
        """The run of the Job that still works although the spec asks for another one, else this one.

        It goes on while something keeps the new request from being planned, and its figures are told.
        """
        if self.stale is None or self.stale.complete or self.stale.failed:
            return self
        return Run(name=self.stale.metadata.annotations[labels.TUNING_RUN], dry=self.dry, job=self.stale)

    @property
    def ended(self) -> bool:
        """Whether the Job has come to its end, whatever the status says yet."""
        return self.job is not None and (self.job.complete or self.job.failed)


def present_run(observed: Observed) -> Run:
    """Return the run that the Workspace asks for."""
    workspace = observed.workspace
    dry = read_options(workspace.metadata.annotations).dry_run
    tuning = msgspec.json.encode(msgspec.to_builtins(workspace.tuning), order="sorted")
    spec = hashlib.sha256(tuning + (b"dry" if dry else b"")).hexdigest()[:_DIGITS]
    name = f"{spec}-{digest(observed.config)[:_DIGITS] or 'default'}"
    found = observed.child(JOBS, workspace.metadata.name)
    job = found if isinstance(found, Job) and observed.owns(found) else None
    stored = workspace.status.tuning
    told = stored.run if stored is not None else ""
    if stored is not None and stored.state in _GOOD and told.partition("-")[0] == spec:
        return Run(name=told, dry=dry, job=job, over=True)
    # A Job without the annotation was made by KAITO itself: it is taken over as it is.
    made_for = job.metadata.annotations.get(labels.TUNING_RUN, name) if job is not None else name
    if observed.config is not None and not observed.config.found and made_for.partition("-")[0] == spec:
        name = made_for  # the ConfigMap is gone, which asks for nothing else
    stale = job if made_for != name else None
    over = stored is not None and stored.state == TuningState.FAILED and told == name and job is not None and not stale
    return Run(name=name, dry=dry, job=None if stale is not None else job, stale=stale, over=over)
