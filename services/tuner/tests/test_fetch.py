from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from kubecore.backoff import BackoffPolicy
from tuner.data import guard, location
from tuner.data.fetch import Downloader, Fetched, Limits
from tuner.data.location import Policy
from tuner.exits import ExitCode, FatalError
from tuner.room import RESERVE, Room

CONTENT = bytes(range(256)) * 800
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMITS = Limits(pauses=BackoffPolicy(base=0.01), attempts=3, total_seconds=120, silence_seconds=60)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Host:
    """A web server that answers what the test scripts, one answer a request; the last one is repeated."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(dict(request.headers))
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return await answer(request)

    def url(self, path: str = "/rows.jsonl", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    scripted = Host()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", scripted.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.port = runner.addresses[0][1]
    yield scripted
    await runner.cleanup()


async def get(host: Host, folder: Path, *, fragment: str = "", url: str = "", limits: Limits = LIMITS) -> Fetched:
    policy = Policy(allowed_hosts=frozenset({("127.0.0.1", host.port)}))
    async with guard.session(policy, connect_seconds=60, silence_seconds=60) as client:
        where = location.parse((url or host.url()) + fragment, policy)
        return await Downloader(client, folder, policy, limits).download(where, lambda done, total: None)


def whole(etag: str = '"v1"') -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        if asked is None or request.headers.get("If-Range", etag) != etag:
            return web.Response(body=CONTENT, headers={"ETag": etag})
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": etag}
        return web.Response(status=206, body=CONTENT[start:], headers=headers)

    return answer


def cut(count: int, etag: str = '"v1"') -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(CONTENT)), "ETag": etag})
        await response.prepare(request)
        await response.write(CONTENT[:count])
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def status(code: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


async def test_a_file_is_brought_and_not_brought_again(host: Host, tmp_path: Path) -> None:
    host.script = [whole()]
    found = await get(host, tmp_path, fragment=f"#sha256={DIGEST}")
    assert (found.size, found.sha256) == (len(CONTENT), DIGEST)
    assert Path(found.path).read_bytes() == CONTENT
    assert await get(host, tmp_path, fragment=f"#sha256={DIGEST}") == found
    assert len(host.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(found.path).name]


async def test_a_broken_transfer_goes_on_where_it_stopped(host: Host, tmp_path: Path) -> None:
    host.script = [cut(100_000), whole()]
    assert (await get(host, tmp_path)).sha256 == DIGEST
    resumed = host.requests[1]
    assert resumed["If-Range"] == '"v1"'
    assert 0 < int(resumed["Range"].removeprefix("bytes=").removesuffix("-")) <= 100_000


async def test_a_file_that_changed_meanwhile_is_brought_whole(host: Host, tmp_path: Path) -> None:
    host.script = [cut(100_000, '"old"'), whole('"new"')]
    assert (await get(host, tmp_path)).sha256 == DIGEST


async def test_a_weak_validator_is_none(host: Host, tmp_path: Path) -> None:
    host.script = [cut(100_000, 'W/"v"'), whole('W/"v"')]
    assert (await get(host, tmp_path)).sha256 == DIGEST
    assert "Range" not in host.requests[1]


@pytest.mark.parametrize(
    ("answer", "code", "words", "requests"),
    [
        (status(404), ExitCode.DATA_INVALID, "does not exist", 1),
        (status(403), ExitCode.DATA_INVALID, "may have expired", 1),
        (status(401), ExitCode.DATA_INVALID, "needs a login", 1),
        (status(503), ExitCode.DATA_UNAVAILABLE, "HTTP 503", 3),
        (status(200), ExitCode.DATA_INVALID, "is empty", 1),
        (status(302, Location="http://169.254.169.254/token"), ExitCode.DATA_INVALID, "not encrypted", 1),
        (status(302, Location="https://169.254.169.254/token"), ExitCode.DATA_INVALID, "169.254.169.254:443 is not", 1),
        (status(302, Location="https://[::ffff:10.0.0.1]/x"), ExitCode.DATA_INVALID, "public internet", 1),
        (status(302, Location="https://localhost/x"), ExitCode.DATA_INVALID, "localhost:443 is not", 1),
        (status(302, Location="file:///etc/passwd"), ExitCode.DATA_INVALID, "not a web address", 1),
        (status(302, Location="/again"), ExitCode.DATA_INVALID, "more than 5 times", 6),
    ],
)
async def test_answers_that_end_a_download(
    host: Host, tmp_path: Path, answer: Answer, code: ExitCode, words: str, requests: int
) -> None:
    host.script = [answer]
    with pytest.raises(FatalError, match=words) as caught:
        await get(host, tmp_path)
    assert caught.value.code is code
    assert len(host.requests) == requests


async def test_a_name_that_leads_to_a_private_address_is_never_connected_to(host: Host, tmp_path: Path) -> None:
    host.script = [whole()]
    policy = Policy(plain_http=True)  # nothing allowed by name: localhost resolves to loopback
    async with guard.session(policy, connect_seconds=60, silence_seconds=60) as client:
        where = location.parse(host.url(host="localhost"), policy)
        with pytest.raises(FatalError, match="not an address of the public internet"):
            await Downloader(client, tmp_path, policy, LIMITS).download(where, lambda done, total: None)
    assert host.requests == []


async def test_the_allowed_port_is_exact(host: Host, tmp_path: Path) -> None:
    host.script = [whole()]
    policy = Policy(plain_http=True, allowed_hosts=frozenset({("127.0.0.1", host.port + 1)}))
    async with guard.session(policy, connect_seconds=60, silence_seconds=60) as client:
        where = location.parse(host.url(), policy)
        with pytest.raises(FatalError, match="not an address of the public internet"):
            await Downloader(client, tmp_path, policy, LIMITS).download(where, lambda done, total: None)
    assert host.requests == []


async def test_a_wrong_pin_is_refused_and_nothing_stays(host: Host, tmp_path: Path) -> None:
    host.script = [whole()]
    with pytest.raises(FatalError, match=f"its sha256 is {DIGEST}, pinned is b") as caught:
        await get(host, tmp_path, fragment=f"#sha256={'b' * 64}")
    assert caught.value.code is ExitCode.DATA_INVALID
    assert list(tmp_path.iterdir()) == []


async def chunked(request: web.Request) -> web.StreamResponse:
    """All of it, without a word about its size."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(CONTENT)
    return response


