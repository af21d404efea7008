"""The program as a user starts it, against the real registry."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from adapter_packager.exits import code_of
from kaito_oci import BytesBlob, Member, TarBlob, errors, media_types, push
from kaito_oci.testing.docker_registry import DockerRegistry, docker_registry
from kaito_oci.testing.scripted_server import Reply, scripted_server
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

MakeAdapter = Callable[..., Path]


Run = Callable[..., Awaitable[tuple[int, str, str]]]


async def test_the_installed_program_pushes_and_says_the_digest(
    make_adapter: MakeAdapter, registry: DockerRegistry
) -> None:
    command = ["push", str(make_adapter()), f"{registry.host}/me/adapter:v1", "--plain-http", registry.host]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "adapter_packager", *command, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0
    assert out.decode().startswith(f"{registry.host}/me/adapter@sha256:")


async def test_the_way_of_an_adapter(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path
) -> None:
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


async def test_kaitos_puller_reads_the_image(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path
) -> None:
    """The steps of KAITO's puller script: skopeo to a folder, decompressing, tar for each layer, then /data."""
    name, layout, rootfs = f"{registry.host}/me/adapter:v1", tmp_path / "layout", tmp_path / "rootfs"
    rootfs.mkdir()
    assert (await run("push", make_adapter(), name, "--plain-http", registry.host))[0] == 0
    copy = ["skopeo", "copy", "--src-tls-verify=false", "--dest-decompress", f"docker://{name}", f"dir:{layout}"]
    assert await (await asyncio.create_subprocess_exec(*copy, stdout=PIPE)).wait() == 0
    for layer in json.loads((layout / "manifest.json").read_text())["layers"]:
        blob = layout / layer["digest"].removeprefix("sha256:")
        assert await (await asyncio.create_subprocess_exec("tar", "x", "-f", blob, "-C", rootfs)).wait() == 0
    assert sorted(os.listdir(rootfs / "data")) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


async def test_modelpack_comes_back_too(
    run: Run, make_adapter: MakeAdapter, registry: DockerRegistry, tmp_path: Path
) -> None:
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
    run: Run,
    make_adapter: MakeAdapter,
    registry: DockerRegistry,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
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


async def test_a_registry_of_a_private_authority(
    run: Run, make_adapter: MakeAdapter, tls_registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = make_adapter(), f"{tls_registry.host}/me/adapter:v1"
    for command in (("check", name), ("push", path, name)):
        code, _, err = await run(*command)
        assert (code, err.startswith("TLSFailed: ")) == (76, True)
        assert "signed by an authority that is not public" in err
    monkeypatch.setenv("KAITO_CA_BUNDLE", str(tls_registry.ca))
    assert (await run("check", name))[0] == 0
    code, pushed, _ = await run("push", path, name)
    assert code == 0
    assert (await run("verify", pushed.strip()))[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidReference, 64),
        (errors.NotFound, 66),
        (errors.DigestMismatch, 67),
        (errors.UnsafeArchive, 67),
        (errors.TooLarge, 67),
        (errors.InvalidManifest, 67),
        (errors.UnsupportedMediaType, 67),
        (errors.NoMatchingPlatform, 67),
        (errors.UnsafeLocation, 67),
        (errors.Unavailable, 69),
        (errors.Truncated, 69),
        (errors.TlsFailed, 76),
        (errors.Unauthorized, 72),
        (errors.Denied, 72),
        (errors.UntrustedRealm, 72),
        (errors.TagImmutable, 73),
        (errors.UploadRefused, 73),
        (errors.DiskFull, 74),
        (errors.DestinationInUse, 74),
        (errors.FileChanged, 65),
        (errors.FileUnreadable, 66),
    ],
)
def test_every_error_of_the_library_has_its_code(error: type[errors.OciError], code: int) -> None:
    assert code_of(error("words")) == code


def test_no_error_of_the_library_was_forgotten() -> None:
    [mark] = [mark for mark in test_every_error_of_the_library_has_its_code.pytestmark if mark.name == "parametrize"]
    assert {error for error, _ in mark.args[1]} == set(errors.OciError.__subclasses__())


async def test_an_image_that_is_no_adapter(run: Run, registry: DockerRegistry, tmp_path: Path) -> None:
    name, plain = f"{registry.host}/me/other:v1", ["--plain-http", registry.host]
    layer = TarBlob([Member("data/model.onnx", b"x")], media_types.OCI_LAYER_TAR)
    config = BytesBlob(b"{}", media_types.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "config": config.descriptor, "layers": [layer.descriptor]}
    await push(name, [config, layer], msgspec.json.encode(manifest), plain_http_hosts=[registry.host])
    for command in (("verify", name), ("pull", name, tmp_path / "out")):
        code, _, err = await run(*command, *plain)
        assert (code, "no adapter_config.json" in err) == (66, True)
    code, out, _ = await run("inspect", name, *plain)
    assert (code, "was not found" in out) == (0, True)


async def test_help_documents_the_exit_codes(run: Run) -> None:
    code, out, _ = await run("--help")
    assert code == 0
    for number in ("64", "65", "66", "67", "69", "72", "73", "74", "75", "143"):
        assert f"\n  {number} " in out


async def test_docker_config_and_missing_rights(
    run: Run, make_adapter: MakeAdapter, locked_registry: DockerRegistry, tmp_path: Path
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


async def test_registry_down_and_read_only(run: Run, make_adapter: MakeAdapter, tmp_path: Path) -> None:
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
        await eventually(lambda: silent.requests, timeout=60)
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, b"interrupted" in err) == (143, True)
