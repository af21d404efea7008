"""Signatures as cosign makes them, on the real registry; checked here with nothing but the stored bytes and `cryptography`."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from adapter_packager import publish, signature, signing_key
from adapter_packager.access import Access
from adapter_packager.exits import SigningKeyProblem
from adapter_packager.pod_report import PodReport
from kaito_api.report import decode
from kaito_oci import Descriptor, Reference, RegistrySettings
from kaito_oci.testing.docker_registry import DockerRegistry
from kubecore.clock import SystemClock
from kubecore.testing.asserts import eventually

MakeAdapter = Callable[..., Path]
Run = Callable[..., Awaitable[tuple[int, str, str]]]
ANNOTATION = "dev.cosignproject.cosign/signature"
TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return content


class Keys:
    """A pair in two files, as `cosign.key` and `cosign.pub`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.private, self.public = folder / "cosign.key", folder / "cosign.pub"
        self.private.write_bytes(pem(self.key))
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public.write_bytes(public)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


async def stored(registry: DockerRegistry, what: str) -> bytes:
    """What any client gets from the registry, by plain HTTP."""
    types = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    request = Request(f"http://{registry.host}/v2/me/adapter/{what}", headers={"Accept": types})

    def get() -> bytes:
        with urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
            return content

    return await asyncio.to_thread(get)


async def pushed(run: Run, folder: Path, registry: DockerRegistry, *options: object, tag: str = "v1") -> str:
    """Push; return the digest."""
    name = f"{registry.host}/me/adapter:{tag}"
    code, out, err = await run("push", folder, name, "--plain-http", registry.host, *options)
    assert code == 0, err
    return out.strip().partition("@")[2]


