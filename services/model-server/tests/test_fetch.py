"""`model-server fetch` from a real registry and from a mirror that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from kaito_oci.testing.docker_registry import DockerRegistry
from model_server.exits import ExitCode, FatalError
from model_server.fetch.source import HubSource, OciSource, parse

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

if TYPE_CHECKING:
    from conftest import PushImage

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


def safetensors(size: int) -> bytes:
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(size)


def make_model(folder: Path, size: int = 2_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["Phi3ForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors(size))
    (folder / "model.safetensors").chmod(0o600)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://r:5000/a/b:1#models/phi", OciSource("r:5000/a/b:1", "models/phi")),
        ("oci://r/a@sha256:1", OciSource("r/a@sha256:1", "")),
        (f"hf://org/name@{COMMIT}", HubSource("org/name", COMMIT)),
    ],
)
def test_sources(text: str, expected: object) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "r/a:1", "oci://", "s3://b/x", "hf://org/name", "hf://org/name@main", f"hf://name@{COMMIT}"]
)
def test_bad_sources(text: str) -> None:
    with pytest.raises(FatalError) as caught:
        parse(text)
    assert caught.value.code is ExitCode.USAGE


class Fetch:
    """One run of the command."""

    def __init__(self, folder: Path, source: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.to = folder / "weights"
        self.to.mkdir(exist_ok=True)
        self.log = folder / "termination.log"
        command = [sys.executable, "-m", "model_server", "fetch", source, "--to", str(self.to), *arguments]
        environment = os.environ | {"MODEL_SERVER_TERMINATION_LOG": str(self.log), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, env=environment | (env or {}), stderr=subprocess.PIPE, text=True)

    def end(self) -> int:
        _, self.errors = self.process.communicate(timeout=120)
        return self.process.returncode

    def report(self) -> dict[str, str]:
        report: dict[str, str] = json.loads(self.log.read_text())
        return report

    def names(self) -> set[str]:
        return {path.name for path in self.to.iterdir() if not path.name.startswith(".")}


FILES = {"config.json", "tokenizer.json", "model.safetensors"}


async def test_a_data_set_is_not_looked_at_as_weights(
    registry: DockerRegistry, tmp_path: Path, push: PushImage
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "hello"}\n')
    reference = f"{registry.host}/team/rows:1"
    await push(reference, {"data/rows.jsonl": rows})
    fetch = Fetch(tmp_path, f"oci://{reference}#data", "--data", "--plain-http", registry.host)
    assert fetch.end() == 0, fetch.errors
    assert fetch.names() == {"rows.jsonl"}
    assert fetch.report()["message"] == "the data set is in place"


async def push_image(registry: DockerRegistry, model: Path, push: PushImage, tag: str = "1") -> str:
    """Push an image that has the model in /models/phi, as ordinary image builds make them."""
    reference = f"{registry.host}/kaito/phi:{tag}"
    await push(reference, {f"models/phi/{path.name}": path for path in sorted(model.glob("*"))})
    return reference


async def test_an_image_lands_with_plain_modes_and_a_second_run_is_a_no_op(
    registry: DockerRegistry, tmp_path: Path, push: PushImage
) -> None:
    model = make_model(tmp_path / "model")
    reference = await push_image(registry, model, push)
    fetch = Fetch(tmp_path, f"oci://{reference}#models/phi", "--plain-http", registry.host)
    assert fetch.end() == 0, fetch.errors
    assert fetch.names() == FILES
    assert (fetch.to / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in fetch.to.iterdir() if path.name in FILES} == {0o644}
    written = (fetch.to / "model.safetensors").stat().st_mtime_ns
    again = Fetch(tmp_path, f"oci://{reference}#models/phi", "--plain-http", registry.host)
    assert again.end() == 0, again.errors
    assert (fetch.to / "model.safetensors").stat().st_mtime_ns == written


async def test_failures_have_their_codes(registry: DockerRegistry, tmp_path: Path, push: PushImage) -> None:
    model = make_model(tmp_path / "model")
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    truncated = await push_image(registry, model, push, "truncated")
    plain = ("--plain-http", registry.host)
    cases = [
        (f"oci://{registry.host}/kaito/phi:absent", plain, 66, "WeightsMissing"),
        (f"oci://{truncated}#nowhere", plain, 66, "WeightsMissing"),
        (f"oci://{truncated}#models/phi", plain, 67, "WeightsInvalid"),
        (f"oci://{truncated}", (), 73, "RegistryUntrusted"),
        (f"oci://{registry.host}/Bad Name", plain, 64, "ConfigInvalid"),
        (f"oci://{truncated}", (*plain, "--pull-secret", "s", "--workspace", "n/w"), 72, "AccessDenied"),
    ]
    for number, (source, arguments, code, reason) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        fetch = Fetch(folder, source, *arguments)
        assert (fetch.end(), fetch.report()["reason"]) == (code, reason), fetch.errors
        assert fetch.report()["state"] == "Failed"


async def test_a_registry_of_a_private_authority(tls_registry: DockerRegistry, tmp_path: Path, push: PushImage) -> None:
    """As an init container is told: by the variable. Without it the last word says what is wrong and what to set."""
    model = make_model(tmp_path / "model")
    reference = f"{tls_registry.host}/kaito/phi:1"
    await push(reference, {f"models/phi/{path.name}": path for path in sorted(model.glob("*"))}, tls_registry.ca)
    alone = Fetch(tmp_path, f"oci://{reference}#models/phi")
    assert (alone.end(), alone.report()["reason"]) == (73, "RegistryUntrusted"), alone.errors
    assert "signed by an authority that is not public" in alone.report()["message"]
    assert "global.registryCA" in alone.report()["message"]
    trusting = Fetch(tmp_path, f"oci://{reference}#models/phi", env={"KAITO_CA_BUNDLE": str(tls_registry.ca)})
    assert trusting.end() == 0, trusting.errors
    assert trusting.names() == FILES


async def test_a_registry_that_wants_a_password(tmp_path: Path, locked_registry: DockerRegistry) -> None:
    fetch = Fetch(tmp_path, f"oci://{locked_registry.host}/kaito/phi:1", "--plain-http", locked_registry.host)
    assert (fetch.end(), fetch.report()["reason"]) == (72, "AccessDenied"), fetch.errors


class Mirror(BaseHTTPRequestHandler):
    """A local mirror of a model hub: file list, HEAD with the hub's headers, GET with Range."""

    files: ClassVar[dict[str, bytes]]
    lies: ClassVar[dict[str, bytes]]
    requests: ClassVar[list[tuple[str, str, str]]]
    cut: int
    status: int
    held: ClassVar[threading.Event | None]
    """Where it is not None, the second half of the weights waits for it."""
    begun: ClassVar[threading.Event]
    """The first half of them is sent."""

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def _answer(self, *, send_body: bool) -> None:
        cls = type(self)
        cls.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if cls.status != 200:
            self._send(cls.status, b"{}", send_body=send_body)
        elif self.path.startswith(f"/api/models/org/phi/revision/{COMMIT}"):
            self._send(200, json.dumps(self._info()).encode(), send_body=send_body)
        elif self.path.startswith(f"/api/models/org/phi/tree/{COMMIT}"):
            self._send(200, json.dumps(self._tree()).encode(), send_body=send_body)
        elif self.path.startswith(f"/org/phi/resolve/{COMMIT}/"):
            self._file(self.path.rpartition("/")[2], send_body=send_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, send_body=send_body)

    def _info(self) -> dict[str, object]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": "org/phi", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "private": False}

    def _tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
            for name, content in self.files.items()
        ]

    def _file(self, name: str, *, send_body: bool) -> None:
        cls = type(self)
        listed = self.files[name]
        content = cls.lies.get(name, listed)
        etag = sha256(listed) if name.endswith(".safetensors") else git_id(listed)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut, broken = cls.cut, send_body and 0 < cls.cut < len(content)
        if broken:
            cls.cut = 0
        self._send(206 if start else 200, content[start:], headers, send_body=send_body, cut=cut)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, send_body: bool, cut: int = 0
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if send_body:
            cls = type(self)
            if cls.held is not None and self.path.endswith(".safetensors"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                cls.begun.set()
                cls.held.wait(120)
                body = body[len(body) // 2 :]
            self.wfile.write(body[:cut] if 0 < cut < len(body) else body)
            self.wfile.flush()
            if 0 < cut < len(body):
                self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        return


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[type[Mirror]]:
    model = make_model(tmp_path / "source")

    class Handler(Mirror):
        files = {path.name: path.read_bytes() for path in sorted(model.iterdir())} | {
            "README.md": b"# phi",
            "pytorch_model.bin": b"pickle",
        }
        lies: ClassVar[dict[str, bytes]] = {}
        requests: ClassVar[list[tuple[str, str, str]]] = []
        cut = 0
        status = 200
        held: ClassVar[threading.Event | None] = None
        begun: ClassVar[threading.Event] = threading.Event()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    yield Handler
    del os.environ["HF_ENDPOINT"]
    server.shutdown()
    thread.join()
    server.server_close()


def fetch_hub(folder: Path, commit: str = COMMIT) -> Fetch:
    return Fetch(folder, f"hf://org/phi@{commit}", env={"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"})


def test_a_commit_of_the_hub_lands_verified_and_without_pickles(mirror: type[Mirror], tmp_path: Path) -> None:
    fetch = fetch_hub(tmp_path)
    assert fetch.end() == 0, fetch.errors
    assert fetch.names() == FILES
    assert (fetch.to / "model.safetensors").read_bytes() == mirror.files["model.safetensors"]
    assert {(fetch.to / name).stat().st_mode & 0o777 for name in FILES} == {0o644}
    assert not list(fetch.to.glob(".fetch-*"))
    mirror.requests.clear()
    again = fetch_hub(tmp_path)
    assert again.end() == 0
    assert mirror.requests == [], "a complete folder asks for nothing"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_bytes_that_the_commit_does_not_list_are_refused(mirror: type[Mirror], tmp_path: Path, name: str) -> None:
    good = mirror.files[name]
    mirror.lies[name] = good[:-1] + bytes([good[-1] ^ 1])
    fetch = fetch_hub(tmp_path)
    assert (fetch.end(), fetch.report()["reason"]) == (67, "WeightsInvalid"), fetch.errors
    assert fetch.names() == set(), "nothing is published"


def test_a_broken_download_is_continued(mirror: type[Mirror], tmp_path: Path) -> None:
    mirror.files = {key: mirror.files[key] for key in FILES} | {"model.safetensors": safetensors(30_000_000)}
    mirror.cut = 20_000_000
    fetch = fetch_hub(tmp_path)
    code = fetch.end()
    if code == 69:
        code = fetch_hub(tmp_path).end()
    assert code == 0, fetch.errors
    assert any(span not in ("", "bytes=0-") for _, _, span in mirror.requests), "the second part was asked for by Range"
    assert (fetch.to / "model.safetensors").read_bytes() == mirror.files["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "commit", "code", "reason"),
    [
        (200, OTHER, 66, "WeightsMissing"),
        (401, COMMIT, 72, "AccessDenied"),
        (403, COMMIT, 72, "AccessDenied"),
        (503, COMMIT, 69, "RegistryUnavailable"),
    ],
)
def test_answers_of_the_hub(
    mirror: type[Mirror], tmp_path: Path, status: int, commit: str, code: int, reason: str
) -> None:
    mirror.status = status
    fetch = fetch_hub(tmp_path, commit)
    assert (fetch.end(), fetch.report()["reason"]) == (code, reason), fetch.errors


def test_a_hub_that_is_away(tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "hf")}
    fetch = Fetch(tmp_path, f"hf://org/phi@{COMMIT}", env=env)
    assert (fetch.end(), fetch.report()["reason"]) == (69, "RegistryUnavailable"), fetch.errors


def test_sigterm_leaves_what_can_be_continued(mirror: type[Mirror], tmp_path: Path) -> None:
    """Sent while the weights are on their way: the mirror holds the rest of them back."""
    mirror.held = threading.Event()
    fetch = fetch_hub(tmp_path)
    assert mirror.begun.wait(60)
    fetch.process.send_signal(signal.SIGTERM)
    assert fetch.end() == 143, fetch.errors
    mirror.held.set()
    assert not (fetch.to / ".fetched.json").exists()
    assert fetch.names() == set(), "nothing is published"
    again = fetch_hub(tmp_path)
    assert again.end() == 0, again.errors
    assert (fetch.to / "model.safetensors").read_bytes() == mirror.files["model.safetensors"]
