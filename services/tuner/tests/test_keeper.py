"""Checkpoints and results in a real registry, for pods that find no volume of the one before them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from kaito_oci import CredentialSource, DockerConfigs, Reference, RegistrySettings
from kaito_oci.testing.docker_registry import DockerRegistry
from tuner import checkpoints, options, result
from tuner.checkpoint_image import CheckpointImage, Mark, mark_annotations, read_mark
from tuner.exits import ExitCode, FatalError
from tuner.keeper import Keeper, keeper
from tuner.options import Options
from tuner.reporter import Reporter
from tuner.supervisor import Supervisor, innermost

pytestmark = pytest.mark.slow  # processes and sockets that are waited for


def settings(folder: Path, registry: DockerRegistry, *more: str, password: str = "") -> Options:
    """A pod of its own: nothing of another pod's folders."""
    secret = folder / "secret"
    secret.mkdir(parents=True, exist_ok=True)
    login = registry.dockerconfigjson(password=password) if password else registry.dockerconfigjson()
    (secret / ".dockerconfigjson").write_bytes(login)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "rows.jsonl").write_text('{"text": "a"}\n')
    arguments = ["--data", str(folder / "data"), "--output", str(folder / "out"), "--work", str(folder / "work")]
    arguments += ["--model", str(folder / "model"), "--checkpoint-image", f"{registry.host}/team/adapter:v1-ckpt"]
    arguments += ["--checkpoint-secret-folder", str(secret), "--plain-http-registry", registry.host, *more]
    return options.parse(["run", *arguments], {})


def made(found: Options) -> Keeper:
    kept = keeper(found, None)
    assert kept is not None
    return kept


def checkpoint(folder: Path, step: int, key: str) -> None:
    path = folder / f"checkpoint-{step}"
    (path / "sub").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"o" * 100_000)
    (path / "sub" / "state.json").write_text(str(step))
    checkpoints.seal(folder, step, key)


async def sent(found: Options, step: int, key: str, *, micro_limit: int | None = None) -> None:
    kept = made(found)
    checkpoint(found.checkpoints, step, key)
    await kept.bring_checkpoint(key)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(kept.send_checkpoints())
        kept.offer(step, micro_limit)
        await kept.settle()
        sending.cancel()


async def test_a_new_pod_finds_the_checkpoint_of_the_one_before(
    tmp_path: Path, locked_registry: DockerRegistry
) -> None:
    await sent(settings(tmp_path / "one", locked_registry), 10, "run", micro_limit=2)
    await sent(settings(tmp_path / "two", locked_registry), 20, "run", micro_limit=2)
    third = settings(tmp_path / "three", locked_registry)
    brought = await made(third).bring_checkpoint("run")
    assert (brought.micro_limit, brought.remark) == (2, "")
    assert checkpoints.latest_whole(third.checkpoints, "run") == third.checkpoints / "checkpoint-20"
    assert (third.checkpoints / "checkpoint-20" / "sub" / "state.json").read_text() == "20"


async def test_the_checkpoint_of_another_run_is_not_used(tmp_path: Path, locked_registry: DockerRegistry) -> None:
    await sent(settings(tmp_path / "one", locked_registry), 10, "other data")
    second = settings(tmp_path / "two", locked_registry)
    found = await made(second).bring_checkpoint("run")
    assert found.remark.startswith(f"The checkpoint of step 10 in {second.checkpoint_image} was made from other data")
    assert not second.checkpoints.exists()


async def test_a_newer_one_on_the_disk_is_kept(tmp_path: Path, locked_registry: DockerRegistry) -> None:
    await sent(settings(tmp_path / "one", locked_registry), 10, "run")
    second = settings(tmp_path / "two", locked_registry)
    checkpoint(second.checkpoints, 15, "run")
    await made(second).bring_checkpoint("run")
    assert [path.name for path in second.checkpoints.iterdir()] == ["checkpoint-15"]


