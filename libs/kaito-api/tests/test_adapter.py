from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.adapter import AdapterReason, HeaderError, check, check_files, parse_header
from kaito_api.base_shapes import Base, base_from_config, base_shapes

PHI = Base(
    name="phi-3-mini-4k-instruct",
    architecture="Phi3ForCausalLM",
    layers=2,
    hidden=64,
    intermediate=96,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=512,
)
QWEN = msgspec.structs.replace(PHI, name="qwen", architecture="Qwen2ForCausalLM")
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["qkv_proj", "o_proj"],
    "bias": "none",
    "base_model_name_or_path": "phi-3-mini-4k-instruct",
}
ATTENTION = "base_model.model.model.layers.{}.self_attn.{}"


def tensors(*modules: tuple[str, int, int], rank: int = 8, dtype: str = "BF16") -> dict[str, Any]:
    """A header with lora_A and lora_B of each (module, in, out)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for module, fan_in, fan_out in modules:
        for side, shape in (("A", [rank, fan_in]), ("B", [fan_out, rank])):
            end = offset + shape[0] * shape[1] * 2
            header[f"{module}.lora_{side}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
    return header


def good() -> dict[str, Any]:
    return tensors(
        *[
            (ATTENTION.format(layer, name), fan_in, fan_out)
            for layer in (0, 1)
            for name, fan_in, fan_out in (("qkv_proj", 64, 128), ("o_proj", 64, 64))
        ]
    )


def size(header: dict[str, Any]) -> int:
    return max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")


def reasons(config: dict[str, Any], header: dict[str, Any], **more: Any) -> list[str]:
    return [problem.reason for problem in check(config, header, **more).problems]


def test_what_peft_saves_for_phi_3_is_fine() -> None:
    header = good()
    verdict = check(CONFIG, header, data_bytes=size(header), base=PHI, max_rank=8, other_presets=["phi-4"])
    assert (verdict.problems, verdict.warnings, verdict.ok) == ((), (), True)
    assert (verdict.rank, verdict.method, verdict.parameters) == (8, "lora", 2 * 8 * (64 + 128 + 64 + 64))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, AdapterReason.METHOD_UNSUPPORTED),
        ({"bias": "all"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"lora_bias": True}, AdapterReason.METHOD_UNSUPPORTED),
        ({"alora_invocation_tokens": [1, 2]}, AdapterReason.METHOD_UNSUPPORTED),
        ({"layer_replication": [[0, 2]]}, AdapterReason.METHOD_UNSUPPORTED),
        ({"use_bdlora": {"x": 1}}, AdapterReason.METHOD_UNSUPPORTED),
        ({"use_qalora": True}, AdapterReason.METHOD_UNSUPPORTED),
        ({"trainable_token_indices": [3]}, AdapterReason.METHOD_UNSUPPORTED),
        ({"target_parameters": ["experts.w"]}, AdapterReason.METHOD_UNSUPPORTED),
        ({"modules_to_save": ["norm"]}, AdapterReason.METHOD_UNSUPPORTED),
        ({"modules_to_save": ["model.embed_tokens"]}, AdapterReason.VOCABULARY_CHANGED),
        ({"modules_to_save": ["lm_head"]}, AdapterReason.VOCABULARY_CHANGED),
        ({"init_lora_weights": "pissa_niter_4"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"init_lora_weights": "olora"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"init_lora_weights": "loftq"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"init_lora_weights": "corda"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"peft_type": "IA3"}, AdapterReason.METHOD_UNSUPPORTED),
        ({"r": None}, AdapterReason.CONFIG_INVALID),
        ({"lora_alpha": None}, AdapterReason.CONFIG_INVALID),
        ({"target_modules": []}, AdapterReason.CONFIG_INVALID),
        ({"r": "eight"}, AdapterReason.CONFIG_INVALID),
        ({"r": 16}, AdapterReason.SHAPE_MISMATCH),
        ({"base_model_name_or_path": "microsoft/phi-4"}, AdapterReason.WRONG_BASE_MODEL),
    ],
)
def test_each_config_that_the_engine_cannot_serve(changes: dict[str, Any], reason: AdapterReason) -> None:
    assert reason in reasons(CONFIG | changes, good(), base=PHI, other_presets=["phi-4", "phi-3-mini-4k-instruct"])


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "EVA"},
        {"use_rslora": True},
        {"modules_to_save": ["classifier"]},
        {"rank_pattern": {"o_proj": 8}, "alpha_pattern": {"o_proj": 4}},
        {"lora_alpha": 3.5},
        {"target_modules": "all-linear"},
        {"base_model_name_or_path": "/mnt/weights"},
        {"base_model_name_or_path": None},
        {"unknown_key_of_a_later_peft": {"a": 1}},
    ],
)
def test_each_config_that_it_can(changes: dict[str, Any]) -> None:
    assert reasons(CONFIG | changes, good(), base=PHI, max_rank=8) == []


@pytest.mark.parametrize(
    ("rank", "pattern", "limit", "fine"), [(8, {}, 8, True), (8, {}, 4, False), (8, {"o_proj": 64}, 16, False)]
)
def test_rank_limit(rank: int, pattern: dict[str, int], limit: int, fine: bool) -> None:
    found = reasons(CONFIG | {"r": rank, "rank_pattern": pattern}, good(), max_rank=limit)
    assert (AdapterReason.RANK_TOO_HIGH in found) is not fine


LAYER_0 = ATTENTION.format(0, "qkv_proj")


def changed(name: str, entry: dict[str, Any] | None) -> dict[str, Any]:
    header = good()
    if entry is None:
        del header[name]
    else:
        header[name] = entry
    return header


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({}, AdapterReason.WEIGHTS_INVALID),
        ({"x": "no tensor"}, AdapterReason.WEIGHTS_INVALID),
        (tensors((LAYER_0, 64, 128), dtype="I8"), AdapterReason.WEIGHTS_INVALID),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, AdapterReason.WEIGHTS_INVALID),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, AdapterReason.WEIGHTS_INVALID),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, AdapterReason.WEIGHTS_INVALID),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -4]}}, AdapterReason.WEIGHTS_INVALID),
        (tensors(("model.layers.0.self_attn.qkv_proj", 64, 128)), AdapterReason.TENSOR_UNKNOWN),
        (
            {f"{LAYER_0}.lora_magnitude_vector": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            AdapterReason.TENSOR_UNKNOWN,
        ),
        (
            {"base_model.model.model.embed_tokens.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}},
            AdapterReason.VOCABULARY_CHANGED,
        ),
        (
            {f"{LAYER_0}.lora_A.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}},
            AdapterReason.SHAPE_MISMATCH,
        ),
        (tensors((LAYER_0, 64, 128), rank=4), AdapterReason.SHAPE_MISMATCH),
        (tensors((LAYER_0, 128, 128)), AdapterReason.WRONG_BASE_MODEL),
        (tensors((LAYER_0, 64, 64)), AdapterReason.WRONG_BASE_MODEL),
        (tensors((ATTENTION.format(2, "qkv_proj"), 64, 128)), AdapterReason.WRONG_BASE_MODEL),
        (tensors((ATTENTION.format(0, "q_proj"), 64, 64)), AdapterReason.WRONG_BASE_MODEL),
        (tensors(("base_model.model.lm_head", 64, 1024)), AdapterReason.WRONG_BASE_MODEL),
    ],
)
def test_each_file_that_does_not_fit(header: dict[str, Any], reason: AdapterReason) -> None:
    assert reason in reasons(CONFIG, header, base=PHI)


def test_half_a_pair_is_not_a_module() -> None:
    header = tensors((LAYER_0, 64, 128))
    del header[f"{LAYER_0}.lora_B.weight"]
    assert reasons(CONFIG, header) == [AdapterReason.TENSOR_UNKNOWN]


@pytest.mark.parametrize("off", [-1, 1])
def test_a_file_of_another_length_is_damaged(off: int) -> None:
    header = good()
    assert reasons(CONFIG, header, data_bytes=size(header) + off) == [AdapterReason.WEIGHTS_INVALID]


def test_split_names_fit_qwen_and_fused_ones_do_not() -> None:
    split = tensors((ATTENTION.format(0, "q_proj"), 64, 64), (ATTENTION.format(0, "k_proj"), 64, 32))
    assert reasons(CONFIG, split, base=QWEN) == []
    assert reasons(CONFIG, good(), base=QWEN) == [AdapterReason.WRONG_BASE_MODEL]


def test_a_base_of_unknown_architecture_is_not_guessed_at() -> None:
    unknown = msgspec.structs.replace(PHI, architecture="NewForCausalLM")
    assert base_shapes(unknown) is None
    assert base_shapes(msgspec.structs.replace(PHI, hidden=0)) is None
    assert reasons(CONFIG, tensors(("base_model.model.model.strange", 1, 2)), base=unknown) == []


def test_targets_that_matched_nothing_and_doubtful_names_are_warnings() -> None:
    config = CONFIG | {"target_modules": ["qkv_proj", "o_proj", "q_proj"], "base_model_name_or_path": "org/my-phi"}
    verdict = check(config, good(), base=PHI)
    assert verdict.ok
    assert ["q_proj" in verdict.warnings[0], "my-phi" in verdict.warnings[1]] == [True, True]


def test_embedding_weights_and_copies_of_the_base() -> None:
    header = {
        "base_model.model.model.embed_tokens.lora_embedding_A": {
            "dtype": "F32",
            "shape": [8, 512],
            "data_offsets": [0, 16384],
        },
        "base_model.model.model.embed_tokens.lora_embedding_B": {
            "dtype": "F32",
            "shape": [64, 8],
            "data_offsets": [16384, 18432],
        },
        "base_model.model.model.embed_tokens.base_layer.weight": {
            "dtype": "F32",
            "shape": [1, 1],
            "data_offsets": [18432, 18436],
        },
    }
    assert reasons(CONFIG | {"target_modules": ["embed_tokens"]}, header, base=PHI) == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["adapter_config.json", "adapter_model.safetensors", "README.md"], None),
        (["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"], None),
        (["adapter_model.safetensors"], AdapterReason.FILE_MISSING),
        (["adapter_config.json"], AdapterReason.FILE_MISSING),
        (["adapter_config.json", "adapter_model.bin"], AdapterReason.PICKLE_REFUSED),
        (["adapter_config.json", "adapter_model.pt"], AdapterReason.PICKLE_REFUSED),
    ],
)
def test_file_lists(names: list[str], reason: AdapterReason | None) -> None:
    found = [problem.reason for problem in check_files(names)]
    assert reason in found if reason else found == []


def test_the_header_is_asked_for_in_steps() -> None:
    body = b'{"a": 1}'
    whole = len(body).to_bytes(8, "little") + body
    assert [parse_header(whole[:length]) for length in (0, 8, 12, 16, 16)] == [8, 16, 16, {"a": 1}, {"a": 1}]


@pytest.mark.parametrize(
    "prefix", [b"\xff" * 16, bytes(16), (2).to_bytes(8, "little") + b"[]", (5).to_bytes(8, "little") + b"junk!"]
)
def test_junk_is_no_header(prefix: bytes) -> None:
    with pytest.raises(HeaderError):
        parse_header(prefix)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
some_config = st.dictionaries(st.sampled_from([*CONFIG, "rank_pattern", "modules_to_save", "use_dora"]), junk)
some_tensor = st.fixed_dictionaries({"dtype": st.just("F32"), "shape": junk, "data_offsets": junk}) | junk
some_header = st.dictionaries(st.sampled_from([*good(), "x"]), some_tensor, max_size=4)


@given(config=some_config, header=some_header, hole=st.sampled_from(list(CONFIG)))
def test_junk_is_refused_and_never_crashes_the_check(config: dict[str, Any], header: dict[str, Any], hole: str) -> None:
    assert not check(CONFIG | config, header, base=PHI, max_rank=8).ok or header
    check(CONFIG | config, good(), base=PHI, max_rank=8, other_presets=["phi-4"])
    check({key: value for key, value in CONFIG.items() if key != hole} | config, good(), base=PHI)


def test_reads_a_base_from_its_config() -> None:
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    }
    assert base_from_config(PHI.name, config) == PHI
    assert base_shapes(base_from_config("x", {"hidden_size": "64"})) is None
