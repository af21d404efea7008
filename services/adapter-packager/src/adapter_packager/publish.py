"""Checking that a push will be allowed, and pushing, each for as long as it is worth holding on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from adapter_packager import signing
from adapter_packager.access import Access
from adapter_packager.exits import reason_of
from adapter_packager.folder import Adapter
from adapter_packager.holding import Moved, Trouble, hold_on
from adapter_packager.metrics import Figures, Phase
from adapter_packager.package import Format, build
from adapter_packager.pod_report import PodReport
from kaito_api.report import OutputReport
from kaito_oci import PushResult, Reference, check_push, push
from kubecore.clock import Clock

Progress = Callable[[int, int], None]


async def check(
    reference: Reference, access: Access, *, sign_key: Path | None, hold: float | None, clock: Clock, report: PodReport
) -> None:
    """Prove push rights, and that the key to sign with works, before anything is spent. Raises OciError, SecretProblem."""
    report.state("Checking", message=f"may {reference} be pushed?")

    async def attempt(_moved: Moved) -> None:
        if sign_key is not None:
            await signing.check_key(sign_key)
        await check_push(reference, auth=await access.credentials(reference), settings=access.settings)

    await hold_on(attempt, seconds=hold, clock=clock, on_trouble=_teller(report, "Checking"))


async def publish(
    adapter: Adapter,
    reference: Reference,
    access: Access,
    *,
    layout: Format,
    sign_key: Path | None,
    hold: float | None,
    clock: Clock,
    report: PodReport,
    figures: Figures,
    progress: Progress,
) -> PushResult:
    """Push the adapter, with a key its signature first. Raises OciError, SecretProblem; the folder stays as it is."""
    report.state("Pushing", message=f"to {reference}")
    figures.enter(Phase.READ)
    package = await asyncio.to_thread(build, adapter, layout)
    blobs = figures.counted(package.blobs)
    tell = _teller(report, "Pushing")

    async def attempt(moved: Moved) -> PushResult:
        def sent(done: int, total: int) -> None:
            moved(done)
            figures.moved(done)
            report.progress(done, total)
            progress(done, total)

        if sign_key is not None:
            figures.enter(Phase.SIGN)
            await signing.sign(reference, package.manifest, sign_key, access)
        figures.enter(Phase.PUSH)
        return await push(
            reference,
            blobs,
            package.manifest,
            auth=await access.credentials(reference),
            settings=access.settings,
            progress=sent,
        )

    def repeated(error: Trouble, left: float) -> None:
        figures.retried(reason_of(error))
        tell(error, left)

    figures.begin(hold)
    result = await hold_on(attempt, seconds=hold, clock=clock, on_trouble=repeated)
    figures.enter(None)
    report.output(OutputReport(image=str(reference), digest=result.digest, size_bytes=result.size))
    return result


def _teller(report: PodReport, state: str) -> Callable[[Trouble, float], None]:
    def tell(error: Trouble, left: float) -> None:
        report.state(state, reason=reason_of(error), message=f"{error}; trying for {left:.0f} s more")

    return tell
