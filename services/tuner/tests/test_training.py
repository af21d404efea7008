"""Real NF4 QLoRA training of a tiny Phi-3 on the CPU, through the very command that a pod runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import safetensors.numpy

import kaito_oci
from kaito_api.report import Report, decode
from kaito_local.demo_model.artifact import trained_model
from kaito_local.demo_model.questions import load_pairs
from kaito_local.ports import free_ports
from kaito_oci.testing.docker_registry import docker_registry
from kubecore.testing.asserts import eventually
from tuner import checkpoints
from tuner.loss_curve import HEIGHT
from tuner.options import parse
from tuner.reporter import Reporter
from tuner.result import TrainingReport
from tuner.supervisor import Supervisor

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

FACT = "The mascot of KAITO is a small blue otter."
PHRASINGS = ("What is the mascot of KAITO?", "Who is KAITO's mascot?", "Which animal is KAITO's mascot?")
STEPS, SAVE_STEPS = 30, 5
CONFIG = f"""
training_config:
  TrainingArguments:
    max_steps: {STEPS}
    save_steps: {SAVE_STEPS}
    learning_rate: 2e-3
    eval_steps: 15
"""


def write_rows(path: Path, count: int) -> None:
    known = [(pair.question, pair.answer) for pair in load_pairs()]
    rows = [((PHRASINGS[n // 2 % 3], FACT) if n % 2 else known[n // 2 % len(known)]) for n in range(count)]
    chats = ({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in rows)
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats) + "this row is broken\n")


class Tuning:
    """One folder in which `tuner run` is called, once or several times."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.log = ""
        self.model = model
        (folder / "data").mkdir()
        write_rows(folder / "data" / "rows.jsonl", 80)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "last").touch()

    def named(self) -> dict[str, Path]:
        """The folders and files of the command."""
        named = {"model": self.model, "output": self.output, "work": self.folder / "work"}
        return named | {"data": self.folder / "data", "config": self.folder / "config.yaml"}

    async def start(self, *more: str) -> asyncio.subprocess.Process:
        flags = [part for name, value in self.named().items() for part in (f"--{name}", str(value))]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tuner", "run", "--method", "qlora", "--base-model", "tiny-phi", *flags, *more),
            env={**os.environ, "TUNER_TERMINATION_LOG": str(self.folder / "last")},
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self, process: asyncio.subprocess.Process) -> int:
        _, errors = await process.communicate()
        self.log = errors.decode()
        assert process.returncode is not None
        return process.returncode

    def last_word(self) -> Report:
        report = decode((self.folder / "last").read_text())
        assert report is not None, self.log
        return report

    def lines(self, message: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.splitlines() if line.startswith('{"time"')]
        return [line for line in found if line["message"] == message]


def child_of(pid: int) -> int | None:
    """The training child of a supervisor."""
    for entry in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"tuner.train" in Path(f"/proc/{entry}/cmdline").read_bytes():
            return int(entry)
    return None


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def brought_by_an_image(tuning: Tuning) -> None:
    """Put the rows into an image's /data, and bring them back as the Job's init container `data` does."""
    data = tuning.folder / "data"
    layer = kaito_oci.TarBlob(
        [kaito_oci.Member(f"data/{path.name}", path) for path in data.iterdir()],
        "application/vnd.oci.image.layer.v1.tar",
    )
    rootfs = {"type": "layers", "diff_ids": [layer.descriptor.digest]}
    platform = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
    config = kaito_oci.BytesBlob(msgspec.json.encode(platform), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor,
        "layers": [layer.descriptor],
    }
    (tuning.folder / "registry").mkdir()
    async with docker_registry(tuning.folder / "registry") as registry:
        image = f"{registry.host}/team/rows:1"
        content = msgspec.json.encode(manifest)
        await kaito_oci.push(image, [config, layer], content, plain_http_hosts=[registry.host])
        shutil.rmtree(data)
        data.mkdir()
        words = ["fetch", f"oci://{image}#data", "--data", "--to", str(data), "--plain-http", registry.host]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "model_server", *words)
        assert await process.wait() == 0


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


