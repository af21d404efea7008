"""Who answers claims in the local cluster: the real gpu-provisioner against the AKS stand-in, or a stand-in for both.

Either way a claim ends in a second real kubelet on this machine.
"""

import asyncio
import shutil
import ssl
import sys
from typing import Any

import aiohttp

from kaito_local.arm_command import Endpoint, endpoint, folder
from kaito_local.cluster import SYSTEM_NODE, Cluster
from kaito_local.errors import LocalError
from kaito_local.processes import ProcessTable, alive, log_tail

REAL = "gpu-provisioner"
STAND_IN = "stand-in"
_CLIENT = "00000000-0000-0000-0000-0000000000cc"
_START_TIMEOUT = 30.0


async def start(cluster: Cluster, kind: str, claim_api: str) -> dict[str, Any]:
    """Start what answers claims, beside the cluster, and return the values of the gpu-provisioner's chart but its image."""
    if kind == STAND_IN:
        cluster.start_claims(claim_api)
        return {"enabled": False}
    await cluster.stop_claims()
    there = endpoint(cluster.host_ip)
    await _start_aks(there)
    return chart_values(there)


async def stop() -> None:
    """End the AKS stand-in and forget its pools; their nodes end with the cluster."""
    await _table().stop_all()
    await asyncio.to_thread(shutil.rmtree, folder(), ignore_errors=True)


def chart_values(there: Endpoint) -> dict[str, Any]:
    """The values that point the provisioner to the AKS stand-in, with a projected token as on AKS."""
    return {
        "enabled": True,
        "nodeSelector": {"kubernetes.io/os": "linux", **SYSTEM_NODE.labels},
        "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "settings": {
            "azure": {
                "subscriptionId": there.identity.subscription,
                "resourceGroup": there.identity.resource_group,
                "clusterName": there.identity.cluster,
                "tenantId": there.identity.tenant,
                "clientId": _CLIENT,
                "endpoint": there.url,
                "authority": there.url,
                "caBundle": there.certificate.read_text(),
                "projectToken": True,
            }
        },
    }


def _table() -> ProcessTable:
    return ProcessTable(folder())


async def _start_aks(there: Endpoint) -> None:
    """Start the AKS stand-in, or take over the running one, and return when it answers."""
    process = _table().start("aks", [sys.executable, "-m", "kaito_local", "arm"])
    async with asyncio.timeout(_START_TIMEOUT):
        # It tells nobody when it is ready, so this asks, ten times a second.
        while not await _answers(there):
            if not alive(process):
                raise LocalError(f"the AKS stand-in ended while starting:\n{log_tail(process)}")
            await asyncio.sleep(0.1)


async def _answers(there: Endpoint) -> bool:
    """Whether anybody answers there with the stand-in's certificate; what it says to a stranger does not matter."""
    if not there.certificate.exists():
        return False
    try:
        trust = ssl.create_default_context(cafile=str(there.certificate))
        connector = aiohttp.TCPConnector(ssl=trust)
        limit = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session, session.get(there.url):
            return True
    except (aiohttp.ClientError, ssl.SSLError, TimeoutError):
        return False
