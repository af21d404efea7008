"""What an adapter's manifest says about it, so that a reader needs no download to decide. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from adapter_packager.folder import Adapter

MODEL_NAME: Final = "sh.kaito.model.name"
"""KAITO's own annotation: the preset."""
PREFIX: Final = "sh.kaito.adapter."
BASE_MODEL: Final = f"{PREFIX}base-model"
BASE_REVISION: Final = f"{PREFIX}base-revision"
RANK: Final = f"{PREFIX}rank"
ALPHA: Final = f"{PREFIX}alpha"
METHOD: Final = f"{PREFIX}method"
PARAMETERS: Final = f"{PREFIX}parameters"
TARGETS: Final = f"{PREFIX}target-modules"
DATASETS: Final = f"{PREFIX}dataset-digests"
METRICS: Final = f"{PREFIX}metrics"
VERSIONS: Final = f"{PREFIX}versions"
TRAINING_CONFIG: Final = f"{PREFIX}training-config-digest"
CREATED: Final = "org.opencontainers.image.created"

_MAX_VALUE = 4096


def manifest_annotations(adapter: Adapter) -> dict[str, str]:
    """The manifest's annotations, sorted; facts that are not known are left out. Nothing here depends on clock or machine."""
    report, verdict = adapter.report, adapter.verdict
    base = report.base_model or str(adapter.config.get("base_model_name_or_path") or "")
    targets = adapter.config.get("target_modules")
    peft = adapter.config.get("peft_version")
    versions = dict(report.versions) | ({"peft": peft} if isinstance(peft, str) else {})
    found = {
        MODEL_NAME: report.base_model,
        BASE_MODEL: base,
        BASE_REVISION: report.base_revision,
        RANK: str(verdict.rank),
        ALPHA: f"{adapter.config['lora_alpha']:g}",
        METHOD: report.method or verdict.method,
        PARAMETERS: str(verdict.parameters),
        TARGETS: ",".join(targets) if isinstance(targets, list) else str(targets),
        DATASETS: ",".join(report.dataset_digests),
        METRICS: _json({name: value for name, value in report.metrics.items() if value is not None}),
        VERSIONS: _json(versions),
        TRAINING_CONFIG: report.config_digest,
        CREATED: report.finished_at,
    }
    return {key: value[:_MAX_VALUE] for key, value in sorted(found.items()) if value}


def _json(values: dict[str, float] | dict[str, str]) -> str:
    return msgspec.json.encode(values, order="sorted").decode() if values else ""
