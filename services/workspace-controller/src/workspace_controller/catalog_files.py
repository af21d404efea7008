"""Reads presets/ into a Catalog. A mistake in the data names the file, the place in it and what was expected."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from workspace_controller.catalog import Catalog
from workspace_controller.engines import Engine
from workspace_controller.presets import Preset
from workspace_controller.skus import ComputeCapability, Prices, Sku

SHIPPED: Final = "catalog_data"
"""Folder of this package in a wheel: a copy of the repository's presets/ (pyproject.toml, force-include)."""
_SOURCE: Final = "presets"

T = TypeVar("T")


class CatalogError(ValueError):
    """The catalog's data are wrong."""


def default_directory() -> Path:
    """Return where the catalog is: shipped in the installed package, or at the root of the source checkout."""
    package = Path(str(importlib.resources.files("workspace_controller")))
    if (package / SHIPPED).is_dir():
        return package / SHIPPED
    return package.parents[3] / _SOURCE


def load_catalog(directory: Path | None = None) -> Catalog:
    """Load the catalog from `directory` (default: `default_directory()`). Raises CatalogError."""
    root = directory or default_directory()
    catalog = Catalog(
        presets=_read_all(sorted((root / "models").glob("*.yaml")), "models", Preset),
        skus=_read_skus(sorted((root / "skus").glob("*.yaml"))),
        engines=_read_all([root / "engines.yaml"], "engines", Engine),
    )
    for what, entries in (("models", catalog.presets), ("skus", catalog.skus), ("engines", catalog.engines)):
        if not entries:
            raise CatalogError(f"{root}: no {what} found")
    _unique("preset name, alias or Hugging Face id", (name for preset in catalog.presets for name in preset.names))
    _unique("SKU", (sku.name.lower() for sku in catalog.skus))
    _unique("engine variant", (engine.name for engine in catalog.engines))
    return catalog


def _read_all(files: Iterable[Path], key: str, type_: type[T]) -> tuple[T, ...]:
    return tuple(entry for file in files for entry in _entries(file, _read(file), key, type_))


def _read_skus(files: Iterable[Path]) -> tuple[Sku, ...]:
    found: list[Sku] = []
    for file in files:
        content = _read(file)
        prices = _convert(file, "prices", content.get("prices"), Prices)
        skus = _entries(file, content, "skus", Sku)
        found += [msgspec.structs.replace(sku, prices_as_of=prices.as_of) for sku in skus]
    return tuple(found)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise CatalogError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CatalogError(f"{file}: must be a mapping")
    return content


def _entries(file: Path, content: dict[str, Any], key: str, type_: type[T]) -> list[T]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise CatalogError(f"{file}: expected the key {key} with a list under it")
    return [_convert(file, f"{key}[{index}]", entry, type_) for index, entry in enumerate(entries)]


def _convert(file: Path, place: str, entry: object, type_: type[T]) -> T:
    try:
        converted = msgspec.convert(entry, type_, strict=True)
    except msgspec.ValidationError as error:
        raise CatalogError(f"{file}: {place}: {error}") from error
    if isinstance(converted, Engine):
        for text in filter(None, (converted.min_compute_capability, converted.max_compute_capability)):
            try:
                ComputeCapability.parse(text)
            except ValueError as error:
                raise CatalogError(f"{file}: {place}: {error}") from error
    return converted


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CatalogError(f"{what} {name!r} is there twice")
        seen.add(name)