async def test_signed_as_cosign_looks_for_it(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, keys: Keys
) -> None:
    folder = make_adapter()
    plain = await pushed(run, folder, registry, tag="plain")
    digest = await pushed(run, folder, registry, "--sign-key", keys.private)
    assert digest == plain

    raw = await stored(registry, f"manifests/{digest.replace(':', '-')}.sig")
    manifest = json.loads(raw)
    [layer] = manifest["layers"]
    assert (layer["mediaType"], manifest["subject"]["digest"]) == (TYPE, digest)
    payload = await stored(registry, f"blobs/{layer['digest']}")
    assert json.loads(payload) == {
        "critical": {
            "identity": {"docker-reference": f"{registry.host}/me/adapter"},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    text = base64.b64decode(layer["annotations"][ANNOTATION])
    keys.key.public_key().verify(text, payload, ec.ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        keys.key.public_key().verify(text, payload + b" ", ec.ECDSA(SHA256()))

    listed = json.loads(await stored(registry, f"manifests/{digest.replace(':', '-')}"))["manifests"]
    assert [entry["artifactType"] for entry in listed] == ["application/vnd.dev.cosign.artifact.sig.v1+json"]
    assert len(raw) == listed[0]["size"]
    assert await stored(registry, f"manifests/{listed[0]['digest']}") == raw


async def test_signing_again_changes_nothing_and_others_signatures_stay(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, keys: Keys, tmp_path: Path
) -> None:
    folder, other = make_adapter(), Keys(tmp_path / "other")
    digest = await pushed(run, folder, registry, "--sign-key", keys.private)
    where = f"manifests/{digest.replace(':', '-')}.sig"
    first = await stored(registry, where)
    await pushed(run, folder, registry, "--sign-key", keys.private)
    assert await stored(registry, where) == first
    await pushed(run, folder, registry, "--sign-key", other.private)
    name, plain = f"{registry.host}/me/adapter:v1", ["--plain-http", registry.host]
    for pair in (keys, other):
        assert (await run("verify", name, "--key", pair.public, *plain))[0] == 0
    assert len(json.loads(await stored(registry, where))["layers"]) == 2


async def test_what_verify_refuses(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, keys: Keys, tmp_path: Path
) -> None:
    folder, stranger = make_adapter(), Keys(tmp_path / "stranger")
    name, plain = f"{registry.host}/me/adapter:v1", ["--plain-http", registry.host]
    digest = await pushed(run, folder, registry)
    code, _, err = await run("verify", name, "--key", keys.public, *plain)
    assert (code, err.startswith("SignatureMissing")) == (67, True), err

    await pushed(run, folder, registry, "--sign-key", keys.private)
    code, out, _ = await run("verify", name, "--key", keys.public, *plain)
    assert (code, f"me/adapter@{digest} is whole" in out, "signed by the key" in out) == (0, True, True)
    code, _, err = await run("verify", name, "--key", stranger.public, *plain)
    assert (code, err.startswith("SignatureInvalid")) == (67, True), err

    # Other content under the tag, with the first one's signature copied to where the second one's would be.
    changed = make_adapter("changed", README__md=b"other words")
    code, out, _ = await run("push", changed, name, *plain)
    second = out.strip().partition("@")[2]
    raw = await stored(registry, f"manifests/{digest.replace(':', '-')}.sig")
    put(registry, f"manifests/{second.replace(':', '-')}.sig", raw)
    code, _, err = await run("verify", name, "--key", keys.public, *plain)
    assert (second != digest, code, err.startswith("SignatureInvalid")) == (True, 67, True), err


def put(registry: DockerRegistry, what: str, manifest: bytes) -> None:
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    url = f"http://{registry.host}/v2/me/adapter/{what}"
    urlopen(Request(url, manifest, headers, method="PUT"), timeout=30).close()


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (None, "SigningKeyMissing", "no key at"),
        (b"", "SigningKeyInvalid", "no private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "SigningKeyInvalid", "no private key"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n", "SigningKeyInvalid", "cosign's own format"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "SigningKeyInvalid", "P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "SigningKeyInvalid", "P-256"),
        (
            pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
            "SigningKeyInvalid",
            "password",
        ),
    ],
)
async def test_the_check_tells_an_unusable_key(
    run: Run, registry: DockerRegistry, tmp_path: Path, content: bytes | None, reason: str, words: str
) -> None:
    path, log = tmp_path / "cosign.key", tmp_path / "log"
    if content is not None:
        path.write_bytes(content)
    name = f"{registry.host}/me/adapter:v1"
    code, out, err = await run("check", name, "--sign-key", path, "--plain-http", registry.host)
    assert (code, out, err.partition(":")[0], words in err) == (75, "", reason, True), err
    assert not log.exists()


async def test_in_a_pod_the_check_ends_with_the_reason(
    registry: DockerRegistry, tmp_path: Path, run: Run, kubeconfig: Callable[[str], Path]
) -> None:
    log = tmp_path / "termination-log"
    pod = {"POD_NAME": "job-1", "POD_NAMESPACE": "ns", "KUBECONFIG": str(kubeconfig(f"http://{registry.host}"))}
    name, key = f"{registry.host}/me/adapter:v1", tmp_path / "nowhere" / "cosign.key"
    options = ["--plain-http", registry.host, "--termination-log", log, "--hold", "0"]
    code, _, _ = await run("check", name, "--sign-key", key, *options, env=pod)
    report = decode(log.read_text())
    assert report is not None
    assert (code, report.state, report.reason) == (75, "Failed", "SigningKeyMissing")
    assert "kaito.sh/signing-key-secret" in report.message


async def test_a_key_that_comes_while_the_check_waits(registry: DockerRegistry, keys: Keys, tmp_path: Path) -> None:
    said: list[str] = []

    async def annotate(report: str) -> None:
        found = decode(report)
        assert found is not None
        said.append(found.reason)

    path, clock = tmp_path / "cosign.key", SystemClock()
    access = Access(settings=RegistrySettings(plain_http_hosts=frozenset({registry.host})))
    report = PodReport(clock, annotate, None)
    name = Reference.parse(f"{registry.host}/me/adapter:v1")
    async with report.running(), asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(publish.check(name, access, sign_key=path, hold=60, clock=clock, report=report))
        await eventually(lambda: "SigningKeyMissing" in said, timeout=30)
        path.write_bytes(pem(keys.key))


def test_passwords_of_encrypted_keys(tmp_path: Path) -> None:
    path, key = tmp_path / "cosign.key", ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(pem(key, BestAvailableEncryption(b"secret")))
    assert signing_key.read_private(path, {"COSIGN_PASSWORD": "secret"}).private_numbers() == key.private_numbers()
    with pytest.raises(SigningKeyProblem) as told:
        signing_key.read_private(path, {"COSIGN_PASSWORD": "wrong"})
    assert "wrong" not in str(told.value)
    (tmp_path / "cosign.password").write_bytes(b"secret\n")
    assert signing_key.read_private(path, {}).private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"critical":{"image":{"docker-manifest-digest":"sha256:1"},"type":"atomic container signature"}}',
        b'{"critical":{"image":{"docker-manifest-digest":"sha256:2"},"type":"cosign container image signature"}}',
        b"[" * 100_000,
    ],
)
def test_a_payload_about_something_else(payload: bytes) -> None:
    assert not signature.says(payload, "sha256:1")


def test_foreign_layers_are_no_signatures() -> None:
    digest = f"sha256:{'0' * 64}"
    other = Descriptor(media_type="application/json", digest=digest, size=1, annotations={ANNOTATION: "x"})
    bare = Descriptor(media_type=TYPE, digest=digest, size=1)
    assert signature.signatures([other, bare]) == []
    assert signature.place(Reference("r", "a"), digest).tag == f"sha256-{'0' * 64}.sig"
