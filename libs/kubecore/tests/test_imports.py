"""kubernetes-asyncio's readers come without its generated client, and leave no trace."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import kubecore.manager, kubecore.finalizers, kubecore.events
from kubecore.kubernetes_asyncio_config import readers
assert readers() is readers()
left = [name for name in sys.modules if name.startswith("kubernetes_asyncio")]
assert not left, left
import kubernetes_asyncio.config
assert kubernetes_asyncio.client.CoreV1Api
assert kubernetes_asyncio.config.load_kube_config
print(readers().kubeconfig_loader.__name__)
"""


def test_the_readers_load_alone_and_the_real_package_still_loads() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False, text=True, timeout=60)
    assert done.stdout == "KubeConfigLoader\n", done.stderr
