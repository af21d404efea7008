import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.adapter import CONFIG_FILE, WEIGHTS_FILE
from kaito_api.adapter_start import NEEDS, Beginning, judge
from kaito_api.base_shapes import Base

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"]}
NAME = "base_model.model.model.layers.0.self_attn.o_proj.lora_{}.weight"
HEADER = {
    NAME.format("A"): {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
    NAME.format("B"): {"dtype": "F16", "shape": [8, 4], "data_offsets": [64, 128]},
}


def weights(header: dict[str, Any] | None = None) -> bytes:
    text = json.dumps(HEADER if header is None else header).encode()
    return len(text).to_bytes(8, "little") + text


def files(config: Any = CONFIG, start: bytes | None = None, size: int | None = None) -> dict[str, Beginning]:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    begin = weights() if start is None else start
    return {
        CONFIG_FILE: Beginning(text, len(text)),
        WEIGHTS_FILE: Beginning(begin, len(begin) + 128 if size is None else size),
    }


def test_a_good_adapter_is_known_by_its_beginnings() -> None:
    verdict = judge(files(), [CONFIG_FILE, WEIGHTS_FILE], max_rank=4)
    assert verdict is not None
    assert (verdict.ok, verdict.rank) == (True, 4)


@pytest.mark.parametrize(
    ("given_files", "seen", "reason"),
    [
        (files({**CONFIG, "use_dora": True}), (), "MethodUnsupported"),
        (files({**CONFIG, "r": 8}), (), "ShapeMismatch"),
        (files(b"{"), (), "AdapterConfigInvalid"),
        (files(start=b"PK\x03\x04" * 4), (), "AdapterWeightsInvalid"),
        (files(size=len(weights()) + 100), (), "AdapterWeightsInvalid"),
        (files(start=weights()[:30], size=30), (), "AdapterWeightsInvalid"),
        ({}, ("adapter_config.json", "adapter_model.bin"), "PickleRefused"),
    ],
)
def test_refused_early(given_files: dict[str, Beginning], seen: tuple[str, ...], reason: str) -> None:
    verdict = judge(given_files, seen, max_rank=64)
    assert verdict is not None
    assert [str(problem.reason) for problem in verdict.problems][:1] == [reason]


@pytest.mark.parametrize(
    "given_files", [{}, {CONFIG_FILE: files()[CONFIG_FILE]}, files(start=weights()[:30], size=4000)]
)
def test_what_was_not_seen_is_not_judged(given_files: dict[str, Beginning]) -> None:
    assert judge(given_files, ["README.md"]) is None


def test_the_needs_ask_for_the_header_and_not_for_the_weights() -> None:
    whole = weights() + bytes(128)
    have = b""
    while (goal := NEEDS[WEIGHTS_FILE](have)) > len(have):
        have = whole[:goal]
    assert have == weights()
    assert NEEDS[WEIGHTS_FILE](b"\xff" * 8) == 8  # no header: nothing more is asked for


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_junk_never_raises(config: bytes, start: bytes) -> None:
    judge(files(config, start), [])
    assert NEEDS[WEIGHTS_FILE](start) >= 0


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    "r",
    "lora_alpha",
    "peft_type",
    "target_modules",
    "rank_pattern",
    "modules_to_save",
    "bias",
    "init_lora_weights",
)
KEYS_TOO = ("base_model_name_or_path", "use_rslora", "use_dora", "layer_replication", "alpha_pattern")
BASE = Base(
    name="b", architecture="Phi3ForCausalLM", layers=1, hidden=8, intermediate=8, heads=1, kv_heads=1, head_dim=8
)


@given(st.dictionaries(st.sampled_from(KEYS + KEYS_TOO), ANYTHING), st.dictionaries(st.text(max_size=8), ANYTHING))
def test_a_config_of_the_wrong_kinds_never_raises(changes: dict[str, Any], entries: dict[str, Any]) -> None:
    config = {**CONFIG, **changes}
    for header in (HEADER, {**HEADER, **entries}, {NAME.format("A"): entry for entry in entries.values()}):
        judge(files(config, weights(header)), [], base=BASE, max_rank=64, other_presets=["x"])
