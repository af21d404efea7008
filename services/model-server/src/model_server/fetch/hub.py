"""Weights from a model hub at a pinned commit. Only what an engine needs, only safetensors, every byte verified.

huggingface_hub downloads and resumes, but checks sizes only. The commit's own file list names a sha256 for every large
file and a git object id for every small one: both are checked here before anything is published.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import msgspec

from model_server.exits import ExitCode, FatalError
from model_server.fetch.placement import Placement
from model_server.fetch.source import HubSource

WANTED: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Top-level files that an engine reads: weights, configuration, tokenizers, chat templates."""
ENDPOINT_VARIABLE: Final = "HF_ENDPOINT"
TIMEOUT_SECONDS: Final = 30
_CHUNK: Final = 1 << 20


class HubFile(msgspec.Struct, frozen=True):
    """A file of the commit: its sha256 (large files) or its git object id, the other is ""."""

    name: str
    size: int
    sha256: str
    git_id: str


def fetch(source: HubSource, to: Path, progress: Callable[[int, int], None]) -> None:
    """Download `source` into `to`. Blocks; run it in a thread. Raises FatalError."""
    # The server runs offline; this step is the one that may not. Read at import, so set before it.
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(TIMEOUT_SECONDS))
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import huggingface_hub
    import huggingface_hub.errors

    place = Placement(to, f"hf://{source.repository}@{source.revision}", source.revision[:12])
    if place.complete():
        return
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or None
    token = os.environ.get("HF_TOKEN") or False
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint, token=token).model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
        )
        files = select(_listed(info), source)
        place.prepare(sum(file.size for file in files))
        huggingface_hub.snapshot_download(
            source.repository,
            revision=source.revision,
            local_dir=place.stage,
            allow_patterns=[file.name for file in files],
            etag_timeout=TIMEOUT_SECONDS,
            endpoint=endpoint,
            token=token,
            max_workers=4,
            tqdm_class=_meter(sum(file.size for file in files), progress),
        )
    except huggingface_hub.errors.GatedRepoError as error:
        raise _denied(source) from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        # The hub answers 401 for what does not exist and for what is private: it does not tell them apart.
        raise _denied(source) if not token else _missing(source) from error
    except (huggingface_hub.errors.RevisionNotFoundError, huggingface_hub.errors.EntryNotFoundError) as error:
        raise _missing(source) from error
    except (huggingface_hub.errors.HfHubHTTPError, _transport_error(), OSError) as error:
        raise _unavailable(source, error) from error
    for file in files:
        verify(place.stage, file)
    place.publish([file.name for file in files])


def select(files: Sequence[HubFile], source: HubSource) -> list[HubFile]:
    """Return the files to download. Raises FatalError where the commit has no safetensors."""
    chosen = [file for file in files if "/" not in file.name and any(fnmatch(file.name, pattern) for pattern in WANTED)]
    if not any(file.name.endswith(".safetensors") for file in chosen):
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"{source.repository} has no safetensors at this commit; pickle files are not loaded, convert them first",
        )
    return chosen


def verify(stage: Path, file: HubFile) -> None:
    """Check one downloaded file against the commit's list. Raises FatalError and removes the file."""
    path = stage / file.name
    size = path.stat().st_size
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    else:
        # git's object id of a file; sha1 is what the hub offers for small files
        digest, expected = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), file.git_id
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    if size != file.size or digest.hexdigest() != expected:
        path.unlink()
        raise FatalError(
            ExitCode.WEIGHTS_INVALID, f"{file.name} is not what the commit lists: {size} bytes, {digest.hexdigest()}"
        )


def _transport_error() -> type[Exception]:
    """Return what the hub library's own HTTP client raises: which client that is differs between its releases."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(kind for kind in HfHubHTTPError.__mro__[1:] if kind.__name__ == "HTTPError")


def _listed(info: Any) -> list[HubFile]:
    return [
        HubFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else "", item.blob_id or "")
        for item in info.siblings or ()
    ]


def _meter(total: int, progress: Callable[[int, int], None]) -> type[Any]:
    """Return a progress bar class for huggingface_hub that draws nothing and counts bytes."""
    from huggingface_hub.utils.tqdm import tqdm

    done = 0

    class Meter(tqdm):
        """Counts the bytes of all bars together."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            """Count `n` more bytes."""
            nonlocal done
            if self._counts:
                done = min(total, done + int(n or 0))
                progress(done, total)

    return Meter


def _denied(source: HubSource) -> FatalError:
    return FatalError(
        ExitCode.ACCESS_DENIED,
        f"{source.repository} does not exist or is not open to this token: set modelAccessSecret to a Secret with "
        "HF_TOKEN, and accept the model's licence there",
    )


def _missing(source: HubSource) -> FatalError:
    return FatalError(ExitCode.WEIGHTS_MISSING, f"{source.repository} has no commit {source.revision}")


def _unavailable(source: HubSource, error: Exception) -> FatalError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return _denied(source)
    if status == 404:
        return _missing(source)
    return FatalError(ExitCode.REGISTRY_UNAVAILABLE, f"the model hub cannot be reached: {error}; it is tried again")
