"""The catalog: presets, SKUs and engine variants together, with the look-ups that forgive spelling."""

from __future__ import annotations

import msgspec

from workspace_controller.engines import Engine
from workspace_controller.presets import Preset
from workspace_controller.skus import Sku


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """All presets, SKUs and engine variants. `load_catalog` (catalog_files.py) builds it."""

    presets: tuple[Preset, ...]
    skus: tuple[Sku, ...]
    engines: tuple[Engine, ...]

    def mirrored(self, registry: str) -> Catalog:
        """Return the catalog with the engines' default images below that registry and path; "" leaves them as they are."""
        if not registry:
            return self

        def prefixed(image: str) -> str:
            return f"{registry}/{image}" if image else ""

        moved = (
            msgspec.structs.replace(e, image=prefixed(e.image), tuner_image=prefixed(e.tuner_image))
            for e in self.engines
        )
        return msgspec.structs.replace(self, engines=tuple(moved))

    def preset(self, name: str) -> Preset | None:
        """Return the preset of that name, alias or Hugging Face id; case does not count."""
        wanted = name.lower()
        return next((preset for preset in self.presets if wanted in preset.names), None)

    def sku(self, name: str) -> Sku | None:
        """Return the SKU of that name; case does not count, as in Azure."""
        wanted = name.lower()
        return next((sku for sku in self.skus if sku.name.lower() == wanted), None)

    def preset_names(self) -> tuple[str, ...]:
        """Return the names of all presets, sorted."""
        return tuple(sorted(preset.name for preset in self.presets))

    def sku_names(self) -> tuple[str, ...]:
        """Return the names of all SKUs, sorted."""
        return tuple(sorted(sku.name for sku in self.skus))
