"""The demo model as an OCI image in the layout of KAITO's preset images: one layer with the weights below a folder."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

from kaito_local.command import run
from kaito_local.demo_model.questions import source
from kaito_local.images.blobs import BlobStore
from kaito_local.images.inputs import key, tree_digest
from kaito_local.images.spec import CONFIG, MANIFEST, Image, Runtime, config_document, manifest_document
from kaito_local.images.tarball import Tree, write_layer
from kaito_local.locations import cache_root

_TRAIN_TIMEOUT = 600.0  # 12 s on two idle cores; the cores may be shared


async def trained_model() -> Path:
    """The folder with the trained model: trained on first use, then kept in the cache."""
    inputs = key("demo-model", tree_digest([Path(__file__).with_name("train.py")]), source().decode())
    folder = cache_root() / "demo-model" / inputs
    if not await asyncio.to_thread(folder.exists):
        fresh = folder.with_name(f".{inputs}.{os.getpid()}")
        # A process of its own: torch takes seconds to import and never gives its memory back.
        await run(sys.executable, "-m", "kaito_local.demo_model.train", fresh, timeout=_TRAIN_TIMEOUT)
        await asyncio.to_thread(fresh.replace, folder)
    return folder


async def model_image(store: BlobStore, name: str, tag: str, path: str, context: int) -> Image:
    """The image ``name:tag`` with the model below ``path``, its config saying a context of ``context`` tokens.

    The context is that of the preset which the image stands in for: a planner counts on it, and an engine refuses more
    than the model's config allows.
    """
    model = await trained_model()
    return await asyncio.to_thread(_assemble, store, model, f"{name}:{tag}", path, context)


def _assemble(store: BlobStore, model: Path, name: str, path: str, context: int) -> Image:
    with store.stage("demo-model") as stage:
        folder = stage / "weights"
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"max_position_embeddings": context, "original_max_position_embeddings": context}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        tree = Tree(source=folder, prefix=path.strip("/"))
        inputs = key("demo-image", tree_digest([folder]), path)
        layers = (store.layer(inputs, lambda target: write_layer([tree], target)),)
    document = store.put(CONFIG, config_document(Runtime(), layers, ("demo model",)))
    manifest = store.put(MANIFEST, manifest_document(document, layers))
    repository, _, tag = name.partition(":")
    return Image(name=repository, tag=tag, manifest=manifest, config=document, layers=layers)
