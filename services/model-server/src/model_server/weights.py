"""Is this directory a model that can be served? Looked at before the engine starts, because the engine's own answer
comes a minute later, from a child process, as a traceback.

Reads config.json and the headers of the safetensors files (their sizes are stated there), never a tensor.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import msgspec

from model_server.exits import ExitCode, FatalError

HEADER_LIMIT: Final = 100 * 1024 * 1024
"""Largest safetensors header that readers of the format accept, in bytes."""
_INDEX: Final = "model.safetensors.index.json"
_GENERATION: Final = "generation_config.json"
_MISTRAL_CONFIG: Final = "params.json"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tekken.json", "vocab.json")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What config.json says, and how many bytes the weights have."""

    architecture: str
    dtype: str
    size_bytes: int


def inspect(directory: Path, expected_architecture: str = "") -> ModelFacts:
    """Check `directory`. Raises FatalError(WEIGHTS_MISSING) or FatalError(WEIGHTS_INVALID), naming the file."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError as error:
        raise FatalError(
            ExitCode.WEIGHTS_MISSING,
            f"there is no directory {directory}: mount the weights there or check the weights init container",
        ) from error
    except OSError as error:
        raise FatalError(ExitCode.WEIGHTS_MISSING, f"{directory} cannot be read: {error.strerror}") from error
    if not [name for name in names if not name.startswith(".") and name != "lost+found"]:
        raise FatalError(
            ExitCode.WEIGHTS_MISSING, f"{directory} is empty: check the preset's weights image or the volume"
        )
    config = _config(directory)
    architecture = _architecture(directory, config)
    if expected_architecture and architecture and architecture != expected_architecture:
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"the weights are a {architecture}, but the preset is a {expected_architecture}: "
            "the weights image belongs to another model",
        )
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise FatalError(ExitCode.WEIGHTS_INVALID, f"{directory} holds no tokenizer ({', '.join(_TOKENIZERS)})")
    _check_stops(directory, config)
    size = sum(check_safetensors(path) for path in _weight_files(directory))
    dtype = config.get("dtype") or config.get("torch_dtype") or ""
    return ModelFacts(architecture=architecture, dtype=str(dtype).removeprefix("torch."), size_bytes=size)


def check_safetensors(path: Path) -> int:
    """Check that `path` is whole by its header; return its size in bytes. Raises FatalError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT:
                raise _invalid(path, "it does not start with a safetensors header")
            raw = file.read(length)
    except FileNotFoundError as error:
        raise FatalError(
            ExitCode.WEIGHTS_MISSING, f"{path.name} is missing from {path.parent}, though the index names it"
        ) from error
    except OSError as error:
        raise FatalError(
            ExitCode.WEIGHTS_MISSING, f"{path} cannot be read: {error.strerror}; it must be readable for user 1000"
        ) from error
    if len(raw) < length:
        raise _invalid(path, f"it is truncated inside its header ({size} bytes)")
    end = _end_of_data(path, raw)
    expected = 8 + length + end
    if size < expected:
        raise _invalid(path, f"it is truncated: {size} of {expected} bytes")
    if size > expected:
        raise _invalid(path, f"it has {size} bytes where its header describes {expected}")
    return size


def _end_of_data(path: Path, raw: bytes) -> int:
    try:
        header = json.loads(raw)
        return max(
            (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _invalid(path, "its header is not a safetensors header") from error


def _invalid(path: Path, what: str) -> FatalError:
    return FatalError(ExitCode.WEIGHTS_INVALID, f"{path.name} is not usable: {what}. Push or copy the weights again")


def _config(directory: Path) -> dict[str, Any]:
    for name in ("config.json", _MISTRAL_CONFIG):
        path = directory / name
        try:
            config = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise FatalError(
                ExitCode.WEIGHTS_MISSING, f"{path} cannot be read: {error.strerror}; it must be readable for user 1000"
            ) from error
        except ValueError as error:
            raise FatalError(ExitCode.WEIGHTS_INVALID, f"{path} is not valid JSON: {error}") from error
        if not isinstance(config, dict):
            raise FatalError(ExitCode.WEIGHTS_INVALID, f"{path} is not a JSON object")
        return config
    raise FatalError(
        ExitCode.WEIGHTS_MISSING,
        f"{directory} holds no config.json: if the weights lie in a folder of the image, name it in the preset's path",
    )


def _check_stops(directory: Path, config: dict[str, Any]) -> None:
    """The tokens that end an answer must be among the model's: a request with `min_tokens` indexes the logits by them.

    A generation_config.json that cannot be read is left out by vLLM.
    """
    text = config.get("text_config")
    vocabulary = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    try:
        stops = json.loads((directory / _GENERATION).read_bytes())["eos_token_id"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return
    for stop in stops if isinstance(stops, list) else [stops]:
        if isinstance(stop, int) and isinstance(vocabulary, int) and stop >= vocabulary:
            raise FatalError(
                ExitCode.WEIGHTS_INVALID,
                f"{_GENERATION} says that token {stop} ends an answer, but the model has {vocabulary} tokens: the file "
                "belongs to another model, or its eos_token_id is wrong",
            )


def _architecture(directory: Path, config: dict[str, Any]) -> str:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return architectures[0]
    if (directory / "config.json").is_file():
        raise FatalError(ExitCode.WEIGHTS_INVALID, f"{directory}/config.json names no architecture")
    return ""


def _weight_files(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FatalError(ExitCode.WEIGHTS_INVALID, f"{index} is not a safetensors index: {error}") from error
        if any(not isinstance(name, str) or "/" in name or not name.endswith(".safetensors") for name in names):
            raise FatalError(ExitCode.WEIGHTS_INVALID, f"{index} names files that are not safetensors of this folder")
        return sorted(directory / name for name in names)
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"the weights are pickle files ({pickles[0]}), which can run code when loaded: convert them to safetensors",
        )
    raise FatalError(ExitCode.WEIGHTS_MISSING, f"{directory} holds a config.json, but no *.safetensors file")
