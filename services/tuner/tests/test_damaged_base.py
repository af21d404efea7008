"""Weights and tokenizers as volumes have them after a copy that broke off, or that belong to something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.torch import load_file, save_file

from kaito_local.demo_model.artifact import trained_model
from tuner import model
from tuner.config.recipe import Method, Recipe, parse
from tuner.data.fetch import Fetched
from tuner.events import Emitter
from tuner.exits import ExitCode, FatalError
from tuner.job import Job
from tuner.schedule import Hardware
from tuner.train import Run

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

LORA = parse("", "lora")
assert isinstance(LORA, Recipe)
WEIGHTS, SECOND = "model.safetensors", "model-00002-of-00002.safetensors"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole() -> Path:
    return await trained_model()


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def changed(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})


def sharded(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """In two shards, with an index that is `change`d."""
    found = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(found)
    parts = {"model-00001-of-00002.safetensors": names[: len(names) // 2], SECOND: names[len(names) // 2 :]}
    for file, held in parts.items():
        save_file({name: found[name] for name in held}, folder / file, {"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": change(places)}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda folder: os.truncate(folder / WEIGHTS, 100_000), "cannot be loaded: .*header"),
    "a weight is missing": (
        lambda folder: tensors(folder, lambda found: {k: v for k, v in found.items() if "layers.0.mlp" not in k}),
        r"lack 2 weights of the model \(model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_up_proj.weight\)",
    ),
    "of another architecture": (
        lambda folder: tensors(folder, lambda found: {f"other.{k}": v for k, v in found.items()}),
        "lack .* belong to another architecture",
    ),
    "of another size": (
        lambda folder: changed(folder / "config.json", lambda found: {**found, "intermediate_size": 8}),
        "cannot be loaded: ",
    ),
    "an index without the second shard": (
        lambda folder: sharded(folder, lambda places: {k: v for k, v in places.items() if v != SECOND}),
        "lack .* part of the index",
    ),
    "an index that leads out of the folder": (
        lambda folder: sharded(folder, lambda places: dict.fromkeys(places, "../../../../../../../../etc/passwd")),
        "cannot be loaded: ",
    ),
    "a configuration that is none": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "cannot be loaded: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_base_that_is_not_whole_is_never_trained_on(folder: Path, name: str) -> None:
    damage, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(FatalError, match=words) as caught:
        model.load_base(folder, LORA, Hardware())
    assert caught.value.code is ExitCode.WEIGHTS_INVALID


def test_a_base_in_shards_is_whole(folder: Path) -> None:
    sharded(folder, lambda places: places)
    model.load_base(folder, LORA, Hardware())


def without_end(folder: Path) -> None:
    ends = ("eos_token", "pad_token", "bos_token", "unk_token")
    changed(folder / "tokenizer_config.json", lambda found: {k: v for k, v in found.items() if k not in ends})


@pytest.mark.parametrize(
    ("damage", "template", "code", "words"),
    [
        (without_end, "", ExitCode.WEIGHTS_INVALID, "names no eos_token and no pad_token"),
        (lambda folder: os.truncate(folder / "tokenizer.json", 500), "", ExitCode.WEIGHTS_INVALID, "tokenizer in .*"),
        (
            lambda folder: None,
            "/mnt/no-template.jinja",
            ExitCode.CONFIG_INVALID,
            "no file that has one: .*No such file",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_used(
    folder: Path, damage: Callable[[Path], object], template: str, code: ExitCode, words: str
) -> None:
    damage(folder)
    with pytest.raises(FatalError, match=words) as caught:
        model.load_tokenizer(folder, Recipe(method=Method.LORA, chat_template=template))
    assert caught.value.code is code


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings(folder: Path, tmp_path: Path) -> None:
    changed(folder / "config.json", lambda found: {**found, "vocab_size": 100})
    tensors(
        folder,
        lambda found: {k: v[:100].clone() if "embed_tokens" in k or "lm_head" in k else v for k, v in found.items()},
    )
    talk = [{"role": "user", "content": "What is a Pod?"}, {"role": "assistant", "content": "A small thing."}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"messages": talk}) + "\n") * 8)
    job = Job(
        recipe=LORA,
        model=str(folder),
        base_model="tiny",
        files=(Fetched(path=str(rows), shown="rows", size=1, sha256="0" * 64),),
        prepared=str(tmp_path / "prepared"),
        checkpoints=str(tmp_path / "checkpoints"),
        staging=str(tmp_path / "staging"),
        key="k",
    )
    with pytest.raises(FatalError, match="has embeddings for 100 only") as caught:
        Run(job, Emitter("")).execute()
    assert caught.value.code is ExitCode.WEIGHTS_INVALID
