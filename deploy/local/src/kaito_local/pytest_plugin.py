"""pytest fixtures on a real kube-apiserver: `apiserver` for the session, `namespace` for a test.

With $KAITO_TEST_STACK, which `make test-compose` sets, `apiserver` is the one in a container; else the session starts its own.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from kaito_local import host
from kaito_local.binaries import ensure
from kaito_local.cluster import Cluster
from kaito_local.compose.stack import SETTING, running_stack
from kaito_local.controlplane import ControlPlane
from kaito_local.errors import CommandError, LocalError
from kaito_local.kubeconfig import server_of
from kaito_local.kubectl import Kubectl
from kaito_local.namespaces import NamespacePurger
from kaito_local.processes import ProcessTable, start_time

T = TypeVar("T")
_PREFIX = "kaito-test-"
_CRDS_TIMEOUT = 90.0


class ApiServer:
    """A kube-apiserver for this test session, with the CRDs installed and no controller but the tests' own."""

    def __init__(self, kubeconfig: Path, url: str, control_plane: ControlPlane | None = None) -> None:
        """`kubeconfig` lies beside the folder `pki`; `control_plane` when the session started it and may restart it."""
        self._control_plane = control_plane
        self.kubeconfig = kubeconfig
        self.url = url
        self.state_dir: Path = kubeconfig.parent

    @property
    def audit_log(self) -> Path:
        """One JSON line for every answered request of a ServiceAccount."""
        return self._own().audit_log

    async def restart(self) -> None:
        """Ends the apiserver (not etcd) and starts it again on the same port; returns when it is ready."""
        await self._own().restart()

    async def kubectl(self, *args: str | Path, stdin: str | None = None, timeout: float = 60) -> str:
        """Runs kubectl as cluster-admin and returns its stdout; CommandError carries what it said."""
        kubectl = Kubectl((await ensure(("kubectl",)))["kubectl"], self.kubeconfig)
        return await kubectl(*args, stdin=stdin, timeout=timeout)

    async def delete_crds(self, *names: str) -> None:
        """Deletes definitions, with everything of their kinds, and returns when they are gone.

        kube-apiserver 1.35 can forget a deletion: its first try fails while the kind's storage starts ("storage is
        (re)initializing"), the next meets a conflict with what the first wrote, and counts on an event that does not
        come. Any change of the object makes it look again.
        """
        definitions = [f"customresourcedefinition/{name}" for name in names]
        await self.kubectl("delete", "--wait=false", *definitions)
        async with asyncio.timeout(_CRDS_TIMEOUT):
            for attempt in itertools.count():
                with suppress(CommandError):  # they stand
                    await self.kubectl("wait", "--for=delete", "--timeout=5s", *definitions)
                    return
                touch = f"touched={attempt}"
                for definition in definitions:
                    with suppress(CommandError):  # gone in between
                        await self.kubectl("annotate", "--overwrite", definition, touch)

    def _own(self) -> ControlPlane:
        if self._control_plane is None:
            raise LocalError(f"the apiserver of {SETTING} is not this session's own, as the test needs it")
        return self._control_plane


def run_apart(work: Coroutine[object, object, T]) -> T:
    """Runs a coroutine to its end in a loop of its own thread: a session fixture must not touch the test's loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """A real etcd and kube-apiserver, started once a session (about 10 s) and ended by pid; or the containers' one."""
    if stack := running_stack():
        kubeconfig = Path(stack.kubeconfig)
        yield ApiServer(kubeconfig, server_of(kubeconfig))
        return
    _sweep()
    state_dir = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{start_time(os.getpid())}-"))
    control_plane = ControlPlane(state_dir, audit=True)
    try:
        run_apart(control_plane.up())
        yield ApiServer(control_plane.kubeconfig, control_plane.url, control_plane)
    finally:
        run_apart(control_plane.down())


@contextmanager
def temporary_namespace(apiserver: ApiServer) -> Iterator[str]:
    """A new namespace with a unique name, for a fixture of any scope; it and everything in it are gone afterwards.

    What stays behind would be found by the next test's controllers: all tests of a session share the apiserver.
    """
    name = f"test-{uuid.uuid4().hex[:10]}"
    run_apart(apiserver.kubectl("create", "namespace", name))
    try:
        yield name
    finally:
        run_apart(NamespacePurger(apiserver.url, apiserver.state_dir / "pki").purge(name))


@pytest.fixture
def namespace(apiserver: ApiServer) -> Iterator[str]:
    """A new namespace with a unique name; it and everything in it are gone after the test."""
    with temporary_namespace(apiserver) as name:
        yield name


def _sweep() -> None:
    """Ends what sessions left that were killed: their folders carry the pid and start time of the session."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid, started = folder.name.removeprefix(_PREFIX).split("-")[:2]
        if str(start_time(int(pid))) != started:
            run_apart(ProcessTable(folder).stop_all(grace=5))
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The full local cluster: one that runs is taken over and left running, else started and taken down at the end.

    Taking down fails, and with it the session, when a process, mount, interface, cgroup or rule is left.
    """
    if reason := host.obstacle_here():
        pytest.skip(reason)
    local = Cluster()
    ran_before = local.state_dir.exists()
    try:
        run_apart(local.up())
        yield local
    finally:
        if not ran_before:
            run_apart(local.down())


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace in the full cluster, deleted after the test by the cluster's own controllers."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    kubectl = run_apart(cluster.kubectl())
    run_apart(kubectl("create", "namespace", name))
    yield name
    run_apart(kubectl("delete", "namespace", name, "--timeout=60s", timeout=70))
