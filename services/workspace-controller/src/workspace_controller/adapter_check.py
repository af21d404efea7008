"""Pure: what is known about the adapters' images before any pod looks at them, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from kaito_api.adapter import Verdict
from kaito_api.base_shapes import Base
from kaito_api.conditions import Reason
from kaito_api.workspace import AdapterSpec, Workspace
from workspace_controller.decision import Obstacle
from workspace_controller.presets import Preset
from workspace_controller.settings import LORA_RANKS, AdapterPreflight, LoraDefaults

_FIELD: Final = "inference.adapters"
_LOGIN: Final = "name a Secret with a login for this registry in source.imagePullSecrets, or correct source.image"
_REFUSALS: Final = {
    "NotFound": "the registry has no such repository or tag: push the image there, or correct source.image",
    "Unauthorized": f"the registry wants a login, or has no such repository: {_LOGIN}",
    "Denied": f"the registry gives it to nobody without a login: {_LOGIN}",
}
"""What to do, by kaito_oci's reason. Other errors may pass, or concern the way from here only. The words are ours: whoever names
an image chooses the host that is asked, and is not to read that host's answer."""


class CheckState(StrEnum):
    """How far the look at an image is."""

    PENDING = "Pending"
    UNKNOWN = "Unknown"
    """The registry cannot be asked, or says nothing that could be relied on: the pod finds out."""
    REFUSED = "Refused"
    """The registry has no such image, or gives it to nobody without a login: no pod could pull it either."""
    KNOWN = "Known"


class AdapterCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The look at one image. `reason` and `message` are "" where nothing stands against the adapter."""

    state: CheckState
    rank: int = 0
    reason: str = ""
    message: str = ""
    look_again: float = 0.0
    """Seconds after which a registry that refused is asked again; 0 for every other state."""


Checks = Mapping[str, AdapterCheck]
"""By image reference."""


def public_images(workspace: Workspace) -> tuple[str, ...]:
    """Return the adapter images of a Workspace for which no Secret is named, without repetitions."""
    if workspace.inference is None or workspace.inference.preset is None:
        return ()
    sources = (adapter.source for adapter in workspace.inference.adapters)
    return tuple(dict.fromkeys(found.image for found in sources if found.image and not found.image_pull_secrets))


def check_of(adapter: AdapterSpec, checks: Checks) -> AdapterCheck | None:
    """Return the look at an adapter's image; None where there was none, as for every image for which a Secret is named."""
    return None if adapter.source.image_pull_secrets else checks.get(adapter.source.image)


def of_refusal(reason: str, image: str) -> AdapterCheck:
    """Return what it means that the registry itself answered with an error of kaito_oci's `reason`."""
    said = _REFUSALS.get(reason)
    if said is None:
        return AdapterCheck(state=CheckState.UNKNOWN)
    return AdapterCheck(state=CheckState.REFUSED, reason=reason, message=f"{image}: {said}")


def of_verdict(verdict: Verdict) -> AdapterCheck:
    """Return what a verdict means. A rank alone is no refusal: the plan may make room for it."""
    problem = next(iter(verdict.problems), None)
    if problem is None:
        return AdapterCheck(state=CheckState.KNOWN, rank=verdict.rank)
    return AdapterCheck(state=CheckState.KNOWN, rank=verdict.rank, reason=str(problem.reason), message=problem.message)


def base_of(preset: Preset, how: AdapterPreflight) -> Base | None:
    """Return the base that adapters of `preset` must fit; None where only the limits are to be checked."""
    if how is not AdapterPreflight.FULL:
        return None
    shape = preset.shape
    return Base(
        name=preset.name,
        architecture=preset.architecture,
        layers=shape.layers,
        hidden=shape.hidden_size,
        intermediate=shape.intermediate_size,
        heads=shape.attention_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )


def rank_for(checks: Checks, planned: LoraDefaults) -> int:
    """Return the engine's rank for the largest adapter known, 0 where the planned one is enough."""
    most = max((check.rank for check in checks.values() if not check.reason), default=0)
    if not planned.slots or most <= planned.rank:
        return 0
    return next((rank for rank in LORA_RANKS if rank >= most), LORA_RANKS[-1])


def check_obstacle(adapters: Sequence[AdapterSpec], checks: Checks, *, buys: bool) -> Obstacle | None:
    """Return what keeps a Workspace that has no nodes yet from asking for them.

    An image that is not there, or not for us, holds up only who `buys` nodes: on nodes that the user has, the model is served
    meanwhile, and the adapter follows when it can be pulled.
    """
    for adapter in adapters:
        check = check_of(adapter, checks)
        if check is not None and check.reason and (buys or check.state is not CheckState.REFUSED):
            end = (
                "No node is requested until it can be pulled; the registry is asked again by itself."
                if check.state is CheckState.REFUSED
                else "No node is requested while it is named."
            )
            why = f"{check.reason}: {check.message.rstrip('.')}"
            text = f"Adapter {adapter.source.name} cannot be served: {why}. {end}"
            return Obstacle(reason=Reason.ADAPTER_FAILED, message=text, field=_FIELD)
    if any(check.state is CheckState.PENDING for check in checks.values()):
        text = "The adapters' images are looked at before a node is requested."
        return Obstacle(reason=Reason.ADAPTERS_PENDING, message=text, field=_FIELD)
    return None


def look_again(checks: Checks, otherwise: float) -> float:
    """Return the seconds after which the first registry that refused is to be asked again, at most `otherwise`."""
    return min((check.look_again for check in checks.values() if check.look_again), default=otherwise)
