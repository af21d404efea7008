"""Looks at adapter images that anybody can read: manifest, config and the header of the weights, by Range requests.

The controller has no right on Secrets, so images that need one are left to the pod. Nothing is kept on disk, and what a
registry does to us costs at most a deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from kaito_api import adapter_start
from kaito_api.meta import Key
from kaito_api.workspace import Workspace
from kubecore.clock import Clock
from workspace_controller.adapter_check import (
    AdapterCheck,
    Checks,
    CheckState,
    base_of,
    of_verdict,
    public_images,
)
from workspace_controller.catalog import Catalog
from workspace_controller.settings import AdapterPreflight, Settings

DEADLINE: Final = 20.0
"""Seconds for one image. A node takes minutes, so waiting this long before one is asked for costs little."""
FRESH: Final = 60.0
"""Seconds after which a tag is looked at again; until then, and while that lasts, the old answer stands."""
PARALLEL: Final = 4
_MOST: Final = 2000
"""Answers kept; the oldest go first."""
_logger = logging.getLogger(__name__)


class _Subject(NamedTuple):
    image: str
    preset: str


class AdapterChecks:
    """Answers about images, looked up in the background. `changed` is called with each Workspace that waited for one."""

    def __init__(self, catalog: Catalog, settings: Settings, changed: Callable[[Key], None], clock: Clock) -> None:
        self._catalog = catalog
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._answers: dict[_Subject, tuple[float, AdapterCheck]] = {}
        self._waiting: dict[_Subject, set[Key]] = {}
        self._queue: asyncio.Queue[_Subject] = asyncio.Queue()

    def of(self, workspace: Workspace) -> Checks:
        """Return what is known about the images of `workspace`, and have looked at what is not."""
        if self._settings.adapter_preflight is AdapterPreflight.OFF:
            return {}
        inference = workspace.inference
        preset = self._catalog.preset(inference.preset.name) if inference and inference.preset else None
        if preset is None:
            return {}
        return {
            image: self._answer(_Subject(image, preset.name), workspace.metadata.key)
            for image in public_images(workspace)
        }

    async def run(self) -> None:
        """Look at images until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL):
                group.create_task(self._work())

    def _answer(self, subject: _Subject, who: Key) -> AdapterCheck:
        at, answer = self._answers.get(subject, (0.0, AdapterCheck(state=CheckState.PENDING)))
        pending = answer.state is CheckState.PENDING
        stale = self._clock.monotonic() - at >= FRESH
        if pending or (stale and "@" not in subject.image):
            if subject not in self._waiting:
                self._waiting[subject] = set()
                self._queue.put_nowait(subject)
            self._waiting[subject].add(who)
        return answer

    async def _work(self) -> None:
        while True:
            subject = await self._queue.get()
            answer = await self._look(subject)
            before = self._answers.pop(subject, (0.0, None))[1]
            self._answers[subject] = (self._clock.monotonic(), answer)
            while len(self._answers) > _MOST:
                del self._answers[next(iter(self._answers))]
            for key in self._waiting.pop(subject, ()):
                if answer != before:
                    self._changed(key)

    async def _look(self, subject: _Subject) -> AdapterCheck:
        import kaito_oci  # with its HTTP client, which a controller without adapters never needs
        from kaito_oci.errors import OciError

        preset = self._catalog.preset(subject.preset)
        assert preset is not None
        try:
            async with asyncio.timeout(DEADLINE):
                found = await kaito_oci.peek(
                    subject.image,
                    adapter_start.NEEDS,
                    path=adapter_start.IMAGE_FOLDER,
                    plain_http_hosts=self._settings.plain_http_hosts,
                )
            files = {name: adapter_start.Beginning(start.content, start.size) for name, start in found.files.items()}
            verdict = adapter_start.judge(
                files,
                found.seen,
                base=base_of(preset, self._settings.adapter_preflight),
                other_presets=self._catalog.preset_names(),
            )
        except (OciError, TimeoutError) as error:
            reason = error.reason if isinstance(error, OciError) else "Timeout"
            _logger.info("adapter not looked at", extra={"image": subject.image, "reason": reason, "error": str(error)})
            return AdapterCheck(state=CheckState.UNKNOWN)
        except Exception:
            # Whatever a stranger's registry or file makes our libraries raise: it concerns this image, and not the controller.
            _logger.exception("the look at an adapter failed unexpectedly", extra={"image": subject.image})
            return AdapterCheck(state=CheckState.UNKNOWN)
        return of_verdict(verdict) if verdict is not None else AdapterCheck(state=CheckState.UNKNOWN)
