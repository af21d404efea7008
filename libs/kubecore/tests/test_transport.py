"""What the transport makes of every kind of answer and of none."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kaito_api.meta import Key
from kaito_api.resources import CONFIGMAPS, NODES
from kubecore import errors
from kubecore.client import Client
from kubecore.config import ClusterConfig, load_config
from kubecore.testing.server import ScriptedServer, listing, obj, raw, reply, reset, slow, status, watch
from kubecore.transport import Transport

PATH = "/api/v1/namespaces/default/configmaps/a"
KEY = Key("default", "a")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(400, "BadRequest"), errors.Invalid),
        (status(403, "Forbidden"), errors.Forbidden),
        (status(404, "NotFound"), errors.NotFound),
        (reply({"kind": "Status", "code": 404, "reason": "NotFound", "details": {}}, 404), errors.NotServed),
        (reply("404 page not found", 404, content_type="text/plain"), errors.NotServed),
        (reply("<html>gone fishing</html>", 404, content_type="text/html"), errors.NotServed),
        (status(409, "Conflict"), errors.Conflict),
        (status(409, "AlreadyExists"), errors.AlreadyExists),
        (status(410, "Expired"), errors.Gone),
        (status(422, "Invalid"), errors.Invalid),
        (status(429, "TooManyRequests"), errors.TooManyRequests),
        (status(500, "InternalError"), errors.ServerError),
        (status(500, "", "failed to create typed patch object (a/b; v1, Kind=C): .x: no"), errors.Invalid),
        (reply("<html>bad gateway</html>", 502, content_type="text/html"), errors.ServerError),
        (status(504, "Timeout"), errors.ServerError),
        (reply(b"", 418), errors.ApiError),
        (reply("<html>login here</html>", 200, content_type="text/html"), errors.TransportError),
        (reply("{", 200), errors.TransportError),
        (reply('{"metadata": 7}', 200), errors.TransportError),
        (watch(reset), errors.TransportError),
        (watch(raw(b'{"metadata"'), reset), errors.TransportError),
    ],
)
async def test_answers_become_errors(server: ScriptedServer, client: Client, answer, error) -> None:
    server.on("GET", PATH, answer)
    with pytest.raises(error) as caught:
        await client.get(CONFIGMAPS, KEY)
    assert type(caught.value) is error


async def test_a_success_is_decoded(server: ScriptedServer, client: Client) -> None:
    server.on("GET", PATH, reply(obj("a", 7, data={"x": "y"})))
    found = await client.get(CONFIGMAPS, KEY)
    assert found.metadata.resource_version == "7"
    assert found.data == {"x": "y"}
    assert server.last("GET").headers["User-Agent"] == "kubecore-test"


async def test_a_redirect_is_not_followed_with_our_token(server: ScriptedServer, client: Client) -> None:
    server.on("GET", PATH, reply("", 302, headers={"Location": "/elsewhere"}))
    server.on("GET", "/elsewhere", reply(obj("a", 7)))
    with pytest.raises(errors.TransportError, match="redirected with 302"):
        await client.get(CONFIGMAPS, KEY)
    assert server.count("GET", "/elsewhere") == 0


async def test_nothing_waits_longer_than_its_deadline(server: ScriptedServer, client: Client) -> None:
    server.on("GET", PATH, slow(60, reply(obj("a", 7))))
    started = time.monotonic()
    with pytest.raises(errors.TransportError, match=r"no answer within 0\.2 s"):
        await client.get(CONFIGMAPS, KEY, timeout=0.2)
    assert time.monotonic() - started < 30


async def test_a_server_that_is_down(server: ScriptedServer, client: Client) -> None:
    await server.down()
    with pytest.raises(errors.TransportError, match="Cannot connect"):
        await client.get(CONFIGMAPS, KEY)


class TestThrottling:
    async def test_retry_after_is_obeyed(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", PATH, status(429, "TooManyRequests", retry_after=1), reply(obj("a", 7)))
        started = time.monotonic()
        assert (await client.get(CONFIGMAPS, KEY)).metadata.name == "a"
        assert time.monotonic() - started >= 1
        assert server.count("GET") == 2

    async def test_a_wait_beyond_the_deadline_is_the_callers(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", PATH, status(429, "TooManyRequests", retry_after=60))
        with pytest.raises(errors.TooManyRequests) as caught:
            await client.get(CONFIGMAPS, KEY, timeout=2)
        assert caught.value.retry_after == 60
        assert server.count("GET") == 1

    async def test_a_server_error_without_retry_after_is_not_repeated(
        self, server: ScriptedServer, client: Client
    ) -> None:
        server.on("GET", PATH, status(500, "InternalError"))
        with pytest.raises(errors.ServerError):
            await client.get(CONFIGMAPS, KEY)
        assert server.count("GET") == 1

    async def test_an_eviction_is_never_repeated(self, server: ScriptedServer, client: Client) -> None:
        path = "/api/v1/namespaces/default/pods/a/eviction"
        server.on("POST", path, status(429, "TooManyRequests", retry_after=1))
        with pytest.raises(errors.TooManyRequests):
            await client.evict(KEY)
        assert server.count("POST") == 1


class TestCredentials:
    async def test_a_rotated_token_is_read_on_401(self, server: ScriptedServer, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("old\n")
        server.on("GET", PATH, reply(obj("a", 7)))
        server.token = "old"
        async with Transport(server.config(tmp_path, tokenFile=str(token)), user_agent="t") as transport:
            client = Client(transport)
            await client.get(CONFIGMAPS, KEY)
            server.token = "new"
            token.write_text("new")
            assert (await client.get(CONFIGMAPS, KEY)).metadata.name == "a"
            sent = [r.headers["Authorization"] for r in server.received]
        assert sent == ["Bearer old", "Bearer old", "Bearer new"]

    async def test_many_requests_share_one_reading(self, server: ScriptedServer, tmp_path: Path) -> None:
        script = tmp_path / "plugin"
        answer = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
        script.write_text(
            f"""#!/bin/sh\necho run >> {tmp_path}/runs\nprintf '{answer}' "$(cat {tmp_path}/current)"\n"""
        )
        script.chmod(0o700)
        (tmp_path / "current").write_text("one")
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
        server.on("GET", PATH, reply(obj("a", 7)))
        server.token = "one"
        async with Transport(server.config(tmp_path, exec=plugin), user_agent="t") as transport:
            client = Client(transport)
            await client.get(CONFIGMAPS, KEY)
            before = len((tmp_path / "runs").read_text().splitlines())
            server.token = "two"
            (tmp_path / "current").write_text("two")
            await asyncio.gather(*(client.get(CONFIGMAPS, KEY) for _ in range(5)))
        assert len((tmp_path / "runs").read_text().splitlines()) == before + 1

    async def test_a_refused_token_fails_after_one_more_try(self, server: ScriptedServer, client: Client) -> None:
        server.token = "something else"
        with pytest.raises(errors.Unauthorized):
            await client.get(CONFIGMAPS, KEY)
        assert server.count("GET") == 2

    async def test_a_token_file_that_vanishes_keeps_the_old_token(self, server: ScriptedServer, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("old")
        server.token = "other"
        async with Transport(server.config(tmp_path, tokenFile=str(token)), user_agent="t") as transport:
            token.unlink()
            with pytest.raises(errors.Unauthorized):
                await Client(transport).get(CONFIGMAPS, KEY)
            assert server.last("GET").headers["Authorization"] == "Bearer old"


class TestLists:
    async def test_pages_are_joined(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", "/api/v1/nodes", listing(5, obj("a", 1), more="next"), listing(5, obj("b", 2)))
        assert [node.metadata.name for node in await client.list(NODES)] == ["a", "b"]
        first, second = server.received
        assert first.query == {"limit": "500"}
        assert second.query == {"limit": "500", "continue": "next"}

    async def test_a_list_that_expires_midway_starts_again_unpaged(
        self, server: ScriptedServer, client: Client
    ) -> None:
        pages = [listing(5, obj("a", 1), more="next"), status(410, "Expired"), listing(9, obj("a", 1), obj("b", 2))]
        server.on("GET", "/api/v1/nodes", *pages)
        listed = await client.listing(NODES, label_selector="x=y")
        assert [node.metadata.name for node in listed.items] == ["a", "b"]
        assert listed.resource_version == "9"
        assert server.last("GET").query == {"labelSelector": "x=y"}

    async def test_one_unreadable_object_does_not_hide_the_others(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", "/api/v1/nodes", listing(5, obj("a", 1), {"metadata": {"name": 7}}, obj("b", 2)))
        listed = await client.listing(NODES)
        assert [node.metadata.name for node in listed.items] == ["a", "b"]
        assert listed.unreadable == 1
        with pytest.raises(errors.TransportError, match="1 nodes do not fit"):
            await client.list(NODES)


class TestWrites:
    async def test_apply(self, server: ScriptedServer, client: Client) -> None:
        server.on("PATCH", PATH, reply(obj("a", 8)))
        await client.apply(CONFIGMAPS, {"metadata": {"name": "a", "namespace": "default"}}, manager="kubecore/test")
        sent = server.last("PATCH")
        assert sent.headers["Content-Type"] == "application/apply-patch+yaml"
        assert sent.query == {"fieldManager": "kubecore/test", "force": "true"}
        assert sent.json == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}}

    async def test_a_struct_gets_its_kind(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", PATH, reply(obj("a", 7, data={"x": "y"})))
        server.on("POST", "/api/v1/namespaces/default/configmaps", reply(obj("a", 8), 201))
        await client.create(CONFIGMAPS, await client.get(CONFIGMAPS, KEY))
        assert server.last("POST").json["kind"] == "ConfigMap"
        assert server.last("POST").json["data"] == {"x": "y"}

    @pytest.mark.parametrize(
        ("patch", "content_type"),
        [
            ({"data": None}, "application/merge-patch+json"),
            ([{"op": "remove", "path": "/x"}], "application/json-patch+json"),
        ],
    )
    async def test_patches(self, server: ScriptedServer, client: Client, patch, content_type) -> None:
        server.on("PATCH", PATH + "/status", reply(obj("a", 8)))
        await client.patch(CONFIGMAPS, KEY, patch, subresource="status")
        assert server.last("PATCH").headers["Content-Type"] == content_type
        assert server.last("PATCH").json == patch

    async def test_deleting_what_is_gone_is_success(self, server: ScriptedServer, client: Client) -> None:
        await client.delete(CONFIGMAPS, KEY, uid="u", resource_version="5", propagation="Orphan", grace_seconds=0)
        assert server.last("DELETE").json == {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Orphan",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": "u", "resourceVersion": "5"},
        }

    async def test_deleting_through_a_proxys_404_is_not(self, server: ScriptedServer, client: Client) -> None:
        server.on("DELETE", PATH, reply("nothing here", 404, content_type="text/html"))
        with pytest.raises(errors.NotServed):
            await client.delete(CONFIGMAPS, KEY)

    async def test_a_login_page_is_no_success(self, server: ScriptedServer, client: Client) -> None:
        server.on("DELETE", PATH, reply("<html>log in</html>", 200, content_type="text/html"))
        with pytest.raises(errors.TransportError, match="expected JSON, got text/html"):
            await client.delete(CONFIGMAPS, KEY)

    async def test_a_fenced_client_sends_no_write(self, server: ScriptedServer, client: Client) -> None:
        server.on("GET", PATH, reply(obj("a", 7)))
        fenced = Client(client.transport, fence=lambda: False)
        await fenced.get(CONFIGMAPS, KEY)
        meta = {"metadata": {"name": "a", "namespace": "default"}}
        for write in (
            lambda: fenced.create(CONFIGMAPS, meta),
            lambda: fenced.apply(CONFIGMAPS, meta, manager="m"),
            lambda: fenced.patch(CONFIGMAPS, KEY, {}),
            lambda: fenced.replace(CONFIGMAPS, meta),
            lambda: fenced.delete(CONFIGMAPS, KEY),
            lambda: fenced.evict(KEY),
        ):
            with pytest.raises(errors.NotLeader):
                await write()
        assert [r.method for r in server.received] == ["GET"]


class TestConfig:
    def test_no_cluster_is_an_error_with_advice(self, tmp_path: Path) -> None:
        with pytest.raises(errors.ConfigError, match="does not exist"):
            load_config(str(tmp_path / "absent"))

    async def test_a_malformed_kubeconfig_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "kubeconfig").write_text("contexts: 7")
        with pytest.raises(errors.ConfigError):
            async with Transport(load_config(str(tmp_path / "kubeconfig")), user_agent="t"):
                pass

    async def test_an_unknown_context_is_an_error(self, server: ScriptedServer, tmp_path: Path) -> None:
        path = server.config(tmp_path).kubeconfig
        with pytest.raises(errors.ConfigError, match="nowhere"):
            async with Transport(ClusterConfig(kubeconfig=path, context="nowhere"), user_agent="t"):
                pass

    async def test_a_pod_without_its_token_is_an_error(self, tmp_path: Path) -> None:
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
        with pytest.raises(errors.ConfigError, match="token"):
            async with Transport(ClusterConfig(service_account=tmp_path, environ=environ), user_agent="t"):
                pass


def test_retry_after_in_the_body_counts_too() -> None:
    body = b'{"kind":"Status","reason":"TooManyRequests","message":"x","details":{"retryAfterSeconds":3}}'
    assert errors.error_from_response(429, body, None).retry_after == 3
    assert errors.error_from_response(429, body, "5").retry_after == 5
