"""The program as a user starts it, against the real registry."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from kaito_oci.testing.docker_registry import DockerRegistry, docker_registry
from kaito_oci.testing.scripted_server import Reply, scripted_server
from kubecore.testing.asserts import eventually

MakeAdapter = Callable[..., Path]


async def run(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adapter_packager",
        *map(str, arguments),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | (env or {}),
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_way_of_an_adapter(make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path) -> None:
    path, plain = make_adapter(), ["--plain-http", registry.host]
    name = f"{registry.host}/me/adapter:v1"
    assert await run("check", name, *plain) == (0, f"{name} may be pushed\n", "")
    code, pushed, _ = await run("push", path, name, "--base-model", "phi-4", *plain)
    assert code == 0
    assert pushed.startswith(f"{registry.host}/me/adapter@sha256:")
    assert (await run("push", path, name, "--base-model", "phi-4", *plain))[1] == pushed

    code, described, _ = await run("inspect", name, *plain)
    found = json.loads(described)
    assert (code, found["reference"], found["rank"], found["problems"]) == (0, pushed.strip(), 8, [])
    assert found["adapter"]["base-model"] == "phi-4"

    code, out, _ = await run("verify", pushed.strip(), *plain)
    assert (code, "is whole and can be served" in out) == (0, True)
    code, out, _ = await run("pull", name, tmp_path / "out", *plain)
    assert code == 0
    weights = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert weights == (path / "adapter_model.safetensors").read_bytes()


async def test_modelpack_comes_back_too(make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path) -> None:
    name, plain = f"{registry.host}/me/adapter:v1", ["--plain-http", registry.host]
    assert (await run("push", make_adapter(), name, "--format", "modelpack", *plain))[0] == 0
    assert (await run("verify", name, *plain))[0] == 0
    assert (await run("pull", name, tmp_path / "out", *plain))[0] == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    code, described, _ = await run("inspect", name, *plain)
    assert (code, json.loads(described)["format"], json.loads(described)["rank"]) == (0, "artifact", 8)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 64, "COMMAND"),
        (["push", "DIR"], 64, "REF"),
        (["push", "DIR", "UPPER/case"], 64, "InvalidReference"),
        (["push", "NOWHERE", "REF"], 66, "AdapterMissing"),
        (["push", "BAD", "REF"], 65, "MethodUnsupported"),
        (["push", "DIR", "REF", "--max-rank", "4"], 65, "RankTooHigh"),
        (["push", "DIR", "REF", "--base-config", "NOWHERE"], 66, "AdapterMissing"),
        (["inspect", "REF"], 66, "NotFound"),
        (["pull", "REF", "OUT"], 66, "NotFound"),
    ],
)
async def test_exit_codes(
    make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    names = {
        "DIR": make_adapter(),
        "BAD": make_adapter("dora", config={"use_dora": True}),
        "NOWHERE": tmp_path / "nowhere",
        "OUT": tmp_path / "out",
        "REF": f"{registry.host}/me/adapter:v1",
    }
    filled = [str(names.get(argument, argument)) for argument in arguments]
    found, out, err = await run(*filled, env={"KAITO_PLAIN_HTTP_HOSTS": registry.host})
    assert (found, words in err + out) == (code, True), err
    assert "Traceback" not in err


async def test_help_documents_the_exit_codes() -> None:
    code, out, _ = await run("--help")
    assert code == 0
    for number in ("64", "65", "66", "67", "69", "72", "73", "74", "143"):
        assert f"\n  {number} " in out


async def test_docker_config_and_missing_rights(
    make_adapter: MakeAdapter, locked_registry: DockerRegistry, tmp_path: Path
) -> None:
    name, plain = f"{locked_registry.host}/me/adapter:v1", ["--plain-http", locked_registry.host]
    login, wrong = tmp_path / "config.json", tmp_path / "wrong.json"
    login.write_bytes(locked_registry.dockerconfigjson())
    wrong.write_bytes(locked_registry.dockerconfigjson(password="wrong"))
    path = make_adapter()
    for options in (["--docker-config", tmp_path / "none.json"], ["--docker-config", wrong]):
        code, _, err = await run("push", path, name, *plain, *options)
        assert (code, err.startswith("Unauthorized")) == (72, True), err
    assert (await run("push", path, name, *plain, "--docker-config", login))[0] == 0


async def test_registry_down_and_read_only(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    async with docker_registry(folder, read_only=True) as registry:
        name, plain = f"{registry.host}/me/adapter:v1", ["--plain-http", registry.host]
        assert (await run("push", make_adapter(), name, *plain))[0] == 73
    code, _, err = await run("check", name, *plain)
    assert (code, "RegistryUnavailable" in err) == (69, True)


async def test_sigterm_ends_it_at_once(make_adapter: MakeAdapter) -> None:
    async with scripted_server(lambda _: Reply(200, body=[b"x", 60.0], length=10, head_pause=5.0)) as silent:
        command = ["push", str(make_adapter()), f"{silent.host}/a/b:v1", "--plain-http", silent.host]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "adapter_packager", *command, stderr=PIPE)
        await eventually(lambda: silent.requests, timeout=20)
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, b"interrupted" in err) == (143, True)
