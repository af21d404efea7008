"""The report on the tuner's own Pod, on a real kube-apiserver."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from kaito_api.labels import REPORT_PREFIX
from kaito_api.meta import Key
from kaito_api.report import decode
from kaito_api.resources import PODS
from kaito_local.pytest_plugin import ApiServer
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.transport import Transport

pytestmark = pytest.mark.integration


async def test_a_failure_is_on_the_pod_when_the_process_is_gone(
    apiserver: ApiServer, namespace: str, tmp_path: Path
) -> None:
    pod = {
        "metadata": {"name": "tuning-0", "namespace": namespace},
        "spec": {"containers": [{"name": "tuner", "image": "tuner"}], "automountServiceAccountToken": False},
    }
    model = tmp_path / "model"
    model.mkdir()
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        client = Client(transport)
        await client.create(PODS, pod)
        own = {"POD_NAME": "tuning-0", "POD_NAMESPACE": namespace, "KUBECONFIG": str(apiserver.kubeconfig)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tuner", "run", "--model", str(model), "--output", str(tmp_path / "out")),
            *("--data", str(tmp_path / "nothing"), "--workspace", f"{namespace}/ws"),
            env={**os.environ, **own},
        )
        assert await process.wait() == 73
        found = await client.get(PODS, Key(namespace, "tuning-0"))
    report = decode(found.metadata.annotations[REPORT_PREFIX + "tuner"])
    assert report is not None
    assert (report.state, report.reason) == ("Failed", "DataInvalid")
    assert "holds no file" in report.message
    assert json.dumps(found.metadata.annotations).count("kaito.sh/report.") == 1
