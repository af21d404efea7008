"""What an operator may set about planning: images, registries, the claim API. Read once at start, then immutable."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Literal

import msgspec

from kaito_api import quantity


class ClaimApi(StrEnum):
    """Which kind of object asks for a node."""

    NODECLAIM = "nodeclaim"
    """karpenter.sh/v1 NodeClaim."""
    MACHINE = "machine"
    """karpenter.sh/v1alpha5 Machine."""


LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can size a slot for."""

WeightsFrom = Literal["oci", "hf"]


class AdapterPreflight(StrEnum):
    """How far the controller looks at adapter images that anybody can read, before it asks for a node."""

    FULL = "full"
    LIMITS = "limits"
    """Method, rank and files; not whether it was made for the catalog's model (whose weights are then others)."""
    OFF = "off"


class NodeClassRef(msgspec.Struct, frozen=True, kw_only=True):
    """The provider configuration that claims refer to."""

    group: str = "kaito.sh"
    kind: str = "KaitoNodeClass"
    name: str = "default"


class LoraDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """LoRA support planned for every preset that allows it; reduced where the GPU has no room."""

    slots: int = 4
    """Adapters that may be in one batch (vLLM's max-loras)."""
    rank: int = 64
    """Highest rank that fits a slot (vLLM's max-lora-rank): one of LORA_RANKS."""


class TuningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may set about tuning Jobs."""

    images: Mapping[str, str] = {}
    """Tuner image per engine variant, instead of the catalog's."""
    packager_image: str = "kaito/adapter-packager:0.1.0"
    cpu: str = ""
    """CPU limit of the tuner; "" derives it from the machine."""
    memory: str = ""
    """Memory limit of the tuner; "" derives it from the machine."""
    scratch_gib: int = 20
    """Of each emptyDir for data, work and results: downloads, the table of tokens, the adapter and two checkpoints of it."""
    push_hold_seconds: int = 600
    """How long a refused push is tried again while the node is held."""
    data_hosts: tuple[str, ...] = ()
    """HOST:PORT pairs that data may come from whatever their address, without TLS too."""
    data_plain_http: bool = False
    """Whether data may come from public hosts without TLS."""
    registry_checkpoints: bool = True
    """Whether a run whose only output is an image keeps its checkpoints beside it (`<tag>-ckpt`). The tuner reads the push Secret
    over the API then; without, only the packager's containers can."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the planner. `planning_settings` builds it from flags and environment."""

    preset_registry: str = "mcr.microsoft.com/aks/kaito"
    """Registry and path prefix under which the weight images of presets are found."""
    plain_http_hosts: frozenset[str] = frozenset()
    """Registry hosts (host or host:port) that are spoken to without TLS."""
    trusted_realms: frozenset[str] = frozenset()
    """Hosts of token endpoints that may get a registry's login although they are another site than the registry."""
    registry_ca: str = ""
    """PEM file with the authorities of private registries, "" for none. What it holds is observed: it may change."""
    weights_from: WeightsFrom = "oci"
    """Where a preset's weights come from unless the Workspace says otherwise."""
    image_registry: str = ""
    """Registry and path prefix of the project's own images where the settings name none: one mirror for all of them."""
    engine_images: Mapping[str, str] = {}
    """Model-server image per engine variant (catalog engines.yaml); a reference by digest is allowed."""
    engine_override: str = ""
    """Variant used on every node whatever its GPU; local mode says `cpu`."""
    claim_api: ClaimApi = ClaimApi.NODECLAIM
    node_class: NodeClassRef = NodeClassRef()
    node_image_family: str = "ubuntu"
    lora: LoraDefaults = LoraDefaults()
    adapter_preflight: AdapterPreflight = AdapterPreflight.FULL
    server_cpu: str = ""
    """CPU request of the model server; "" derives it from the GPUs."""
    server_memory: str = ""
    """Memory request of the model server; "" derives it from the model."""
    tuning: TuningSettings = TuningSettings()
    allow_template: bool = True
    """Whether Workspaces may bring a whole pod template."""
    allow_host_path: bool = True
    """Whether Workspaces may read weights from the node's own disk (kaito.sh/use-local-weights)."""


