"""Each kind of bad tuning input gets the right field, reason and a message that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kaito_api.conditions import Reason
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.inference_config import ConfigSource
from workspace_controller.presets import GIB
from workspace_controller.settings import Settings, TuningSettings
from workspace_controller.tuning.memory import least_bytes
from workspace_controller.validation import Verdict, validate

MakeWorkspace = Callable[..., Workspace]
MACHINE = "Standard_NC24ads_A100_v4"
STRICT = Settings(allow_host_path=False)
LENIENT = Settings(tuning=TuningSettings(data_hosts=("10.0.0.1:8000", "data.example:80")))


def tuned(workspace: MakeWorkspace, machine: str = MACHINE, **changes: Any) -> Workspace:
    tuning = {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.org/rows.jsonl"]},
        "output": {"image": "registry.example/out:1", "imagePushSecret": "push"},
        **changes,
    }
    content = {**msgspec.to_builtins(workspace()), "tuning": tuning}
    content["resource"]["instanceType"] = machine
    del content["inference"]
    return msgspec.convert(content, Workspace)


def judged(workspace: Workspace, catalog: Catalog, settings: Settings, config: str | None = None) -> Verdict:
    source = None if config is None else ConfigSource(found=True, data={"training_config.yaml": config})
    return validate(workspace, catalog, settings, config=source)


def urls(*given: str) -> dict[str, Any]:
    return {"input": {"urls": list(given)}}


PIN = "https://example.org/rows.jsonl#sha256=" + "a" * 64
GOOD: dict[str, tuple[dict[str, Any], Settings]] = {
    "a pin": (urls(PIN), Settings()),
    "a query that is signed": (urls("https://example.org/rows.parquet?sig=x%2F"), Settings()),
    "a host that the operator allows": (urls("http://10.0.0.1:8000/rows.jsonl"), LENIENT),
    "its default port": (urls("http://data.example/rows.jsonl"), LENIENT),
    "an image": ({"input": {"image": "registry.example/rows:1"}}, Settings()),
    "both outputs": (
        {"output": {"image": "r.example/o:1", "imagePushSecret": "p", "volumeSource": {"emptyDir": {}}}},
        Settings(),
    ),
    "lora": ({"method": "lora"}, Settings()),
}


@pytest.mark.parametrize(("changes", "settings"), GOOD.values(), ids=GOOD.keys())
def test_good_input(changes: dict[str, Any], settings: Settings, workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = judged(tuned(workspace, **changes), catalog, settings)
    assert verdict.errors == ()
    assert verdict.sizing is not None
    assert verdict.sizing.engine is not None


def test_only_an_image_can_be_signed(workspace: MakeWorkspace, catalog: Catalog) -> None:
    where = "metadata.annotations[kaito.sh/signing-key-secret]"
    volume = {"output": {"volumeSource": {"emptyDir": {}}}}
    for changes, name, words in (
        ({}, "key", ""),
        (volume, "key", "signs an image"),
        ({}, "../key", "name of a Secret"),
    ):
        content = msgspec.to_builtins(tuned(workspace, **changes))
        content["metadata"]["annotations"] = {"kaito.sh/signing-key-secret": name}
        errors = judged(msgspec.convert(content, Workspace), catalog, Settings()).errors
        assert [error.path for error in errors] == ([where] if words else [])
        assert all(words in error.message for error in errors)


BAD: dict[str, tuple[dict[str, Any], Settings, str, str]] = {
    "plain http": (urls("http://example.org/a"), Settings(), "tuning.input.urls[0]", "write https://"),
    "another port than the allowed one": (
        urls("http://10.0.0.1:8001/a"),
        LENIENT,
        "tuning.input.urls[0]",
        "--data-hosts",
    ),
    "another scheme": (
        urls("https://a.example/a", "s3://b/c"),
        Settings(),
        "tuning.input.urls[1]",
        "not a web address",
    ),
    "a password": (
        urls("https://me:hush@example.org/a"),
        Settings(),
        "tuning.input.urls[0]",
        "credentials do not belong",
    ),
    "a bad pin": (urls("https://example.org/a#sha256=1"), Settings(), "tuning.input.urls[0]", "64 hexadecimal digits"),
    "a bad port": (urls("https://example.org:99999/a"), Settings(), "tuning.input.urls[0]", "not a URL"),
    "an image that is none": (
        {"input": {"image": "Not An Image"}},
        Settings(),
        "tuning.input.image",
        "REGISTRY/REPOSITORY",
    ),
    "a digest as output": (
        {"output": {"image": "r.example/o@sha256:" + "a" * 64, "imagePushSecret": "p"}},
        Settings(),
        "tuning.output.image",
        "name a tag",
    ),
    "the node's disk": (
        {"input": {"volumeSource": {"hostPath": {"path": "/"}}}},
        STRICT,
        "tuning.input.volumeSource",
        "switched off",
    ),
    "a model that cannot be tuned": ({"preset": {"name": "no-lora"}}, Settings(), "tuning.preset.name", "these can:"),
}


@pytest.mark.parametrize(("changes", "settings", "path", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input(
    changes: dict[str, Any], settings: Settings, path: str, words: str, workspace: MakeWorkspace, catalog: Catalog
) -> None:
    verdict = judged(tuned(workspace, **changes), catalog, settings)
    assert [(error.path, error.reason) for error in verdict.errors] == [(path, Reason.SPEC_INVALID)]
    assert words in verdict.errors[0].message
    assert "hush" not in verdict.errors[0].message


CONFIGS: dict[str, tuple[str, str, str]] = {
    "not YAML": ("training_config: [", "qlora", "not valid YAML"),
    "a bomb of aliases": ("a: &a [x]\ntraining_config: *a", "qlora", "must stand for a single value"),
    "another root": ("training_cfg: {}", "qlora", "with the key training_config, not training_cfg"),
    "unknown section": ("training_config: {LoRAConfig: {}}", "qlora", "did you mean LoraConfig"),
    "lora in four bits": (
        "training_config: {QuantizationConfig: {load_in_4bit: true}}",
        "lora",
        "change one of the two",
    ),
    "qlora in sixteen": (
        "training_config: {QuantizationConfig: {load_in_4bit: false}}",
        "qlora",
        "change one of the two",
    ),
}


@pytest.mark.parametrize(("text", "method", "words"), CONFIGS.values(), ids=CONFIGS.keys())
def test_bad_configuration(text: str, method: str, words: str, workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = judged(tuned(workspace, method=method, config="tuned"), catalog, Settings(), text)
    assert [(error.path, error.reason) for error in verdict.errors] == [("tuning.config", Reason.CONFIG_INVALID)]
    assert words in verdict.errors[0].message


def test_a_missing_configuration_is_named(workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = validate(tuned(workspace, config="tuned"), catalog, Settings(), config=ConfigSource(found=False))
    assert verdict.errors[0].reason is Reason.CONFIG_MAP_NOT_FOUND
    assert "training_config.yaml" in verdict.errors[0].message


@pytest.mark.parametrize(
    ("machine", "method", "fits"),
    [
        ("Standard_NC6s_v3", "qlora", True),
        ("Standard_NC6s_v3", "lora", True),
        ("Standard_NV36ads_A10_v5", "qlora", True),
    ],
)
def test_a_small_model_is_trained_on_small_machines(
    machine: str, method: str, fits: bool, workspace: MakeWorkspace, catalog: Catalog
) -> None:
    assert (judged(tuned(workspace, machine, method=method), catalog, Settings()).sizing is not None) == fits


def test_a_model_that_no_gpu_of_the_machine_holds_is_refused_with_a_way_out(
    workspace: MakeWorkspace, catalog: Catalog
) -> None:
    """Two GPUs do not help: each has a whole copy."""
    given = tuned(workspace, "Standard_NV72ads_A10_v5", method="lora", preset={"name": "phi-4"})
    (error,) = judged(given, catalog, Settings()).errors
    assert error.reason is Reason.INSTANCE_TYPE_TOO_SMALL
    assert "Standard_NC24ads_A100_v4" in error.message
    assert "qlora takes about a third" in error.message
    assert judged(tuned(workspace, "Standard_NV72ads_A10_v5", preset={"name": "phi-4"}), catalog, Settings()).sizing


def test_the_lower_bound_is_a_little_more_than_the_weights(catalog: Catalog) -> None:
    preset = catalog.preset("phi-3-mini-4k-instruct")
    assert preset is not None
    assert 8 < least_bytes(preset, "lora") / GIB < 12
    assert 3 < least_bytes(preset, "qlora") / GIB < 5


def test_a_build_without_a_tuner_is_told(workspace: MakeWorkspace, catalog: Catalog) -> None:
    bare = msgspec.structs.replace(
        catalog, engines=tuple(msgspec.structs.replace(engine, tuner_image="") for engine in catalog.engines)
    )
    (error,) = judged(tuned(workspace), bare, Settings()).errors
    assert error.reason is Reason.ENGINE_LACKS_GPU
    assert "--tuner-images" in error.message
    named = Settings(tuning=TuningSettings(images={"gpu": "mine/tuner:1"}))
    assert judged(tuned(workspace), bare, named).sizing is not None
