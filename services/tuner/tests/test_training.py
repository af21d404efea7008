"""Real NF4 QLoRA training of a tiny Phi-3 on the CPU, through the very command that a pod runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import safetensors.numpy

from kaito_api.report import Report, decode
from kaito_local.demo_model.artifact import trained_model
from kaito_local.demo_model.questions import load_pairs
from kaito_oci.testing.docker_registry import docker_registry
from kubecore.testing.asserts import eventually
from tuner import checkpoints
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuning, int]:
    """A finished tuning whose child was killed half-way, and the step of the checkpoint that it had then."""
    tuning = Tuning(tmp_path_factory.mktemp("tuning"), await trained_model())
    process = await tuning.start()
    manifest = tuning.output / ".checkpoints" / f"checkpoint-{2 * SAVE_STEPS}" / checkpoints.MANIFEST
    await eventually(manifest.exists, timeout=400)
    child = child_of(process.pid)
    assert child is not None
    os.kill(child, signal.SIGKILL)
    folder = tuning.output / ".checkpoints"
    whole = max(int(path.parent.name.rpartition("-")[2]) for path in folder.glob(f"*/{checkpoints.MANIFEST}"))
    assert await tuning.end(process) == 0, tuning.log
    return tuning, whole


@pytest.mark.asyncio(loop_scope="module")
class TestKilledAndResumed:
    async def test_the_training_goes_on_from_the_last_whole_checkpoint(self, killed: tuple[Tuning, int]) -> None:
        tuning, whole = killed
        began = [line["detail"] for line in tuning.lines("state") if line["state"] == "Training"]
        assert len(began) == 2
        assert began[0].startswith("starts, ")
        assert began[1].startswith(f"goes on after step {whole}, ")
        assert any("ended by SIGKILL" in line["detail"] for line in tuning.lines("note"))

    async def test_the_loss_falls_and_the_report_says_so(self, killed: tuple[Tuning, int]) -> None:
        tuning, _ = killed
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
        assert "<svg" in readme
        assert FACT not in readme

    async def test_the_last_word_is_done_with_the_figures(self, killed: tuple[Tuning, int]) -> None:
        said = killed[0].last_word()
        assert said.state == "Done"
        assert said.tuning is not None
        assert (said.tuning.step, said.tuning.total_steps) == (STEPS, STEPS)
        assert said.tuning.eval_loss is not None
        assert said.tuning.peak_memory_bytes > 2**27

    async def test_the_output_holds_the_adapter_and_nothing_else(self, killed: tuple[Tuning, int]) -> None:
        output = killed[0].output
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

    async def test_it_loads_in_plain_peft_and_gives_what_was_learned(self, killed: tuple[Tuning, int]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tuning, _ = killed
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

    async def test_a_finished_folder_is_left_alone_at_once(self, killed: tuple[Tuning, int]) -> None:
        tuning, _ = killed
        before = {path.name: path.stat().st_mtime_ns for path in tuning.output.iterdir()}
        process = await tuning.start()
        async with asyncio.timeout(60):
            assert await tuning.end(process) == 0
        assert not tuning.lines("data")
        assert "finished before" in tuning.last_word().message
        assert {path.name: path.stat().st_mtime_ns for path in tuning.output.iterdir()} == before


async def stopped_in_a_step(tuning: Tuning, *more: str) -> list[str]:
    """Start, send SIGTERM while it trains, and return the names of the whole checkpoints that are left."""
    process = await tuning.start(*more)
    # The child tells the supervisor of its first step through the last word only at the end, so wait for the log.
    assert process.stderr is not None
    head = b""
    async with asyncio.timeout(400):
        while b'"state":"Training"' not in head:
            head += await process.stderr.readline()
        while b'"step":' not in head:
            head += await process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert await tuning.end(process) == 143, tuning.log
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
