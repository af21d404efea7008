"""Who may write which tag of a registry: of two tuning Workspaces that want one, the newer is refused, with the other's name."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.observed import Observed
from workspace_controller.obstacles import find_obstacle
from workspace_controller.options import Options
from workspace_controller.output_tags import Purpose, find_rival, written_tags
from workspace_controller.settings import Settings, TuningSettings
from workspace_controller.tuning.checkpoints import checkpoint_image
from workspace_controller.validation import validate

MakeWorkspace = Callable[..., Workspace]
REPOSITORY = "registry.example:5000/team/fact"
LONG = "t" * 123


def tuning(
    make: MakeWorkspace, name: str, image: str, age: int, *, volume: bool = False, team: str = "team"
) -> Workspace:
    """A tuning Workspace; the higher the age, the earlier it was made."""
    output = {"image": image, "imagePushSecret": "push"}
    if volume:
        output["volumeSource"] = {"persistentVolumeClaim": {"claimName": "c"}}
    changes = {
        "metadata": {
            "name": name,
            "namespace": team,
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-11-21T11:{59 - age}:00Z",
        },
        "inference": None,
        "tuning": {
            "preset": {"name": "phi-3-mini-4k-instruct"},
            "method": "qlora",
            "input": {"urls": ["https://example.org/rows.jsonl"]},
            "output": output,
        },
    }
    return make(msgspec.json.encode(changes).decode())


RESULT, CHECKPOINTS = Purpose.RESULT, Purpose.CHECKPOINTS


@pytest.mark.parametrize(
    ("older", "newer", "told"),
    [
        ("fact:1", "fact:1", (f"{REPOSITORY}:1", RESULT, RESULT)),
        ("fact:1", "fact:1-ckpt", (f"{REPOSITORY}:1-ckpt", CHECKPOINTS, RESULT)),
        ("fact:1-ckpt", "fact:1", (f"{REPOSITORY}:1-ckpt", RESULT, CHECKPOINTS)),
        ("fact", "fact:latest-ckpt", (f"{REPOSITORY}:latest-ckpt", CHECKPOINTS, RESULT)),
        ("fact", "fact:latest", (f"{REPOSITORY}:latest", RESULT, RESULT)),
        (f"fact:{LONG}one", f"fact:{LONG}two", (f"{REPOSITORY}:{LONG}-ckpt", CHECKPOINTS, CHECKPOINTS)),
        ("fact:1", "fact:2", None),
        ("fact:1-ckpt", "fact:2", None),
        ("fact:1", "facts:1-ckpt", None),
    ],
)
def test_of_two_that_write_one_tag_the_newer_loses(
    older: str, newer: str, told: tuple[str, Purpose, Purpose] | None, workspace: MakeWorkspace
) -> None:
    first = tuning(workspace, "first", f"registry.example:5000/team/{older}", age=9)
    second = tuning(workspace, "second", f"registry.example:5000/team/{newer}", age=1)
    both = [second, first]
    assert find_rival(first, both, checkpoints=True) is None
    found = find_rival(second, both, checkpoints=True)
    assert (found and (found.tag, found.theirs, found.ours)) == told
    assert found is None or found.key == first.metadata.key


def test_checkpoints_that_nobody_keeps_are_in_nobodys_way(workspace: MakeWorkspace) -> None:
    plain = tuning(workspace, "plain", f"{REPOSITORY}:1", age=9)
    onto_volume = tuning(workspace, "onto-volume", f"{REPOSITORY}:1", age=9, volume=True)
    other = tuning(workspace, "other", f"{REPOSITORY}:1-ckpt", age=1)
    assert find_rival(other, [plain], checkpoints=True) is not None
    assert find_rival(other, [plain], checkpoints=False) is None
    assert find_rival(other, [onto_volume], checkpoints=True) is None
    leaving = msgspec.structs.replace(plain.metadata, deletion_timestamp=plain.metadata.creation_timestamp)
    assert find_rival(other, [msgspec.structs.replace(plain, metadata=leaving)], checkpoints=True) is None


@pytest.mark.parametrize("image", [REPOSITORY, f"{REPOSITORY}:1", f"{REPOSITORY}:{LONG}12345"])
def test_the_tag_that_is_guarded_is_the_one_that_is_written(image: str, workspace: MakeWorkspace) -> None:
    given = tuning(workspace, "a", image, age=1)
    written = written_tags(given, checkpoints=True)
    assert checkpoint_image(given, Settings(), Options()) in {tag for tag, use in written.items() if use is CHECKPOINTS}


@pytest.mark.parametrize(
    ("older", "newer", "message"),
    [
        ("1", "1", "the Workspace first is older and pushes to the same tag"),
        ("1", "1-ckpt", "the Workspace first is older and keeps the checkpoints of its training under this tag"),
        (
            "1-ckpt",
            "1",
            f"the Workspace first is older and pushes to {REPOSITORY}:1-ckpt, where the checkpoints of this training "
            "would be kept",
        ),
        (
            f"{LONG}one",
            f"{LONG}two",
            f"the Workspace first is older and keeps the checkpoints of its training under {REPOSITORY}:{LONG}-ckpt, "
            "as this one would",
        ),
    ],
)
def test_the_message_names_the_other_and_the_way_out(
    older: str, newer: str, message: str, workspace: MakeWorkspace, catalog: Catalog, settings: Settings
) -> None:
    def told(team: str) -> str:
        first = tuning(workspace, "first", f"{REPOSITORY}:{older}", age=9, team=team)
        second = tuning(workspace, "second", f"{REPOSITORY}:{newer}", age=1)
        observed = Observed(workspace=second, output_rival=find_rival(second, [first], checkpoints=True))
        obstacle = find_obstacle(observed, validate(second, catalog, settings), settings)
        assert obstacle is not None
        assert (obstacle.reason, obstacle.field) == ("OutputConflict", "tuning.output.image")
        return obstacle.message

    assert told("team") == f"{message}: name another tag in tuning.output.image."
    assert told("others") == told("team").replace("the Workspace first", "a Workspace of another namespace")


def test_a_result_is_never_written_over_by_its_own_checkpoints(workspace: MakeWorkspace, catalog: Catalog) -> None:
    kept = Settings()
    none = Settings(tuning=TuningSettings(registry_checkpoints=False))
    image = f"{REPOSITORY}:{LONG}-ckpt"
    given = tuning(workspace, "a", image, age=1)
    assert checkpoint_image(given, kept, Options()) == image, "the clash that is to be refused"
    (error,) = validate(given, catalog, kept).errors
    assert (error.path, error.reason) == ("tuning.output.image", "SpecInvalid")
    assert "shorten it" in str(error)
    assert validate(given, catalog, none).errors == ()
    assert validate(tuning(workspace, "a", image, age=1, volume=True), catalog, kept).errors == ()
