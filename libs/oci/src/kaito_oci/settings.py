"""What an operator decides about registries, in one value that every call takes."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from kaito_oci.limits import Patience


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to registries."""

    plain_http_hosts: Collection[str] = frozenset()
    """Hosts (with port, as the references write them) that are spoken to without TLS. Everybody else gets https."""
    trusted_realms: Collection[str] = frozenset()
    """Hosts of token endpoints that may receive credentials although they are another site than the registry."""
    ca_bundle: str = ""
    """PEM file with authorities to trust besides the public ones (Mozilla's list, or $REQUESTS_CA_BUNDLE); "" for none.

    It is read again for each session, so that a renewed file counts from the next call on.
    """
    patience: Patience = Patience()

    def scheme(self, host: str) -> str:
        """`http` for the plain hosts, else `https`."""
        return "http" if host in self.plain_http_hosts else "https"
