"""The store against a model: whatever happens to it, its indexes say what a search through all objects would."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.core import ConfigMap
from kaito_api.meta import Key
from kubecore.store import Store


def cm(name: str, version: int, **labels: str) -> ConfigMap:
    metadata = {"name": name, "namespace": "n", "resourceVersion": str(version), "labels": labels}
    return msgspec.convert({"metadata": metadata}, ConfigMap)


def by_labels(obj: ConfigMap) -> list[str]:
    return [*obj.metadata.labels.values()]


objects = st.builds(
    lambda name, version, color, size: cm(name, version, color=color, size=size),
    st.sampled_from("abcd"),
    st.integers(1, 4),
    st.sampled_from(["red", "blue"]),
    st.sampled_from(["big", "red"]),
)
steps = st.one_of(
    st.tuples(st.just("put"), objects),
    st.tuples(st.just("pop"), st.sampled_from("abcd")),
    st.tuples(st.just("replace"), st.lists(objects, unique_by=lambda o: o.metadata.name)),
)


@given(st.lists(steps))
def test_indexes_agree_with_a_full_search(script: list[tuple[str, object]]) -> None:
    store: Store[ConfigMap] = Store({"label": by_labels})
    model: dict[Key, ConfigMap] = {}
    for verb, argument in script:
        if verb == "put":
            assert store.put(argument) is model.get(argument.metadata.key)
            model[argument.metadata.key] = argument
        elif verb == "pop":
            key = Key("n", argument)
            assert store.pop(key) is model.pop(key, None)
        else:
            before = dict(model)
            model = {}
            for obj in argument:
                old = before.get(obj.metadata.key)
                same = old is not None and old.metadata.resource_version == obj.metadata.resource_version
                model[obj.metadata.key] = old if same else obj
            difference = store.replace(argument)
            assert {o.metadata.key for o in difference.added} == model.keys() - before.keys()
            assert {o.metadata.key for o in difference.removed} == before.keys() - model.keys()
            assert all(old is before[new.metadata.key] is not new for old, new in difference.changed)
        assert {id(o) for o in store.list()} == {id(o) for o in model.values()}
        for value in ("red", "blue", "big"):
            wanted = {key for key, o in model.items() if value in o.metadata.labels.values()}
            assert {o.metadata.key for o in store.by_index("label", value)} == wanted
    assert len(store) == len(model)


def test_empty_index_entries_are_dropped() -> None:
    store: Store[ConfigMap] = Store({"label": by_labels})
    for number in range(100):
        store.put(cm("a", number, color=f"c{number}"))
    assert len(store._indexes["label"]) == 1
