"""Memory stays bounded whatever the size: measured in processes of their own."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from kaito_oci.testing.docker_registry import DockerRegistry

MIB = 1024 * 1024
SCRIPT = """
import asyncio, sys
from pathlib import Path
import msgspec
from kaito_oci import BytesBlob, Member, TarBlob, media_types, pull, push

async def main(what, host, folder):
    name = f"{host}/a/b:v1"
    if what == "push":
        layer = TarBlob([Member("data/weights", folder / "weights")], media_types.OCI_LAYER_TAR)
        config = BytesBlob(b"{}", media_types.OCI_CONFIG)
        manifest = {"schemaVersion": 2, "config": config.descriptor, "layers": [layer.descriptor]}
        await push(name, [config, layer], msgspec.json.encode(manifest), plain_http_hosts=[host])
    else:
        await pull(name, folder / "out", path="/data", plain_http_hosts=[host])

asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
# Not ru_maxrss: that one starts from the parent's.
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(peak.split()[1])
"""


@pytest.mark.slow
async def test_300_mib_in_80(registry: DockerRegistry, tmp_path: Path) -> None:
    with (tmp_path / "weights").open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(MIB))
    for what in ("push", "pull"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, what, registry.host, str(tmp_path), stdout=PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 50)
        assert process.returncode == 0
        assert int(out) * 1024 <= 80 * MIB, what
    assert (tmp_path / "out" / "weights").stat().st_size == 300 * MIB
