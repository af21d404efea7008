"""The annotations of a Workspace that change its inference workload, read into one struct."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from kaito_api import labels
from workspace_controller.suggestions import did_you_mean

WEIGHTS_FROM: Final = "kaito.sh/weights-from"
"""Ours: `oci` (the preset's image) or `hf` (the preset's Hugging Face repository at its pinned revision)."""
WEIGHTS_CLAIM: Final = "kaito.sh/weights-claim"
"""Ours: a PersistentVolumeClaim of the namespace that holds the weights at its root; nothing is pulled then."""


class PerformanceMode(StrEnum):
    """vLLM's --performance-mode."""

    BALANCED = "balanced"
    INTERACTIVITY = "interactivity"
    THROUGHPUT = "throughput"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the annotations ask for. A value that is not understood counts as absent; `problems` names it."""

    load_balancer: bool = False
    bypass_checks: bool = False
    node_image_family: str = ""
    performance_mode: PerformanceMode = PerformanceMode.BALANCED
    local_weights: bool = False
    weights_from: str = ""
    weights_claim: str = ""
    lora: bool = True
    problems: tuple[tuple[str, str], ...] = ()
    """Annotation key and what is wrong with its value."""


CHOICES: Final[dict[str, tuple[str, ...]]] = {
    labels.RUNTIME: ("vllm", "transformers"),
    labels.NODE_IMAGE_FAMILY: ("ubuntu", "azurelinux"),
    labels.PERFORMANCE_MODE: tuple(mode.value for mode in PerformanceMode),
    labels.USE_LOCAL_WEIGHTS: ("true", "false"),
    labels.DISABLE_BENCHMARK: ("true", "false"),
    labels.ENABLE_LB: ("True", "False", "true", "false"),
    labels.LORA: ("enabled", labels.DISABLED),
    WEIGHTS_FROM: ("oci", "hf"),
}
_ANY_CASE: Final = frozenset({labels.NODE_IMAGE_FAMILY})


def read_options(annotations: Mapping[str, str]) -> Options:
    """Read the annotations of a Workspace."""
    good: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for key, choices in CHOICES.items():
        value = annotations.get(key)
        if value is None:
            continue
        value = value.lower() if key in _ANY_CASE else value
        if value in choices:
            good[key] = value
        else:
            problems.append((key, f"must be {' or '.join(choices)}, not {value!r}{did_you_mean(value, choices)}"))
    if good.get(labels.RUNTIME) == "transformers":
        problems.append(
            (labels.RUNTIME, "transformers is not a runtime here: remove the annotation, vllm serves every preset")
        )
    return Options(
        load_balancer=good.get(labels.ENABLE_LB) == "True",
        bypass_checks=labels.BYPASS_RESOURCE_CHECKS in annotations,
        node_image_family=good.get(labels.NODE_IMAGE_FAMILY, ""),
        performance_mode=PerformanceMode(good.get(labels.PERFORMANCE_MODE, PerformanceMode.BALANCED)),
        local_weights=good.get(labels.USE_LOCAL_WEIGHTS) == "true",
        weights_from=good.get(WEIGHTS_FROM, ""),
        weights_claim=annotations.get(WEIGHTS_CLAIM, ""),
        lora=good.get(labels.LORA) != labels.DISABLED,
        problems=tuple(problems),
    )
