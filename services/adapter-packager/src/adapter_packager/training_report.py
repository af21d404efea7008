"""What the tuner says about the run that made an adapter: `training_report.json` beside the weights. Optional."""

from __future__ import annotations

from typing import Final

import msgspec

FILE: Final = "training_report.json"


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Facts of one training run. Unknown fields are allowed and travel with the file."""

    base_model: str = ""
    """The preset that was trained."""
    base_revision: str = ""
    """Commit, tag or digest of the base's weights."""
    method: str = ""
    """`lora` or `qlora`."""
    dataset_digests: list[str] = []
    config_digest: str = ""
    metrics: dict[str, float | None] = {}
    """Like `loss`, `evalLoss`, `steps`. JSON's word for a loss that is no number is null: no reason to lose an adapter."""
    versions: dict[str, str] = {}
    """Package -> version."""
    finished_at: str = ""
    """RFC 3339."""
