"""The file with the authorities of private registries: what is taken out of it, and what happens when it changes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock
from workspace_controller.inference.registry_ca import certificates
from workspace_controller.registry_ca_file import LOOK_SECONDS, RegistryCaError, RegistryCaFile

ONE, OTHER = (trustme.CA().cert_pem.bytes().decode() for _ in range(2))


def test_only_certificates_are_taken_whatever_else_the_file_holds() -> None:
    key = trustme.CA().private_key_pem.bytes().decode()
    assert certificates(f"# the site's own, f\ufffdr alle\n{ONE}\r\n{key}{OTHER}") == ONE + OTHER


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no certificate"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "no certificate"),
        (ONE.replace("MII", "NII"), "damaged"),
        (ONE * 1000, "do not fit"),
    ],
)
def test_what_is_no_bundle_is_refused_with_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        certificates(text)


@pytest.mark.parametrize("content", [None, b"nothing", b"\xff\xfe"])
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RegistryCaError, match=f"--registry-ca: {file}"):
        RegistryCaFile(str(file), FakeClock())


def test_the_process_ends_with_one_line_where_its_file_is_not_there(tmp_path: Path) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    flags = ("--kubeconfig", str(tmp_path / "kubeconfig"), "--registry-ca", str(tmp_path / "none.pem"))
    ended = subprocess.run(
        [sys.executable, "-m", "workspace_controller", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    last = ended.stderr.splitlines()[-1]
    assert (ended.returncode, last.startswith("workspace-controller: --registry-ca: ")) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_the_setting_there_is_nothing() -> None:
    assert RegistryCaFile("", FakeClock()).text() == ""


async def test_a_changed_file_is_told_and_a_broken_one_is_not_believed(tmp_path: Path) -> None:
    file, clock, told = tmp_path / "ca.pem", FakeClock(), []
    file.write_text(ONE)
    authorities = RegistryCaFile(str(file), clock)

    async def looked() -> None:
        await clock.advance(LOOK_SECONDS)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(authorities.follow(lambda: told.append(authorities.text())))
        await looked()
        file.write_text("half of it")
        await looked()
        await looked()
        assert (authorities.text(), told) == (ONE, [])
        file.write_text(ONE + OTHER)
        await looked()
        await eventually(lambda: told == [ONE + OTHER])
        following.cancel()
