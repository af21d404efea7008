"""The credentials in the pull Secrets, waited for: the right to read a Secret, and the Secret, may come after the pod.

The pod may only get the Secrets that its Role names, so there is nothing to watch: they are asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import kaito_oci
from kaito_api.conditions import Reason
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.clock import Clock
from model_server import pull_secrets
from model_server.exits import ExitCode, FatalError
from model_server.reporter import Reporter

if TYPE_CHECKING:
    from kubecore.client import Client

PATIENCE_SECONDS: Final = 300.0
"""Then the container ends, and its pod or Job is tried again by the cluster: a GPU node may be paid for meanwhile."""
_AGAIN: Final = BackoffPolicy(base=1.0, cap=15.0)


async def read(
    client: Client | None, namespace: str, names: Sequence[str], *, clock: Clock, reporter: Reporter
) -> kaito_oci.CredentialSource:
    """Return the credentials in the named Secrets. Raises FatalError, retryable where only the patience is over.

    While it waits the report says WaitingForAccess.
    """
    before = reporter.report
    until = clock.monotonic() + PATIENCE_SECONDS
    pause = Backoff(_AGAIN)
    while True:
        try:
            found = await pull_secrets.read(client, namespace, names)
        except pull_secrets.SecretError as error:
            if not error.waiting:
                raise FatalError(ExitCode.ACCESS_DENIED, str(error)) from error
            left = until - clock.monotonic()
            if left <= 0:
                message = f"{error}; waited for {PATIENCE_SECONDS:.0f} s, the next attempt goes on"
                raise FatalError(ExitCode.REGISTRY_UNAVAILABLE, message, Reason.WAITING_FOR_ACCESS) from error
            message = f"{error}; it is asked for again for {left:.0f} s"
            reporter.state(before.state, reason=Reason.WAITING_FOR_ACCESS, message=message)
        else:
            if reporter.report.reason:
                reporter.state(before.state, message=before.message)
            return found
        await clock.sleep(min(pause.next(), left))
