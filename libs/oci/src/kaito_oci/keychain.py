"""The credentials of a person at a workstation: ~/.docker/config.json with its credential helpers.

Used by the command line only. Services read Secrets over the API and never look at files.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec

from kaito_oci.credentials import Credential, DockerConfig, DockerConfigs, decode, matched_path, unique
from kaito_oci.errors import Unauthorized
from kaito_oci.reference import DOCKER_HUB, Reference

_HELPER_SECONDS = 30
_NOTHING = "credentials not found in native keychain"
"""What a helper says that has no entry, whatever stores them (docker-credential-helpers, credentials/error.go)."""
_MAX_WORDS = 300
_TOKEN_USER = "<token>"  # noqa: S105 - docker's marker for "the secret is an identity token"


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class Keychain:
    """Docker's config at `path`; by default the one that $DOCKER_CONFIG or the home folder names."""

    def __init__(self, path: Path | None = None) -> None:
        folder = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
        self._path = path or Path(folder) / "config.json"

    def candidates(self, reference: Reference) -> list[Credential]:
        """Entries of the file for the image's registry, then what its helper or the store says."""
        try:
            document = self._path.read_bytes()
        except FileNotFoundError:
            return []
        config = decode(document)
        found = DockerConfigs(document).candidates(reference)
        helper = _helper(config, reference)
        if helper and (answer := ask_helper(helper, reference)):
            found.append(answer)
        return unique(found)


def _helper(config: DockerConfig, reference: Reference) -> str:
    for key, name in config.cred_helpers.items():
        if matched_path(key, reference) is not None:
            return name
    return config.creds_store


def ask_helper(name: str, reference: Reference) -> Credential | None:
    """Run `docker-credential-NAME get`; None where it has no entry for this registry. Raises Unauthorized where it fails."""
    server = "https://index.docker.io/v1/" if reference.registry == DOCKER_HUB else reference.registry
    program = f"docker-credential-{name}"
    try:
        answer = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise Unauthorized(f"the docker config names the credential helper {program}, which is not on PATH") from error
    except OSError as error:
        raise Unauthorized(f"the credential helper {program} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Unauthorized(f"the credential helper {program} did not answer within {_HELPER_SECONDS} s") from error
    if answer.returncode != 0:
        if _NOTHING in _words(answer.stdout):
            return None
        # The protocol puts an error's words on stdout. What looks like an entry is never repeated: it has the secret in it.
        out = _words(answer.stdout)
        said = _words(answer.stderr) or ("" if "{" in out else out) or f"exit code {answer.returncode}"
        raise Unauthorized(f"the credential helper {program} fails: {said}")
    try:
        entry = msgspec.json.decode(answer.stdout, type=_HelperAnswer)
    except msgspec.MsgspecError as error:
        raise Unauthorized(f"the credential helper {program} answered something that is not its protocol") from error
    if entry.username == _TOKEN_USER:
        return Credential(identity_token=entry.secret)
    return Credential(username=entry.username, password=entry.secret) if entry.secret else None


def _words(output: bytes) -> str:
    """Text of a program in one bounded, printable line."""
    text = " ".join(output.decode(errors="replace").split())
    return "".join(letter for letter in text if letter.isprintable())[:_MAX_WORDS]
