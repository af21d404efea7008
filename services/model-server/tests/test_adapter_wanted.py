"""adapters.wanted: the Workspace's list and the mounted folders."""

from __future__ import annotations

import pytest

from kaito_api.meta import ObjectMeta
from kaito_api.workspace import AdapterSpec, DataSource, InferenceSpec, Workspace
from model_server.adapters.wanted import STRONG_ANNOTATION, Wanted, wanted


def workspace(*adapters: AdapterSpec, annotations: dict[str, str] | None = None) -> Workspace:
    return Workspace(
        metadata=ObjectMeta(name="w", namespace="n", annotations=annotations or {}),
        inference=InferenceSpec(adapters=list(adapters)),
    )


def adapter(name: str, image: str = "", strength: str = "") -> AdapterSpec:
    return AdapterSpec(source=DataSource(name=name, image=image), strength=strength)


def test_images_and_mounted_folders() -> None:
    spec = workspace(adapter("pulled", "r/x:1", "0.5"), adapter("mounted", strength="0.25"))
    assert wanted(spec, ["mounted", "alone"], "/mnt/adapter", "phi") == {
        "pulled": Wanted(name="pulled", image="r/x:1", strength="0.5"),
        "mounted": Wanted(name="mounted", folder="/mnt/adapter/mounted", strength="0.25"),
        "alone": Wanted(name="alone", folder="/mnt/adapter/alone"),
    }


def test_without_a_workspace_the_mounted_ones_serve() -> None:
    assert wanted(None, ["a"], "/m", "phi") == {"a": Wanted(name="a", folder="/m/a")}


@pytest.mark.parametrize(
    ("adapters", "name", "words"),
    [
        ([adapter("a", "r/x", "2")], "a", "between 0 and 1"),
        ([adapter("a", "r/x", "loud")], "a", "not a number"),
        ([adapter("a")], "a", "no image"),
        ([adapter("phi", "r/x")], "phi", "base model"),
        ([adapter("a", "r/x"), adapter("a", "r/y")], "a", "two adapters"),
        ([adapter("A B", "r/x")], "A B", "lower case"),
        ([adapter("../etc", "r/x")], "../etc", "lower case"),
    ],
)
def test_problems_concern_their_own_adapter_only(adapters: list[AdapterSpec], name: str, words: str) -> None:
    result = wanted(workspace(*adapters, adapter("good", "r/g")), [], "/m", "phi")
    assert words in result[name].problem
    assert not result["good"].problem


def test_more_than_one_by_annotation() -> None:
    spec = workspace(adapter("a", "r/x", "1.5"), annotations={STRONG_ANNOTATION: "true"})
    assert wanted(spec, [], "/m", "phi")["a"].strength == "1.5"
