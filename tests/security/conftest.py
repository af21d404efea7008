"""The installed chart's identities on a real apiserver, and the record of what they asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from security_record import Record, Right, read_record, rights

from kaito_local.errors import CommandError
from kaito_local.pytest_plugin import ApiServer, temporary_namespace
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport

NAMESPACE = "kaito-security"
_INSTALLED = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
_POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


@dataclass
class Release:
    """The chart's identities and policies, installed in NAMESPACE. Records begin with the installation."""

    apiserver: ApiServer
    objects: list[dict[str, Any]]
    since: int

    def record(self, service: str) -> Record:
        """What the service has asked for."""
        return read_record(self.apiserver, f"system:serviceaccount:{NAMESPACE}:{service}", self.since)

    async def whole_record(self, service: str, but: Set[str] = frozenset()) -> Record:
        """What the service has asked for, once every right of its roles is in it, apart from those named in `but`."""

        def complete() -> bool:
            """The apiserver writes a line after its answer."""
            unused = {str(right) for right in self.granted(service) - self.record(service).used} - but
            assert not unused, ("granted and never used", sorted(unused))
            return True

        await eventually(complete, timeout=30)
        return self.record(service)

    def granted(self, service: str) -> set[Right]:
        """What the roles of a service say, those in the release's namespace included."""
        roles = [each for each in self.objects if each["kind"] in {"ClusterRole", "Role"}]
        mine = [role for role in roles if role["metadata"]["labels"]["app.kubernetes.io/name"] == service]
        assert mine
        return rights(rule for role in mine for rule in role["rules"])


@asynccontextmanager
async def installed(apiserver: ApiServer, objects: list[dict[str, Any]]) -> AsyncIterator[Release]:
    """Install who may do what, and the fences; take all of it away afterwards."""
    wanted = [each for each in objects if each["kind"] in (*_INSTALLED, *_POLICIES)]
    bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await apiserver.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))
    await apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=bundle)
    await apiserver.kubectl("delete", "leases", "--all", "-n", NAMESPACE)
    try:
        await _in_force(apiserver)
        yield Release(apiserver, wanted, apiserver.audit_log.stat().st_size if apiserver.audit_log.exists() else 0)
    finally:
        await apiserver.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=bundle)


async def _in_force(apiserver: ApiServer) -> None:
    """Return when the policies refuse a dry run: nothing announces that the apiserver has loaded them."""
    role = '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"probe"},"rules":[]}'
    user = f"--as=system:serviceaccount:{NAMESPACE}:workspace-controller"
    async with asyncio.timeout(30):
        while True:
            try:
                words = ("create", "--dry-run=server", "-f", "-", "-n", "default", user, "--as-group=system:masters")
                await apiserver.kubectl(*words, stdin=role)
            except CommandError as error:
                if "begins with kaito-" in str(error):
                    return
                raise
            await asyncio.sleep(0.1)


@pytest.fixture
def release_of(apiserver: ApiServer) -> Callable[[list[dict[str, Any]]], AbstractAsyncContextManager[Release]]:
    """Returns a context manager that installs the identities and policies of rendered objects."""
    return lambda objects: installed(apiserver, objects)


@pytest.fixture
async def client(apiserver: ApiServer) -> AsyncIterator[Client]:
    """The test itself, as cluster-admin."""
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        yield Client(transport)


@pytest.fixture
async def restricted(apiserver: ApiServer) -> AsyncIterator[str]:
    """A namespace in which the apiserver admits only pods of the restricted Pod Security Standard."""
    with temporary_namespace(apiserver) as name:
        level = "pod-security.kubernetes.io/enforce=restricted"
        await apiserver.kubectl("label", "namespace", name, level)
        yield name
