"""Whether the engine can serve a LoRA adapter, told from its config and its safetensors header alone.

The packager asks before it pushes, the controller before it makes a claim, the model-server before it loads: all three call
`check`. It says what vLLM 0.32 and 0.33 accept (peft_helper, lora_model), and what vLLM does not look at: that the adapter was
made for this base. Pure: whoever calls brings the bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from kaito_api.base_shapes import Base, Shape, base_shapes

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
MAX_HEADER: Final = 16 * 1024 * 1024
"""Bytes of a safetensors header; an adapter with 100,000 tensors needs 12 MiB."""

_REQUIRED = ("r", "lora_alpha", "target_modules")
_HARMLESS_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_HEADS = frozenset({"classifier", "score"})
_VOCABULARY = frozenset({"embed_tokens", "lm_head", "wte", "embed_out"})
_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per number."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B|embedding_A|embedding_B)(?P<weight>\.weight)?"
)
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_MAX_NAMED = 3


class AdapterReason(StrEnum):
    """Why an adapter cannot be served."""

    FILE_MISSING = "AdapterFileMissing"
    PICKLE_REFUSED = "PickleRefused"
    CONFIG_INVALID = "AdapterConfigInvalid"
    METHOD_UNSUPPORTED = "MethodUnsupported"
    RANK_TOO_HIGH = "RankTooHigh"
    WEIGHTS_INVALID = "AdapterWeightsInvalid"
    TENSOR_UNKNOWN = "TensorUnknown"
    SHAPE_MISMATCH = "ShapeMismatch"
    VOCABULARY_CHANGED = "VocabularyChanged"
    WRONG_BASE_MODEL = "WrongBaseModel"


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: a stable reason, and a message that says what to do."""

    reason: AdapterReason
    message: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the check found. The adapter can be served when there are no problems."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    rank: int
    """The highest rank of any module; 0 when unknown."""
    method: str
    """`lora` or `rslora`."""
    parameters: int
    """Numbers in all tensors."""
    base_name: str
    """base_model_name_or_path as the config has it."""

    @property
    def ok(self) -> bool:
        """Whether nothing stands against serving it."""
        return not self.problems


class HeaderError(ValueError):
    """The start of the file is not a safetensors header."""