ENVIRONMENT_PREFIX: Final = "WORKSPACE_CONTROLLER_"
Flag = tuple[str, str, str]
"""Name, default and help."""

_DEFAULTS: Final = Settings()
_FLAGS: Final[tuple[Flag, ...]] = (
    ("preset-registry", _DEFAULTS.preset_registry, "registry and path prefix of the presets' weight images"),
    ("plain-http-hosts", "", "registry hosts without TLS, comma-separated: localhost:5000"),
    ("trusted-realms", "", "token endpoints of other sites that may get a registry's login, comma-separated hosts"),
    (
        "registry-ca",
        "",
        "PEM file with authorities of private registries, handed to the workloads; read again when changed",
    ),
    ("weights-from", _DEFAULTS.weights_from, "where presets' weights come from: oci or hf"),
    ("image-registry", "", "registry and path prefix of the catalog's and the packager's default images"),
    ("engine-images", "", "model-server image of each variant, comma-separated: NAME=REFERENCE"),
    ("engine-override", "", "engine variant for every node, whatever its GPU (local mode: cpu)"),
    ("claim-api", _DEFAULTS.claim_api.value, "kind that asks for nodes: nodeclaim or machine"),
    ("node-class", "kaito.sh/KaitoNodeClass/default", "nodeClassRef of claims: GROUP/KIND/NAME"),
    ("node-image-family", _DEFAULTS.node_image_family, "image family of new nodes: ubuntu or azurelinux"),
    ("lora-slots", str(_DEFAULTS.lora.slots), "adapters in one batch, reduced where memory is short; 0 turns LoRA off"),
    ("lora-rank", str(_DEFAULTS.lora.rank), f"highest rank of an adapter: one of {', '.join(map(str, LORA_RANKS))}"),
    (
        "adapter-preflight",
        _DEFAULTS.adapter_preflight.value,
        "look at public adapter images first: full, limits or off",
    ),
    ("server-cpu", "", "CPU request of the model server; empty: from the number of GPUs"),
    ("server-memory", "", "memory request of the model server; empty: from the size of the model"),
    ("tuner-images", "", "tuner image of each variant, comma-separated: NAME=REFERENCE"),
    ("packager-image", _DEFAULTS.tuning.packager_image, "image of the adapter-packager"),
    ("tuner-cpu", "", "CPU limit of the tuner; empty: from the machine type"),
    ("tuner-memory", "", "memory limit of the tuner; empty: from the machine type"),
    ("tuner-scratch-gib", str(_DEFAULTS.tuning.scratch_gib), "GiB of a tuning pod's scratch volumes, each"),
    ("push-hold-seconds", str(_DEFAULTS.tuning.push_hold_seconds), "how long a refused push holds its node"),
    ("data-hosts", "", "hosts of training data that may be private or without TLS, comma-separated: HOST:PORT"),
    ("data-plain-http", "false", "whether training data may come from public hosts without TLS"),
    ("registry-checkpoints", "true", "whether image-only runs keep checkpoints under <tag>-ckpt, with the push Secret"),
    ("allow-template", "true", "whether Workspaces may bring a pod template"),
    ("allow-host-path", "true", "whether Workspaces may read weights and data from the node's disk"),
)
"""All values are text here; `planning_settings` reads them."""


def add_flags(
    parser: argparse.ArgumentParser, title: str, flags: Iterable[Flag], environment: Mapping[str, str]
) -> None:
    """Add a group of flags whose values stay text; the environment's values are the defaults."""
    group = parser.add_argument_group(title)
    for flag, default, text in flags:
        variable = ENVIRONMENT_PREFIX + flag.upper().replace("-", "_")
        group.add_argument(
            f"--{flag}",
            default=environment.get(variable, default),
            help=f"{text} (default: {default or 'none'}; ${variable})",
            metavar="VALUE",
        )


