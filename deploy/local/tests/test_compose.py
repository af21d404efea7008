"""The parts of `kaito-local compose` that need no Docker: what it says when there is none, its images, the remote stand-in."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from kaito_local.arm.cloud import Timings
from kaito_local.arm.faults import Fault
from kaito_local.arm.nodes import NoNodes
from kaito_local.arm.server import serve
from kaito_local.command import run
from kaito_local.compose.arm_remote import RemoteArm
from kaito_local.compose.arm_server import controlled
from kaito_local.compose.docker import follow
from kaito_local.compose.docker_archive import write_docker_archive
from kaito_local.compose.images import libraries_of, missing, shared_libraries
from kaito_local.compose.stack import SETTING, ArmPlace, running_stack
from kaito_local.errors import CommandError, LocalError
from kaito_local.images.spec import Runtime
from kaito_local.images.tarball import Tree, write_layer
from kubecore.testing.asserts import eventually


async def refusal(folder: Path) -> str:
    """What `kaito-local compose test` says where the PATH is one folder and temporary files go to another."""
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {"PATH": str(folder), "TMPDIR": str(temporary), "DOCKER_HOST": ""}
    with pytest.raises(CommandError) as refused:
        await run(sys.executable, "-m", "kaito_local", "compose", "test", env=environment, timeout=120)
    assert refused.value.status == 1
    assert list(temporary.iterdir()) == [], "nothing is made before everything is there"
    return refused.value.output


async def test_without_docker_it_says_what_is_missing_and_makes_nothing(tmp_path: Path) -> None:
    said = await refusal(tmp_path)
    assert "there is no `docker` command: install Docker" in said
    assert "docker-registry is not installed" in said
    assert "Traceback" not in said


async def test_a_daemon_that_does_not_answer_is_named_with_its_words(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///x' >&2\nexit 1\n")
    docker.chmod(0o755)
    said = await refusal(tmp_path)
    assert "the Docker daemon does not answer (Cannot connect to the Docker daemon at unix:///x)" in said
    assert "there is neither `docker compose` nor `docker-compose`" in said


def test_an_image_that_is_named_needs_nothing_here() -> None:
    named = {f"KAITO_TEST_{name}_IMAGE": "x" for name in ("REGISTRY", "PROMETHEUS", "ARM")}
    assert missing(named, 1000) == []
    assert any("KAITO_TEST_ARM_IMAGE" in each for each in missing({}, 1000))


def test_a_stack_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SETTING, str(tmp_path / "absent"))
    with pytest.raises(LocalError, match="make test-compose"):
        running_stack()


async def test_libraries_come_with_a_program(tmp_path: Path) -> None:
    listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n"
    assert libraries_of(listed) == ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
    found = await shared_libraries(Path("/bin/sh").resolve())
    assert any("libc.so" in place for place in found)
    assert all(path.is_file() for path in found.values())
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert await shared_libraries(script) == {}


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(600)
"""


async def test_tests_that_ignore_sigterm_do_not_hold_up_the_end(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(follow(sys.executable, "-c", STUBBORN, str(ready), env={}, grace=0.2))
        await eventually(ready.exists)
        task.cancel()
    assert task.cancelled()
    assert await follow(sys.executable, "-c", "raise SystemExit(5)", env={}) == 5


async def test_other_tools_read_the_archive(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/bin/program").write_text("#!")
    layer = tmp_path / "layer.tar"
    with layer.open("wb") as file:
        blob = write_layer([Tree(source=tmp_path / "root")], file)
    archive = tmp_path / "image.tar"
    runtime = Runtime(entrypoint=("/bin/program",), user="65532:65532")
    with archive.open("wb") as file:
        write_docker_archive(file, "kaito-test/x:1", runtime, {"program": (blob, layer)})
    await run("skopeo", "copy", f"docker-archive:{archive}:kaito-test/x:1", f"oci:{tmp_path / 'layout'}:x")
    config = json.loads(await run("skopeo", "inspect", "--config", f"oci:{tmp_path / 'layout'}:x"))
    assert (config["config"]["User"], config["config"]["Entrypoint"]) == ("65532:65532", ["/bin/program"])
    assert config["rootfs"]["diff_ids"] == [blob.digest]


async def test_a_remote_stand_in_is_seen_scripted_and_made_new(tmp_path: Path) -> None:
    async with serve(tmp_path, NoNodes()) as arm, controlled(arm.wire, "127.0.0.1", 0) as port:
        place = ArmPlace(url=arm.url, certificate=str(arm.certificate), control=f"127.0.0.1:{port}")
        remote = await asyncio.to_thread(RemoteArm, place, Timings(node=0.0, create=0.0))
        assert arm.wire.cloud.timings == Timings(node=0.0, create=0.0)
        _, operation, _ = arm.wire.cloud.put("ws", {"count": 2, "vmSize": "Standard_NC6s_v3"}, None)
        assert operation.task is not None
        await operation.task

        pools = await asyncio.to_thread(lambda: remote.wire.cloud.pools)
        assert (pools["ws"].state, len(pools["ws"].machines)) == ("Succeeded", 2)
        assert {m.pool for m in pools["ws"].machines.values()} == {"ws"}
        operations = await asyncio.to_thread(lambda: remote.wire.cloud.operations)
        assert [each.status for each in operations.values()] == ["Succeeded"]
        assert await asyncio.to_thread(lambda: remote.wire.journal) == []

        fault = Fault("put", "partial", machines=1, error={"code": "AllocationFailed"})
        await asyncio.to_thread(remote.wire.faults.add, fault)
        assert arm.wire.faults.next("put", "any") == Fault("put", "partial", times=0, machines=1, error=fault.error)
        await asyncio.to_thread(remote.wire.faults.add, fault)
        await asyncio.to_thread(RemoteArm, place)
        assert arm.wire.faults.next("put", "any") is None
        assert arm.wire.cloud.pools == {}