async def test_what_was_damaged_before_it_was_sent_is_never_used(
    tmp_path: Path, locked_registry: DockerRegistry
) -> None:
    first = settings(tmp_path / "one", locked_registry)
    checkpoint(first.checkpoints, 10, "run")
    (first.checkpoints / "checkpoint-10" / "optimizer.pt").write_bytes(b"cut")
    secret = locked_registry.dockerconfigjson()

    async def login() -> CredentialSource:
        return DockerConfigs(secret)

    settings_of_host = RegistrySettings(plain_http_hosts={locked_registry.host})
    image = CheckpointImage(Reference.parse(first.checkpoint_image), login, settings_of_host)
    await image.store(first.checkpoints / "checkpoint-10", Mark(key="run", step=10))
    second = settings(tmp_path / "two", locked_registry)
    await made(second).bring_checkpoint("run")
    assert checkpoints.latest_whole(second.checkpoints, "run") is None


def finish(pod: Options) -> None:
    staging = pod.work / "staging"
    staging.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "training_report.json"):
        (staging / name).write_text(name)
    result.publish(staging, pod.output, "data", "request")


async def test_a_finished_adapter_takes_the_place_of_the_checkpoints(
    tmp_path: Path, locked_registry: DockerRegistry
) -> None:
    first = settings(tmp_path / "one", locked_registry)
    await sent(first, 10, "run")
    finish(first)
    assert await made(first).keep_result("data", "request") == first.checkpoint_image
    second = settings(tmp_path / "two", locked_registry)
    assert not await made(second).bring_result(request="another request")
    assert not await made(second).bring_result(key="other data", request="another request")
    assert not await made(second).bring_result(), "two without a name are not the same"
    assert await made(second).bring_result(request="request")
    assert result.finished(second.output, request="request") == result.finished(second.output, key="data")
    found = await made(second).bring_checkpoint("run")
    assert found.remark.startswith(f"The finished adapter in {second.checkpoint_image} was made from other data")
    assert not second.checkpoints.exists()
    third = settings(tmp_path / "three", locked_registry)
    assert await made(third).bring_result(key="data", request="a later request")
    assert result.finished(third.output, request="a later request"), "its next pod would fetch the data again"


async def test_without_the_right_to_read_the_training_goes_on_and_says_so(
    tmp_path: Path, locked_registry: DockerRegistry
) -> None:
    pod = settings(tmp_path / "one", locked_registry, password="wrong")
    found = await made(pod).bring_checkpoint("run")
    assert found.remark.startswith(f"Without checkpoints in {locked_registry.host}/team/adapter:v1-ckpt: ")
    finish(pod)
    assert await made(pod).keep_result("data", "request") == "", "nothing is said to be kept that is not"


async def test_a_registry_that_is_down_is_a_reason_for_a_new_pod(
    tmp_path: Path, locked_registry: DockerRegistry
) -> None:
    found = made(settings(tmp_path / "one", locked_registry))
    await locked_registry.stop()
    with pytest.raises(FatalError, match="cannot be read") as caught:
        await found.bring_checkpoint("run")
    assert caught.value.code is ExitCode.DATA_UNAVAILABLE


def test_marks_survive_the_way_through_annotations() -> None:
    for mark in (Mark(key="k", step=7, micro_limit=2), Mark(key="k"), Mark(key="k", request="r")):
        assert read_mark(mark_annotations(mark)) == mark
    assert read_mark({"sh.kaito.checkpoint.step": "seven"}) is None
    assert read_mark({"org.opencontainers.image.title": "x"}) is None


CHILD = """
import json, sys
from pathlib import Path
import msgspec
from tuner import checkpoints
from tuner.events import *
from tuner.job import Job
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
emit = Emitter(job.events)
folder = Path(job.checkpoints)
found = checkpoints.latest_whole(folder, job.key)
began = checkpoints.step_of(found)
micro = job.micro_limit or 8
emit(Started(total_steps=30, resumed_from=began, micro_batch=micro, accumulation=8 // micro, precision="f", packing="p",
             trainable_parameters=1))
if micro > 2:
    emit(Failed(code=71, message=f"out of memory with {micro} samples at a time"))
    sys.exit(71)
step = began + 10
(folder / f"checkpoint-{step}").mkdir(parents=True)
(folder / f"checkpoint-{step}" / "state.json").write_text(str(step))
checkpoints.seal(folder, step, job.key)
emit(Saved(step=step))
if step == 10:
    emit(Failed(code=70, message="the loss became nan"))
    sys.exit(70)
staging = Path(job.staging)
staging.mkdir(parents=True)
for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "training_report.json"):
    (staging / name).write_text(name)
emit(Finished(step=step))
"""


