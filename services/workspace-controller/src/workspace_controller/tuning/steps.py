"""The names of the pod's containers and of its folders: what plan, status and tests agree on."""

from __future__ import annotations

from typing import Final

CHECK: Final = "adapter-packager-check"
"""Proves that the result may be pushed, before an hour of GPU is spent."""
WEIGHTS: Final = "weights"
DATA: Final = "data"
"""Brings a data set that is an image."""
TUNER: Final = "tuner"
PACKAGER: Final = "adapter-packager"

DATA_MOUNT: Final = "/mnt/data"
CONFIG_MOUNT: Final = "/mnt/config"
RESULTS_MOUNT: Final = "/mnt/results"
WORK_MOUNT: Final = "/workspace/tuner"
SECRET_MOUNT: Final = "/var/run/kaito/push-secret"  # noqa: S105 - a path
KEY_MOUNT: Final = "/var/run/kaito/signing-key"
"""The Secret with the key that signs the result, in the packager's containers alone."""
KEY_FILE: Final = "cosign.key"
"""Its name in the Secret, as `cosign generate-key-pair` calls it."""
DATA_PATH: Final = "data"
"""Folder of a data image's file system, as in KAITO."""

METRICS_PORT: Final = 5000
"""Where the tuner and after it the packager serve /metrics while they work (KAITO's port): one page of the pod at any time."""
GRACE_SECONDS: Final = 120
"""terminationGracePeriodSeconds of the pod: time for a checkpoint."""
CHECKPOINT_SECONDS: Final = 100
"""What of it the tuner may take."""
CHECK_HOLD_SECONDS: Final = 120
"""How long the check waits for a Secret or a registry: nothing is lost yet, but the node costs."""
