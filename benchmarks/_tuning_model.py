"""A Phi-3 of about ten million numbers with the demo's tokenizer: small enough that a step takes a fraction of a second on two
cores, large enough that the step is arithmetic and not Python.
"""

import shutil
from pathlib import Path


def make(folder: Path, source: Path) -> Path:
    """Write the model, untrained: speed does not depend on what it knows. `source` is the demo model."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config.from_pretrained(source)
    for name, value in {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}.items():
        setattr(config, name, value)
    config.num_attention_heads = config.num_key_value_heads = 8
    torch.manual_seed(7)
    folder.mkdir(parents=True)
    Phi3ForCausalLM(config).save_pretrained(folder)
    for path in source.glob("*"):
        if path.name.startswith(("tokenizer", "special", "chat_template")):
            shutil.copy(path, folder)
    return folder
