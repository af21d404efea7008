"""A kubeconfig that stands for the user's own, for tests: whoever writes to its file or calls its server is found out."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml


@contextmanager
def untouched_kubeconfig(folder: Path) -> Iterator[Path]:
    """Yields its path, for $KUBECONFIG; AssertionError at the end if the file changed or its cluster was called."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()  # the kernel takes connections, and keeps them until somebody looks
        server.setblocking(False)
        path = folder / "config"
        path.write_text(yaml.safe_dump(_config(f"https://127.0.0.1:{server.getsockname()[1]}")))
        before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(folder.iterdir()))
        yield path
        if (path.read_bytes(), path.stat().st_mtime_ns, sorted(folder.iterdir())) != before:
            raise AssertionError(f"{path} or what lies beside it was changed")
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return
        raise AssertionError(f"the cluster of {path} was called")


def _config(url: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "own", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "own", "user": {"token": "none"}}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        "current-context": "own",
    }
