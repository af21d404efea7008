"""Admission: the same judgement as the controller's, and never in the way of what changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kaito_api.workspace import Workspace
from workspace_controller.admission import Request, Review, answer
from workspace_controller.catalog import Catalog
from workspace_controller.settings import Settings

BAD = "{inference: {preset: {name: phi-99}}}"
GONE = "{metadata: {deletionTimestamp: '2026-11-21T12:00:00Z'}, inference: {preset: {name: phi-99}}}"
LABELLED = "{metadata: {labels: {team: a}}, inference: {preset: {name: phi-99}}}"
ANNOTATED = "{metadata: {annotations: {kaito.sh/lora: disabled}}, inference: {preset: {name: phi-99}}}"
CASES: dict[str, tuple[str, str | None, str | None, bool]] = {
    "good": ("CREATE", "", None, True),
    "bad": ("CREATE", BAD, None, False),
    "made bad": ("UPDATE", BAD, "", False),
    "was bad and is labelled": ("UPDATE", LABELLED, BAD, True),
    "was bad and is annotated": ("UPDATE", ANNOTATED, BAD, False),
    "was bad and is repaired": ("UPDATE", "", BAD, True),
    "bad and going": ("UPDATE", GONE, "", True),
    "deletion": ("DELETE", None, BAD, True),
}


@pytest.mark.parametrize("case", CASES)
def test_answer(case: str, catalog: Catalog, settings: Settings, workspace: Callable[..., Workspace]) -> None:
    operation, new, old, allowed = CASES[case]
    made: list[Any] = [workspace(text) if text is not None else None for text in (new, old)]
    review = Review(Request(uid="u-1", operation=operation, object=made[0], old_object=made[1]))
    response = answer(review, catalog, settings)["response"]
    assert (response["uid"], response["allowed"]) == ("u-1", allowed)
    assert allowed or "phi-99" in response["status"]["message"]


def test_a_review_is_read_from_the_wire(workspace: Callable[..., Workspace]) -> None:
    request = {"uid": "u", "operation": "CREATE", "kind": {"kind": "Workspace"}, "object": workspace()}
    review = msgspec.json.decode(msgspec.json.encode({"kind": "AdmissionReview", "request": request}), type=Review)
    assert review.request.object == workspace()
