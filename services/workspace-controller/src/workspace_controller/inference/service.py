"""The Services: the one that users call, and the headless one by which the pods of several nodes find each other."""

from __future__ import annotations

from typing import Any

from kaito_api import labels
from kaito_api.resources import SERVICES
from kaito_api.workspace import Workspace
from workspace_controller.inference.command import HTTP_PORT
from workspace_controller.inference.engine_args import RENDEZVOUS_PORT
from workspace_controller.inference.metadata import owned_metadata, pod_selector
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import headless_service_name, pod_names
from workspace_controller.options import Options


def service(workspace: Workspace, options: Options) -> Manifest:
    """Return the Service under the Workspace's own name: port 80 of pod 0, which answers for all nodes.

    A load balancer gets the HTTP port only: the rendezvous port is not authenticated.
    """
    ports: list[dict[str, Any]] = [_port("http", 80, HTTP_PORT)]
    if not options.load_balancer:
        ports.append(_port("torch", RENDEZVOUS_PORT, RENDEZVOUS_PORT))
    name = workspace.metadata.name
    return manifest(
        SERVICES,
        owned_metadata(workspace, name),
        spec={
            "type": "LoadBalancer" if options.load_balancer else "ClusterIP",
            "ports": ports,
            "selector": pod_selector(workspace) | {labels.POD_NAME: pod_names(name, 1)[0]},
        },
    )


def headless_service(workspace: Workspace) -> Manifest:
    """Return the headless Service; pods are found before they are ready, because readiness needs all of them."""
    return manifest(
        SERVICES,
        owned_metadata(workspace, headless_service_name(workspace.metadata.name)),
        spec={
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "ports": [_port("torch", RENDEZVOUS_PORT, RENDEZVOUS_PORT)],
            "selector": pod_selector(workspace),
        },
    )


def _port(name: str, port: int, target: int) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "TCP", "targetPort": target}
