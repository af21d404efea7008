"""Pure: an AdmissionReview about a Workspace to its answer. The judgement is the controller's own validation.

No network, no clock: what depends on nodes and ConfigMaps is left to the controller's conditions. An update is judged
only where the spec or the annotations change, so that a Workspace which a newer catalog finds wrong can still be
labelled, and its finalizer be removed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.failures import cut
from workspace_controller.revision import spec_of
from workspace_controller.settings import Settings
from workspace_controller.validation import Verdict, validate

API_VERSION: Final = "admission.k8s.io/v1"
_WARNING_LIMIT: Final = 120
"""Characters of a warning that kubectl shows without trouble (Kubernetes' advice)."""


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of admission/v1 AdmissionRequest that decide."""

    uid: str
    operation: str
    object: Workspace | None = None
    old_object: Workspace | None = None


class Review(msgspec.Struct, frozen=True, rename="camel"):
    """admission/v1 AdmissionReview as it is sent."""

    request: Request


def answer(review: Review, catalog: Catalog, settings: Settings) -> dict[str, Any]:
    """Return the AdmissionReview that answers `review`."""
    request = review.request
    verdict = judge(request, catalog, settings)
    response: dict[str, Any] = {"uid": request.uid, "allowed": not verdict.errors}
    if verdict.warnings:
        response["warnings"] = [cut(warning, _WARNING_LIMIT) for warning in verdict.warnings]
    if verdict.errors:
        message = "; ".join(str(error) for error in verdict.errors)
        response["status"] = {"code": 422, "reason": "Invalid", "message": message}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def judge(request: Request, catalog: Catalog, settings: Settings) -> Verdict:
    """Judge the request; whatever does not change what is planned is fine."""
    new, old = request.object, request.old_object
    if new is None or request.operation not in {"CREATE", "UPDATE"} or new.metadata.deleting:
        return Verdict()
    if old is not None and spec_of(new) == spec_of(old) and new.metadata.annotations == old.metadata.annotations:
        return Verdict()
    return validate(new, catalog, settings)
