"""Looks at adapter images that anybody can read: manifest, config and the header of the weights, never the whole of them.

The controller has no right on Secrets, so images that need one are left to the pod. Nothing is kept on disk, and what a
registry does to us costs at most a deadline. A registry that refuses is asked again with growing pauses: the image may be pushed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from kaito_api import adapter_start
from kaito_api.meta import Key
from kaito_api.workspace import Workspace
from kubecore.backoff import BackoffPolicy
from kubecore.clock import Clock
from workspace_controller.adapter_check import (
    AdapterCheck,
    Checks,
    CheckState,
    base_of,
    of_refusal,
    of_verdict,
    public_images,
)
from workspace_controller.catalog import Catalog
from workspace_controller.settings import AdapterPreflight, Settings

DEADLINE: Final = 20.0
"""Seconds for one image. A node takes minutes, so waiting this long before one is asked for costs little."""
FRESH: Final = 60.0
"""Seconds after which a tag is looked at again; until then, and while that lasts, the old answer stands."""
AGAIN: Final = BackoffPolicy(base=8.0, cap=300.0)
"""Pauses between the questions to a registry that refuses."""
STANDS: Final = 3600.0
"""Seconds for which an answer that speaks against an adapter outlives the registry's silence. A pause of the registry shall not
buy a node for a mistyped tag, and a registry that cannot be reached any more shall not hold up a Workspace for ever."""
PARALLEL: Final = 4
_MOST: Final = 2000
"""Answers kept; the oldest go first."""
_logger = logging.getLogger(__name__)


class _Subject(NamedTuple):
    image: str
    preset: str


class _Answer(NamedTuple):
    check: AdapterCheck
    at: float = 0.0
    """When the registry was asked last."""
    said: float = 0.0
    """When it answered last."""
    refusals: int = 0
    """In a row."""


_UNKNOWN: Final = AdapterCheck(state=CheckState.UNKNOWN)
_SILENCE: Final = frozenset(
    {"Timeout", "RegistryUnavailable", "Truncated", "TLSFailed", "NotFound", "Unauthorized", "Denied"}
)
"""Reasons of kaito_oci that tell nothing of the image; the last three where not the registry gave them."""
_NONE: Final = _Answer(AdapterCheck(state=CheckState.PENDING))


class AdapterChecks:
    """Answers about images, looked up in the background. `changed` is called with each Workspace that waited for one."""

    def __init__(self, catalog: Catalog, settings: Settings, changed: Callable[[Key], None], clock: Clock) -> None:
        self._catalog = catalog
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._answers: dict[_Subject, _Answer] = {}
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
        answer = self._answers.get(subject, _NONE)
        if self._is_due(subject, answer):
            if subject not in self._waiting:
                self._waiting[subject] = set()
                self._queue.put_nowait(subject)
            self._waiting[subject].add(who)
        return answer.check

    def _is_due(self, subject: _Subject, answer: _Answer) -> bool:
        if answer.check.state is CheckState.PENDING:
            return True
        age = self._clock.monotonic() - answer.at
        if answer.check.look_again:
            return age >= answer.check.look_again
        return age >= FRESH and "@" not in subject.image

    async def _work(self) -> None:
        while True:
            subject = await self._queue.get()
            found = await self._look(subject)
            before = self._answers.pop(subject, _NONE)
            answer = _follow(before, found, self._clock.monotonic(), random.random())
            self._answers[subject] = answer
            while len(self._answers) > _MOST:
                del self._answers[next(iter(self._answers))]
            for key in self._waiting.pop(subject, ()):
                if answer.check != before.check:
                    self._changed(key)

    async def _look(self, subject: _Subject) -> AdapterCheck | None:
        """Return what the registry and the image say; None where nobody said anything that could be relied on."""
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
                    settings=kaito_oci.RegistrySettings(
                        plain_http_hosts=self._settings.plain_http_hosts,
                        trusted_realms=self._settings.trusted_realms,
                        ca_bundle=self._settings.registry_ca,
                    ),
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
            # Below an Unauthorized that gives advice stands the one that the answer made.
            first = error.__cause__ if isinstance(error.__cause__, OciError) else error
            if isinstance(first, OciError) and first.by_registry:
                return of_refusal(first.reason, subject.image)
            return None if reason in _SILENCE else _UNKNOWN
        except Exception:
            # Whatever a stranger's registry or file makes our libraries raise: it concerns this image, and not the controller.
            _logger.exception("the look at an adapter failed unexpectedly", extra={"image": subject.image})
            return _UNKNOWN
        return of_verdict(verdict) if verdict is not None else _UNKNOWN


def _follow(before: _Answer, found: AdapterCheck | None, now: float, random_unit: float) -> _Answer:
    """Return the answer that stands after the registry was asked once more."""
    said = now
    if found is None and before.check.reason and now - before.said < STANDS:
        found, said = before.check, before.said
    if found is None or found.state is not CheckState.REFUSED:
        return _Answer(found or _UNKNOWN, now, said)
    pause = AGAIN.delay(before.refusals, random_unit)
    return _Answer(msgspec.structs.replace(found, look_again=pause), now, said, before.refusals + 1)
