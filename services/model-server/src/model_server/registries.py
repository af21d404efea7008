"""The operator's settings about registries, as kaito_oci takes them."""

from __future__ import annotations

from kaito_oci import RegistrySettings
from model_server.options import RegistryOptions


def registry_settings(options: RegistryOptions) -> RegistrySettings:
    """Return what every call to a registry takes. Nothing is read here: the bundle is, at each call."""
    return RegistrySettings(
        plain_http_hosts=frozenset(options.plain_http),
        trusted_realms=frozenset(options.trust_realms),
        ca_bundle=options.ca_bundle,
    )
