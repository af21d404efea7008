"""kubeconfig files with everything inline, so that one file can be copied and used."""

import base64
from pathlib import Path

import yaml

from kaito_local.certificates import CertificateAuthority, write_private


def write_kubeconfig(
    path: Path, url: str, authority: CertificateAuthority, user: str, groups: tuple[str, ...] = ()
) -> Path:
    """Issues a client certificate for `user` in `groups` and writes a kubeconfig with it; returns the path."""
    certificate, key = authority.issue(path.stem, user, groups)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "kaito-local",
                "cluster": {"server": url, "certificate-authority-data": _base64(authority.certificate_file)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
            }
        ],
        "contexts": [{"name": "kaito-local", "context": {"cluster": "kaito-local", "user": user}}],
        "current-context": "kaito-local",
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False).encode())
    return path


def server_of(kubeconfig: Path) -> str:
    """The URL of the only cluster of a kubeconfig that `write_kubeconfig` wrote."""
    url: str = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return url


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