def planning_arguments(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Add the planner's flags to `parser`; `environment` gives the defaults (WORKSPACE_CONTROLLER_PRESET_REGISTRY, ...)."""
    add_flags(parser, "planning", _FLAGS, environment)


def planning_settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the parsed flags say. Raises ValueError naming the flag that makes no sense."""
    text: dict[str, str] = {flag: getattr(arguments, flag.replace("-", "_")) for flag, _, _ in _FLAGS}
    group, kind, name = _parts(text, "node-class", 3)
    for quantity_flag in ("server-cpu", "server-memory", "tuner-cpu", "tuner-memory"):
        _quantity(text, quantity_flag)
    return Settings(
        preset_registry=_choice(text, "preset-registry", ()),
        plain_http_hosts=frozenset(_words(text["plain-http-hosts"])),
        trusted_realms=frozenset(_words(text["trusted-realms"])),
        registry_ca=text["registry-ca"],
        weights_from="hf" if _choice(text, "weights-from", ("oci", "hf")) == "hf" else "oci",
        image_registry=text["image-registry"].rstrip("/"),
        engine_images=_mapping(text, "engine-images"),
        engine_override=text["engine-override"],
        claim_api=ClaimApi(_choice(text, "claim-api", tuple(ClaimApi))),
        node_class=NodeClassRef(group=group, kind=kind, name=name),
        node_image_family=_choice(text, "node-image-family", ("ubuntu", "azurelinux")),
        lora=LoraDefaults(
            slots=_number(text, "lora-slots"), rank=int(_choice(text, "lora-rank", tuple(map(str, LORA_RANKS))))
        ),
        adapter_preflight=AdapterPreflight(_choice(text, "adapter-preflight", tuple(AdapterPreflight))),
        server_cpu=text["server-cpu"],
        server_memory=text["server-memory"],
        tuning=_tuning(text),
        allow_template=_choice(text, "allow-template", ("true", "false")) == "true",
        allow_host_path=_choice(text, "allow-host-path", ("true", "false")) == "true",
    )


def _tuning(text: Mapping[str, str]) -> TuningSettings:
    hosts = tuple(_words(text["data-hosts"]))
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdecimal():
            raise ValueError(f"--data-hosts must be HOST:PORT pairs, not {host!r}")
    return TuningSettings(
        images=_mapping(text, "tuner-images"),
        packager_image=_packager(text),
        cpu=text["tuner-cpu"],
        memory=text["tuner-memory"],
        scratch_gib=_scratch(text),
        push_hold_seconds=_number(text, "push-hold-seconds"),
        data_hosts=hosts,
        data_plain_http=_choice(text, "data-plain-http", ("true", "false")) == "true",
        registry_checkpoints=_choice(text, "registry-checkpoints", ("true", "false")) == "true",
    )


def _scratch(text: Mapping[str, str]) -> int:
    gib = _number(text, "tuner-scratch-gib")
    if gib == 0:
        raise ValueError("--tuner-scratch-gib must be at least 1")
    return gib


def _packager(text: Mapping[str, str]) -> str:
    image, registry = _choice(text, "packager-image", ()), text["image-registry"].rstrip("/")
    return f"{registry}/{image}" if registry and image == _DEFAULTS.tuning.packager_image else image


def _choice(text: Mapping[str, str], flag: str, choices: tuple[str, ...]) -> str:
    value = text[flag]
    if not value or (choices and value not in choices):
        raise ValueError(f"--{flag} must be {' or '.join(choices) or 'set'}, not {value!r}")
    return value


def _number(text: Mapping[str, str], flag: str) -> int:
    if not text[flag].isdecimal():
        raise ValueError(f"--{flag} must be a number, not {text[flag]!r}")
    return int(text[flag])


def _quantity(text: Mapping[str, str], flag: str) -> None:
    try:
        quantity.parse(text[flag] or 0)
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from error


def _parts(text: Mapping[str, str], flag: str, count: int) -> list[str]:
    parts = text[flag].split("/")
    if len(parts) != count or not all(parts):
        raise ValueError(f"--{flag} must have {count} parts with slashes between them, not {text[flag]!r}")
    return parts


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _mapping(text: Mapping[str, str], flag: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in _words(text[flag])]
    for name, separator, value in pairs:
        if not name or not separator or not value:
            raise ValueError(f"--{flag} must be NAME=REFERENCE pairs, not {text[flag]!r}")
    return {name: value for name, _, value in pairs}
