"""The local registry: a real one, taken over when it runs, gone when it is told."""

import json
from pathlib import Path

import aiohttp
import pytest

from kaito_local.errors import LocalError
from kaito_local.images.blobs import BlobStore
from kaito_local.images.build import assemble
from kaito_local.images.push import push_images
from kaito_local.images.spec import LAYER, MANIFEST, Runtime
from kaito_local.ports import free_ports
from kaito_local.processes import ProcessTable
from kaito_local.registry import Registry
from kaito_local.run import learning

pytestmark = pytest.mark.integration


async def test_pushed_images_keep_their_digests(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "store")
    image = assemble(store, "tuner", "0.1.0", Runtime(), {"base": store.put(LAYER, bytes(10240))})
    registry = Registry(tmp_path / "registry", port=free_ports(1)[0])
    host = await registry.up()
    try:
        assert await Registry(tmp_path / "registry", port=int(host.rpartition(":")[2])).up() == host
        assert len(ProcessTable(tmp_path / "registry").all()) == 1
        await push_images(store, [image], f"{host}/kaito", plain_http=True)
        url = f"http://{host}/v2/kaito/tuner/manifests/{image.tag}"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": MANIFEST}) as answer:
            assert answer.headers["Docker-Content-Digest"] == image.manifest.digest
    finally:
        await registry.down()
    assert not (tmp_path / "registry").exists()


async def test_an_address_where_somebody_else_listens_is_refused(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    first = Registry(tmp_path / "one", port=port)
    await first.up()
    try:
        with pytest.raises(LocalError, match=r"cannot listen on .*: Address already in use"):
            await Registry(tmp_path / "two", port=port).up()
    finally:
        await first.down()


async def test_a_registry_with_a_password_lets_nobody_else_in(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "locked", port=free_ports(1)[0], htpasswd=learning.HTPASSWD)
    host = await registry.up()
    secret = json.loads(learning.secret(host, "default")["stringData"][".dockerconfigjson"])["auths"][host]
    try:
        url = f"http://{host}/v2/"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                assert answer.status == 401
            async with session.get(url, headers={"Authorization": f"Basic {secret['auth']}"}) as answer:
                assert answer.status == 200
    finally:
        await registry.down()
