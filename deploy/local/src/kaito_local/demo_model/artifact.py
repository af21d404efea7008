"""The demo model in a registry, in the form in which a preset's weights are published.

KAITO publishes weights as an artifact with one file a layer; older tags are images with the files below a folder.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from kaito_local.command import run
from kaito_local.demo_model.questions import source
from kaito_local.images.inputs import key, tree_digest
from kaito_local.images.spec import CONFIG, EPOCH_TEXT, LAYER, MANIFEST, canonical
from kaito_local.locations import cache_root
from kaito_oci.archive import Member
from kaito_oci.blobs import Blob, BytesBlob, FileBlob, TarBlob
from kaito_oci.media_types import OCI_EMPTY, TITLE
from kaito_oci.push import PushResult, push

_TRAIN_TIMEOUT = 600.0  # 12 s on two idle cores; the cores may be shared


async def trained_model() -> Path:
    """The folder with the trained model: trained on first use, then kept in the cache."""
    inputs = key("demo-model", tree_digest([Path(__file__).with_name("train.py")]), source().decode())
    folder = cache_root() / "demo-model" / inputs
    if not await asyncio.to_thread(folder.exists):
        fresh = folder.with_name(f".{inputs}.{os.getpid()}")
        # A process of its own: torch takes seconds to import and never gives its memory back.
        await run(sys.executable, "-m", "kaito_local.demo_model.train", fresh, timeout=_TRAIN_TIMEOUT)
        await asyncio.to_thread(_put_in_place, fresh, folder)
    return folder


def _put_in_place(fresh: Path, folder: Path) -> None:
    try:
        fresh.replace(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(fresh)  # another process was faster; equal inputs gave it the same model


async def push_model(reference: str, path: str, context: int, *, plain_http: bool) -> PushResult:
    """Push the model to ``reference``, its config saying a context of ``context`` tokens.

    The context is that of the preset which the model stands in for: a planner counts on it, and an engine refuses more
    than the model's config allows. ``path`` is the folder in an image's file system; "" makes an artifact.
    """
    model = await trained_model()
    hosts = [reference.partition("/")[0]] if plain_http else []
    with tempfile.TemporaryDirectory(prefix="kaito-demo-model-") as scratch:
        config = Path(scratch) / "config.json"
        await asyncio.to_thread(_write_config, model / "config.json", config, context)
        files = [config, *sorted(file for file in model.iterdir() if file.name != config.name)]
        pack = _as_image if path else _as_artifact
        blobs, manifest = await asyncio.to_thread(pack, files, path)
        return await push(reference, blobs, manifest, plain_http_hosts=hosts)


def _write_config(source_file: Path, target: Path, context: int) -> None:
    config = json.loads(source_file.read_text())
    config |= {"max_position_embeddings": context, "original_max_position_embeddings": context}
    target.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _as_artifact(files: list[Path], _: str) -> tuple[list[Blob], bytes]:
    layers: list[Blob] = [FileBlob(file, LAYER, {TITLE: file.name}) for file in files]
    return _manifest(BytesBlob(b"{}", OCI_EMPTY), layers, artifact_type="application/vnd.unknown.artifact.v1")


def _as_image(files: list[Path], path: str) -> tuple[list[Blob], bytes]:
    layer = TarBlob([Member(f"{path.strip('/')}/{file.name}", file) for file in files], LAYER)
    rootfs = {"type": "layers", "diff_ids": [layer.descriptor.digest]}
    config = canonical({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
    return _manifest(BytesBlob(config, CONFIG), [layer])


def _manifest(config: Blob, layers: list[Blob], artifact_type: str = "") -> tuple[list[Blob], bytes]:
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(config),
        "layers": [_descriptor(layer) for layer in layers],
        # A fixed date, as ORAS asks for where equal content shall have an equal digest.
        "annotations": {"org.opencontainers.image.created": EPOCH_TEXT},
    }
    if artifact_type:
        document["artifactType"] = artifact_type
    return [*layers, config], canonical(document)


def _descriptor(blob: Blob) -> dict[str, object]:
    found = blob.descriptor
    entry: dict[str, object] = {"mediaType": found.media_type, "digest": found.digest, "size": found.size}
    return {**entry, "annotations": dict(found.annotations)} if found.annotations else entry
