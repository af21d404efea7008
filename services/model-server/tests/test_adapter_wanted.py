"""adapters.wanted: the Workspace's list and the mounted folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaito_api import labels
from kaito_api.meta import ObjectMeta
from kaito_api.workspace import AdapterSpec, DataSource, InferenceSpec, Workspace
from model_server.adapters.mounted import Mounted, look
from model_server.adapters.wanted import Wanted, wanted

HERE = Mounted(frozenset({"mounted", "alone", "empty"}), frozenset({"mounted", "alone"}))
NOTHING = Mounted()


def workspace(*adapters: AdapterSpec, annotations: dict[str, str] | None = None) -> Workspace:
    return Workspace(
        metadata=ObjectMeta(name="w", namespace="n", annotations=annotations or {}),
        inference=InferenceSpec(adapters=list(adapters)),
    )


def adapter(name: str, image: str = "", strength: str = "") -> AdapterSpec:
    return AdapterSpec(source=DataSource(name=name, image=image), strength=strength)


def test_the_workspace_says_which_are_served() -> None:
    spec = workspace(adapter("pulled", "r/x:1", "0.5"), adapter("mounted", strength="0.25"), adapter("empty"))
    assert wanted(spec, HERE, "/mnt/adapter", "phi") == {
        "pulled": Wanted(name="pulled", image="r/x:1", strength="0.5"),
        "mounted": Wanted(name="mounted", folder="/mnt/adapter/mounted", strength="0.25"),
        "empty": Wanted(name="empty", folder="/mnt/adapter/empty"),
    }


def test_without_a_workspace_the_mounted_ones_serve() -> None:
    assert wanted(None, HERE, "/m", "phi") == {
        "alone": Wanted(name="alone", folder="/m/alone"),
        "mounted": Wanted(name="mounted", folder="/m/mounted"),
    }


def test_a_volume_that_is_not_mounted_needs_a_restart() -> None:
    source = DataSource(name="late", volume_source={"emptyDir": {}})
    item = wanted(workspace(AdapterSpec(source=source)), HERE, "/m", "phi")["late"]
    assert item.needs_restart
    assert "restart" in item.problem


def test_look_sees_folders_and_those_that_hold_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "adapter_config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert look(tmp_path) == Mounted(frozenset({"full", "empty"}), frozenset({"full"}))
    assert look(tmp_path / "absent") == NOTHING


@pytest.mark.parametrize(
    ("adapters", "name", "words"),
    [
        ([adapter("a", "r/x", "2")], "a", "between 0 and 1"),
        ([adapter("a", "r/x", "loud")], "a", "not a number"),
        ([adapter("a")], "a", "neither an image"),
        ([adapter("phi", "r/x")], "phi", "base model"),
        ([adapter("a", "r/x"), adapter("a", "r/y")], "a", "two adapters"),
        ([adapter("A B", "r/x")], "A B", "lower case"),
        ([adapter("../etc", "r/x")], "../etc", "lower case"),
    ],
)
def test_problems_concern_their_own_adapter_only(adapters: list[AdapterSpec], name: str, words: str) -> None:
    result = wanted(workspace(*adapters, adapter("good", "r/g")), NOTHING, "/m", "phi")
    assert words in result[name].problem
    assert not result["good"].problem


def test_more_than_one_by_annotation() -> None:
    spec = workspace(adapter("a", "r/x", "1.5"), annotations={labels.STRONG_ADAPTERS: "true"})
    assert wanted(spec, NOTHING, "/m", "phi")["a"].strength == "1.5"
