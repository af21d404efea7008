"""An adapter in a registry, judged by the beginnings of its files: gigabytes that cannot be served are never pulled."""

from __future__ import annotations

import kaito_oci
from kaito_api import adapter_start
from kaito_api.adapter import Verdict
from kaito_api.adapter_start import IMAGE_FOLDER, NEEDS, Beginning
from kaito_api.base_shapes import Base


async def judge(
    reference: kaito_oci.Reference,
    auth: kaito_oci.CredentialSource,
    registries: kaito_oci.RegistrySettings,
    base: Base | None,
    max_rank: int | None,
) -> Verdict | None:
    """Return what the beginnings tell; None where they tell nothing. Raises OciError."""
    found = await kaito_oci.peek(reference, NEEDS, path=IMAGE_FOLDER, auth=auth, settings=registries)
    files = {name: Beginning(start.content, start.size) for name, start in found.files.items()}
    return adapter_start.judge(files, found.seen, base=base, max_rank=max_rank)
