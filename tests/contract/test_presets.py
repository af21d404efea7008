"""The catalog's data: against their JSON schemas, and against figures that can be computed or are published."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PRESETS = Path(__file__).resolve().parents[2] / "presets"
SCHEMAS = {"models/*.yaml": "models", "skus/*.yaml": "skus", "engines.yaml": "engines"}
FILES = [(file, schema) for pattern, schema in SCHEMAS.items() for file in sorted(PRESETS.glob(pattern))]


def read(name: str) -> Any:
    return yaml.safe_load((PRESETS / name).read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((PRESETS / "schema" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def models() -> dict[str, dict[str, Any]]:
    return {
        model["name"]: model
        for file in PRESETS.glob("models/*.yaml")
        for model in yaml.safe_load(file.read_text())["models"]
    }


def skus() -> dict[str, dict[str, Any]]:
    return {sku["name"]: sku for sku in read("skus/azure.yaml")["skus"]}


@pytest.mark.parametrize(("file", "schema"), FILES, ids=lambda value: getattr(value, "name", value))
def test_data_obey_their_schema(file: Path, schema: str) -> None:
    errors = [
        f"{error.json_path}: {error.message}"
        for error in validator(schema).iter_errors(yaml.safe_load(file.read_text()))
    ]
    assert errors == []


BAD = [
    ("models", "models/phi-3.yaml", ("models", 0, "huggingFace", "revision"), "main"),
    ("models", "models/phi-3.yaml", ("models", 0, "weightsGib"), 7),
    ("models", "models/phi-3.yaml", ("models", 0, "weightsGiB"), 0),
    ("models", "models/phi-3.yaml", ("models", 0, "name"), "Phi 3"),
    ("models", "models/phi-3.yaml", ("models", 0, "shape", "kvHeads"), 0),
    ("models", "models/phi-3.yaml", ("models", 0, "image", "path"), "/workspace/weights"),
    ("models", "models/phi-3.yaml", ("models", 0, "lora"), False),
    ("models", "models/phi-3.yaml", ("models", 0, "tuning", "methods"), ["QLoRA"]),
    ("skus", "skus/azure.yaml", ("skus", 0, "usdPerHour"), 3.06),
    ("skus", "skus/azure.yaml", ("skus", 0, "computeCapability"), 7.0),
    ("skus", "skus/azure.yaml", ("prices", "note"), "what it costs"),
    ("engines", "engines.yaml", ("engines", 0, "env"), {"LD_PRELOAD": "x"}),
    ("engines", "engines.yaml", ("engines", 0, "dtypeBound"), "fp16"),
]


@pytest.mark.parametrize(("schema", "file", "place", "value"), BAD)
def test_schemas_refuse_mistakes(schema: str, file: str, place: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(read(file))
    target = data
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    assert not validator(schema).is_valid(data)


@pytest.mark.parametrize(
    ("name", "bytes_per_token", "disk", "context", "weights"),
    [
        ("phi-3-mini-4k-instruct", 393216, 87, 4096, 7.12),
        ("phi-3-mini-128k-instruct", 393216, 87, 131072, 7.12),
        ("phi-3-medium-4k-instruct", 204800, 106, 4096, 26.0),
        ("phi-3-medium-128k-instruct", 204800, 106, 131072, 26.0),
        ("phi-3.5-mini-instruct", 393216, 87, 131072, 7.12),
        ("phi-4", 204800, 107, 16384, 27.31),
        ("phi-4-mini-instruct", 131072, 87, 131072, 7.15),
    ],
)
def test_figures_are_those_of_kaito(name: str, bytes_per_token: int, disk: int, context: int, weights: float) -> None:
    model = models()[name]
    shape = model["shape"]
    assert 2 * shape["kvHeads"] * shape["headDim"] * shape["layers"] * 2 == bytes_per_token
    assert int(model["weightsGiB"] + 80) == disk
    assert (model["contextLength"], model["weightsGiB"]) == (context, weights)
    assert model["huggingFace"]["id"].split("/")[1].lower() == name
    assert model["image"]["repository"] == f"kaito-{name}"


@pytest.mark.parametrize("name", sorted(models()))
def test_shapes_add_up_to_the_published_weights(name: str) -> None:
    """Parameters computed from the shape, at two bytes each, are the size of the files: a wrong figure does not pass."""
    model = models()[name]
    shape = model["shape"]
    vocabulary = {"phi-4": 100352, "phi-4-mini-instruct": 200064}.get(name, 32064)
    embeddings = 1 if name == "phi-4-mini-instruct" else 2  # phi-4-mini ties its output layer to its input
    attention = shape["headDim"] * (2 * shape["attentionHeads"] + 2 * shape["kvHeads"]) * shape["hiddenSize"]
    mlp = 3 * shape["hiddenSize"] * shape["intermediateSize"]
    parameters = shape["layers"] * (attention + mlp) + embeddings * vocabulary * shape["hiddenSize"]
    assert parameters * 2 / 2**30 == pytest.approx(model["weightsGiB"], rel=0.002)


def test_every_kaito_sku_of_azure_is_there_and_the_v100_too() -> None:
    published = {
        "Standard_NC6s_v3": (16, 1, "7.0"),
        "Standard_NC12s_v3": (32, 2, "7.0"),
        "Standard_NC24s_v3": (64, 4, "7.0"),
        "Standard_NC24rs_v3": (64, 4, "7.0"),
        "Standard_NV36ads_A10_v5": (24, 1, "8.6"),
        "Standard_NV72ads_A10_v5": (48, 2, "8.6"),
        "Standard_NC24ads_A100_v4": (80, 1, "8.0"),
        "Standard_NC48ads_A100_v4": (160, 2, "8.0"),
        "Standard_NC96ads_A100_v4": (320, 4, "8.0"),
        "Standard_ND96asr_A100_v4": (320, 8, "8.0"),
        "Standard_ND96amsr_A100_v4": (640, 8, "8.0"),
        "Standard_NC40ads_H100_v5": (94, 1, "9.0"),
        "Standard_NC80adis_H100_v5": (188, 2, "9.0"),
        "Standard_ND96isr_H100_v5": (640, 8, "9.0"),
        "Standard_NCC40ads_H100_v5": (94, 1, "9.0"),
        "Standard_ND96isr_H200_v5": (1128, 8, "9.0"),
        "Standard_NG32ads_V620_v1": (32, 1, "0.0"),
        "Standard_NG32adms_V620_v1": (32, 1, "0.0"),
    }
    ours = {name: (sku["gpuMemoryGiB"], sku["gpuCount"], sku["computeCapability"]) for name, sku in skus().items()}
    assert {name: ours.get(name) for name in published} == published


def test_prices_grow_with_the_number_of_the_same_gpu() -> None:
    by_gpu: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for sku in skus().values():
        if "usdPerHour" in sku:
            per_gpu = sku["gpuMemoryGiB"] // sku["gpuCount"]
            by_gpu.setdefault((sku["gpuModel"], per_gpu), []).append((sku["gpuCount"], float(sku["usdPerHour"])))
    for gpu, prices in by_gpu.items():
        assert [price for _, price in sorted(prices)] == sorted(price for _, price in prices), gpu


@pytest.mark.parametrize("name", sorted(skus()))
def test_at_most_one_gpu_build_runs_on_each_machine_type(name: str) -> None:
    capability = number(skus()[name]["computeCapability"])
    fitting = [
        engine["name"]
        for engine in read("engines.yaml")["engines"]
        if "minComputeCapability" in engine
        and number(engine["minComputeCapability"]) <= capability <= number(engine.get("maxComputeCapability", "99.0"))
    ]
    expected = {(7, 0): ["cuda128-sm70"], (0, 0): []}.get(capability, ["cuda13"])
    assert fitting == expected


def number(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)


def test_what_was_never_run_says_so() -> None:
    for engine in read("engines.yaml")["engines"]:
        if engine.get("verified") is False:
            assert "not run on" in engine["note"]
    assert [engine["name"] for engine in read("engines.yaml")["engines"] if engine.get("verified") is False] == [
        "cuda128-sm70"
    ]
