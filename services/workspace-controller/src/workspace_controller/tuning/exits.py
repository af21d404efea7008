"""Exit codes of the Job's containers: which end the Job at once, and what each means.

A code that is not permanent is counted by backoffLimit and a new pod goes on. Sources: exits.py of the tuner, the
adapter-packager and the model-server; a contract test compares them.
"""

from __future__ import annotations

from typing import Final

from kaito_api.conditions import Reason
from workspace_controller.tuning.steps import CHECK, DATA, PACKAGER, TUNER, WEIGHTS

PERMANENT: Final[dict[str, tuple[int, ...]]] = {
    CHECK: (64, 65, 66, 67, 72, 73, 74, 75, 76),
    WEIGHTS: (64, 65, 66, 67, 72, 73),
    DATA: (64, 65, 66, 67, 72, 73),
    TUNER: (64, 65, 66, 67, 70, 71, 73, 74, 75),
    # 69 as well: the registry was away for all of push-hold, and the node is not held any longer.
    PACKAGER: (64, 65, 66, 67, 69, 72, 73, 74, 75, 76),
}
"""Codes after which the same pod again would fail again."""

REASONS: Final[dict[str, dict[int, Reason]]] = {
    CHECK: {
        64: Reason.SPEC_INVALID,
        67: Reason.REGISTRY_UNAVAILABLE,
        69: Reason.REGISTRY_UNAVAILABLE,
        72: Reason.ACCESS_DENIED,
        73: Reason.PUSH_FAILED,
        75: Reason.SIGNING_KEY_INVALID,
        76: Reason.REGISTRY_UNTRUSTED,
    },
    DATA: {
        64: Reason.DATA_INVALID,
        66: Reason.DATA_UNAVAILABLE,
        67: Reason.DATA_INVALID,
        69: Reason.DATA_UNAVAILABLE,
        70: Reason.DATA_UNAVAILABLE,
        72: Reason.ACCESS_DENIED,
        73: Reason.REGISTRY_UNTRUSTED,
    },
    TUNER: {
        64: Reason.CONFIG_INVALID,
        65: Reason.CONFIG_INVALID,
        66: Reason.WEIGHTS_MISSING,
        67: Reason.WEIGHTS_INVALID,
        69: Reason.DATA_UNAVAILABLE,
        70: Reason.TRAINING_FAILED,
        71: Reason.OUT_OF_MEMORY,
        73: Reason.DATA_INVALID,
        74: Reason.DISK_FULL,
        75: Reason.TRAINING_HUNG,
    },
    PACKAGER: {
        64: Reason.PUSH_FAILED,
        65: Reason.ADAPTER_INVALID,
        66: Reason.ADAPTER_INVALID,
        67: Reason.PUSH_FAILED,
        69: Reason.PUSH_FAILED,
        72: Reason.PUSH_FAILED,
        73: Reason.PUSH_FAILED,
        74: Reason.DISK_FULL,
        75: Reason.PUSH_FAILED,
        76: Reason.PUSH_FAILED,
    },
}
"""What a code means where the container is none of the model server's image that serves."""
