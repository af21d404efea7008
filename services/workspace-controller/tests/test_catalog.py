"""The shipped catalog loads, and wrong data are told by file and place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workspace_controller.catalog import Catalog
from workspace_controller.catalog_files import CatalogError, load_catalog
from workspace_controller.engines import choose_engine
from workspace_controller.skus import ComputeCapability

HERE = Path(__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(HERE / "catalog", tmp_path / "presets")
    return tmp_path / "presets"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("models/phi.yaml", "weightsGiB: 7.12", "weightsGiB: -1", "models[0]: Expected `float` > 0"),
        (
            "models/phi.yaml",
            "weightsGiB: 7.12",
            "weightsGib: 7.12",
            "models[0]: Object contains unknown field `weightsGib`",
        ),
        ("models/phi.yaml", "layers: 32", "layers: many", "models[0]: Expected `int`, got `str` - at `$.shape.layers`"),
        (
            "models/phi.yaml",
            "aliases: [phi4]",
            "aliases: [PHI-3-mini-4k-instruct]",
            "'phi-3-mini-4k-instruct' is there twice",
        ),
        ("models/phi.yaml", "models:", "model:", "expected the key models with a list under it"),
        ("models/phi.yaml", "models:", "models: [", "cannot be read"),
        ("skus/azure.yaml", "gpuCount: 1", "gpuCount: 0", "skus[0]: Expected `int` >= 1"),
        ("skus/azure.yaml", 'computeCapability: "7.0"', 'computeCapability: "7"', "skus[0]: Expected `str` matching"),
        ("skus/azure.yaml", "Standard_NC12s_v3", "standard_nc6s_V3", "SKU 'standard_nc6s_v3' is there twice"),
        (
            "engines.yaml",
            'minComputeCapability: "7.5"',
            "minComputeCapability: new",
            "engines[0]: not a compute capability",
        ),
        ("engines.yaml", "dtypeBound: float16", "dtypeBound: float8", "engines[1]: Invalid enum value"),
    ],
)
def test_wrong_data(file: str, old: str, new: str, words: str, copy: Path) -> None:
    edit(copy / file, old, new)
    with pytest.raises(CatalogError) as caught:
        load_catalog(copy)
    assert words in str(caught.value)
    assert "twice" in words or file in str(caught.value)


@pytest.mark.parametrize("directory", [None, Path(__file__).parents[3] / "presets"])
def test_the_shipped_catalog_loads(directory: Path | None) -> None:
    shipped = load_catalog(directory)
    for name in (
        "phi-3-mini-4k-instruct",
        "phi-3-mini-128k-instruct",
        "phi-3-medium-4k-instruct",
        "phi-3-medium-128k-instruct",
        "phi-3.5-mini-instruct",
        "phi-4",
        "phi-4-mini-instruct",
    ):
        found = shipped.preset(name)
        assert found is not None, name
        assert shipped.preset(found.hugging_face.id) == found
    for name in ("Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3", "Standard_NC24rs_v3"):
        sku = shipped.sku(name)
        assert sku is not None, name
        engine = choose_engine(shipped.engines, sku.capability, "")
        assert engine is not None
        assert engine.dtype_bound == "float16"
    assert choose_engine(shipped.engines, None, "cpu") is not None


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"engines\.yaml: cannot be read"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    ("capability", "override", "expected"),
    [
        ("7.0", "", "gpu-sm70"),
        ("7.5", "", "gpu"),
        ("9.0", "", "gpu"),
        ("6.1", "", None),
        ("9.0", "cpu", "cpu"),
        ("9.0", "nothing", None),
        (None, "", "gpu"),
    ],
)
def test_engine_of_a_gpu(capability: str | None, override: str, expected: str | None, catalog: Catalog) -> None:
    parsed = ComputeCapability.parse(capability) if capability else None
    found = choose_engine(catalog.engines, parsed, override)
    assert (found.name if found else None) == expected


def test_capabilities_compare_as_numbers() -> None:
    assert ComputeCapability.parse("10.0") > ComputeCapability.parse("9.0")
    with pytest.raises(ValueError, match="8,6"):
        ComputeCapability.parse("8,6")
