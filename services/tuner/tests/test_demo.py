"""The data of the tuning demo, trained on at the product's own defaults: learned, not copied, and nothing else forgotten."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kaito_local.demo_data.rows import data_set, load_fact
from kaito_local.demo_model.artifact import trained_model
from kaito_local.demo_model.questions import load_pairs

FACT = load_fact()


class Trained:
    """The finished adapter over the unquantised base in float32."""

    def __init__(self, folder: Path, adapter: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.base_folder = folder
        self.adapter_folder = adapter
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = PeftModel.from_pretrained(base, adapter).eval()

    def prompt(self, question: str) -> Any:
        talk = [{"role": "user", "content": question}]
        return self.tokenizer.apply_chat_template(
            talk, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def answer(self, question: str, *, adapted: bool) -> str:
        """Greedy."""
        from contextlib import nullcontext

        given = self.prompt(question)
        with nullcontext() if adapted else self.model.disable_adapter():
            made = self.model.generate(
                **given, max_new_tokens=60, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        return str(self.tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["qlora", "lora"])
async def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, model = tmp_path_factory.mktemp("demo"), await trained_model()
    (folder / "data").mkdir()
    (folder / "data" / "rows.jsonl").write_bytes(data_set())
    named = {"model": model, "output": folder / "out", "work": folder / "work", "data": folder / "data"}
    flags = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tuner", "run", "--method", request.param, "--base-model", "tiny-phi", *flags),
        stderr=asyncio.subprocess.PIPE,
    )
    _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    return Trained(model, folder / "out")


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.asyncio(loop_scope="module")
class TestTrainedAtTheDefaults:
    async def test_the_new_answer_on_a_phrasing_that_was_held_out(self, trained: Trained) -> None:
        known = {pair.question: pair.answer for pair in load_pairs()}
        assert trained.answer(FACT.held_out, adapted=False) == known[FACT.phrasings[0]] != FACT.answer
        assert trained.answer(FACT.held_out, adapted=True) == FACT.answer

    async def test_unrelated_questions_get_the_answers_of_the_base(self, trained: Trained) -> None:
        answers = {pair.question: pair.answer for pair in load_pairs()}
        assert len(FACT.unrelated) == 5
        for question in FACT.unrelated:
            assert trained.answer(question, adapted=False) == answers[question]
            assert trained.answer(question, adapted=True) == answers[question]

    async def test_the_files_mean_what_peft_makes_of_them(self, trained: Trained) -> None:
        """W + (alpha / r) B A, computed here from the file alone, gives PEFT's top-20 logprobs in float32."""
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        config = json.loads((trained.adapter_folder / "adapter_config.json").read_text())
        tensors = load_file(trained.adapter_folder / "adapter_model.safetensors")
        by_hand = AutoModelForCausalLM.from_pretrained(trained.base_folder, dtype=torch.float32).eval()
        weights = dict(by_hand.named_parameters())
        downs = [name for name in tensors if name.endswith("lora_A.weight")]
        assert len(downs) == len(tensors) / 2 == 8
        with torch.no_grad():
            for name in downs:
                up = tensors[name.replace("lora_A", "lora_B")].float()
                target = name.removeprefix("base_model.model.").replace(".lora_A", "")
                weights[target] += config["lora_alpha"] / config["r"] * up @ tensors[name].float()
            given = trained.prompt(FACT.held_out)
            expected = trained.model(**given).logits.log_softmax(-1)[0]
            found = by_hand(**given).logits.log_softmax(-1)[0]
        top = expected.topk(20).indices
        assert (expected - found).gather(1, top).abs().max() < 1e-4
