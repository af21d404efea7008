import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_packager.arguments import parse
from adapter_packager.cli import main

MakeAdapter = Callable[..., Path]
Run = Callable[..., Awaitable[tuple[int, str, str]]]

CONFIG: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": "/mnt/weights/phi",
    "bias": "none",
    "inference_mode": True,
    "lora_alpha": 16,
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "r": 8,
    "rank_pattern": {},
    "target_modules": ["qkv_proj", "o_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}


def safetensors(rank: int = 8) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for layer in (0, 1):
        for name, fan_in, fan_out in (("qkv_proj", 64, 128), ("o_proj", 64, 64)):
            for side, shape in (("A", [rank, fan_in]), ("B", [fan_out, rank])):
                end = offset + shape[0] * shape[1] * 2
                tensor = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{side}.weight"
                header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
                offset = end
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(position % 251 for position in range(offset))


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Write an adapter folder as PEFT would, with changes to its config; more files by name."""

    def make(name: str = "adapter", *, config: dict[str, Any] | None = None, **files: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG | (config or {})))
        (folder / "adapter_model.safetensors").write_bytes(safetensors())
        (folder / "README.md").write_text("an adapter")
        for file, content in files.items():
            (folder / file.replace("__", ".")).write_bytes(content)
        return folder

    return make


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Callable[[str], Path]:
    """Write a kubeconfig for an apiserver at a URL that asks for no login."""

    def write(server: str) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process (a start costs a second): exit code, stdout, stderr."""

    async def in_process(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        try:
            code = await asyncio.wait_for(main(parse([*map(str, arguments)])), 50)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return in_process
