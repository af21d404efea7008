"""Where weights come from: `oci://REGISTRY/REPOSITORY[:TAG|@DIGEST][#PATH]` or `hf://ORG/NAME@COMMIT`. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from model_server.exits import ExitCode, FatalError

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class OciSource(msgspec.Struct, frozen=True):
    """An image or artifact, and the folder of an image that holds the model."""

    reference: str
    path: str


class HubSource(msgspec.Struct, frozen=True):
    """A repository of a model hub at one commit."""

    repository: str
    revision: str


def parse(text: str) -> OciSource | HubSource:
    """Parse SOURCE. Raises FatalError(USAGE)."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "oci" and rest:
        reference, _, path = rest.partition("#")
        return OciSource(reference, path)
    if separator and scheme == "hf":
        repository, _, revision = rest.partition("@")
        if not _REPOSITORY.fullmatch(repository):
            raise FatalError(ExitCode.USAGE, f"{text}: expected hf://ORG/NAME@COMMIT")
        if not _COMMIT.fullmatch(revision):
            raise FatalError(
                ExitCode.USAGE,
                f"{text}: name the commit (40 hexadecimal digits) after @; a branch or tag can change under a running "
                "fleet",
            )
        return HubSource(repository, revision)
    raise FatalError(ExitCode.USAGE, f"{text}: a source starts with oci:// or hf://")
