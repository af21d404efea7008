"""The annotations of a Workspace that change its workload, read into one struct."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.suggestions import did_you_mean

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
    api_key_secret: str = ""
    """The Secret whose values are the API keys; "" where clients need none."""
    lora: bool = True
    strong_adapters: bool = False
    """Adapter strengths above 1 are meant."""
    adapter_restart: bool = False
    """The pods may be rolled for an adapter that cannot go live without it."""
    upgrade_restart: bool = False
    """The pods may be rolled for a change of the operator."""
    dry_run: bool = False
    """Tuning: stop after data, fit and two steps."""
    signing_key_secret: str = ""
    """Tuning: the Secret whose key signs the result; "" where it is not signed."""
    push_hold_seconds: int | None = None
    """Tuning: how long a refused push holds the node; None for the operator's setting."""
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
    labels.STRONG_ADAPTERS: ("true", "false"),
    labels.ADAPTER_RESTART: (labels.ALLOWED, "never"),
    labels.UPGRADE_RESTART: (labels.ALLOWED, "never"),
    WEIGHTS_FROM: ("oci", "hf"),
    labels.TUNING_DRY_RUN: ("true", "false"),
}
_DURATION: Final = re.compile(r"(\d{1,6})([smh]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_HOLD: Final = 24 * 3600
_DNS_1123: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_NAME_LIMIT: Final = 253
"""Characters of a DNS-1123 subdomain, which the name of a Secret or a claim is."""
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
        weights_claim=_name(annotations, WEIGHTS_CLAIM, "PersistentVolumeClaim", problems),
        api_key_secret=_name(annotations, labels.API_KEY_SECRET, "Secret", problems),
        lora=good.get(labels.LORA) != labels.DISABLED,
        strong_adapters=good.get(labels.STRONG_ADAPTERS) == "true",
        adapter_restart=good.get(labels.ADAPTER_RESTART) == labels.ALLOWED,
        upgrade_restart=good.get(labels.UPGRADE_RESTART) == labels.ALLOWED,
        dry_run=good.get(labels.TUNING_DRY_RUN) == "true",
        signing_key_secret=_name(annotations, labels.SIGNING_KEY_SECRET, "Secret", problems),
        push_hold_seconds=_hold(annotations.get(labels.PUSH_HOLD), problems),
        problems=tuple(problems),
    )


def _name(annotations: Mapping[str, str], key: str, kind: str, problems: list[tuple[str, str]]) -> str:
    """Return the name of an object. A value that is none is a problem and not nothing: who names a Secret wants a closed door."""
    text = annotations.get(key)
    if text is None or (len(text) <= _NAME_LIMIT and _DNS_1123.fullmatch(text)):
        return text or ""
    problems.append((key, f"must be the name of a {kind}, not {text[:_NAME_LIMIT]!r}"))
    return ""


def _hold(text: str | None, problems: list[tuple[str, str]]) -> int | None:
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found is not None else 0
    if found is None or seconds > _LONGEST_HOLD:
        problems.append((labels.PUSH_HOLD, f"must be a time up to 24h such as 600s, 30m or 2h, not {text!r}"))
        return None
    return seconds