@pytest.mark.parametrize("declared", [True, False])
async def test_the_cap_holds_whatever_the_server_declares(host: Host, tmp_path: Path, declared: bool) -> None:
    host.script = [whole() if declared else chunked]
    with pytest.raises(FatalError, match="larger than the 1000 bytes"):
        await get(host, tmp_path, limits=Limits(max_bytes=1000))


async def test_a_file_larger_than_the_disk_is_refused_before_it_is_brought(host: Host, tmp_path: Path) -> None:
    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 60)})
        await response.prepare(request)
        return response

    host.script = [huge]
    with pytest.raises(FatalError, match=r"only .* are free for it in .*; give the data volume more") as caught:
        await get(host, tmp_path, limits=Limits(max_bytes=1 << 61))
    assert caught.value.code is ExitCode.DISK_FULL


@pytest.mark.parametrize("declared", [True, False])
async def test_files_together_stay_within_what_the_folder_may_hold(host: Host, tmp_path: Path, declared: bool) -> None:
    """A kubelet evicts the pod whose volume holds more, however much the disk has; the first file fits, the second does not."""

    host.script = [whole() if declared else chunked]
    policy = Policy(allowed_hosts=frozenset({("127.0.0.1", host.port)}))
    room = Room(folder=str(tmp_path), limit=RESERVE + len(CONTENT) * 3 // 2)
    (tmp_path / "downloads").mkdir()
    async with guard.session(policy, connect_seconds=60, silence_seconds=60) as client:
        downloader = Downloader(client, tmp_path / "downloads", policy, LIMITS, room=room)
        one, other = (location.parse(host.url(path), policy) for path in ("/one", "/other"))
        await downloader.download(one, lambda done, total: None)
        with pytest.raises(
            FatalError, match=rf"/other has .* it may hold {room.limit} \(--work-bytes\): give"
        ) as caught:
            await downloader.download(other, lambda done, total: None)
    assert caught.value.code is ExitCode.DISK_FULL
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < room.limit


@pytest.mark.parametrize("count", [1000, len(CONTENT)])
async def test_a_disk_that_becomes_full_meanwhile_is_named(host: Host, tmp_path: Path, count: int) -> None:
    """No length is declared, so nothing can be checked before. /dev/full takes no byte."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(CONTENT[:count])
        return response

    host.script = [endless]
    where = location.parse(host.url(), Policy(allowed_hosts=frozenset({("127.0.0.1", host.port)})))
    key = hashlib.sha256(f"{where.url}#{where.sha256}".encode()).hexdigest()[:12]
    (tmp_path / f"{key}-rows.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(FatalError, match=r"No space left on device; give the data volume more") as caught:
        await get(host, tmp_path)
    assert caught.value.code is ExitCode.DISK_FULL


async def test_the_query_is_in_no_message(host: Host, tmp_path: Path) -> None:
    host.script = [status(404)]
    with pytest.raises(FatalError) as caught:
        await get(host, tmp_path, url=host.url("/rows.jsonl?sig=hush"))
    assert "hush" not in str(caught.value)


MOVED = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere?token=hush\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n"], "is not valid HTTP"),
        ([MOVED, b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n"], "is not valid HTTP"),
        ([b"HTTP/1.1 302 Found\r\nLocation: /x?token=hush\x00\r\n\r\n"], "is not valid HTTP"),
        ([MOVED, b"hush\r\n\r\n"], "is not valid HTTP"),
        ([b"HTTP/1.1 302 Found\r\nLocation: https://[x?token=hush\r\n\r\n"], "is not a URL"),
        ([MOVED, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhush"], "the connection ended"),
        ([MOVED, b""], "the server closed the connection"),
    ],
)
async def test_no_broken_answer_brings_a_query_into_message_or_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: list[bytes], words: str
) -> None:
    """Bytes over a plain socket; a redirect's target may be signed as well."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"GET "):
                writer.write(answers[1] if b"elsewhere" in line else answers[0])
                await writer.drain()
                if answers[0] != MOVED or b"elsewhere" in line:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host = Host()
    host.port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(FatalError, match=words) as caught:
            await get(host, tmp_path, url=host.url("/rows.jsonl?sig=hush"))
    said = [str(caught.value), *(str(vars(record)) for record in caplog.records)]
    assert not [words for words in said if "hush" in words]


async def test_a_server_that_accepts_and_says_nothing_is_named_without_the_query(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            continue
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = Policy(allowed_hosts=frozenset({("127.0.0.1", port)}))
    async with server, guard.session(policy, connect_seconds=0.3, silence_seconds=60) as client:
        where = location.parse(f"https://127.0.0.1:{port}/rows.jsonl?sig=hush", policy)
        limits = Limits(pauses=BackoffPolicy(base=0.01), attempts=1, total_seconds=120)
        with pytest.raises(FatalError, match="no answer in time") as caught:
            await Downloader(client, tmp_path, policy, limits).download(where, lambda done, total: None)
    assert "hush" not in str(caught.value)
