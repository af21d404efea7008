"""The two sides of the tuning benchmark: our training child in this process, and plain trl scripts. Both train the same chats
with the same model, LoRA on all linear layers and the same samples a step, and write one checkpoint after the last step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 8
RANK = 16


@dataclass(frozen=True)
class Task:
    """What is trained."""

    model: Path
    data: Path
    method: str
    steps: int
    """Of BATCH samples; a side with smaller batches takes more of them."""


@dataclass(frozen=True)
class Speed:
    """One measurement of the time between the first step and the end of the last one's checkpoint."""

    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Supervisor(threading.Thread):
    """Reads the events as a supervisor does, so that what telling them costs is in the measurement."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(address)
        self._server.listen(1)
        self.began = self.ended = 0.0

    def run(self) -> None:
        from tuner import events
        from tuner.figures import Figures

        connection, _ = self._server.accept()
        figures = Figures()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                event = events.decode(line)
                now = time.monotonic()
                if isinstance(event, events.Started):
                    self.began = now
                elif isinstance(event, events.Saved):
                    self.ended = now
                if event is not None:
                    figures.take(event)


def ours(task: Task, settings: dict[str, Any]) -> Speed:
    """Run the tuner's child here. `settings` are TrainingArguments beside its defaults."""
    from tuner.config.recipe import Recipe, parse
    from tuner.data.fetch import Fetched
    from tuner.events import Emitter
    from tuner.job import Job
    from tuner.train import Run

    steps = task.steps * BATCH // settings.get("per_device_train_batch_size", BATCH)
    sections = {
        "TrainingArguments": {"max_steps": steps, "save_steps": steps, **settings},
        "DatasetConfig": {"train_test_split": 1},
    }
    recipe = parse(json.dumps({"training_config": sections}), task.method)
    assert isinstance(recipe, Recipe), recipe
    digest = hashlib.sha256(task.data.read_bytes()).hexdigest()
    file = Fetched(path=str(task.data), shown=task.data.name, size=task.data.stat().st_size, sha256=digest)
    with tempfile.TemporaryDirectory(prefix="tuning-ours-") as name:
        folder = Path(name)
        reader = Supervisor(str(folder / "events"))
        reader.start()
        run = Run(
            Job(
                recipe=recipe,
                model=str(task.model),
                base_model="bench",
                files=(file,),
                prepared=str(folder / "prepared"),
                checkpoints=str(folder / "checkpoints"),
                staging=str(folder / "staging"),
                key="k",
            ),
            Emitter(str(folder / "events")),
        )
        run.execute()
        tokens = trained_tokens(run.trainer)
        del run
        reader.join(60)
    return Speed(reader.ended - reader.began, tokens)


def trl(task: Task, *, batch: int, padding_free: bool, recompute: bool = False, precision: str = "bfloat16") -> Speed:
    """A plain script on trl: nothing logged that need not be.

    `recompute` is trl's own default: activations are computed once more in the backward pass, to save memory. `precision` is
    that of the model and the computation; bfloat16 is what trl takes, and KAITO's template too.
    """
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from tuner.model import keep_differentiable

    dtype = getattr(torch, precision)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    quantisation = {"quantization_config": quantised} if task.method == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=dtype, **quantisation)
    keep_differentiable(model)
    steps = task.steps * BATCH // batch
    folder = tempfile.mkdtemp(prefix="tuning-trl-")
    try:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=batch,
                padding_free=padding_free,
                train_sampling_strategy="random" if padding_free or batch == 1 else "group_by_length",
                learning_rate=2e-4,
                lr_scheduler_type="cosine",
                warmup_steps=0.03,
                bf16=dtype is torch.bfloat16,
                use_cpu=True,
                gradient_checkpointing=recompute,
                save_strategy="steps",
                save_steps=steps,
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
                max_length=None if padding_free else 4096,  # no chat of the set is longer
            ),
            train_dataset=load_dataset("json", data_files=str(task.data), split="train", cache_dir=f"{folder}/data"),
            processing_class=AutoTokenizer.from_pretrained(task.model),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.remove_callback(PrinterCallback)
        began = time.monotonic()
        trainer.train()
        return Speed(time.monotonic() - began, trained_tokens(trainer))
    finally:
        shutil.rmtree(folder)


def trained_tokens(trainer: Any) -> int:
    """Tokens that went through the model, padding left out, as trl counts them."""
    return int(trainer._total_train_tokens)
