"""Names of images: `registry/repository:tag@digest`, as the distribution spec and Docker write them."""

from __future__ import annotations

import re
from typing import Self

import msgspec

from kaito_oci.errors import InvalidReference

DOCKER_HUB = "docker.io"
_DOCKER_HUB_API = "registry-1.docker.io"
_DOCKER_HUB_ALIASES = frozenset({DOCKER_HUB, "index.docker.io", _DOCKER_HUB_API})

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class Reference(msgspec.Struct, frozen=True):
    """One image name. `tag` and `digest` may both be set; the digest then decides."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference; a name without tag or digest means `latest`. Raises InvalidReference."""
        rest, at, digest = text.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise InvalidReference(f"{text!r}: the part after '@' is not a sha256 or sha512 digest")
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, rest = first, remainder
        else:
            registry = DOCKER_HUB
        repository, colon, tag = rest.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidReference(f"{text!r}: {tag!r} is not a tag")
        if registry in _DOCKER_HUB_ALIASES:
            registry = DOCKER_HUB
            repository = repository if "/" in repository else f"library/{repository}"
        if not _HOST.fullmatch(registry):
            raise InvalidReference(f"{text!r}: {registry!r} is not a registry host")
        if not _REPOSITORY.fullmatch(repository) or len(registry) + 1 + len(repository) > 255:
            raise InvalidReference(
                f"{text!r}: {repository!r} is not a repository name (lower case, digits, separators)"
            )
        if not tag and not digest:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @classmethod
    def of(cls, name: str | Self) -> Self:
        """The reference that a caller gave, parsed where it is text. Raises InvalidReference."""
        return cls.parse(name) if isinstance(name, str) else name

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What goes into the manifest URL: the digest where there is one, else the tag."""
        return self.digest or self.tag

    @property
    def api_host(self) -> str:
        """The host (and port) that speaks the registry API."""
        return _DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    def pinned(self, digest: str) -> Self:
        """The same image by digest alone: `registry/repository@digest`."""
        return type(self)(self.registry, self.repository, "", digest)
