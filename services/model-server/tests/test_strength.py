"""Strength in the engine equals PEFT's own scaling: prompt logprobs in float32, over the same base."""

from __future__ import annotations

import http.client
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model_server.adapters.store import scaled

if TYPE_CHECKING:
    from conftest import ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(500)]

STRENGTHS = ("0", "0.25", "0.5", "1")
PROMPT = "The quick brown fox jumps over the lazy dog"
TOP = 20


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with float32 weights."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("float32") / "model"
    shutil.copytree(tiny_model, folder)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory, adapter_maker: Callable[..., Path]) -> Path:
    """Mounted folders, one for each strength, scaled as the store scales them."""
    folder = tmp_path_factory.mktemp("adapters")
    source = adapter_maker(folder / "s1", base, seed=11, size=0.1)
    for strength in STRENGTHS[:-1]:
        target = folder / f"s{strength}"
        shutil.copytree(source, target)
        config = json.loads((source / "adapter_config.json").read_text())
        (target / "adapter_config.json").write_text(json.dumps(scaled(config, float(strength))))
    return folder


@pytest.fixture(scope="module")
def float32_server(
    base: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory, server_factory: Any
) -> Iterator[ServerProcess]:
    """Adapters named at the start, as KAITO mounts them: ready when the pod is."""
    factory = server_factory(tmp_path_factory.mktemp("float32-server"))
    arguments = ("--enable-lora", "--max-loras=4", "--max-model-len=512", "--max-logprobs=20", "--dtype=float32")
    running = factory.start(base, "--adapters-dir", str(adapters), engine=arguments)
    running.wait_ready()
    yield running
    factory.close()


def served_logprobs(server: ServerProcess, model: str) -> list[dict[int, float]]:
    """Top-20 logprobs of each prompt token, by token."""
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": TOP,
        "add_special_tokens": False,
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    positions = answer["choices"][0]["prompt_logprobs"]
    return [{int(token): entry["logprob"] for token, entry in place.items()} for place in positions[1:]]


@contextmanager
def generating(server: ServerProcess, model: str) -> Iterator[threading.Event]:
    """Let a request on `model` run, from its first token on. The event is set when it ends."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.readline()
    done = threading.Event()

    def read() -> None:
        answer.read()
        done.set()

    reader = threading.Thread(target=read)
    reader.start()
    yield done
    reader.join(60)
    connection.close()


def peft_logprobs(base: Path, adapter: Path, strength: float) -> Any:
    """The same from PEFT, its scaling multiplied by the strength."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    tuned = PeftModel.from_pretrained(model, str(adapter))
    for module in tuned.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: value * strength for name, value in module.scaling.items()}
    tokens = AutoTokenizer.from_pretrained(base)(PROMPT, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return torch.log_softmax(tuned(**tokens).logits[0].float(), dim=-1)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_engine_computes_what_peft_computes(
    float32_server: ServerProcess, base: Path, adapters: Path, strength: str
) -> None:
    served = served_logprobs(float32_server, f"s{strength}")
    expected = peft_logprobs(base, adapters / "s1", float(strength))
    assert len(served) == len(expected) - 1 > 5
    worst = max(
        abs(value - float(expected[position][token]))
        for position, place in enumerate(served)
        for token, value in place.items()
        if math.isfinite(value)
    )
    assert worst < 1e-4


def test_zero_is_the_base_and_the_others_are_not(float32_server: ServerProcess) -> None:
    plain = served_logprobs(float32_server, "phi-tiny")
    assert served_logprobs(float32_server, "s0") == plain
    assert served_logprobs(float32_server, "s0.25") != plain


def test_the_base_stays_itself_beside_adapters_that_fill_every_slot(float32_server: ServerProcess) -> None:
    """vLLM's own products for a CPU give such a request the adapter of the last slot, and end at its prompt logprobs."""
    plain = served_logprobs(float32_server, "phi-tiny")
    beside = 0
    for name in (f"s{strength}" for strength in STRENGTHS[1:]):
        with generating(float32_server, name) as done:
            places = served_logprobs(float32_server, "phi-tiny")
            beside += not done.is_set()
        worst = max(
            abs(value - place[token])
            for place, found in zip(plain, places, strict=True)
            for token, value in found.items()
            if token in place and math.isfinite(value)
        )
        assert worst < 1e-4
    assert beside
