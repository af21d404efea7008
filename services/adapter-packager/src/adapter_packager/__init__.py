"""Makes OCI images of LoRA adapters: reproducible, checked before they are pushed, readable by KAITO.

`cli` is the way in; `folder` reads what PEFT wrote, `image` and `modelpack` lay it out, `push` brings it to the registry.
"""
