"""Rules about adapters, the same on create and on update."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

from kaito_api import labels
from kaito_api.workspace import AdapterSpec, DataSource
from workspace_controller.validation.verdict import FieldError, invalid

MAX_ADAPTERS: Final = 10
MAX_STRONG: Final = 4
"""Strength that the annotation admits. Beyond that nothing but noise comes out."""
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_REFERENCE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)


def adapter_errors(adapters: Sequence[AdapterSpec], served_name: str, *, strong: bool = False) -> list[FieldError]:
    """Judge inference.adapters. `served_name` is the base model's public name, which no adapter may take.

    `strong` says that the Workspace's annotation admits strengths above 1.
    """
    errors: list[FieldError] = []
    if len(adapters) > MAX_ADAPTERS:
        errors.append(invalid("inference.adapters", f"has {len(adapters)} entries, at most {MAX_ADAPTERS} are served"))
    seen: set[str] = set()
    for index, adapter in enumerate(adapters):
        path = f"inference.adapters[{index}]"
        name = adapter.source.name
        errors += _name_errors(f"{path}.source.name", name, served_name)
        if name and name in seen:
            errors.append(
                invalid(f"{path}.source.name", f"{name!r} is the name of an earlier adapter: names are unique")
            )
        seen.add(name)
        errors += _source_errors(f"{path}.source", adapter.source)
        errors += _strength_errors(f"{path}.strength", adapter.strength, MAX_STRONG if strong else 1)
    return errors


def is_image(reference: str) -> bool:
    """Whether `reference` can name an image: [host[:port]/]path[:tag][@sha256:digest]."""
    return _REFERENCE.fullmatch(reference) is not None


def no_image(reference: str) -> str:
    """Return what is told about a text that can name no image."""
    return f"{reference!r} is not an image reference: write REGISTRY/REPOSITORY:TAG, the repository in lower case"


def _name_errors(path: str, name: str, served_name: str) -> list[FieldError]:
    if not name:
        return [invalid(path, "is missing: requests name the adapter by it")]
    if len(name) > 63 or not _SUBDOMAIN.fullmatch(name):
        return [invalid(path, f"{name!r} must be lower-case letters, digits, hyphens and dots, at most 63 characters")]
    if name == served_name:
        return [invalid(path, f"{name!r} is the name of the base model: choose another")]
    return []


def _source_errors(path: str, source: DataSource) -> list[FieldError]:
    if source.urls:
        return [invalid(f"{path}.urls", "adapters come from an image or a volume: pack it with adapter-packager push")]
    given = [field for field, value in (("image", source.image), ("volumeSource", source.volume_source)) if value]
    if len(given) != 1:
        return [invalid(path, "needs exactly one of image and volumeSource, has " + (" and ".join(given) or "neither"))]
    if source.image and not is_image(source.image):
        return [invalid(f"{path}.image", no_image(source.image))]
    return []


def _strength_errors(path: str, strength: str, limit: int) -> list[FieldError]:
    if not strength:
        return []
    try:
        value = Decimal(strength)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= limit:
        more = "" if limit > 1 else f'; the annotation {labels.STRONG_ADAPTERS}: "true" allows up to {MAX_STRONG}'
        return [invalid(path, f'{strength!r} must be a decimal from 0 to {limit}, in quotes: "0.5"{more}')]
    return []
