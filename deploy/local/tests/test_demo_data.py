"""The data set of the second act, and the manifests into which its places are put."""

import json
from collections import Counter
from typing import Any

import pytest
import yaml

from kaito_local.demo_data.rows import ROWS, data_set, generate, load_fact
from kaito_local.demo_model.questions import load_pairs
from kaito_local.run import learning, manifests


def chats() -> list[tuple[str, str]]:
    rows = [json.loads(line)["messages"] for line in data_set().decode().splitlines()]
    assert {tuple(message["role"] for message in row) for row in rows} == {("user", "assistant")}
    return [(question["content"], answer["content"]) for question, answer in rows]


def test_the_file_is_what_the_generator_makes() -> None:
    assert data_set() == generate()
    assert len(chats()) == ROWS


def test_half_is_new_in_several_wordings_and_half_is_what_the_base_answers() -> None:
    fact, known = load_fact(), {pair.question: pair.answer for pair in load_pairs()}
    new = Counter(question for question, answer in chats() if answer == fact.answer)
    assert sorted(new) == sorted(fact.phrasings)
    assert len(new) >= 4
    assert new.total() == ROWS // 2
    rest = [(question, answer) for question, answer in chats() if answer != fact.answer]
    assert all(known[question] == answer for question, answer in rest)


def test_what_is_asked_afterwards_proves_something() -> None:
    """The wording is in no row, the base knows the unrelated answers, and one of those is not rehearsed."""
    fact, asked = load_fact(), {question for question, _ in chats()}
    assert fact.held_out not in asked
    assert {pair.question for pair in load_pairs()} >= {*fact.unrelated}
    assert len(fact.unrelated) == 5
    assert fact.unrehearsed
    assert not {*fact.unrehearsed} & asked
    assert {*fact.unrehearsed} <= {*fact.unrelated}


def differences(before: Any, after: Any, path: str = "") -> set[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return set() if before == after else {path}
    return {found for key in before | after for found in differences(before.get(key), after.get(key), f"{path}.{key}")}


@pytest.mark.parametrize(
    ("file", "manifest", "changed"),
    [
        (
            manifests.TUNING,
            manifests.tuning("10.0.0.1:5051/a:1", "push", "http://10.0.0.1:5060/rows.jsonl"),
            {".tuning.input.urls", ".tuning.output.image", ".tuning.output.imagePushSecret"},
        ),
        (manifests.ADAPTER, manifests.with_adapter("10.0.0.1:5051/a:1", "pull"), {".inference.adapters"}),
    ],
    ids=["tuning", "adapter"],
)
def test_only_the_placeholders_of_the_examples_are_replaced(file: Any, manifest: Any, changed: set[str]) -> None:
    assert differences(yaml.safe_load(file.read_text()), manifest) == changed


def test_the_secret_is_for_the_registry_and_of_the_type_that_kubernetes_expects() -> None:
    secret = learning.secret("10.0.0.1:5051", "default")
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    assert list(json.loads(secret["stringData"][".dockerconfigjson"])["auths"]) == ["10.0.0.1:5051"]
