"""What PEFT itself saves is accepted, and its unsupported variants are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapter_packager import folder
from adapter_packager.exits import AdapterInvalid

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def save(target: Path, **lora: Any) -> None:
    """A tiny Phi-3 with a fresh adapter, saved by PEFT; its base's config.json beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**CONFIG, num_key_value_heads=2, pad_token_id=0))
    wrapped = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", **{"target_modules": "all-linear", "r": 8, **lora})
    )
    wrapped.save_pretrained(str(target))
    model.config.architectures = ["Phi3ForCausalLM"]
    (target / "base.json").write_text(json.dumps(model.config.to_dict(), default=str))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({}, None),
        ({"use_rslora": True, "r": 16, "rank_pattern": {"o_proj": 4}}, None),
        ({"use_dora": True}, "MethodUnsupported"),
        ({"modules_to_save": ["lm_head"], "target_modules": ["o_proj"]}, "VocabularyChanged"),
        ({"trainable_token_indices": [1, 2], "target_modules": ["o_proj"]}, "MethodUnsupported"),
    ],
)
def test_adapters_of_peft(tmp_path: Path, lora: dict[str, Any], reason: str | None) -> None:
    save(tmp_path, **lora)
    base = folder.read_base(tmp_path / "base.json", "phi-3-mini-4k-instruct")
    if reason is None:
        adapter = folder.read(tmp_path, base=base, max_rank=16)
        assert adapter.verdict.rank == lora.get("r", 8)
        return
    with pytest.raises(AdapterInvalid) as refused:
        folder.read(tmp_path, base=base)
    assert refused.value.reason == reason
