"""Pure: how the authorities of private registries come to the pods of a Workspace: a ConfigMap of its own, mounted.

The pods read the file again for each transfer, so a change of it needs no restart: nothing in the template depends on it.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final

from kaito_api.resources import CONFIGMAPS
from kaito_api.workspace import Workspace
from workspace_controller.inference.metadata import owned_metadata
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import registry_ca_name

KEY: Final = "registry-ca.pem"
MOUNT: Final = "/var/run/kaito/registry-ca"
_VOLUME: Final = "registry-ca"
_VARIABLE: Final = "KAITO_CA_BUNDLE"
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")
_MOST: Final = 512 * 1024
"""Characters of the bundle: a ConfigMap holds a MiB."""


def certificates(text: str) -> str:
    """Return the certificates of a PEM file, and nothing else that it may hold: a key must not reach every namespace.

    Raises ValueError, with words for the operator, where there are none, or too many.
    """
    found = "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))
    if not found:
        raise ValueError("it holds no certificate in PEM")
    if len(found) > _MOST:
        raise ValueError(f"its certificates have {len(found)} characters, and more than {_MOST} do not fit")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except ssl.SSLError as error:
        raise ValueError(f"one of its certificates is damaged ({error.reason})") from error
    return found


def config_map(workspace: Workspace, registry_ca: str) -> Manifest:
    """Return the ConfigMap of `workspace` with those certificates."""
    name = registry_ca_name(workspace.metadata.name)
    return manifest(CONFIGMAPS, owned_metadata(workspace, name), data={KEY: registry_ca})


def trusting(template: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Return the pod template with the ConfigMap mounted in every container, which is told where."""
    spec = template["spec"]
    source = {"name": registry_ca_name(workspace.metadata.name)}
    changed = {
        part: [_told(container) for container in spec[part]]
        for part in ("initContainers", "containers")
        if part in spec
    }
    volumes = [*spec["volumes"], {"name": _VOLUME, "configMap": source}]
    changed["volumes"] = sorted(volumes, key=lambda volume: str(volume["name"]))
    return {**template, "spec": {**spec, **changed}}


def _told(container: dict[str, Any]) -> dict[str, Any]:
    env = [*container["env"], {"name": _VARIABLE, "value": f"{MOUNT}/{KEY}"}]
    mounts = [*container["volumeMounts"], {"name": _VOLUME, "mountPath": MOUNT, "readOnly": True}]
    return {
        **container,
        "env": sorted(env, key=lambda entry: str(entry["name"])),
        "volumeMounts": sorted(mounts, key=lambda mount: str(mount["mountPath"])),
    }