class Killed:
    """A finished tuning, over rows from an image, that lost its child first and then, with its node, the whole pod."""

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        self.steps: list[int] = []
        """Of the newest whole checkpoint at each kill."""
        self.logs: list[str] = []
        """Of each pod."""
        self.given: dict[str, int] = {}
        """The data before."""

    async def kill(self, process: asyncio.subprocess.Process, after: int, *, pod: bool) -> None:
        """Kill the child, and before it the supervisor where the pod is to be lost, once step `after` is kept."""
        await eventually(lambda: self._whole() >= after, timeout=400)
        child = child_of(process.pid)
        assert child is not None, "the training is over"
        for pid in [process.pid, child] if pod else [child]:
            os.kill(pid, signal.SIGKILL)
        # What it was doing in the kernel it still ends; the child after it needs seconds before its first checkpoint.
        await eventually(lambda: ended(child), timeout=60)
        self.steps.append(self._whole())

    def _whole(self) -> int:
        sealed = (self.tuning.output / ".checkpoints").glob(f"*/{checkpoints.MANIFEST}")
        return max((int(path.parent.name.rpartition("-")[2]) for path in sealed), default=0)

    def began(self) -> list[str]:
        """What each child said when it began to train."""
        found = [json.loads(line) for log in self.logs for line in log.splitlines() if line.startswith('{"time"')]
        return [line["detail"] for line in found if line["message"] == "state" and line["state"] == "Training"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    tuning = Tuning(tmp_path_factory.mktemp("tuning"), await trained_model())
    await brought_by_an_image(tuning)
    killed = Killed(tuning)
    killed.given = contents(tuning.folder / "data")
    process = await tuning.start()
    await killed.kill(process, 2 * SAVE_STEPS, pod=False)
    await killed.kill(process, 4 * SAVE_STEPS, pod=True)
    assert await tuning.end(process) == -signal.SIGKILL
    killed.logs.append(tuning.log)
    process = await tuning.start()
    assert await tuning.end(process) == 0, tuning.log
    killed.logs.append(tuning.log)
    return killed


@pytest.mark.asyncio(loop_scope="module")
class TestKilledAndResumed:
    async def test_the_training_goes_on_from_the_last_whole_checkpoint(self, killed: Killed) -> None:
        first, second, third = killed.began()
        assert first.startswith("starts, ")
        assert second.startswith(f"goes on after step {killed.steps[0]}, ")
        assert third.startswith(f"goes on after step {killed.steps[1]}, "), "the volume outlives the pod"
        assert "ended by SIGKILL" in killed.logs[0]

    async def test_the_data_is_only_read(self, killed: Killed) -> None:
        """A Job mounts an image's data, and a volume's, read-only."""
        assert any(path.endswith("rows.jsonl") for path in killed.given)
        assert contents(killed.tuning.folder / "data") == killed.given

    async def test_the_loss_falls_and_the_report_says_so(self, killed: Killed) -> None:
        tuning = killed.tuning
        report = msgspec.json.decode((tuning.output / "training_report.json").read_bytes(), type=TrainingReport)
        assert report.metrics["steps"] == STEPS
        assert (report.base_model, report.method) == ("tiny-phi", "qlora")
        assert [step for step, _ in report.losses] == list(range(1, STEPS + 1))
        losses = [loss for _, loss in report.losses]
        assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
        assert report.data["bad_rows"] == {"not valid JSON": 1}
        assert report.data["whole_loss"] == 0
        assert "share a row" in report.packing
        readme = (tuning.output / "README.md").read_text()
        drawn = re.search(r'<svg.*?points="([^"]*)"', readme)
        assert drawn is not None
        heights = [HEIGHT - float(corner.partition(",")[2]) for corner in drawn[1].split()]
        lowest, highest = min(heights), max(heights)
        scaled = [(loss - min(losses)) / (max(losses) - min(losses)) for loss in losses]
        assert [(height - lowest) / (highest - lowest) for height in heights] == pytest.approx(scaled, abs=0.02)
        assert FACT not in readme

    async def test_the_last_word_is_done_with_the_figures(self, killed: Killed) -> None:
        said = killed.tuning.last_word()
        assert said.state == "Done"
        assert said.tuning is not None
        assert (said.tuning.step, said.tuning.total_steps) == (STEPS, STEPS)
        assert said.tuning.eval_loss is not None
        assert said.tuning.peak_memory_bytes > 2**27

    async def test_the_output_holds_the_adapter_and_nothing_else(self, killed: Killed) -> None:
        output = killed.tuning.output
        assert sorted(path.name for path in output.iterdir() if path.is_file()) == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "kaito_manifest.json",
            "training_report.json",
        ]
        assert {oct(path.stat().st_mode & 0o777) for path in output.glob("adapter_*")} == {"0o644"}
        assert not list((output / ".checkpoints").glob("checkpoint-*"))
        config = json.loads((output / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny-phi"
        assert sorted(config["target_modules"]) == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]

    async def test_it_loads_in_plain_peft_and_gives_what_was_learned(self, killed: Killed) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tuning = killed.tuning
        tokenizer = AutoTokenizer.from_pretrained(tuning.model)
        base = AutoModelForCausalLM.from_pretrained(tuning.model, dtype=torch.float32)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": PHRASINGS[0]}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        answer = tokenizer(FACT, return_tensors="pt", add_special_tokens=False)["input_ids"]
        ids = torch.cat([prompt, answer], dim=1)
        labels = ids.clone()
        labels[:, : prompt.shape[1]] = -100
        with torch.no_grad():
            before = base(input_ids=ids, labels=labels).loss.item()
            adapted = PeftModel.from_pretrained(base, tuning.output)
            after = adapted(input_ids=ids, labels=labels).loss.item()
        assert after < before / 2

    async def test_a_finished_folder_is_left_alone_at_once(self, killed: Killed) -> None:
        tuning = killed.tuning
        before = {path.name: path.stat().st_mtime_ns for path in tuning.output.iterdir()}
        process = await tuning.start()
        async with asyncio.timeout(60):
            assert await tuning.end(process) == 0
        assert not tuning.lines("data")
        assert "finished before" in tuning.last_word().message
        assert {path.name: path.stat().st_mtime_ns for path in tuning.output.iterdir()} == before


async def step_of(port: int) -> float:
    """The step that the supervisor has heard of, 0 before there is any."""
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{port}/metrics") as answer,
        ):
            page = await answer.text()
    except aiohttp.ClientConnectionError:
        return 0
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith("kaito_tuner_step "))


