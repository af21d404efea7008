"""History of the spec: one revision each, never twice the same, at most ten."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kaito_api import labels
from kaito_api.core import ControllerRevision
from kaito_api.meta import ObjectMeta
from kaito_api.workspace import Workspace
from workspace_controller.revision import HISTORY_LIMIT, digest_of, plan_revision

MakeWorkspace = Callable[..., Workspace]


def stored(number: int, digest: str) -> ControllerRevision:
    meta = ObjectMeta(name=f"phi-{digest}", namespace="team", annotations={labels.REVISION_HASH: digest})
    return ControllerRevision(metadata=meta, revision=number)


def test_first_revision_is_one_and_holds_the_whole_spec(workspace: MakeWorkspace) -> None:
    found = plan_revision(workspace(), [])
    assert found.number == 1
    assert found.create is not None
    assert found.create.body["revision"] == 1
    assert sorted(found.create.body["data"]) == ["inference", "resource"]
    assert found.create.body["metadata"]["ownerReferences"][0]["uid"] == workspace().metadata.uid


def test_the_current_revision_needs_nothing(workspace: MakeWorkspace) -> None:
    current = stored(4, digest_of(workspace()))
    found = plan_revision(workspace(), [stored(3, "other"), current])
    assert (found.number, found.create, found.renumber, found.surplus) == (4, None, None, ())


def test_going_back_raises_the_number_of_the_old_revision(workspace: MakeWorkspace) -> None:
    old = stored(1, digest_of(workspace()))
    found = plan_revision(workspace(), [old, stored(2, "other")])
    assert (found.number, found.create, found.renumber) == (3, None, old.metadata.key)


def test_the_oldest_go_beyond_ten(workspace: MakeWorkspace) -> None:
    history = [stored(number, f"{number}") for number in range(1, 13)]
    found = plan_revision(workspace(), history)
    assert found.create is not None
    assert [revision.revision for revision in found.surplus] == [1, 2, 3]
    assert len(history) - len(found.surplus) + 1 == HISTORY_LIMIT


def test_the_hash_covers_every_part_and_ignores_metadata(workspace: MakeWorkspace) -> None:
    base = digest_of(workspace())
    changed = {
        digest_of(workspace("{inference: {config: tuned}}")),
        digest_of(workspace("{inference: {adapters: [{source: {name: a, image: b}}]}}")),
        digest_of(workspace("{resource: {count: 2}}")),
        digest_of(workspace("{tuning: {config: tuned}}")),
        digest_of(workspace("{resource: {labelSelector: {matchLabels: {apps: other}}}}")),
    }
    assert len(changed | {base}) == 6
    assert digest_of(workspace("{metadata: {generation: 7, labels: {a: b}}}")) == base


def test_the_hash_ignores_the_order_of_keys(workspace: MakeWorkspace) -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "b"}]}, "metadata": {}}
    turned = {"metadata": {}, "spec": {"containers": [{"image": "b", "name": "a"}]}}
    first, second = (
        msgspec.structs.replace(
            workspace(), inference=msgspec.structs.replace(workspace().inference, preset=None, template=body)
        )
        for body in (template, turned)
    )
    assert digest_of(first) == digest_of(second)


def test_a_long_name_still_gives_a_legal_one(workspace: MakeWorkspace) -> None:
    found = plan_revision(workspace(f"{{metadata: {{name: {'a' * 63}}}}}"), [])
    assert found.create is not None
    assert len(found.create.name) <= 253