def parse_header(prefix: bytes) -> dict[str, Any] | int:
    """The header from the first bytes of a safetensors file, or how many bytes are needed for it. Raises HeaderError."""
    if len(prefix) < 8:
        return 8
    length = int.from_bytes(prefix[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        raise HeaderError(f"not a safetensors file: its header would have {length} bytes")
    if len(prefix) < 8 + length:
        return 8 + length
    try:
        return msgspec.json.decode(prefix[8 : 8 + length], type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise HeaderError(f"the safetensors header is not JSON: {error}") from error


def check_files(names: Iterable[str]) -> tuple[Problem, ...]:
    """What the file list alone tells."""
    present = set(names)
    problems = [
        Problem(AdapterReason.FILE_MISSING, f"{name} is missing: save the adapter with PEFT's save_pretrained()")
        for name in (CONFIG_FILE, WEIGHTS_FILE)
        if name not in present
    ]
    pickles = sorted(name for name in present if name.lower().endswith(_PICKLES) and "adapter" in name.lower())
    if pickles and WEIGHTS_FILE not in present:
        message = f"{pickles[0]} is a pickle, which runs code when it is loaded: save with safe_serialization=True"
        problems.append(Problem(AdapterReason.PICKLE_REFUSED, message))
    return tuple(problems)


def check(
    config: Mapping[str, Any],
    header: Mapping[str, Any],
    *,
    data_bytes: int | None = None,
    base: Base | None = None,
    max_rank: int | None = None,
    other_presets: Collection[str] = (),
) -> Verdict:
    """Check an adapter.

    `config` is adapter_config.json, `header` the safetensors header, `data_bytes` the file's size after the header when it is
    known, `base` the model that will serve it, `max_rank` the engine's --max-lora-rank, `other_presets` the names that the
    adapter may not claim as its base.
    """
    tensors, problems = _tensors(header, data_bytes)
    problems += _config_problems(config)
    rank = max(_ranks(config), default=0)
    if max_rank is not None and rank > max_rank:
        message = (
            f"rank {rank} is above the engine's limit of {max_rank}: raise the Workspace's rank limit or train lower"
        )
        problems.append(Problem(AdapterReason.RANK_TOO_HIGH, message))
    pairs, unknown = _pairs(tensors)
    problems += unknown
    problems += _pair_problems(pairs, config)
    warnings = _unmatched_targets(config, pairs)
    if base is not None:
        problems += _base_problems(pairs, base)
        claimed, doubt = _base_name(config, base, other_presets)
        problems += claimed
        warnings += doubt
    return Verdict(
        problems=tuple(problems),
        warnings=tuple(warnings),
        rank=rank,
        method="rslora" if config.get("use_rslora") else "lora",
        parameters=sum(shape[0] * shape[1] for pair in pairs.values() for shape in pair.values()),
        base_name=_text(config.get("base_model_name_or_path")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _tensors(header: Mapping[str, Any], data_bytes: int | None) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Shapes by name; the offsets must fill the file without gaps."""
    shapes: dict[str, tuple[int, ...]] = {}
    spans: list[tuple[int, int]] = []
    for name, value in header.items():
        if name == "__metadata__":
            continue
        try:
            entry = msgspec.convert(value, _TensorEntry)
        except msgspec.ValidationError as error:
            return {}, [Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE}: tensor {name[:120]!r}: {error}")]
        if entry.dtype not in _DTYPES:
            message = f"tensor {name[:120]!r} has type {entry.dtype}: save the adapter in float32, float16 or bfloat16"
            return {}, [Problem(AdapterReason.WEIGHTS_INVALID, message)]
        start, stop = entry.data_offsets
        if min(entry.shape, default=1) < 0 or stop - start != math.prod(entry.shape) * _DTYPES[entry.dtype]:
            message = f"{WEIGHTS_FILE}: tensor {name[:120]!r} has another size than its shape says: the file is damaged"
            return {}, [Problem(AdapterReason.WEIGHTS_INVALID, message)]
        shapes[name] = entry.shape
        spans.append(entry.data_offsets)
    if not shapes:
        return {}, [Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE} has no tensors")]
    end = 0
    for start, stop in sorted(spans):
        if start != end or stop < start:
            return shapes, [
                Problem(AdapterReason.WEIGHTS_INVALID, f"{WEIGHTS_FILE} has gaps or overlaps: it is damaged")
            ]
        end = stop
    if data_bytes is not None and data_bytes != end:
        message = (
            f"{WEIGHTS_FILE} has {data_bytes} bytes of data where its header says {end}: it is damaged or cut short"
        )
        return shapes, [Problem(AdapterReason.WEIGHTS_INVALID, message)]
    return shapes, []


class _TensorEntry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _config_problems(config: Mapping[str, Any]) -> list[Problem]:
    missing = [key for key in _REQUIRED if config.get(key) in (None, "", [])]
    if missing:
        return [
            Problem(AdapterReason.CONFIG_INVALID, f"{CONFIG_FILE} lacks {', '.join(missing)}: it is not a LoRA config")
        ]
    problems: list[Problem] = []
    if not isinstance(config["r"], int) or config["r"] < 1 or not isinstance(config["lora_alpha"], int | float):
        problems.append(
            Problem(AdapterReason.CONFIG_INVALID, f"{CONFIG_FILE}: r and lora_alpha must be positive numbers")
        )
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        problems.append(_unsupported(f"peft_type {kind!r}", "train with LoRA"))
    problems += [_unsupported(what, cure) for applies, what, cure in _methods(config) if applies]
    to_save = config.get("modules_to_save") or []
    if not isinstance(to_save, list):
        return [*problems, Problem(AdapterReason.CONFIG_INVALID, f"{CONFIG_FILE}: modules_to_save must be a list")]
    saved = {_text(name).rpartition(".")[2] for name in to_save}
    if vocabulary := sorted(saved & _VOCABULARY):
        message = f"modules_to_save has {', '.join(vocabulary)}: the vocabulary must stay the base's; train without new tokens"
        problems.append(Problem(AdapterReason.VOCABULARY_CHANGED, message))
    elif others := sorted(saved - _HEADS):
        problems.append(_unsupported(f"modules_to_save {', '.join(others)}", "train these layers with LoRA instead"))
    return problems


def _methods(config: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    """What the engine's loader refuses or silently gets wrong: (applies, name, cure)."""
    init = config.get("init_lora_weights")
    alters = isinstance(init, str) and init.lower() not in _HARMLESS_INITS
    merge = "convert it to plain LoRA, or merge it into the base"
    return [
        (bool(config.get("use_dora")), "DoRA (use_dora)", merge),
        (config.get("bias", "none") != "none", f"bias={config.get('bias')!r}", "train with bias='none'"),
        (bool(config.get("lora_bias")), "lora_bias", "train without it"),
        (bool(config.get("alora_invocation_tokens")), "activated LoRA", merge),
        (bool(config.get("layer_replication")), "layer_replication", merge),
        (bool(config.get("use_bdlora")), "BD-LoRA", merge),
        (bool(config.get("use_qalora")), "QALoRA", merge),
        (bool(config.get("trainable_token_indices")), "trainable_token_indices", "train without new tokens"),
        (bool(config.get("target_parameters")), "target_parameters", "target modules instead"),
        (
            alters,
            f"init_lora_weights={init!r}, which changes the base weights",
            "export with path_initial_model_for_weight_conversion, which gives a plain LoRA",
        ),
    ]


def _unsupported(what: str, cure: str) -> Problem:
    return Problem(AdapterReason.METHOD_UNSUPPORTED, f"{what} is not supported by the engine: {cure}")


def _ranks(config: Mapping[str, Any]) -> set[int]:
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    return {rank for rank in ranks if isinstance(rank, int)}


Pairs = dict[str, dict[str, Shape]]
"""Module -> side ("A" or "B") -> shape as a linear layer's: A is (rank, in), B is (out, rank)."""


def _pairs(tensors: Mapping[str, tuple[int, ...]]) -> tuple[Pairs, list[Problem]]:
    pairs: Pairs = {}
    vocabulary: list[str] = []
    unknown: list[str] = []
    shapeless: list[str] = []
    for name, shape in tensors.items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            if name.endswith(("embed_tokens.base_layer.weight", "lm_head.base_layer.weight")):
                continue  # a copy of the base's, which the engine skips
            (vocabulary if any(f".{part}." in name for part in _VOCABULARY) else unknown).append(name)
            continue
        embedding = found["side"].startswith("embedding")
        if embedding == bool(found["weight"]):
            unknown.append(name)
        elif len(shape) != 2 or 0 in shape:
            shapeless.append(name)
        else:
            pairs.setdefault(found["module"], {})[found["side"][-1]] = (shape[0], shape[1])
    problems = []
    if vocabulary:
        message = f"{_some(vocabulary)} replaces the base's vocabulary: save with save_embedding_layers=False"
        problems.append(Problem(AdapterReason.VOCABULARY_CHANGED, message))
    if unknown:
        message = f"{_some(unknown)} is no LoRA weight that the engine knows: export with PEFT's save_pretrained()"
        problems.append(Problem(AdapterReason.TENSOR_UNKNOWN, message))
    if shapeless:
        problems.append(Problem(AdapterReason.SHAPE_MISMATCH, f"{_some(shapeless)} is not a matrix"))
    return pairs, problems


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:160] for name in sorted(names)[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else shown


def _pair_problems(pairs: Pairs, config: Mapping[str, Any]) -> list[Problem]:
    alone = [module for module, pair in pairs.items() if len(pair) != 2]
    if alone:
        return [Problem(AdapterReason.TENSOR_UNKNOWN, f"{_some(alone)} has lora_A without lora_B, or the reverse")]
    allowed = _ranks(config)
    wrong = [name for name, pair in pairs.items() if pair["A"][0] != pair["B"][1] or pair["A"][0] not in allowed]
    if wrong:
        message = (
            f"{_some(wrong)}: the rank of the tensors is not the one in {CONFIG_FILE}; the files do not belong together"
        )
        return [Problem(AdapterReason.SHAPE_MISMATCH, message)]
    return []


def _unmatched_targets(config: Mapping[str, Any], pairs: Pairs) -> list[str]:
    """PEFT passes over target modules that the model does not have; the user should know that they were not trained."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return []
    idle = sorted(
        name
        for name in map(_text, targets)
        if name and not any(module == name or module.endswith(f".{name}") for module in pairs)
    )
    return [f"target_modules {', '.join(idle)} matched nothing in the base and carry no weights"] if idle else []


def _base_problems(pairs: Pairs, base: Base) -> list[Problem]:
    shapes = base_shapes(base)
    if shapes is None:
        return []
    absent, wrong = [], []
    for module, pair in pairs.items():
        name = module.rpartition(".")[2]
        if name in _VOCABULARY and not base.vocabulary:
            continue  # its size is not known
        if name not in shapes:
            absent.append(module)
            continue
        layer = _LAYER.search(f".{module}.")
        if layer and int(layer[1]) >= base.layers:
            wrong.append(f"{module} (the base has {base.layers} layers)")
        elif len(pair) == 2 and (pair["A"][1], pair["B"][0]) != shapes[name]:
            fan_in, fan_out = shapes[name]
            wrong.append(f"{module} is {pair['A'][1]} to {pair['B'][0]}, the base's {name} {fan_in} to {fan_out}")
    problems = []
    if absent:
        message = f"{_some(absent)} does not exist in {base.name} ({base.architecture}): the adapter was made for another model"
        problems.append(Problem(AdapterReason.WRONG_BASE_MODEL, message))
    if wrong:
        message = f"{_some(wrong)}: the adapter was made for another model than {base.name}"
        problems.append(Problem(AdapterReason.WRONG_BASE_MODEL, message))
    return problems


def _base_name(
    config: Mapping[str, Any], base: Base, other_presets: Collection[str]
) -> tuple[list[Problem], list[str]]:
    """PEFT fills the name with a local path as often as not, so only the name of another preset counts against it."""
    claimed = _text(config.get("base_model_name_or_path")).rstrip("/").rpartition("/")[2].lower()
    if not claimed or claimed == base.name.lower():
        return [], []
    if claimed in {name.lower() for name in other_presets} - {base.name.lower()}:
        message = f"the adapter names {claimed} as its base, this Workspace serves {base.name}"
        return [Problem(AdapterReason.WRONG_BASE_MODEL, message)], []
    return [], [f"the adapter names {claimed!r} as its base, this Workspace serves {base.name}; the shapes decide"]
