"""The file with the authorities of private registries, as it is now: kubelet renews it under a running controller."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubecore.clock import Clock
from workspace_controller.inference.registry_ca import certificates

LOOK_SECONDS: Final = 10.0
"""Between two looks. Kubelet itself takes up to a minute to bring a changed ConfigMap; nothing announces it."""
_logger = logging.getLogger(__name__)


class RegistryCaError(ValueError):
    """The file cannot be used."""


class RegistryCaFile:
    """The certificates in the file that --registry-ca names; none where it names none."""

    def __init__(self, path: str, clock: Clock) -> None:
        """Read the file. Raises RegistryCaError."""
        self._path = path
        self._clock = clock
        self._problem = ""
        self._text = self._read() if path else ""

    def text(self) -> str:
        """Return the certificates in PEM, "" where there is no file."""
        return self._text

    async def follow(self, changed: Callable[[], None]) -> None:
        """Read the file again and again until cancelled; `changed` hears of other certificates.

        What cannot be used is logged, and the last good certificates stay.
        """
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            if self._look():
                changed()

    def _look(self) -> bool:
        """Return whether the certificates are others than before."""
        try:
            found = self._read()
        except RegistryCaError as error:
            if str(error) != self._problem:
                _logger.warning("registry authorities cannot be read, the last ones stay", extra={"error": str(error)})
            self._problem = str(error)
            return False
        self._problem = ""
        if found == self._text:
            return False
        self._text = found
        _logger.info("registry authorities changed", extra={"file": self._path})
        return True

    def _read(self) -> str:
        try:
            return certificates(Path(self._path).read_text(encoding="ascii", errors="replace"))
        except OSError as error:
            raise RegistryCaError(f"--registry-ca: {self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise RegistryCaError(f"--registry-ca: {self._path}: {error}") from error
