"""From a folder to the exact bytes of a manifest."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_packager import folder
from adapter_packager.canonical import canonical_config
from adapter_packager.exits import AdapterInvalid, AdapterMissing, PackagerError
from adapter_packager.package import Format, build
from kaito_oci.digest import sha256

MakeAdapter = Callable[..., Path]
CONFIG = {"r": 8, "lora_alpha": 16, "target_modules": ["o_proj", "qkv_proj"], "base_model_name_or_path": "phi"}


def report(**facts: object) -> bytes:
    return json.dumps(facts).encode()


FACTS = {
    "baseModel": "phi-3-mini-4k-instruct",
    "baseRevision": "sha256:abc",
    "method": "qlora",
    "datasetDigests": ["sha256:d1", "sha256:d2"],
    "metrics": {"loss": 0.5, "evalLoss": 0.75},
    "versions": {"trl": "1.16.0"},
    "finishedAt": "2026-11-21T10:00:00Z",
}


def manifest(path: Path, layout: Format = Format.IMAGE, base_model: str = "") -> dict[str, Any]:
    return msgspec.json.decode(build(folder.read(path, base_model=base_model), layout).manifest, type=dict[str, Any])


# The literals hold the bytes still from one release, Python version and machine to the next.
@pytest.mark.parametrize(
    ("layout", "digest"),
    [
        (Format.IMAGE, "sha256:14d2c62eddb2c54c520d963735fdd5d18724a4a5c197aa0f943dd4d22c0f1616"),
        (Format.MODELPACK, "sha256:ddc1fee9f205045acea75b464b4e7d3de364b440d21f3a38558544f541c4ae9b"),
    ],
)
def test_the_same_adapter_has_the_same_digest_whoever_saved_it(
    make_adapter: MakeAdapter, layout: Format, digest: str
) -> None:
    found = set()
    for position, (mode, base) in enumerate(((0o600, "/mnt/a/phi"), (0o644, "/home/me/phi/"), (0o666, "./phi"))):
        path = make_adapter(
            f"adapter-{position}",
            config={
                "base_model_name_or_path": base,
                "target_modules": ["o_proj", "qkv_proj"][:: 1 if position else -1],
            },
            training_report__json=report(**FACTS),
            optimizer__pt=b"stays behind" * position,
        )
        for file in path.iterdir():
            file.chmod(mode)
            os.utime(file, (position, position))
        path.chmod(0o700 if position else 0o755)
        found.add(sha256(build(folder.read(path), layout).manifest))
    assert found == {digest}


def test_the_image_is_shaped_as_kaito_wants_it(make_adapter: MakeAdapter) -> None:
    made = manifest(make_adapter(training_report__json=report(**FACTS)))
    assert made["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["mediaType"] for layer in made["layers"]] == ["application/vnd.oci.image.layer.v1.tar"]
    assert made["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert made["annotations"] == {
        "org.opencontainers.image.created": "2026-11-21T10:00:00Z",
        "sh.kaito.adapter.alpha": "16",
        "sh.kaito.adapter.base-model": "phi-3-mini-4k-instruct",
        "sh.kaito.adapter.base-revision": "sha256:abc",
        "sh.kaito.adapter.dataset-digests": "sha256:d1,sha256:d2",
        "sh.kaito.adapter.method": "qlora",
        "sh.kaito.adapter.metrics": '{"evalLoss":0.75,"loss":0.5}',
        "sh.kaito.adapter.parameters": "5120",
        "sh.kaito.adapter.rank": "8",
        "sh.kaito.adapter.target-modules": "o_proj,qkv_proj",
        "sh.kaito.adapter.versions": '{"peft":"0.21.2","trl":"1.16.0"}',
        "sh.kaito.model.name": "phi-3-mini-4k-instruct",
    }


def test_modelpack_has_one_raw_blob_per_file(make_adapter: MakeAdapter) -> None:
    made = manifest(make_adapter(), Format.MODELPACK, "phi-4")
    assert made["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    files = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in made["layers"]}
    assert files == {
        "adapter_config.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "adapter_model.safetensors": "application/vnd.cncf.model.weight.v1.raw",
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
    }


def test_other_weights_have_another_digest(make_adapter: MakeAdapter) -> None:
    path = make_adapter()
    before = build(folder.read(path), Format.IMAGE).manifest
    weights = bytearray((path / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "adapter_model.safetensors").write_bytes(weights)
    assert build(folder.read(path), Format.IMAGE).manifest != before


@pytest.mark.parametrize(
    ("name", "base_model", "written"),
    [
        ("/mnt/weights/phi", "phi-3", "phi-3"),
        ("/mnt/weights/phi/", "", "phi"),
        ("microsoft/Phi-3-mini-4k-instruct", "", "microsoft/Phi-3-mini-4k-instruct"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3", "phi-3"),
        (None, "", None),
    ],
)
def test_the_base_is_named_by_its_preset_and_never_by_a_path(
    name: str | None, base_model: str, written: str | None
) -> None:
    found = json.loads(canonical_config(CONFIG | {"base_model_name_or_path": name}, base_model))
    assert found.get("base_model_name_or_path") == written


@given(order=st.permutations(list(CONFIG)), targets=st.permutations(["o_proj", "qkv_proj"]), noise=st.booleans())
def test_the_config_has_one_form(order: list[str], targets: list[str], noise: bool) -> None:
    config = {key: (CONFIG | {"target_modules": targets})[key] for key in order}
    more = {"auto_mapping": None, "peft_version": "1", "inference_mode": False} if noise else {}
    assert canonical_config(config | more, "") == canonical_config(CONFIG, "")


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), AdapterMissing, "AdapterMissing"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), AdapterMissing, "AdapterMissing"),
        (lambda path: (path / "adapter_config.json").write_text("{"), AdapterInvalid, "AdapterConfigInvalid"),
        (lambda path: (path / "adapter_config.json").write_text("[]"), AdapterInvalid, "AdapterConfigInvalid"),
        (lambda path: (path / "adapter_config.json").write_text('{"r": 8}'), AdapterInvalid, "AdapterConfigInvalid"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b""), AdapterInvalid, "AdapterWeightsInvalid"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b"PK" * 9), AdapterInvalid, "AdapterWeightsInvalid"),
        (lambda path: cut(path / "adapter_model.safetensors", 100), AdapterInvalid, "AdapterWeightsInvalid"),
        (lambda path: cut(path / "adapter_model.safetensors", -1), AdapterInvalid, "AdapterWeightsInvalid"),
        (lambda path: (path / "training_report.json").write_text('{"metrics": 3}'), AdapterInvalid, "AdapterConfigInvalid"),
    ],
)  # fmt: skip
def test_folders_that_are_no_adapter(
    make_adapter: MakeAdapter, spoil: Callable[[Path], object], error: type[PackagerError], reason: str
) -> None:
    path = make_adapter()
    spoil(path)
    with pytest.raises(error) as refused:
        folder.read(path)
    assert refused.value.reason == reason


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def test_a_pickle_is_refused(make_adapter: MakeAdapter) -> None:
    path = make_adapter(adapter_model__bin=b"\x80\x04cos\nsystem\n")
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(PackagerError, match="pickle"):
        folder.read(path)


def test_a_base_of_other_shape_is_refused(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    base = {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    }
    path, config = make_adapter(), tmp_path / "config.json"
    config.write_text(json.dumps(base))
    assert folder.read(path, base=folder.read_base(config, "phi")).verdict.ok
    config.write_text(json.dumps(base | {"hidden_size": 128}))
    with pytest.raises(AdapterInvalid, match="another model"):
        folder.read(path, base=folder.read_base(config, "phi"))
