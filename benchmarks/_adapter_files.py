"""The model and the adapters of the adapter benchmark: real shapes, random numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec

import kaito_oci

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 1024, 2816, 6, 16
MODULES = {
    "self_attn.qkv_proj": (HIDDEN, 3 * HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (HIDDEN, 2 * INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
"""Every linear layer: (in, out)."""
VOCABULARY = 2048
FILES = ("adapter_config.json", "adapter_model.safetensors")


def make_model(folder: Path) -> Path:
    """Write an untrained Phi-3 in bfloat16 (90 M parameters) whose tokens are the words w0, w1, ..."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(3)
    words = {"<end>": 0, "<pad>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", bos_token="<end>")
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=1,
    )
    Phi3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, rank: int, seed: int) -> Path:
    """Write a PEFT adapter of that rank on every linear layer, in bfloat16: small numbers, none of them special."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for layer in range(LAYERS):
        for module, (fan_in, fan_out) in MODULES.items():
            for side, shape in (("A", [rank, fan_in]), ("B", [fan_out, rank])):
                start, end = end, end + shape[0] * shape[1] * 2
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"
                header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    source = random.Random(seed)
    # bfloat16 whose high byte is 0x3b or 0xbb lies between 0.002 and 0.008, of either sign.
    block = bytes(value for _ in range(32 * 1024) for value in (source.randrange(256), source.choice((0x3B, 0xBB))))
    folder.mkdir(parents=True)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = end
        while left:
            left -= file.write(block[: min(left, len(block))])
    targets = sorted({module.partition(".")[2] for module in MODULES})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


async def push(folder: Path, reference: str) -> str:
    """Push an adapter as an image in KAITO's layout; returns the reference."""
    members = [kaito_oci.Member(f"data/{file.name}", file) for file in (folder / name for name in FILES)]
    layer = kaito_oci.TarBlob(members, "application/vnd.oci.image.layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [layer.descriptor.digest]}
    about = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    config = kaito_oci.BytesBlob(about, "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": msgspec.to_builtins(config.descriptor),
        "layers": [msgspec.to_builtins(layer.descriptor)],
    }
    host = reference.partition("/")[0]
    await kaito_oci.push(reference, [config, layer], json.dumps(manifest).encode(), plain_http_hosts=[host])
    return reference
