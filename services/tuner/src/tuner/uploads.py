"""Sends checkpoints to the registry while the training goes on: always the newest one, one at a time."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from kaito_oci import OciError
from tuner.checkpoint_image import CheckpointImage, Mark, linked
from tuner.secrets import SecretError

_logger = logging.getLogger(__name__)


class Uploads:
    """Runs as a task beside the training child. What it cannot send it says, and goes on with the next one."""

    def __init__(self, image: CheckpointImage, folder: Path, key: str) -> None:
        self._image = image
        self._folder = folder
        self._key = key
        self._wanted: Mark | None = None
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.kept = 0
        """Step of the newest checkpoint that the registry has."""

    def offer(self, step: int, micro_limit: int | None) -> None:
        """A whole checkpoint is on the disk; one that still waits is overtaken."""
        self._wanted = Mark(key=self._key, step=step, micro_limit=micro_limit)
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._wanted is not None:
                await self._send(self._wanted)
            if not self._changed.is_set():
                self._idle.set()

    async def settle(self, seconds: float) -> None:
        """Wait until the newest checkpoint is sent, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            _logger.warning("the last checkpoint could not be sent in time", extra={"kept": self.kept})

    async def _send(self, mark: Mark) -> None:
        copy = self._folder / ".sending"
        try:
            await asyncio.to_thread(linked, self._folder / f"checkpoint-{mark.step}", copy)
            await self._image.store(copy, mark)
        except (OciError, SecretError, OSError, shutil.Error) as error:
            extra = {"step": mark.step, "image": str(self._image.reference), "error": str(error)}
            _logger.warning("checkpoint not sent", extra=extra)
        else:
            self.kept = mark.step
            _logger.info("checkpoint sent", extra={"step": mark.step, "image": str(self._image.reference)})
        finally:
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
