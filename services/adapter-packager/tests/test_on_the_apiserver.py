"""In a Pod, on the real kube-apiserver: the Secret is read and the report is on the Pod's annotation."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from kaito_api.meta import Key
from kaito_api.report import decode
from kaito_api.resources import PODS, SECRETS
from kaito_local.pytest_plugin import ApiServer
from kaito_oci.testing.docker_registry import DockerRegistry
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.transport import Transport

MakeAdapter = Callable[..., Path]


@pytest.mark.integration
async def test_push_in_a_pod(
    apiserver: ApiServer, namespace: str, make_adapter: MakeAdapter, locked_registry: DockerRegistry, tmp_path: Path
) -> None:
    name = f"{locked_registry.host}/me/adapter:v1"
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        client = Client(transport)
        pod = {"containers": [{"name": "adapter-packager", "image": "adapter-packager"}]}
        await client.create(PODS, {"metadata": {"name": "job-1", "namespace": namespace}, "spec": pod})
        await client.create(
            SECRETS,
            {
                "metadata": {"name": "push", "namespace": namespace},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": locked_registry.dockerconfigjson().decode()},
            },
        )
        log = tmp_path / "termination-log"
        env = os.environ | {"KUBECONFIG": str(apiserver.kubeconfig), "POD_NAME": "job-1", "POD_NAMESPACE": namespace}
        options = ["--push-secret", "push", "--plain-http", locked_registry.host, "--termination-log", str(log)]
        for command in (["check", name], ["push", str(make_adapter()), name]):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "adapter_packager", *command, *options, stdout=PIPE, stderr=PIPE, env=env
            )
            _, err = await asyncio.wait_for(process.communicate(), 50)
            assert process.returncode == 0, err.decode()
        found = await client.get(PODS, Key(namespace, "job-1"))
        reports = {key: decode(value) for key, value in found.metadata.annotations.items()}
    check, push = reports["kaito.sh/report.adapter-packager-check"], reports["kaito.sh/report.adapter-packager"]
    assert check is not None
    assert push is not None
    assert push.output is not None
    assert (check.state, push.state, push.output.image) == ("Done", "Done", name)
    assert json.loads(log.read_text())["output"]["digest"] == push.output.digest
