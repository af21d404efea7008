"""Which manifest of an index is for this machine."""

from __future__ import annotations

import platform as machine

from kaito_oci import media_types
from kaito_oci.errors import NoMatchingPlatform
from kaito_oci.manifest import Descriptor, Index, Platform

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def this_machine() -> Platform:
    """linux and this CPU's architecture in Go's words."""
    name = machine.machine().lower()
    return Platform(os="linux", architecture=_ARCHITECTURES.get(name, name))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The entry for the wanted platform, else the only real one.

    Attestations (platform unknown/unknown, or a subject annotation) are never chosen. A single entry without any platform, or
    for another one, is taken as it is: weights and adapters are data that run nowhere. Raises NoMatchingPlatform.
    """
    real = [entry for entry in index.manifests if _is_image(entry)]
    exact = [entry for entry in real if entry.platform and _fits(entry.platform, wanted)]
    if exact:
        return exact[0]
    if len(real) == 1:
        return real[0]
    offered = sorted(f"{entry.platform.os}/{entry.platform.architecture}" for entry in real if entry.platform)
    raise NoMatchingPlatform(
        f"the index has nothing for {wanted.os}/{wanted.architecture}; it offers {', '.join(offered) or 'nothing'}"
    )


def _is_image(entry: Descriptor) -> bool:
    if entry.media_type not in media_types.MANIFESTS:
        return False
    if (entry.annotations or {}).get("vnd.docker.reference.type") == "attestation-manifest":
        return False
    return entry.platform is None or (entry.platform.os, entry.platform.architecture) != ("unknown", "unknown")


def _fits(offered: Platform, wanted: Platform) -> bool:
    return offered.os == wanted.os and offered.architecture == wanted.architecture
