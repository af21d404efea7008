"""adapters.plan against a model of the engine: random edits, failures in between, and always the same end."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.adapters.plan import (
    Actual,
    Load,
    Publish,
    Retire,
    Revive,
    Step,
    Withdraw,
    apply,
    gone,
    plan_adapter,
)
from model_server.adapters.version import Version, normalise_strength

A1, A2 = Version("a", "sha256:1", "1"), Version("a", "sha256:2", "1")
B1 = Version("b", "sha256:1", "1")

versions = st.builds(
    Version, st.sampled_from("abcd"), st.sampled_from(["sha256:1", "sha256:2"]), st.sampled_from(["0.5", "1"])
)
desires = st.lists(versions, max_size=6).map(lambda items: {item.name: item for item in items})


def plan_adapters(desired: Mapping[str, Version], actual: Actual) -> list[Step]:
    """The steps for all names, first those that free room, as the manager takes them name by name."""
    names = {*actual.served, *(version.name for version in actual.loaded)}
    steps: list[Step] = []
    for name in sorted(names - set(desired)):
        steps += plan_adapter(name, None, actual)
    for name in sorted(desired):
        steps += plan_adapter(name, desired[name], actual)
    return steps


@dataclass
class Engine:
    """What vLLM would do: dies when a name leads to a version that it does not hold."""

    loaded: set[Version] = field(default_factory=set)
    names: dict[str, Version] = field(default_factory=dict)
    in_use: dict[Version, int] = field(default_factory=dict)

    def do(self, step: Step) -> None:
        match step:
            case Load(version):
                assert version not in self.loaded, "loaded twice"
                self.loaded.add(version)
            case Publish(version):
                assert version in self.loaded, "a name without a version behind it"
                self.names[version.name] = version
            case Withdraw(name):
                del self.names[name]
            case Retire(version):
                assert version not in self.names.values(), "retired while served"
            case Revive(version):
                assert version in self.loaded

    def remove(self, version: Version) -> None:
        assert not self.in_use.get(version), "removed while in use"
        assert version not in self.names.values(), "removed while served"
        self.loaded.remove(version)


@settings(max_examples=200, deadline=None)
@given(edits=st.lists(desires, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_random_edits_end_where_they_should(edits: list[dict[str, Version]], seed: int) -> None:
    chance = random.Random(seed)
    engine, actual = Engine(), Actual()
    for desired in edits:
        for step in plan_adapters(desired, actual):
            if chance.random() < 0.15:
                break  # a pull failed, the engine refused: the rest of this plan is void
            engine.do(step)
            actual = apply(step, actual)
        for version in sorted(actual.retiring, key=lambda item: item.engine_name):
            if chance.random() < 0.5:  # the others are still in use
                engine.remove(version)
                actual = gone(version, actual)
        assert set(actual.loaded) == engine.loaded
        assert dict(actual.served) == engine.names
    for _ in range(2):
        for step in plan_adapters(edits[-1], actual):
            engine.do(step)
            actual = apply(step, actual)
        for version in list(actual.retiring):
            engine.remove(version)
            actual = gone(version, actual)
    assert engine.names == edits[-1]
    assert engine.loaded == set(edits[-1].values())
    assert plan_adapters(edits[-1], actual) == []


@given(desired=desires, other=desires)
def test_a_name_that_stays_is_served_at_every_moment(desired: dict[str, Version], other: dict[str, Version]) -> None:
    actual = Actual()
    for step in plan_adapters(desired, actual):
        actual = apply(step, actual)
    staying = set(desired) & set(other)
    for step in plan_adapters(other, actual):
        actual = apply(step, actual)
        assert staying <= set(actual.served)


@pytest.mark.parametrize(
    ("target", "actual", "expected"),
    [
        (None, Actual(), []),
        (A1, Actual(), [Load(A1), Publish(A1)]),
        (A1, Actual(served={"a": A1}, loaded=frozenset({A1})), []),
        (A2, Actual(served={"a": A1}, loaded=frozenset({A1})), [Load(A2), Publish(A2), Retire(A1)]),
        (None, Actual(served={"a": A1}, loaded=frozenset({A1})), [Withdraw("a"), Retire(A1)]),
        (
            A1,
            Actual(served={"a": A2}, loaded=frozenset({A1, A2}), retiring=frozenset({A1})),
            [Revive(A1), Publish(A1), Retire(A2)],
        ),
        (A1, Actual(loaded=frozenset({A1})), [Publish(A1)]),
        (A2, Actual(loaded=frozenset({A1, A2}), retiring=frozenset({A1})), [Publish(A2)]),
        (A1, Actual(served={"b": B1}, loaded=frozenset({B1})), [Load(A1), Publish(A1)]),
    ],
)
def test_plan_adapter(target: Version | None, actual: Actual, expected: list[Step]) -> None:
    assert plan_adapter("a", target, actual) == expected


@pytest.mark.parametrize(
    "step",
    [Publish(A1), Retire(B1)],
)
def test_a_step_that_would_break_serving_is_refused(step: Step) -> None:
    with pytest.raises(ValueError, match=r"is not in the engine|is being served"):
        apply(step, Actual(served={"b": B1}, loaded=frozenset({B1})))


def test_engine_names_differ_by_content_and_strength() -> None:
    names = {Version("a", f"sha256:{digit * 64}", strength).engine_name for digit in "12" for strength in ("0.5", "1")}
    assert names == {"a@111111111111-s0.5", "a@111111111111-s1", "a@222222222222-s0.5", "a@222222222222-s1"}


@pytest.mark.parametrize(
    ("text", "strong", "expected"),
    [
        ("", False, "1"),
        ("1.0", False, "1"),
        ("0", False, "0"),
        ("-0", False, "0"),
        ("0.50", False, "0.5"),
        ("1e-1", False, "0.1"),
        ("2", True, "2"),
    ],
)
def test_strength(text: str, strong: bool, expected: str) -> None:
    assert normalise_strength(text, strong=strong) == expected


@pytest.mark.parametrize(
    ("text", "strong"), [("1.01", False), ("-0.1", False), ("x", False), ("nan", True), ("5", True)]
)
def test_bad_strength(text: str, strong: bool) -> None:
    with pytest.raises(ValueError, match="strength"):
        normalise_strength(text, strong=strong)
