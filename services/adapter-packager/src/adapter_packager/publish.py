"""Checking that a push will be allowed, and pushing, each for as long as it is worth holding on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapter_packager.access import Access
from adapter_packager.exits import reason_of
from adapter_packager.folder import Adapter
from adapter_packager.holding import Trouble, hold_on
from adapter_packager.package import Format, build
from adapter_packager.pod_report import PodReport
from kaito_api.report import OutputReport
from kaito_oci import PushResult, Reference, check_push, push
from kubecore.clock import Clock

Progress = Callable[[int, int], None]


async def check(reference: Reference, access: Access, *, hold: float, clock: Clock, report: PodReport) -> None:
    """Prove push rights before anything is spent. Raises OciError, SecretProblem."""
    report.state("Checking", message=f"may {reference} be pushed?")

    async def attempt() -> None:
        await check_push(reference, auth=await access.credentials(reference), settings=access.settings)

    await hold_on(attempt, seconds=hold, clock=clock, on_trouble=_teller(report, "Checking"))


async def publish(
    adapter: Adapter,
    reference: Reference,
    access: Access,
    *,
    layout: Format,
    hold: float,
    clock: Clock,
    report: PodReport,
    progress: Progress,
) -> PushResult:
    """Push the adapter. Raises OciError, SecretProblem; the folder stays as it is whatever happens."""
    report.state("Pushing", message=f"to {reference}")
    package = await asyncio.to_thread(build, adapter, layout)

    def moved(done: int, total: int) -> None:
        report.progress(done, total)
        progress(done, total)

    async def attempt() -> PushResult:
        return await push(
            reference,
            package.blobs,
            package.manifest,
            auth=await access.credentials(reference),
            settings=access.settings,
            progress=moved,
        )

    result = await hold_on(attempt, seconds=hold, clock=clock, on_trouble=_teller(report, "Pushing"))
    report.output(OutputReport(image=str(reference), digest=result.digest, size_bytes=result.size))
    return result


def _teller(report: PodReport, state: str) -> Callable[[Trouble, float], None]:
    def tell(error: Trouble, left: float) -> None:
        report.state(state, reason=reason_of(error), message=f"{error}; trying for {left:.0f} s more")

    return tell
