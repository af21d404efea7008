"""When a pod counts as started, alive and ready."""

from __future__ import annotations

import math
from typing import Any, Final

from workspace_controller.inference.command import HTTP_PORT
from workspace_controller.presets import Preset

_PERIOD: Final = 10
_BASE_SECONDS: Final = 15 * 60
_SECONDS_PER_GIB: Final = 18
_LEAST_SECONDS: Final = 30 * 60
_MOST_SECONDS: Final = 180 * 60


def startup_budget(preset: Preset) -> int:
    """Return the seconds that the engine may take to start: 15 min + 18 s a GiB of weights, from 30 to 180 min (KAITO)."""
    wanted = _BASE_SECONDS + math.ceil(_SECONDS_PER_GIB * preset.weights_gib)
    return min(max(wanted, _LEAST_SECONDS), _MOST_SECONDS)


def probes(preset: Preset) -> dict[str, Any]:
    """Return the three probes of the container that serves."""
    failures = math.ceil(startup_budget(preset) / _PERIOD)
    return {
        "startupProbe": _http("/health", period=_PERIOD, failures=failures),
        "livenessProbe": _http("/health", period=_PERIOD, failures=3),
        "readinessProbe": _http("/readyz", period=5, failures=1),
    }


def _http(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": HTTP_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
