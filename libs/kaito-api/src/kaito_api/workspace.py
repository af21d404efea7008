"""kaito.sh/v1beta1 Workspace: what the user asks for. Its status is in kaito_api.workspace_status.

A Workspace has no `spec`: `resource`, `inference` and `tuning` sit at the top level. Reading is lenient on purpose: an
object stored before a rule existed must still decode, or one bad object would hide all others in a list. So fields that
the schema requires have defaults here, and fields with an enum are plain strings (compare them with the StrEnums).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from kaito_api.meta import ObjectMeta
from kaito_api.workspace_status import WorkspaceStatus


class LabelSelectorRequirement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One expression: operator is In, NotIn, Exists or DoesNotExist."""

    key: str = ""
    operator: str = ""
    values: list[str] = []


class LabelSelector(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """metav1.LabelSelector. A Workspace needs one that converts to plain labels: matchLabels, or In with one value."""

    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []


class PartitionMode(StrEnum):
    """How the GPUs of a node are shared."""

    MIG = "mig"
    ACCELERATOR = "accelerator"


class Partition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of a node's GPUs: one MIG slice (`profile`) or `count` whole GPUs. For nodes that you bring."""

    mode: str = ""
    profile: str = ""
    count: int | None = None


class ResourceSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The machines. No `instance_type` means that the selected nodes exist already (bring your own)."""

    label_selector: LabelSelector = LabelSelector()
    count: int = 1
    instance_type: str = ""
    preferred_nodes: list[str] = []
    partition: Partition | None = None


class AccessMode(StrEnum):
    """Deprecated: whether the preset's image is public."""

    PUBLIC = "public"
    PRIVATE = "private"


class PresetOptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a preset's weights may be found, and with which secrets of the Workspace's namespace."""

    image: str = ""
    image_pull_secrets: list[str] = []
    model_access_secret: str = ""


class PresetSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A model of the catalog, by name or as `org/name` of Hugging Face."""

    name: str = ""
    access_mode: str = AccessMode.PUBLIC.value
    preset_options: PresetOptions = PresetOptions()


class DataSource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where data or an adapter comes from: exactly one of `urls`, `volume_source` and `image`."""

    name: str = ""
    urls: list[str] = []
    volume_source: dict[str, Any] | None = None
    image: str = ""
    image_pull_secrets: list[str] = []


class DataDestination(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where a result goes: a volume, an image with the secret that may push it, or both."""

    volume_source: dict[str, Any] | None = None
    image: str = ""
    image_push_secret: str = ""


class AdapterSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A LoRA adapter to serve beside the base model; `strength` is a decimal from 0 to 1 (4 by annotation), "" means 1."""

    source: DataSource = DataSource()
    strength: str = ""


class InferenceSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Serve a model: either a preset or a whole pod template. `template` is plain JSON, passed through."""

    preset: PresetSpec | None = None
    template: dict[str, Any] | None = None
    config: str = ""
    adapters: list[AdapterSpec] = []


class TuningMethod(StrEnum):
    """How the adapter is trained."""

    LORA = "lora"
    QLORA = "qlora"


class TuningSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Train a LoRA adapter."""

    preset: PresetSpec | None = None
    method: str = ""
    config: str = ""
    input: DataSource | None = None
    output: DataDestination | None = None


class Workspace(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """kaito.sh/v1beta1 Workspace. Exactly one of `inference` and `tuning` is set (an admission policy says so)."""

    metadata: ObjectMeta
    resource: ResourceSpec | None = None
    inference: InferenceSpec | None = None
    tuning: TuningSpec | None = None
    status: WorkspaceStatus = WorkspaceStatus()
