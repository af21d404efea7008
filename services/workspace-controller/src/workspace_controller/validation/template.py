"""The parts of a user's pod template that are read here. What else is in it, only the apiserver judges."""

from __future__ import annotations

from typing import Any

import msgspec

from workspace_controller.validation.verdict import FieldError, invalid

_PATH = "inference.template"


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Term(msgspec.Struct, rename="camel"):
    match_expressions: list[dict[str, Any]] | None = None


class _Required(msgspec.Struct, rename="camel"):
    node_selector_terms: list[_Term] | None = None


class _NodeAffinity(msgspec.Struct):
    required: _Required | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class _Affinity(msgspec.Struct, rename="camel"):
    node_affinity: _NodeAffinity | None = None


class _Spec(msgspec.Struct):
    containers: list[dict[str, Any]] | None = None
    affinity: _Affinity | None = None
    tolerations: list[dict[str, Any]] | None = None


class _Template(msgspec.Struct):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


def shape_errors(template: dict[str, Any]) -> list[FieldError]:
    """Return what of `template` is of another type than a PodTemplateSpec has there, and an absent container."""
    try:
        found = msgspec.convert(template, _Template)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        return [invalid(f"{_PATH}{path.rstrip('`')}", f"is not what a pod template has there: {words}")]
    if found.spec is None or not found.spec.containers:
        return [invalid(f"{_PATH}.spec.containers", "is empty: name at least one container")]
    return []
