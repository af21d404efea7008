"""vLLM alone, nothing of ours: what it takes to load an adapter that lies on the disk, and to give the first token from it.

    python benchmarks/_plain_engine.py ADAPTER ROUNDS -- <vLLM's arguments>

Prints one JSON object: seconds of each round by what was done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = "w2"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
STRENGTHS = {"whole": 1.0, "scaled": 0.5}
"""As it was trained (here alpha equals the rank: nothing to multiply), and at another strength."""


def versions(adapter: Path, folder: Path, strength: float, rounds: int) -> list[Path]:
    """Lay out folders that the engine has not seen: the weights linked, alpha times the strength."""
    made = []
    config = json.loads((adapter / CONFIG).read_text())
    config["lora_alpha"] *= strength
    for number in range(rounds):
        target = folder / f"s{strength:g}-{number}"
        target.mkdir()
        (target / CONFIG).write_text(json.dumps(config))
        os.link(adapter / WEIGHTS, target / WEIGHTS)
        made.append(target)
    return made


async def measure(engine: Any, adapter: Path, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Load, ask once and remove, one version after another."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    one_token = SamplingParams(max_tokens=1, temperature=0)

    async def ask(identity: str, lora: LoRARequest | None) -> float:
        begun = time.perf_counter()
        async for _ in engine.generate(PROMPT, one_token, identity, lora_request=lora):
            pass
        return time.perf_counter() - begun

    taken = {"base": [await ask(f"base-{number}", None) for number in range(rounds + 1)][1:]}
    identity = 0
    for kind, strength in STRENGTHS.items():
        loads, firsts = taken.setdefault(f"load {kind}", []), taken.setdefault(f"first {kind}", [])
        for target in versions(adapter, folder, strength, rounds):
            identity += 1
            lora = LoRARequest(target.name, identity, str(target))
            begun = time.perf_counter()
            await engine.add_lora(lora)
            if identity not in await engine.list_loras():
                raise RuntimeError(f"{target} is not loaded")
            loads.append(time.perf_counter() - begun)
            firsts.append(await ask(target.name, lora))
            await engine.remove_lora(identity)
    return taken


async def run(adapter: Path, rounds: int, arguments: list[str]) -> dict[str, list[float]]:
    """Start the engine, measure, end it."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    namespace = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(arguments)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(namespace))
    try:
        with tempfile.TemporaryDirectory(dir=adapter.parent) as folder:
            return await measure(engine, adapter, rounds, Path(folder))
    finally:
        engine.shutdown()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]))) + "\n")