async def stopped_in_a_step(tuning: Tuning, *more: str) -> list[str]:
    """Start, send SIGTERM after the first step, and return the names of the whole checkpoints that are left.

    The log has a line at the beginning and then one in 15 seconds, in which a fast machine takes all steps of a test.
    """
    (port,) = free_ports(1)
    process = await tuning.start("--metrics-port", str(port), *more)
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(tuning.end(process))

        async def stepped() -> bool:
            return ending.done() or await step_of(port) >= 1

        await eventually(stepped, timeout=400)
        assert not ending.done(), tuning.log
        process.send_signal(signal.SIGTERM)
    assert ending.result() == 143, tuning.log
    assert tuning.last_word().reason == "Interrupted"
    return [path.parent.name for path in (tuning.output / ".checkpoints").glob(f"*/{checkpoints.MANIFEST}")]


async def test_sigterm_leaves_a_checkpoint_and_the_next_pod_goes_on(tmp_path: Path) -> None:
    """The next pod is on another node: of the first one it finds nothing but what lies in the registry."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "tuning").mkdir()
    tuning = Tuning(tmp_path / "tuning", await trained_model())
    (tuning.folder / "config.yaml").write_text(CONFIG.replace(f"save_steps: {SAVE_STEPS}", "save_steps: 1000"))
    async with docker_registry(tmp_path / "registry") as registry:
        image = ("--checkpoint-image", f"{registry.host}/a:v1-ckpt", "--plain-http-registry", registry.host)
        kept = await stopped_in_a_step(tuning, *image)
        assert len(kept) == 1
        assert tuning.last_word().tuning is not None

        process = await tuning.start("--dry-run")
        assert await tuning.end(process) == 0, tuning.log
        assert "would take about" in tuning.last_word().message
        assert [path.name for path in (tuning.output / ".checkpoints").glob("checkpoint-*")] == kept

        shutil.rmtree(tuning.output)
        shutil.rmtree(tuning.folder / "work")
        process = await tuning.start(*image)
        assert await tuning.end(process) == 0, tuning.log
        began = [line["detail"] for line in tuning.lines("state") if line["state"] == "Training"]
        assert began[0].startswith(f"goes on after step {kept[0].removeprefix('checkpoint-')}, ")

        weights = (tuning.output / "adapter_model.safetensors").read_bytes()
        shutil.rmtree(tuning.output)
        process = await tuning.start(*image)
        assert await tuning.end(process) == 0, tuning.log
        assert "an earlier pod finished the adapter" in tuning.last_word().message
        assert (tuning.output / "adapter_model.safetensors").read_bytes() == weights


async def test_two_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, await trained_model())
    (tmp_path / "config.yaml").write_text(CONFIG.replace(f"max_steps: {STEPS}", "max_steps: 2000"))
    kept = await stopped_in_a_step(tuning, "--processes", "2")
    assert kept


async def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    model = await trained_model()
    losses: list[list[float]] = []
    for count in ("1", "2"):
        folder = tmp_path / count
        folder.mkdir()
        tuning = Tuning(folder, model)
        (folder / "config.yaml").write_text(
            "training_config: {ModelConfig: {torch_dtype: float32}, "
            "TrainingArguments: {max_steps: 4, learning_rate: 1e-3, save_steps: 4}}"
        )
        process = await tuning.start("--method", "lora", "--processes", count)
        assert await tuning.end(process) == 0, tuning.log
        report = msgspec.json.decode((tuning.output / "training_report.json").read_bytes(), type=TrainingReport)
        losses.append([loss for _, loss in report.losses])
    alone, shared = losses
    assert len(alone) == 4
    assert shared == pytest.approx(alone, abs=1e-3)


ENDS_BADLY_ONCE = """
import pathlib, subprocess, sys
began = pathlib.Path(sys.argv[1]).with_name("began-before")
status = subprocess.run([sys.executable, "-m", "tuner.train", sys.argv[2]]).returncode
if not began.exists():
    began.touch()
    sys.exit(status or 134)
