"""etcd and kube-apiserver in one state folder: certificates, ports, start, take-over, restart, end."""

import asyncio
import os
import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec

from kaito_local.binaries import CONTROL_PLANE, ensure
from kaito_local.certificates import CertificateAuthority, write_signing_key
from kaito_local.errors import CommandError, LocalError
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.kubectl import Kubectl
from kaito_local.locations import REPOSITORY
from kaito_local.ports import free_ports
from kaito_local.processes import Process, ProcessTable, must_stay_alive

_START_TIMEOUT = 120.0  # 9 s on idle cores; the cores may be shared
_CRD_FOLDER = REPOSITORY / "crds"
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


class Endpoints(msgspec.Struct, frozen=True):
    """Where the control plane listens; kept in the state folder, so that a restart changes no kubeconfig."""

    address: str
    apiserver: int
    etcd: int
    etcd_peer: int


class ControlPlane:
    """One etcd and one kube-apiserver.

    `address` is where the apiserver listens: loopback for tests, an address that pods reach for a cluster. With `nodes`
    the ServiceAccount admission is on and the apiserver may speak to kubelets; without, Pods need no ServiceAccount,
    because no controller manager makes one.
    """

    def __init__(
        self,
        state_dir: Path,
        address: str = "127.0.0.1",
        service_cidr: str = "10.202.0.0/16",
        *,
        nodes: bool = False,
        audit: bool = False,
        definitions: Sequence[Path] | None = None,
    ) -> None:
        """Starts nothing yet. With `audit` every request of a ServiceAccount is one JSON line in `audit_log`.

        `definitions` are the files of the CRDs that `up` installs: all of crds/ unless named.
        """
        self.state_dir = state_dir
        self.processes = ProcessTable(state_dir)
        self.kubeconfig = state_dir / "admin.kubeconfig"
        self._address = address
        self._service_cidr = service_cidr
        self._nodes = nodes
        self._audit = audit
        self._definitions = sorted(_CRD_FOLDER.glob("*.yaml")) if definitions is None else definitions
        self.audit_log = state_dir / "audit.log"
        self._endpoints_file = state_dir / "endpoints.json"

    @property
    def url(self) -> str:
        """The apiserver's URL; LocalError before the first `up`."""
        endpoints = self._endpoints()
        return f"https://{endpoints.address}:{endpoints.apiserver}"

    @property
    def pki(self) -> Path:
        """The folder of keys and certificates."""
        return self.state_dir / "pki"

    async def up(self) -> None:
        """Starts both, or takes over what runs, waits for /readyz and installs the CRDs."""
        programs = await ensure(CONTROL_PLANE)
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._endpoints_file.exists():
            apiserver, etcd, peer = free_ports(3)
            endpoints = Endpoints(address=self._address, apiserver=apiserver, etcd=etcd, etcd_peer=peer)
            self._endpoints_file.write_bytes(msgspec.json.encode(endpoints))
        if not self.kubeconfig.exists():
            self._write_credentials()
        self._start_etcd(programs["etcd"])
        await self.wait_ready(self._start_apiserver(programs["kube-apiserver"]))
        await self.install_crds(Kubectl(programs["kubectl"], self.kubeconfig))

    async def down(self) -> None:
        """Ends both and removes the state folder. Nothing running is not an error."""
        await self.processes.stop_all(grace=5)
        shutil.rmtree(self.state_dir, ignore_errors=True)

    async def restart(self) -> None:
        """Ends the apiserver and starts it again on its port and data: clients see refused connections in between."""
        await self.processes.stop("kube-apiserver", grace=5)
        programs = await ensure(CONTROL_PLANE)
        await self.wait_ready(self._start_apiserver(programs["kube-apiserver"]))

    async def kubectl(self) -> Kubectl:
        """kubectl as cluster-admin of this control plane."""
        return Kubectl((await ensure(("kubectl",)))["kubectl"], self.kubeconfig)

    async def install_crds(self, kubectl: Kubectl) -> None:
        """Server-side applies the definitions and waits until each is Established."""
        await kubectl.apply(*self._definitions)
        names = [f"-f={file}" for file in self._definitions]
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                try:
                    await kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
                except CommandError as error:
                    # kubectl gives up on a definition that has no conditions at all yet instead of waiting for the first.
                    if "conditions accessor error" not in error.output:
                        raise
                    await asyncio.sleep(0.2)
                else:
                    return

    async def wait_ready(self, process: Process) -> None:
        """Returns when /readyz says ok. Nothing announces readiness, so this asks ten times a second."""
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        connector = aiohttp.TCPConnector(ssl=context)
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
        async with session, must_stay_alive(process):
            while not await _answers_ok(session, f"{self.url}/readyz"):
                if asyncio.get_running_loop().time() > deadline:
                    raise LocalError(
                        f"{process.name} was not ready after {_START_TIMEOUT:.0f} s; its log is {process.log}"
                    )
                await asyncio.sleep(0.1)

    def _endpoints(self) -> Endpoints:
        try:
            return msgspec.json.decode(self._endpoints_file.read_bytes(), type=Endpoints)
        except FileNotFoundError:
            raise LocalError(f"there is no control plane in {self.state_dir}") from None

    def _write_credentials(self) -> None:
        authority = CertificateAuthority(self.pki)
        service_ip = self._service_cidr.split("/")[0].rsplit(".", 1)[0] + ".1"
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
        authority.issue(
            "apiserver",
            "kube-apiserver",
            hosts=("localhost", "127.0.0.1", self._address, service_ip, *names),
        )
        authority.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",))
        write_signing_key(self.pki / "service-account.key", self.pki / "service-account.pub")
        write_kubeconfig(self.pki / "admin.kubeconfig", self.url, authority, "admin", ("system:masters",))
        (self.pki / "admin.kubeconfig").rename(self.kubeconfig)

    def _start_etcd(self, program: Path) -> Process:
        endpoints = self._endpoints()
        client, peer = (f"http://127.0.0.1:{port}" for port in (endpoints.etcd, endpoints.etcd_peer))
        flags: dict[str, str | Path] = {
            "data-dir": self.state_dir / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            # A development cluster loses nothing of worth when the machine does; a sole member elects itself at once.
            "unsafe-no-fsync": "true",
            "heartbeat-interval": "20",
            "election-timeout": "200",
            "watch-progress-notify-interval": "5s",
            "quota-backend-bytes": str(4 << 30),
            "log-level": "warn",
        }
        return self.processes.start("etcd", [program, *_flags(flags)])

    def _start_apiserver(self, program: Path) -> Process:
        endpoints = self._endpoints()
        flags: dict[str, str | Path] = {
            "etcd-servers": f"http://127.0.0.1:{endpoints.etcd}",
            "bind-address": endpoints.address,
            "advertise-address": endpoints.address,
            "secure-port": str(endpoints.apiserver),
            "service-cluster-ip-range": self._service_cidr,
            "tls-cert-file": self.pki / "apiserver.crt",
            "tls-private-key-file": self.pki / "apiserver.key",
            "client-ca-file": self.pki / "ca.crt",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": self.pki / "service-account.pub",
            "service-account-signing-key-file": self.pki / "service-account.key",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "profiling": "false",
        }
        if self._nodes:
            flags |= {
                "kubelet-preferred-address-types": "InternalIP",
                "kubelet-certificate-authority": self.pki / "ca.crt",
                "kubelet-client-certificate": self.pki / "apiserver-kubelet-client.crt",
                "kubelet-client-key": self.pki / "apiserver-kubelet-client.key",
            }
        else:
            # Both plugins count on a controller that does not run here: it would make the ServiceAccount, remove the taint.
            flags |= {
                "disable-admission-plugins": "ServiceAccount,TaintNodesByCondition",
                "endpoint-reconciler-type": "none",
                # Some distributions enforce who may name an owner that blocks deletion: what is run here holds there too.
                "enable-admission-plugins": "NodeRestriction,OwnerReferencesPermissionEnforcement",
            }
        if self._audit:
            policy = self.state_dir / "audit-policy.json"
            policy.write_bytes(msgspec.json.encode(_AUDIT_POLICY))
            flags |= {"audit-policy-file": policy, "audit-log-path": self.audit_log}
        return self.processes.start("kube-apiserver", [program, *_flags(flags)], env=_without_proxy())


def _flags(flags: dict[str, str | Path]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _without_proxy() -> dict[str, str]:
    """The apiserver dials kubelets and webhooks on this machine: a proxy of the environment must not stand between."""
    return {name: "" for name in os.environ if name.lower() in {"http_proxy", "https_proxy", "all_proxy"}}


async def _answers_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
