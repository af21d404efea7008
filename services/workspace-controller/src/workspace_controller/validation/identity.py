"""Rules about the Workspace as a whole: its name, and that it asks for exactly one thing."""

from __future__ import annotations

import re
from typing import Final

from kaito_api.workspace import Workspace
from workspace_controller.validation.verdict import FieldError, invalid

_DNS_1035: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def identity_errors(workspace: Workspace) -> list[FieldError]:
    """Judge the name, and exactly-one-of inference and tuning."""
    errors: list[FieldError] = []
    name = workspace.metadata.name
    if not _DNS_1035.fullmatch(name):
        errors.append(
            invalid(
                "metadata.name",
                f"{name!r} cannot be a Service's name: use at most 63 characters (this has {len(name)}), lower-case letters, "
                "digits and hyphens, a letter first, no hyphen last, no dots",
            )
        )
    if workspace.inference is not None and workspace.tuning is not None:
        errors.append(
            invalid("inference", "inference and tuning are both set: keep one, make a second Workspace for the other")
        )
    if workspace.inference is None and workspace.tuning is None:
        errors.append(invalid("inference", "neither inference nor tuning is set: set the one that is wanted"))
    if workspace.resource is None:
        errors.append(
            invalid("resource", "is missing: set resource.labelSelector, and resource.instanceType for new nodes")
        )
    return errors