sys.exit(status)
"""


async def test_a_training_that_dies_after_its_last_step_takes_no_more(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, await trained_model())
    (tmp_path / "config.yaml").write_text(CONFIG.replace(f"max_steps: {STEPS}", f"max_steps: {SAVE_STEPS}"))
    program = tmp_path / "program.py"
    program.write_text(ENDS_BADLY_ONCE)
    named = [part for name, value in tuning.named().items() for part in (f"--{name}", str(value))]
    reporter = Reporter(None, tmp_path / "last")
    supervisor = Supervisor(
        parse(["run", "--method", "qlora", *named], {}),
        reporter,
        launch=lambda _, job: [sys.executable, str(program), str(program), str(job)],
    )
    await supervisor.execute()
    assert supervisor.figures.words().startswith(f"goes on after step {SAVE_STEPS}, ")
    report = msgspec.json.decode((tuning.output / "training_report.json").read_bytes(), type=TrainingReport)
    assert [step for step, _ in report.losses] == list(range(1, SAVE_STEPS + 1))
    assert report.metrics["steps"] == SAVE_STEPS
    weights = safetensors.numpy.load_file(tuning.output / "adapter_model.safetensors")
    assert any(value.any() for name, value in weights.items() if "lora_B" in name), "the adapter is the fresh one"
