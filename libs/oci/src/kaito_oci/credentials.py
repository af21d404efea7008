"""Whose password goes to which registry: docker's config format, read the way the kubelet reads pull Secrets.

Pure: bytes in, credentials out. Reading files and starting credential helpers is in `keychain`.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
from collections.abc import Iterable
from typing import Protocol

import msgspec

from kaito_oci.reference import DOCKER_HUB, Reference

_DOCKER_HUB_KEYS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in at one registry. `identity_token` is an OAuth2 refresh token, `registry_token` a ready bearer token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credential(username={self.username!r}, ...)"

    __str__ = __repr__

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header, or "" where there is no password."""
        if not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialSource(Protocol):
    """Where the credentials for an image come from."""

    def candidates(self, reference: Reference) -> list[Credential]:
        """Credentials whose entry names the image's registry, the most specific first; [] means anonymous."""


class Entry(msgspec.Struct, frozen=True):
    """One entry under `auths` of docker's config."""

    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def credential(self) -> Credential | None:
        """The entry as a credential, or None where it is empty (a helper then has it) or not decodable."""
        username, password = self.username, self.password
        if self.auth:
            try:
                decoded = base64.b64decode(self.auth, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return None
            username, _, password = decoded.partition(":")
            password = password.rstrip("\x00")
        if not (password or self.identitytoken or self.registrytoken):
            return None
        return Credential(
            username=username, password=password, identity_token=self.identitytoken, registry_token=self.registrytoken
        )


class DockerConfig(msgspec.Struct, frozen=True, rename="camel"):
    """The parts of a docker config that concern credentials."""

    auths: dict[str, Entry] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class DockerConfigError(ValueError):
    """A Secret or file that is not docker's config format."""


class Anonymous:
    """No credentials for anybody."""

    def candidates(self, reference: Reference) -> list[Credential]:
        """Nothing, for every image."""
        del reference
        return []


class DockerConfigs:
    """Credentials from the `.dockerconfigjson` of one or more pull Secrets, in the order in which the Pod names them."""

    def __init__(self, *documents: bytes) -> None:
        self._configs = [decode(document) for document in documents]

    def candidates(self, reference: Reference) -> list[Credential]:
        """Only entries whose host is the image's; a longer matching path goes first, then the Secrets' order."""
        found = [
            (len(path), entry.credential())
            for config in self._configs
            for key, entry in config.auths.items()
            if (path := matched_path(key, reference)) is not None
        ]
        found.sort(key=lambda item: -item[0])
        return unique(credential for _, credential in found if credential)


def decode(document: bytes) -> DockerConfig:
    """Decode a docker config. Raises DockerConfigError, whose message never repeats the content."""
    try:
        return msgspec.json.decode(document, type=DockerConfig)
    except msgspec.MsgspecError as error:
        raise DockerConfigError("not a docker config: it must be a JSON object with `auths`") from error


def matched_path(key: str, reference: Reference) -> str | None:
    """The path part of a config key that applies to the image ("" for a bare host), or None where it does not.

    Keys may carry a scheme, Docker Hub's historical `/v1/`, a path prefix, and `*` within host labels (as the kubelet allows).
    """
    bare = key.partition("://")[2] or key
    host, _, path = bare.partition("/")
    path = path.strip("/")
    if path in {"v1", "v2"}:
        path = ""
    if host in _DOCKER_HUB_KEYS:
        host = DOCKER_HUB
    if not _host_matches(host, reference.registry):
        return None
    if path and reference.repository != path and not reference.repository.startswith(f"{path}/"):
        return None
    return path


def _host_matches(pattern: str, host: str) -> bool:
    if "*" not in pattern:
        return pattern.lower() == host.lower()
    labels, wanted = pattern.lower().split("."), host.lower().split(".")
    # `*` stands for one label at most, and never for the last two: `*.com` would hand the password to anybody.
    if len(labels) != len(wanted) or any("*" in label for label in labels[-2:]):
        return False
    return all(fnmatch.fnmatchcase(name, label) for name, label in zip(wanted, labels, strict=True))


def unique(credentials: Iterable[Credential]) -> list[Credential]:
    """The same credentials without repetitions, order kept."""
    return list(dict.fromkeys(credentials))