async def pod(folder: Path, registry: DockerRegistry, *more: str) -> tuple[Supervisor, Reporter, FatalError | None]:
    """One pod's supervisor with a child that speaks the protocol: memory for two samples, a crash after step 10."""
    program = folder.with_suffix(".py")
    program.write_text(CHILD)
    reporter = Reporter(None, folder.with_suffix(".log"))
    found = settings(folder, registry, *more)
    supervisor = Supervisor(
        found, reporter, keeper=made(found), launch=lambda _, job: [sys.executable, str(program), str(job)]
    )
    ended: FatalError | None = None
    try:
        await supervisor.execute()
    except* FatalError as failures:
        error = innermost(failures)
        assert isinstance(error, FatalError)
        ended = error
    return supervisor, reporter, ended


async def test_an_output_volume_that_is_full_is_named(tmp_path: Path, locked_registry: DockerRegistry) -> None:
    (tmp_path / "one" / "out").mkdir(parents=True)
    (tmp_path / "one" / "out" / ".adapter_model.safetensors.partial").symlink_to("/dev/full")
    await pod(tmp_path / "one", locked_registry)  # comes to step 10
    _, _, error = await pod(tmp_path / "one", locked_registry)
    assert error is not None
    assert (error.code, "has no room for the adapter: No space left on device" in str(error)) == (
        ExitCode.DISK_FULL,
        True,
    )


async def test_three_pods_finish_what_one_began(tmp_path: Path, locked_registry: DockerRegistry) -> None:
    first, reporter, error = await pod(tmp_path / "one", locked_registry)
    assert error is not None
    assert (error.code, str(error)) == (ExitCode.TRAINING_FAILED, "the loss became nan")
    words = first.figures.words()
    assert "2 x 4 samples a step" in words
    assert (
        words.count("memory ran out with 4 samples at a time; it goes on with at most 2, and the same 8 samples") == 1
    )
    assert reporter.report.tuning is not None

    second, reporter, error = await pod(tmp_path / "two", locked_registry, "--run", "uid/run")
    assert error is None
    assert reporter.report.state == "Done"
    assert reporter.report.tuning is not None
    assert reporter.report.tuning.checkpoint == f"{locked_registry.host}/team/adapter:v1-ckpt"
    assert second.figures.words().startswith("goes on after step 10, 30 steps, 2 x 4 samples a step")

    third, reporter, error = await pod(tmp_path / "three", locked_registry, "--run", "uid/run")
    assert (error, reporter.report.state) == (None, "Done")
    assert "an earlier pod finished the adapter" in reporter.report.message
    assert (tmp_path / "three" / "out" / "adapter_model.safetensors").read_text() == "adapter_model.safetensors"
    assert third.figures.words() == ""
    assert json.loads((tmp_path / "three" / "out" / result.MANIFEST).read_text())["files"]

    fourth, _, _ = await pod(tmp_path / "four", locked_registry, "--run", "uid/later")
    assert fourth.figures.words() == "", "the same Workspace, the same data: nothing but the push is left"

    other, _, error = await pod(tmp_path / "five", locked_registry, "--run", "new/run")
    assert error is not None, "it trains, and comes to step 10"
    assert other.figures.words().startswith("starts, 30 steps, 2 x 4 samples")
    assert (await made(settings(tmp_path / "six", locked_registry)).bring_checkpoint("another")).remark.startswith(
        f"The checkpoint of step 10 in {locked_registry.host}/team/adapter:v1-ckpt was made from other data"
    )


async def test_checkpoints_in_a_registry_of_a_private_authority(tls_registry: DockerRegistry, tmp_path: Path) -> None:
    def pod(name: str, environment: dict[str, str]) -> Options:
        folder = tmp_path / name
        arguments = ["--data", str(folder), "--output", str(folder / "out"), "--work", str(folder / "work")]
        arguments += ["--model", str(folder), "--checkpoint-image", f"{tls_registry.host}/team/adapter:v1-ckpt"]
        return options.parse(["run", *arguments], environment)

    trusting = {"KAITO_CA_BUNDLE": str(tls_registry.ca)}
    await sent(pod("first", trusting), 2, "run")
    second = pod("second", trusting)
    assert (await made(second).bring_checkpoint("run")).remark == ""
    assert checkpoints.latest_whole(second.checkpoints, "run") == second.checkpoints / "checkpoint-2"
    remark = (await made(pod("third", {})).bring_checkpoint("run")).remark
    assert "signed by an authority that is not public" in remark
