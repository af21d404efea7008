"""adapters.acquire: what a mounted adapter is at this moment. Images are in test_adapter_manager.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from model_server.adapters.acquire import AcquireError, Acquirer
from model_server.adapters.store import AdapterStore, content_digest
from model_server.adapters.wanted import Wanted
from model_server.metrics import Metrics


async def test_a_mounted_adapter_is_known_by_what_lies_there_now(tmp_path: Path) -> None:
    acquirer = Acquirer(
        adapter_store=AdapterStore(tmp_path / "store"),
        client=None,
        namespace="n",
        plain_http=(),
        base=None,
        max_rank=None,
        metrics=Metrics(CollectorRegistry()),
    )
    folder = tmp_path / "mounted"
    folder.mkdir()
    item, louder = (Wanted(name="a", folder=str(folder), strength=strength) for strength in ("0.5", "1"))
    with pytest.raises(AcquireError, match="no readable adapter"):
        await acquirer.resolve(item)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"one")
    first = await acquirer.resolve(item)
    assert first.version.digest == content_digest(folder)
    assert (await acquirer.resolve(louder)).version.digest == first.version.digest
    (folder / "adapter_model.safetensors").write_bytes(b"two")
    second = await acquirer.resolve(louder)
    assert first.version.digest != second.version.digest == content_digest(folder)
