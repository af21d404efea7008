"""The push Secret as kubelet mounts it into the packager's containers alone: the training beside them never sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapter_packager.exits import SecretProblem
from kaito_api.core.access import DOCKER_CONFIG_KEY, DOCKER_CONFIG_TYPE
from kaito_oci import DockerConfigError, DockerConfigs


class MountedSecret:
    """A Secret volume that may be absent (`optional: true`): kubelet brings a Secret that is made later, in about a minute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def push_secret(self, name: str) -> DockerConfigs:
        """The Secret's credentials, read now, so that a repaired one counts at the next attempt. Raises SecretProblem."""
        return await asyncio.to_thread(self._read, name)

    def _read(self, name: str) -> DockerConfigs:
        try:
            return DockerConfigs((self._folder / DOCKER_CONFIG_KEY).read_bytes())
        except FileNotFoundError as error:
            raise self._absent(name) from error
        except OSError as error:
            message = f"Secret {name} cannot be read from {self._folder}: {error.strerror}"
            raise SecretProblem("SecretInvalid", message, retryable=True) from error
        except DockerConfigError as error:
            raise SecretProblem("SecretInvalid", f"Secret {name}: {error}", retryable=True) from error

    def _absent(self, name: str) -> SecretProblem:
        # Names that begin with two dots are kubelet's own links.
        keys = sorted(path.name for path in self._folder.glob("*")) if self._folder.is_dir() else []
        keys = [key for key in keys if not key.startswith("..")]
        how = f"`kubectl create secret docker-registry {name} ...`"
        if not keys:
            return SecretProblem("SecretMissing", f"Secret {name} does not exist: create it with {how}", retryable=True)
        wanted = f"{DOCKER_CONFIG_KEY}; it must be of type {DOCKER_CONFIG_TYPE}: {how}"
        message = f"Secret {name} has {', '.join(keys)} and no {wanted}"
        return SecretProblem("SecretInvalid", message, retryable=True)
