"""The pod template of a preset: restricted Pod Security, nothing that depends on time or order of discovery."""

from __future__ import annotations

from typing import Any, Final

from kaito_api import labels
from kaito_api.workspace import AdapterSpec, Workspace
from workspace_controller.engines import engine_image
from workspace_controller.hardening import CONTAINER_SECURITY, POD_SECURITY, TMP_MOUNT, base_env
from workspace_controller.inference.command import (
    ADAPTERS_MOUNT,
    API_KEYS_MOUNT,
    CONFIG_MOUNT,
    GRACE_SECONDS,
    HTTP_PORT,
    fetch_command,
    serve_command,
)
from workspace_controller.inference.engine_args import RENDEZVOUS_PORT
from workspace_controller.inference.metadata import pod_labels
from workspace_controller.inference.placement import TOLERATIONS, affinity, node_requirements
from workspace_controller.inference.probes import probes
from workspace_controller.inference.resources import FETCH_REQUESTS, server_resources, shared_memory
from workspace_controller.inference.weights import MOUNT_PATH, VOLUME, Weights
from workspace_controller.inference_config import ConfigSource
from workspace_controller.naming import service_account_name, short_hash
from workspace_controller.options import Options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing

CONFIG_HASH: Final = "kaito.sh/config-hash"
"""On the pod template: the configuration's digest, so that an edit of the ConfigMap rolls the pods."""
_API_KEYS: Final = "api-keys"
_GROUP_MAY_READ: Final = 0o440
"""The files belong to root and to the pod's fsGroup."""


def pod_template(  # noqa: PLR0917 - spec and configuration, then what was made of them
    workspace: Workspace,
    config: ConfigSource | None,
    sizing: Sizing,
    settings: Settings,
    options: Options,
    weights: Weights,
) -> dict[str, Any]:
    """Return the pod template that serves the preset of `sizing`."""
    assert workspace.inference is not None
    mounted = [adapter for adapter in workspace.inference.adapters if adapter.source.volume_source]
    annotations = {labels.DO_NOT_DISRUPT: "true"}
    if workspace.inference.config and config is not None:
        annotations[CONFIG_HASH] = config.digest
    spec: dict[str, Any] = {
        "affinity": affinity(node_requirements(workspace, sizing)),
        "automountServiceAccountToken": True,
        "containers": [_server(workspace, sizing, settings, options, weights, mounted)],
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "serviceAccountName": service_account_name(workspace.metadata.name),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "tolerations": list(TOLERATIONS),
        "volumes": _volumes(workspace, sizing, options, weights, mounted),
    }
    if weights.source:
        spec["initContainers"] = [_fetcher(workspace, sizing, settings, weights)]
    return {"metadata": {"annotations": annotations, "labels": pod_labels(workspace)}, "spec": spec}


def _server(  # noqa: PLR0917 - spec and configuration, then what was made of them
    workspace: Workspace,
    sizing: Sizing,
    settings: Settings,
    options: Options,
    weights: Weights,
    mounted: list[AdapterSpec],
) -> dict[str, Any]:
    assert workspace.inference is not None
    assert sizing.preset is not None
    assert sizing.engine is not None
    mounts = [
        {"name": "adapters", "mountPath": "/adapters"},
        {"name": "dshm", "mountPath": "/dev/shm"},  # noqa: S108 - the container's own shared memory
        TMP_MOUNT,
        {"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": True},
        *(
            {"name": _adapter_volume(adapter), "mountPath": f"{ADAPTERS_MOUNT}/{adapter.source.name}", "readOnly": True}
            for adapter in mounted
        ),
    ]
    if workspace.inference.config:
        mounts.append({"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True})
    if options.api_key_secret:
        mounts.append({"name": _API_KEYS, "mountPath": API_KEYS_MOUNT, "readOnly": True})
    ports = [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}]
    if sizing.node_count > 1:
        ports.append({"name": "rendezvous", "containerPort": RENDEZVOUS_PORT, "protocol": "TCP"})
    return {
        "name": "model-server",
        "image": engine_image(sizing.engine, settings.engine_images),
        "imagePullPolicy": "IfNotPresent",
        "command": serve_command(workspace, sizing, settings, options, volume_adapters=bool(mounted)),
        "env": _server_env(sizing),
        "ports": ports,
        **probes(sizing.preset),
        "resources": server_resources(sizing, weights, settings),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": sorted(mounts, key=lambda mount: str(mount["mountPath"])),
    }


def _fetcher(workspace: Workspace, sizing: Sizing, settings: Settings, weights: Weights) -> dict[str, Any]:
    assert sizing.engine is not None
    env = base_env()
    if weights.token_secret:
        reference = {"name": weights.token_secret, "key": "HF_TOKEN"}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return {
        "name": "weights",
        "image": engine_image(sizing.engine, settings.engine_images),
        "imagePullPolicy": "IfNotPresent",
        "command": fetch_command(
            workspace,
            weights,
            sizing.lora.rank if sizing.lora.slots else 0,
            settings.plain_http_hosts,
            settings.trusted_realms,
        ),
        "env": sorted(env, key=lambda entry: str(entry["name"])),
        "resources": {"requests": FETCH_REQUESTS},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            TMP_MOUNT,
            {"name": VOLUME, "mountPath": MOUNT_PATH},
        ],
    }


def _server_env(sizing: Sizing) -> list[dict[str, Any]]:
    assert sizing.engine is not None
    env = [*base_env(), {"name": "HF_HUB_OFFLINE", "value": "1"}]
    if sizing.node_count > 1:
        index = {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}
        env.append({"name": "POD_INDEX", "valueFrom": {"fieldRef": index}})
        env.append({"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    env += [{"name": name, "value": value} for name, value in sizing.engine.env.items()]
    return sorted(env, key=lambda entry: str(entry["name"]))


def _volumes(
    workspace: Workspace, sizing: Sizing, options: Options, weights: Weights, mounted: list[AdapterSpec]
) -> list[dict[str, Any]]:
    assert workspace.inference is not None
    volumes: list[dict[str, Any]] = [
        {"name": "adapters", "emptyDir": {}},
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(sizing)}},
        {"name": "tmp", "emptyDir": {}},
        weights.volume,
        *({"name": _adapter_volume(adapter), **(adapter.source.volume_source or {})} for adapter in mounted),
    ]
    if workspace.inference.config:
        volumes.append({"name": "config", "configMap": {"name": workspace.inference.config}})
    if secret := options.api_key_secret:
        # Not optional: a pod whose keys are missing waits, and says so.
        volumes.append({"name": _API_KEYS, "secret": {"secretName": secret, "defaultMode": _GROUP_MAY_READ}})
    return sorted(volumes, key=lambda volume: str(volume["name"]))


def _adapter_volume(adapter: AdapterSpec) -> str:
    return f"adapter-{short_hash(adapter.source.name)}"
