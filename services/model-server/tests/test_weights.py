"""weights.inspect: every way in which a folder is not a model."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from model_server import weights
from model_server.exits import ExitCode, FatalError


def safetensors(size: int = 16) -> bytes:
    header = json.dumps({"t": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Phi3ForCausalLM"], "torch_dtype": "bfloat16"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


def test_a_whole_model(model: Path) -> None:
    facts = weights.inspect(model, "Phi3ForCausalLM")
    assert (facts.architecture, facts.dtype) == ("Phi3ForCausalLM", "bfloat16")
    assert facts.size_bytes == len(safetensors())


def test_shards_are_those_that_the_index_names(model: Path) -> None:
    (model / "a.safetensors").write_bytes(safetensors(5))
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors"}}')
    assert weights.inspect(model).size_bytes == len(safetensors(5))


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda m: (m / "model.safetensors").write_bytes(safetensors()[:-1]), 67, "truncated: "),
        (lambda m: (m / "model.safetensors").write_bytes(safetensors() + b"x"), 67, "its header describes"),
        (lambda m: (m / "model.safetensors").write_bytes(safetensors()[:20]), 67, "truncated inside its header"),
        (lambda m: (m / "model.safetensors").write_bytes(b"<html>not found</html>"), 67, "does not start with"),
        (lambda m: (m / "model.safetensors").write_bytes(b""), 67, "does not start with"),
        (lambda m: (m / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"null"), 67, "its header is not"),
        (lambda m: (m / "model.safetensors").unlink(), 66, "no \\*.safetensors"),
        (lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"), 67, "pickle"),
        (lambda m: (m / "config.json").unlink(), 66, "no config.json"),
        (lambda m: (m / "config.json").write_text("{"), 67, "not valid JSON"),
        (lambda m: (m / "config.json").write_text("[]"), 67, "not a JSON object"),
        (lambda m: (m / "config.json").write_text("{}"), 67, "names no architecture"),
        (lambda m: (m / "tokenizer.json").unlink(), 67, "no tokenizer"),
        (
            lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"x": "b.safetensors"}}'),
            66,
            "b.safetensors is missing",
        ),
        (
            lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../b.safetensors"}}'),
            67,
            "not safetensors of this folder",
        ),
        (lambda m: (m / "model.safetensors.index.json").write_text("{}"), 67, "not a safetensors index"),
    ],
)
def test_damage(model: Path, damage: Damage, code: int, words: str) -> None:
    damage(model)
    with pytest.raises(FatalError, match=words) as caught:
        weights.inspect(model)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("vocabulary", "stops", "served"),
    [
        ({"vocab_size": 100}, [1, 99], True),
        ({"vocab_size": 100}, 99, True),
        ({"vocab_size": 100}, 100, False),
        ({"vocab_size": 100}, [1, 100], False),
        ({"text_config": {"vocab_size": 100}}, 100, False),
        ({}, 100, True),
        ({"vocab_size": 100}, None, True),
        ({"vocab_size": 100}, "100", True),
    ],
)
def test_tokens_that_end_an_answer_are_the_model_s(
    model: Path, vocabulary: dict[str, object], stops: object, served: bool
) -> None:
    """Else the first request with `min_tokens` ends the engine: an IndexError in its worker."""
    (model / "config.json").write_text(json.dumps({"architectures": ["Phi3ForCausalLM"], **vocabulary}))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    if served:
        assert weights.inspect(model).architecture == "Phi3ForCausalLM"
        return
    with pytest.raises(FatalError, match="token 100 ends an answer, but the model has 100 tokens") as caught:
        weights.inspect(model)
    assert caught.value.code is ExitCode.WEIGHTS_INVALID


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000])
def test_an_unreadable_generation_config_is_left_out(model: Path, text: str) -> None:
    (model / "config.json").write_text('{"architectures": ["Phi3ForCausalLM"], "vocab_size": 100}')
    (model / "generation_config.json").write_text(text)
    assert weights.inspect(model).architecture == "Phi3ForCausalLM"


def test_another_model(model: Path) -> None:
    with pytest.raises(FatalError, match="another model") as caught:
        weights.inspect(model, "LlamaForCausalLM")
    assert caught.value.code is ExitCode.WEIGHTS_INVALID


@pytest.mark.parametrize("make", [False, True])
def test_nothing_there(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "weights"
    if make:
        (folder / "lost+found").mkdir(parents=True)
    with pytest.raises(FatalError) as caught:
        weights.inspect(folder)
    assert caught.value.code is ExitCode.WEIGHTS_MISSING


def test_mistral_format_has_no_config_json(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "params.json").write_text('{"dim": 128}')
    assert weights.inspect(model).architecture == ""
