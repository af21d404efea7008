import base64
import json
import stat
from pathlib import Path

import pytest

from kaito_oci import Credential, DockerConfigError, DockerConfigs, Reference
from kaito_oci.errors import Unauthorized
from kaito_oci.keychain import Keychain

ACR_USER = "00000000-0000-0000-0000-000000000000"


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def document(**auths: object) -> bytes:
    return json.dumps({"auths": auths}).encode()


def config(auths: dict[str, object]) -> bytes:
    return json.dumps({"auths": auths}).encode()


@pytest.mark.parametrize(
    ("key", "image", "matches"),
    [
        ("ghcr.io", "ghcr.io/a/b", True),
        ("https://ghcr.io", "ghcr.io/a/b", True),
        ("https://ghcr.io/v2/", "ghcr.io/a/b", True),
        ("https://index.docker.io/v1/", "busybox", True),
        ("docker.io", "me/model", True),
        ("ghcr.io/a", "ghcr.io/a/b", True),
        ("ghcr.io/a/b", "ghcr.io/a/b", True),
        ("*.azurecr.io", "my.azurecr.io/m", True),
        ("localhost:5000", "localhost:5000/m", True),
        ("ghcr.io/a", "ghcr.io/ab/c", False),
        ("ghcr.io", "evilghcr.io/a", False),
        ("ghcr.io", "ghcr.io.evil.example/a", False),
        ("localhost", "localhost:5000/m", False),
        ("localhost:5000", "127.0.0.1:5000/m", False),
        ("*.io", "ghcr.io/a", False),
        ("*", "ghcr.io/a", False),
        ("*.azurecr.io", "a.b.azurecr.io/m", False),
    ],
)
def test_only_the_entry_of_the_images_host_is_used(key: str, image: str, matches: bool) -> None:
    found = DockerConfigs(config({key: basic("u", "p")})).candidates(Reference.parse(image))
    assert bool(found) is matches


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (basic("u", "p:with:colons"), [Credential(username="u", password="p:with:colons")]),
        ({"username": "u", "password": "p"}, [Credential(username="u", password="p")]),
        (
            basic(ACR_USER, "") | {"identitytoken": "refresh"},
            [Credential(username=ACR_USER, identity_token="refresh")],
        ),
        ({"registrytoken": "ready"}, [Credential(registry_token="ready")]),
        ({"auth": "not base64"}, []),
        ({}, []),
    ],
)
def test_reads_every_form_of_entry(entry: dict[str, str], expected: list[Credential]) -> None:
    assert DockerConfigs(config({"ghcr.io": entry})).candidates(Reference.parse("ghcr.io/a/b")) == expected


def test_longer_paths_go_first_then_the_order_of_the_secrets() -> None:
    source = DockerConfigs(
        config({"ghcr.io": basic("first", "1")}),
        config({"ghcr.io/a": basic("second", "2"), "quay.io": basic("other", "4")}),
        config({"ghcr.io": basic("third", "3")}),
    )
    assert [found.username for found in source.candidates(Reference.parse("ghcr.io/a/b"))] == [
        "second",
        "first",
        "third",
    ]


@pytest.mark.parametrize("text", [b"", b"[]", b"not json secret-token", b'{"auths": 3}'])
def test_a_document_of_another_kind_is_refused_without_repeating_it(text: bytes) -> None:
    with pytest.raises(DockerConfigError) as refused:
        DockerConfigs(text)
    assert "secret-token" not in str(refused.value)


def test_a_password_never_shows_in_text() -> None:
    assert "hush" not in f"{Credential(username='u', password='hush')!r} {Credential(identity_token='hush')}"


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"credHelpers": {"ghcr.io": "good"}}, [Credential(username="me", password="from-ghcr.io")]),
        ({"credsStore": "good"}, [Credential(username="me", password="from-ghcr.io")]),
        ({"credHelpers": {"quay.io": "good"}}, []),
        ({"credHelpers": {"ghcr.io": "unknown-server"}}, []),
        ({"credHelpers": {"ghcr.io": "token"}}, [Credential(identity_token="refresh")]),
        (
            {"auths": {"ghcr.io": basic("inline", "pw")}, "credsStore": "good"},
            [Credential(username="inline", password="pw"), Credential(username="me", password="from-ghcr.io")],
        ),
    ],
)
def test_credential_helpers_of_a_workstation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], expected: list[Credential]
) -> None:
    helper(tmp_path, "good", 'read server; echo "{\\"Username\\":\\"me\\",\\"Secret\\":\\"from-$server\\"}"')
    helper(tmp_path, "token", 'echo \'{"Username":"<token>","Secret":"refresh"}\'')
    helper(tmp_path, "unknown-server", "echo credentials not found in native keychain; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert Keychain(tmp_path / "config.json").candidates(Reference.parse("ghcr.io/a/b")) == expected


def test_a_helper_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "no-such-helper"}))
    with pytest.raises(Unauthorized, match="docker-credential-no-such-helper"):
        Keychain(tmp_path / "config.json").candidates(Reference.parse("ghcr.io/a/b"))


@pytest.mark.parametrize(
    ("script", "executable", "words"),
    [
        ("echo the keychain is locked >&2; exit 1", True, "docker-credential-bad fails: the keychain is locked"),
        ("echo 'the keychain is locked'; exit 1", True, "docker-credential-bad fails: the keychain is locked"),
        ("""echo '{"Secret": "hush-hush"}'; exit 3""", True, "docker-credential-bad fails: exit code 3"),
        ("exit 0", False, "docker-credential-bad cannot be run: Permission denied"),
        ("kill -9 $$", True, "docker-credential-bad fails: exit code -9"),
    ],
)
def test_a_helper_that_fails_is_not_one_without_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, executable: bool, words: str
) -> None:
    helper(tmp_path, "bad", script)
    if not executable:
        (tmp_path / "docker-credential-bad").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "bad"}))
    with pytest.raises(Unauthorized) as refused:
        Keychain(tmp_path / "config.json").candidates(Reference.parse("ghcr.io/a/b"))
    assert words in str(refused.value)
    assert "hush-hush" not in str(refused.value)


def test_no_config_means_anonymous(tmp_path: Path) -> None:
    assert Keychain(tmp_path / "absent.json").candidates(Reference.parse("ghcr.io/a/b")) == []
