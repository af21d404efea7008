"""The folder of one run: new certificates, passwords and configurations, and the values for docker-compose.test.yaml."""

import json
import os
import secrets
from pathlib import Path

import msgspec

from kaito_local.arm.server import write_certificate
from kaito_local.certificates import CertificateAuthority, write_private, write_signing_key
from kaito_local.compose.stack import ArmPlace, PrometheusPlace, RegistryPlace, Stack
from kaito_local.errors import LocalError
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.prometheus import write_config

PORTS = ("APISERVER", "REGISTRY", "PASSWORD_REGISTRY", "TLS_REGISTRY", "PROMETHEUS", "ARM", "ARM_CONTROL")
"""Each is KAITO_TEST_<name>_PORT in docker-compose.test.yaml."""

_USER = "tester"
_NOBODY = 65532  # as in distroless images; root gives the files to it, everybody else runs the containers as himself
_LOOPBACK = "127.0.0.1"
_SETTINGS = "settings"


def container_owner(euid: int, egid: int) -> tuple[int, int]:
    """User and group of the containers' processes: never root, and one that may read the run's files."""
    return (_NOBODY, _NOBODY) if euid == 0 else (euid, egid)


def environment(folder: Path, healthcheck: Path, ports: dict[str, int], images: dict[str, str]) -> dict[str, str]:
    """Every variable of docker-compose.test.yaml. `images` holds setting and image, e.g. KAITO_TEST_ETCD_IMAGE."""
    user, group = container_owner(os.geteuid(), os.getegid())
    return {
        "KAITO_TEST_FOLDER": str(folder),
        "KAITO_TEST_HEALTHCHECK": str(healthcheck),
        "KAITO_TEST_USER": f"{user}:{group}",
        **{f"KAITO_TEST_{name}_PORT": str(port) for name, port in ports.items()},
        **images,
    }


def write_settings(folder: Path, ports: dict[str, int]) -> Stack:
    """Writes everything that the containers mount and that the tests need; returns where they will answer."""
    authority = CertificateAuthority(folder / "pki")
    kubeconfig = folder / "admin.kubeconfig"
    write_kubeconfig(kubeconfig, f"https://{_LOOPBACK}:{ports['APISERVER']}", authority, "admin", ("system:masters",))
    _write_apiserver(folder / "kube-apiserver", authority)
    stack = Stack(
        kubeconfig=str(kubeconfig),
        registries={
            "open": _write_registry(folder / "registry", ports["REGISTRY"]),
            "password": _write_registry(folder / "password-registry", ports["PASSWORD_REGISTRY"], password=True),
            "tls": _write_registry(folder / "tls-registry", ports["TLS_REGISTRY"], authority=authority),
        },
        arm=_write_arm(folder / "arm", ports, authority),
        prometheus=_write_prometheus(folder / "prometheus", ports["PROMETHEUS"]),
    )
    _hand_over(folder)
    write_private(folder / "stack.json", msgspec.json.encode(stack))
    return stack


def _write_apiserver(folder: Path, authority: CertificateAuthority) -> None:
    folder.mkdir()
    certificate, key = authority.issue(
        "apiserver", "kube-apiserver", hosts=("localhost", _LOOPBACK, "kube-apiserver", "kubernetes.default.svc")
    )
    for file in (authority.certificate_file, certificate, key):
        write_private(folder / file.name, file.read_bytes())
    write_signing_key(folder / "service-account.key", folder / "service-account.pub")


def _write_registry(
    folder: Path, port: int, *, password: bool = False, authority: CertificateAuthority | None = None
) -> RegistryPlace:
    settings, storage = folder / _SETTINGS, folder / "data"
    settings.mkdir(parents=True)
    storage.mkdir()
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": "/data"}, "delete": {"enabled": True}},
    }
    http: dict[str, object] = {"addr": ":5000"}
    place = RegistryPlace(host=f"{_LOOPBACK}:{port}", storage=str(storage))
    if password:
        place = msgspec.structs.replace(place, username=_USER, password=secrets.token_urlsafe(24))
        write_private(settings / "htpasswd", f"{_USER}:{_bcrypt(place.password)}\n".encode())
        config["auth"] = {"htpasswd": {"realm": "test", "path": "/settings/htpasswd"}}
    if authority:
        certificate, key = authority.issue("registry", "registry", hosts=("localhost", _LOOPBACK))
        for file in (authority.certificate_file, certificate, key):
            write_private(settings / file.name, file.read_bytes())
        http["tls"] = {"certificate": "/settings/registry.crt", "key": "/settings/registry.key"}
        place = msgspec.structs.replace(place, ca=str(authority.certificate_file))
    (settings / "config.yml").write_text(json.dumps(config | {"http": http}))
    return place


def _write_arm(folder: Path, ports: dict[str, int], authority: CertificateAuthority) -> ArmPlace:
    certificate = write_certificate(folder, (_LOOPBACK,))
    write_kubeconfig(
        folder / "stand-in.kubeconfig", "https://kube-apiserver:6443", authority, "arm-stand-in", ("system:masters",)
    )
    return ArmPlace(
        url=f"https://{_LOOPBACK}:{ports['ARM']}",
        certificate=str(certificate),
        control=f"{_LOOPBACK}:{ports['ARM_CONTROL']}",
    )


def _write_prometheus(folder: Path, port: int) -> PrometheusPlace:
    folder.mkdir()
    write_config(folder)
    return PrometheusPlace(url=f"http://{_LOOPBACK}:{port}", folder=str(folder))


def _bcrypt(password: str) -> str:
    """A password as the registry's htpasswd file wants it; the lowest cost, since it lives for minutes."""
    import crypt  # warns when imported: gone in Python 3.13, which the project does not run on

    if crypt.METHOD_BLOWFISH not in crypt.methods:
        raise LocalError("this system's crypt library knows no bcrypt, the only hash that the registry takes")
    return crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))


def _hand_over(folder: Path) -> None:
    """Gives the mounted folders to the containers' user, where we are root and may; keys stay readable for one user alone."""
    if os.geteuid() != 0:
        return
    owner = container_owner(0, 0)
    for mounted in ("kube-apiserver", "registry", "password-registry", "tls-registry", "arm", "prometheus"):
        for path in (folder / mounted, *(folder / mounted).rglob("*")):
            os.chown(path, *owner)
