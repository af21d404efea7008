"""adapters.preflight: files on disk, judged before the engine sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaito_api.base_shapes import Base
from model_server.adapters import preflight
from model_server.adapters.preflight import AdapterRefusedError, read_base


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Path, adapter_maker: Callable[..., Path]) -> Path:
    return adapter_maker(tmp_path / "adapter", tiny_model, seed=1)


@pytest.fixture
def base(tiny_model: Path) -> Base:
    found = read_base(tiny_model, "phi-tiny")
    assert found is not None
    return found


def test_a_good_adapter(adapter: Path, base: Base) -> None:
    verdict = preflight.inspect(adapter, base, 16)
    assert (verdict.ok, verdict.rank) == (True, 8)


def config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def cut(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(5000)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (config(use_dora=True), "MethodUnsupported"),
        (config(r=64), "RankTooHigh"),
        (config(bias="all"), "MethodUnsupported"),
        (config(lora_alpha=None), "AdapterConfigInvalid"),
        (cut, "AdapterWeightsInvalid"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x02pickle"), "AdapterWeightsInvalid"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "AdapterWeightsInvalid"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "AdapterFileMissing"),
        (lambda f: (f / "adapter_config.json").unlink(), "AdapterFileMissing"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "AdapterConfigInvalid"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "AdapterConfigInvalid"),
        (lambda f: (f / "adapter_config.json").write_text('{"a":' * 100_000), "AdapterConfigInvalid"),
        (config(modules_to_save=["\ud800"]), "AdapterConfigInvalid"),
    ],
)
def test_refusals(adapter: Path, base: Base, damage: Callable[[Path], object], reason: str) -> None:
    damage(adapter)
    with pytest.raises(AdapterRefusedError) as caught:
        preflight.inspect(adapter, base, 16)
    assert caught.value.reason == reason


def test_an_adapter_of_another_base(
    tmp_path: Path, tiny_model: Path, base: Base, adapter_maker: Callable[..., Path]
) -> None:
    other = adapter_maker(tmp_path / "other", tiny_model, seed=1, hidden=64)
    with pytest.raises(AdapterRefusedError) as caught:
        preflight.inspect(other, base, 16)
    assert caught.value.reason == "WrongBaseModel"


def test_a_model_without_config_json_is_judged_less(tmp_path: Path) -> None:
    assert read_base(tmp_path, "x") is None
