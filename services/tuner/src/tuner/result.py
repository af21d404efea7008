"""What comes out: the adapter in safetensors, a README and the training report; then a manifest, which finishes it."""

from __future__ import annotations

import math
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from tuner import folder_manifest
from tuner.data.preview import MAX_SOURCES, Preview
from tuner.folder_manifest import Manifest
from tuner.job import Job
from tuner.loss_curve import svg

MANIFEST: Final = "kaito_manifest.json"
REPORT: Final = "training_report.json"
_FILES: Final = ("adapter_config.json", "adapter_model.safetensors", "README.md", REPORT)
_PACKAGES: Final = ("tuner", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")
_MODE: Final = 0o644
"""PEFT writes 0600; the packager and a server run as other users."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a finished run."""

    job: Job
    preview: Preview
    losses: tuple[tuple[int, float], ...]
    eval_losses: tuple[tuple[int, float], ...]
    steps: int
    seconds: float
    precision: str
    packing: str
    ended: str = ""
    """Why before the last step, "" where it was the last one."""


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """training_report.json: the packager reads the first fields, the rest travels with the adapter.

    Of more than preview.MAX_SOURCES files the first ones are named; `config_digest` covers all of them.
    """

    base_model: str
    method: str
    dataset_digests: list[str]
    config_digest: str
    metrics: dict[str, float]
    versions: dict[str, str]
    finished_at: str
    config: dict[str, Any]
    data: dict[str, Any]
    precision: str
    packing: str
    losses: list[tuple[int, float]]
    eval_losses: list[tuple[int, float]]
    ended: str = ""


def write(
    staging: Path, adapter: Any, facts: Facts, *, weights: dict[str, Any] | None = None, initial: Path | None = None
) -> None:
    """Write the adapter and the words about it into a fresh folder.

    `weights` are the model's where they had to be gathered from several GPUs; `initial` is what the adapter started from
    (model.keep_initial).
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # The Hub is never asked whether the vocabulary grew: it did not.
    conversion = {} if initial is None else {"path_initial_model_for_weight_conversion": str(initial)}
    adapter.save_pretrained(
        staging, state_dict=weights, safe_serialization=True, save_embedding_layers=False, **conversion
    )
    _name_base(staging / "adapter_config.json", facts.job.base_model)
    report = training_report(facts)
    (staging / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (staging / "README.md").write_text(readme(report, facts), encoding="utf-8")
    for path in staging.iterdir():
        _let_read(path)


def publish(staging: Path, output: Path, key: str, request: str = "") -> None:
    """Copy the files to the output folder and finish it with its manifest, last and atomically."""
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)  # an older result is no longer whole from here on
    for name in _FILES:
        partial = output / f".{name}.partial"
        shutil.copyfile(staging / name, partial)  # the output may be another file system
        _let_read(partial)
        partial.replace(output / name)
    folder_manifest.seal(output, MANIFEST, key, _FILES, request=request)


def _let_read(path: Path) -> None:
    """Let everybody read the file. One that everybody may read is left alone: on a share (SMB) the mount decides, and chmod is
    refused."""
    if path.stat().st_mode & _MODE != _MODE:
        path.chmod(_MODE)


def copied(output: Path, folder: Path) -> None:
    """Copy a finished result, without whatever else lies in the output folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in (*_FILES, MANIFEST):
        shutil.copyfile(output / name, folder / name)


def finished(output: Path, *, key: str = "", request: str = "") -> Manifest | None:
    """Return the manifest of the whole result in the folder if it answers `request`, or was made from what `key` names."""
    manifest = folder_manifest.read(output, MANIFEST)
    if manifest is None or not answers(manifest.key, manifest.request, key=key, request=request):
        return None
    return manifest if folder_manifest.intact(output, manifest) else None


def of_another(output: Path, key: str) -> bool:
    """Whether a result of something else than `key` lies in the folder."""
    manifest = folder_manifest.read(output, MANIFEST)
    return manifest is not None and manifest.key != key


def answers(found_key: str, found_request: str, *, key: str, request: str) -> bool:
    """Whether a result is the one that is looked for; what is not known ("") is never equal. Pure."""
    return (bool(key) and found_key == key) or (bool(request) and found_request == request)


def training_report(facts: Facts) -> TrainingReport:
    """Return the report. Reads the clock and the installed versions."""
    metrics = {"steps": float(facts.steps), "trainSeconds": round(facts.seconds, 1)}
    metrics |= {
        name: points[-1][1]
        for name, points in (("loss", facts.losses), ("evalLoss", facts.eval_losses))
        if points and math.isfinite(points[-1][1])
    }
    recipe = facts.job.recipe
    data = msgspec.to_builtins(facts.preview)
    data.pop("examples")  # samples may be private; the registry may be public
    return TrainingReport(
        base_model=facts.job.base_model,
        method=recipe.method.value,
        dataset_digests=[f"sha256:{file.sha256}" for file in facts.job.files[:MAX_SOURCES]],
        config_digest=f"sha256:{facts.job.key}",
        metrics=metrics,
        versions=_versions(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        config=msgspec.to_builtins(recipe),
        data=data,
        precision=facts.precision,
        packing=facts.packing,
        losses=_thinned(_finite(facts.losses)),
        eval_losses=_thinned(_finite(facts.eval_losses)),
        ended=facts.ended,
    )


def readme(report: TrainingReport, facts: Facts) -> str:
    """Return the README, with the loss curve as a picture in it."""
    metrics = "\n".join(f"| {name} | {value:g} |" for name, value in report.metrics.items())
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    sources = "\n".join(
        f"- {source.name} ({source.format}, {source.shape}): {source.used} of {source.rows} rows, sha256 {source.sha256}"
        for source in facts.preview.sources
    )
    return (
        f"---\nlibrary_name: peft\nbase_model: {report.base_model}\ntags: [lora]\n---\n\n"
        f"# Adapter for {report.base_model}\n\nTrained with {report.method}, finished {report.finished_at}. "
        f"The whole configuration is in `{REPORT}`. {report.ended}\n\n"
        f"| | |\n|---|---|\n{metrics}\n\n## Data\n\n{facts.preview.summary()}.\n\n{sources}\n\n"
        f"## Loss\n\n{svg(report.losses, report.eval_losses)}\n\n## Versions\n\n{versions}\n"
    )


def _finite(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """JSON knows no other numbers, and who reads the report would stumble over a null."""
    return tuple(point for point in points if math.isfinite(point[1]))


def _thinned(points: tuple[tuple[int, float], ...], most: int = 500) -> list[tuple[int, float]]:
    stride = max(1, -(-len(points) // most))
    return [*points[:-1:stride], *points[-1:]]


def _name_base(path: Path, name: str) -> None:
    """PEFT notes the folder that the base was loaded from; users need its name."""
    config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    config["base_model_name_or_path"] = name
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config, order="sorted"), indent=2) + b"\n")


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
