"""An adapter folder as PEFT leaves it: which files go into the image, and whether the engine can serve them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adapter_packager.canonical import canonical_config
from adapter_packager.exits import AdapterInvalid, AdapterMissing
from adapter_packager.training_report import FILE as REPORT_FILE
from adapter_packager.training_report import TrainingReport
from kaito_api.adapter import CONFIG_FILE, WEIGHTS_FILE, HeaderError, Verdict, check, check_files, parse_header
from kaito_api.base_shapes import Base, base_from_config
from kaito_oci import Member

EXTRAS = ("README.md", "chat_template.jinja", REPORT_FILE)
"""Files that travel with the adapter where they are there; whatever else lies in the folder stays behind."""

_MAX_SMALL = 4 * 1024 * 1024
_T = TypeVar("_T")


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A checked adapter, ready to be laid out."""

    members: list[Member]
    """Names relative to the adapter's root."""
    config: dict[str, Any]
    verdict: Verdict
    metadata: dict[str, str]
    """Of the safetensors header."""
    report: TrainingReport
    weights_bytes: int


def read(folder: Path, *, base_model: str = "", base: Base | None = None, max_rank: int | None = None) -> Adapter:
    """Read and check a folder. Raises AdapterMissing and AdapterInvalid."""
    if not folder.is_dir():
        raise AdapterMissing(f"{folder} is not a folder")
    names = sorted(item.name for item in os.scandir(folder) if item.is_file())
    refuse(list(check_files(names)))
    config = _object(folder / CONFIG_FILE)
    header, data_bytes = read_header(folder / WEIGHTS_FILE)
    report = _report(folder / REPORT_FILE) if REPORT_FILE in names else TrainingReport()
    model = base_model or report.base_model
    canonical = canonical_config(config, model)
    verdict = check(config, header, data_bytes=data_bytes, base=base, max_rank=max_rank)
    refuse(list(verdict.problems))
    extras = [Member(name, folder / name) for name in EXTRAS if name in names]
    metadata = header.get("__metadata__")
    return Adapter(
        members=[Member(CONFIG_FILE, canonical), Member(WEIGHTS_FILE, folder / WEIGHTS_FILE), *extras],
        config=msgspec.json.decode(canonical, type=dict[str, Any]) | _version(config),
        verdict=verdict,
        metadata={str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {},
        report=msgspec.structs.replace(report, base_model=model),
        weights_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )


def read_base(path: Path, name: str) -> Base:
    """The base from its config.json, for the check of names and shapes. Raises AdapterMissing and AdapterInvalid."""
    return base_from_config(name or path.parent.name, _object(path))


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The safetensors header of a file and the bytes after it. Raises AdapterInvalid."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        try:
            needed = parse_header(prefix)
            found = parse_header(prefix + file.read(needed - len(prefix))) if isinstance(needed, int) else needed
        except HeaderError as error:
            raise AdapterInvalid("AdapterWeightsInvalid", f"{path.name}: {error}") from error
    if isinstance(found, int):
        raise AdapterInvalid(
            "AdapterWeightsInvalid", f"{path.name} is cut short: {size} bytes, its header needs {found}"
        )
    return found, size - 8 - int.from_bytes(prefix[:8], "little")


def refuse(problems: list[Any]) -> None:
    """Raise AdapterInvalid (AdapterMissing where files are missing) with every problem in it."""
    if not problems:
        return
    message = "; ".join(problem.message for problem in problems)
    if problems[0].reason == "AdapterFileMissing":
        raise AdapterMissing(message)
    raise AdapterInvalid(str(problems[0].reason), message)


def _version(config: Mapping[str, Any]) -> dict[str, Any]:
    version = config.get("peft_version")
    return {"peft_version": version} if isinstance(version, str) else {}


def _object(path: Path) -> dict[str, Any]:
    return _decoded(path, dict[str, Any])


def _report(path: Path) -> TrainingReport:
    return _decoded(path, TrainingReport)


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        if path.stat().st_size > _MAX_SMALL:
            raise AdapterInvalid("AdapterConfigInvalid", f"{path.name} is larger than {_MAX_SMALL} bytes")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise AdapterMissing(f"{path} is missing") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise AdapterInvalid("AdapterConfigInvalid", f"{path.name}: {error}") from error
