"""adapters.store: versions on disk."""

from __future__ import annotations

import concurrent.futures
import json
from pathlib import Path

import pytest

from model_server.adapters.store import AdapterStore, content_digest, file_states, scaled
from model_server.adapters.version import Version

V = Version("a", "sha256:abc", "0.5")


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    made = AdapterStore(tmp_path / "store")
    made.prepare()
    return made


@pytest.fixture
def source(store: AdapterStore) -> Path:
    folder = store.pulled(V.digest)
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16, "alpha_pattern": {"q": 4}}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_stage_folds_the_strength_into_alpha_and_shares_the_weights(store: AdapterStore, source: Path) -> None:
    folder = store.stage(source, V)
    assert folder.is_absolute()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["alpha_pattern"], config["r"]) == (8.0, {"q": 2.0}, 8)
    weights = folder / "adapter_model.safetensors"
    assert weights.stat().st_ino == (source / "adapter_model.safetensors").stat().st_ino
    assert store.stage(source, V) == folder
    store.warm(folder)


def test_each_strength_has_its_folder(store: AdapterStore, source: Path) -> None:
    assert store.stage(source, V) != store.stage(source, Version("a", V.digest, "1"))


def test_names_of_any_length_that_the_api_allows_have_folders_of_their_own(store: AdapterStore, source: Path) -> None:
    digest = "sha256:" + "0" * 64
    source.rename(store.pulled(digest))
    versions = [Version("a" * 252 + last, digest, "0.123456") for last in ("b", "c")]
    folders = [store.stage(store.pulled(digest), version) for version in versions]
    assert len(set(folders)) == 2
    assert set(store.staged(digest)) == set(folders)
    store.remove(versions[0])
    assert store.staged(digest) == [folders[1]]


def test_the_source_stays_as_it_was(store: AdapterStore, source: Path) -> None:
    before = (source / "adapter_config.json").read_bytes()
    store.stage(source, V)
    assert (source / "adapter_config.json").read_bytes() == before


def test_removing_a_version_keeps_what_was_pulled(store: AdapterStore, source: Path) -> None:
    folder = store.stage(source, V)
    store.remove(V)
    assert not folder.exists()
    assert store.has(V.digest)


def test_a_pull_under_way_is_not_listed(store: AdapterStore, source: Path) -> None:
    under_way = source.parent / ".sha256-new.pull-1"
    under_way.mkdir()
    assert store.digests() == [V.digest]
    store.discard(V.digest)
    assert not store.has(V.digest)
    assert store.digests() == []
    assert under_way.exists()


def test_an_image_is_recalled_only_while_its_content_is_there(store: AdapterStore, source: Path) -> None:
    store.remember("r/x:1", V.digest)
    assert store.recall("r/x:1") == V.digest
    assert store.recall("r/x:2") == ""
    assert store.last_digest("r/x:1") == V.digest
    store.discard(V.digest)
    assert store.recall("r/x:1") == ""


def test_what_images_were_outlives_the_process(tmp_path: Path, store: AdapterStore) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.remember(f"r/x:{number}", f"sha256:{number}"), range(64)))
    again = AdapterStore(tmp_path / "store")
    again.prepare()
    assert [again.last_digest(f"r/x:{number}") for number in range(64)] == [f"sha256:{n}" for n in range(64)]


@pytest.mark.parametrize("junk", ["", "[]", "{", '"x"'])
def test_a_damaged_list_of_images_is_no_list(tmp_path: Path, store: AdapterStore, junk: str) -> None:
    (tmp_path / "store" / "known.json").write_text(junk)
    again = AdapterStore(tmp_path / "store")
    again.prepare()
    assert again.last_digest("r/x:1") == ""


def test_prepare_clears_versions_and_keeps_pulls(store: AdapterStore, source: Path) -> None:
    folder = store.stage(source, V)
    store.prepare()
    assert not folder.exists()
    assert store.has(V.digest)


def test_content_digest_sees_config_and_weights(source: Path) -> None:
    first = content_digest(source)
    (source / "adapter_config.json").write_text("{}")
    assert content_digest(source) != first


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 0), (0.25, 4), (1.0, 16)])
def test_scaled(strength: float, expected: float) -> None:
    assert scaled({"lora_alpha": 16}, strength) == {"lora_alpha": expected}


def test_a_second_strength_shares_the_weights_of_the_first(store: AdapterStore, source: Path) -> None:
    assert store.staged(V.digest) == []
    first = store.stage(source, V)
    assert store.staged(V.digest) == [first]
    (source / "adapter_model.safetensors").unlink()
    second = store.stage(source, Version("b", V.digest, "1"))
    assert (second / "adapter_model.safetensors").samefile(first / "adapter_model.safetensors")
    assert store.staged("sha256:ab") == []


def test_file_states_change_with_the_files(source: Path) -> None:
    before = file_states(source)
    assert file_states(source) == before
    weights = source / "adapter_model.safetensors"
    weights.write_bytes(b"WEIGHTS")
    assert file_states(source) != before
