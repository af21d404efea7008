"""What a pod without a volume leaves in a registry for the next one: the newest checkpoint, and at last the finished adapter."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from kaito_oci import OciError, Reference
from tuner import checkpoint_image, result, secrets
from tuner.checkpoint_image import CheckpointImage, Mark
from tuner.cluster import Cluster
from tuner.exits import ExitCode, FatalError
from tuner.options import Options
from tuner.secrets import SecretError
from tuner.uploads import Uploads

SETTLE_SECONDS: Final = 60.0
"""Time for the last checkpoint after a failure."""
LEAST_SECONDS: Final = 10.0
OTHER: Final = (
    "was made from other data, another configuration or base model, or for another Workspace, and is not used"
)
_logger = logging.getLogger(__name__)


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry had. `remark` is for the user."""

    remark: str = ""
    micro_limit: int | None = None


class Keeper:
    """One tag, for one tuning."""

    def __init__(self, image: CheckpointImage, settings: Options) -> None:
        self._image = image
        self._checkpoints = settings.checkpoints
        self._output = settings.output
        self._scratch = settings.work / "registry"
        self._uploads: Uploads | None = None
        self._deadline: float | None = None

    async def bring_result(self, *, key: str = "", request: str = "") -> bool:
        """Fill the output folder if the registry has the finished adapter of `request`, or of `key`. Raises FatalError."""
        try:
            mark = await self._image.mark()
            if mark is None or not result.answers(mark.key, mark.request, key=key, request=request):
                return False
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
            await asyncio.to_thread(self._scratch.parent.mkdir, parents=True, exist_ok=True)
            await self._image.fetch(self._scratch)
        except (OciError, SecretError) as error:
            self._judge(error)
            return False
        found = await asyncio.to_thread(result.finished, self._scratch, key=key, request=request)
        if found is None:
            return False
        await asyncio.to_thread(result.publish, self._scratch, self._output, found.key, request)
        return True

    async def bring_checkpoint(self, run: str) -> Brought:
        """Bring the checkpoint of this very run, if it is newer than what lies here. Raises FatalError."""
        self._uploads = Uploads(self._image, self._checkpoints, run)
        try:
            mark = await checkpoint_image.bring_checkpoint(self._image, self._checkpoints, run)
        except (OciError, SecretError) as error:
            return Brought(remark=self._judge(error))
        if mark is None:
            return Brought()
        if mark.key != run:
            what = f"checkpoint of step {mark.step}" if mark.step else "finished adapter"
            return Brought(remark=f"The {what} in {self._image.reference} {OTHER}")
        return Brought(micro_limit=mark.micro_limit)

    async def send_checkpoints(self) -> None:
        """Send what is offered, until cancelled."""
        assert self._uploads is not None
        await self._uploads.run()

    def offer(self, step: int, micro_limit: int | None) -> None:
        """A whole checkpoint is on the disk."""
        if self._uploads is not None:
            self._uploads.offer(step, micro_limit)

    def hurry(self, seconds: float) -> None:
        """The pod ends in so many seconds."""
        self._deadline = self._deadline or time.monotonic() + seconds

    async def settle(self) -> None:
        """Give the last checkpoint the time that is left."""
        left = SETTLE_SECONDS if self._deadline is None else self._deadline - time.monotonic()
        if self._uploads is not None:
            await self._uploads.settle(max(LEAST_SECONDS, left))

    async def keep_result(self, key: str, request: str) -> str:
        """Put the finished adapter in the place of the checkpoints: a pod after this one has nothing to train.

        Returns where it is kept, "" where the registry did not take it.
        """
        try:
            await asyncio.to_thread(result.copied, self._output, self._scratch)
            await self._image.store(self._scratch, Mark(key=key, request=request))
        except (OciError, SecretError, OSError) as error:
            _logger.warning("result not kept", extra={"image": str(self._image.reference), "error": str(error)})
            return ""
        return str(self._image.reference)

    def _judge(self, error: OciError | SecretError) -> str:
        """Return the words for going on without the registry; raise where a new pod would find it better."""
        where = str(self._image.reference)
        if checkpoint_image.retryable(error):
            raise FatalError(
                ExitCode.DATA_UNAVAILABLE, f"the checkpoints in {where} cannot be read: {error}"
            ) from error
        _logger.warning("no checkpoints in the registry", extra={"image": where, "error": str(error)})
        return f"Without checkpoints in {where}: {error}"


def keeper(settings: Options, pod: Cluster | None) -> Keeper | None:
    """Return the keeper that the options ask for."""
    if not settings.checkpoint_image:
        return None
    credentials: checkpoint_image.Credentials = secrets.anonymous
    if settings.checkpoint_secret_folder is not None:
        credentials = partial(secrets.mounted, Path(settings.checkpoint_secret_folder))
    elif settings.checkpoint_secret and pod is not None:
        credentials = partial(pod.login, settings.checkpoint_secret)
    reference = Reference.parse(settings.checkpoint_image)
    return Keeper(CheckpointImage(reference, credentials, settings.registries), settings)
