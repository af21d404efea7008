"""Pure: the plan's numbers replaced by what the engine really runs with, once it says so."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kaito_api.core import Pod
from kaito_api.report import EngineReport
from kaito_api.workspace_status import PlanStatus
from workspace_controller.status.inference import SERVER, report_of


def engine_report(pods: Sequence[Pod]) -> EngineReport | None:
    """Return what the engine runs with, as the first serving pod read it back; None until one says so."""
    alive = sorted((pod for pod in pods if not pod.metadata.deleting), key=lambda pod: pod.metadata.name)
    reports = (report_of(pod, SERVER) for pod in alive)
    return next((said.engine for said in reports if said is not None and said.engine is not None), None)


def with_facts(plan: PlanStatus | None, pods: Sequence[Pod]) -> PlanStatus | None:
    """Return `plan` with the engine's dtype and context length as the first serving pod read them back.

    The plan only knows a bound for the one and a calculation of the other.
    """
    if plan is None or plan.engine is None:
        return plan
    engine = engine_report(pods)
    if engine is None:
        return plan
    facts = msgspec.structs.replace(
        plan.engine,
        dtype=engine.dtype or plan.engine.dtype,
        max_model_len=engine.max_model_len or plan.engine.max_model_len,
    )
    return msgspec.structs.replace(plan, engine=facts)
