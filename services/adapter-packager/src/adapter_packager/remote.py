"""An adapter that is in a registry: what it says about itself, whether it can be served, and fetching it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from adapter_packager import folder
from adapter_packager.access import Access
from adapter_packager.annotations import PREFIX
from adapter_packager.exits import AdapterInvalid, AdapterMissing
from kaito_api.adapter import CONFIG_FILE, MAX_HEADER, WEIGHTS_FILE, HeaderError, check, parse_header
from kaito_api.base_shapes import Base
from kaito_oci import Limits, PullResult, Reference, peek, pull
from kaito_oci.progress import ProgressCallback

ROOT = "/data"
LIMITS = Limits(max_bytes=64 * 2**30, max_files=1000)
"""An adapter: 64 GiB and 1,000 files are far beyond any."""

_MAX_CONFIG = 1024 * 1024


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What `inspect` prints. Facts from the weights' header are read in passing and not verified; `verify` does that."""

    reference: str
    format: str
    size: int
    """Bytes of all layers."""
    adapter: dict[str, str]
    """Annotations of the adapter, without their prefix."""
    annotations: dict[str, str]
    rank: int = 0
    parameters: int = 0
    problems: list[str] = []
    warnings: list[str] = []


async def inspect(reference: Reference, access: Access, *, base: Base | None, max_rank: int | None) -> Description:
    """Describe an adapter without downloading its weights. Raises OciError."""
    found = await peek(
        reference,
        {CONFIG_FILE: _whole_config, WEIGHTS_FILE: _header_only},
        path=ROOT,
        auth=await access.credentials(reference),
        settings=access.settings,
    )
    manifest, notes = found.image.manifest, found.image.manifest.annotations or {}
    description = Description(
        reference=str(reference.pinned(found.image.digest)),
        format="image" if manifest.is_image else "artifact",
        size=sum(layer.size for layer in manifest.layers),
        adapter={key.removeprefix(PREFIX): value for key, value in notes.items() if key.startswith(PREFIX)},
        annotations={key: value for key, value in notes.items() if not key.startswith(PREFIX)},
    )
    if CONFIG_FILE not in found.files or WEIGHTS_FILE not in found.files:
        lost = f"{CONFIG_FILE} or {WEIGHTS_FILE} was not found in passing: use `verify`"
        return msgspec.structs.replace(description, warnings=[lost])
    try:
        config = msgspec.json.decode(found.files[CONFIG_FILE].content, type=dict[str, Any])
        header = parse_header(found.files[WEIGHTS_FILE].content)
    except (msgspec.MsgspecError, HeaderError) as error:
        return msgspec.structs.replace(description, problems=[str(error)])
    assert not isinstance(header, int)  # _header_only asks for all of it
    verdict = check(config, header, base=base, max_rank=max_rank)
    return msgspec.structs.replace(
        description,
        rank=verdict.rank,
        parameters=verdict.parameters,
        problems=[f"{problem.reason}: {problem.message}" for problem in verdict.problems],
        warnings=list(verdict.warnings),
    )


async def fetch(reference: Reference, target: Path, access: Access, progress: ProgressCallback | None) -> PullResult:
    """Pull an adapter into a folder. Raises OciError, AdapterMissing."""
    result = await pull(
        reference,
        target,
        path=ROOT,
        auth=await access.credentials(reference),
        settings=access.settings,
        progress=progress,
        limits=LIMITS,
    )
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in result.files]
    if missing:
        raise AdapterMissing(f"{reference} has no {' and no '.join(missing)}: it is not an adapter")
    return result


async def verify(
    reference: Reference, access: Access, *, base: Base | None, max_rank: int | None, progress: ProgressCallback | None
) -> folder.Adapter:
    """Download everything once, verify every digest, check the adapter, keep nothing. Raises OciError, PackagerError."""
    with tempfile.TemporaryDirectory(prefix="adapter-") as name:
        target = Path(name) / "adapter"
        await fetch(reference, target, access, progress)
        return await asyncio.to_thread(folder.read, target, base=base, max_rank=max_rank)


def _whole_config(have: bytes) -> int:
    del have
    return _MAX_CONFIG


def _header_only(have: bytes) -> int:
    try:
        found = parse_header(have)
    except HeaderError as error:
        raise AdapterInvalid("AdapterWeightsInvalid", f"{WEIGHTS_FILE}: {error}") from error
    return min(found, MAX_HEADER + 8) if isinstance(found, int) else len(have)
