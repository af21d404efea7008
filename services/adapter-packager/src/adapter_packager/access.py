"""Where this run's credentials come from, and how it talks to registries."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from adapter_packager.exits import SecretProblem
from kaito_oci import Anonymous, CredentialSource, DockerConfigs, Reference, RegistrySettings
from kaito_oci.keychain import Keychain


class SecretReader(Protocol):
    """Reads a push Secret of the pod's namespace."""

    async def push_secret(self, name: str) -> DockerConfigs:
        """Its credentials. Raises SecretProblem."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in. With `secrets` the Secret decides, on a workstation docker's config."""

    settings: RegistrySettings
    secrets: SecretReader | None = None
    secret_name: str = ""
    docker_config: Path | None = None

    async def credentials(self, reference: Reference) -> CredentialSource:
        """Read now, so that a repaired Secret counts at the next attempt. Raises SecretProblem."""
        if self.secrets is None:
            return Keychain(self.docker_config)
        if not self.secret_name:
            return Anonymous()
        source = await self.secrets.push_secret(self.secret_name)
        if not source.candidates(reference):
            message = f"Secret {self.secret_name} has no entry for {reference.registry}, where the image goes"
            raise SecretProblem("SecretInvalid", message, retryable=True)
        return source
