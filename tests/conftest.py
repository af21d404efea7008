"""Fixtures shared by the folders of tests/: the chart as Helm renders it, and the identities that it makes, on the apiserver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.pytest_plugin import ApiServer
from kaito_local.run.chart import CHART

Render = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture(scope="session")
def render() -> Render:
    """Returns `helm template` of the chart, or of a sub-chart: its objects."""

    async def template(
        *arguments: str | Path, namespace: str = "kaito-system", chart: Path = CHART, values: Any = None
    ):
        helm = (await ensure(("helm",)))["helm"]
        words = ("template", "kaito", chart, "--namespace", namespace, *arguments, "--values", "-")
        text = await run(helm, *words, stdin=json.dumps(values or {}))
        return [document for document in yaml.safe_load_all(text) if document]

    return template


@pytest.fixture
def log_in(apiserver: ApiServer, tmp_path: Path) -> Callable[..., Awaitable[Path]]:
    """Returns a function that makes a kubeconfig with a token of a ServiceAccount (namespace, name), and nothing else.

    With `pod` the token is bound to that pod, as the one that kubelet mounts into it.
    """

    async def kubeconfig(namespace: str, name: str, pod: str = "") -> Path:
        bound = ("--bound-object-kind", "Pod", "--bound-object-name", pod) if pod else ()
        words = ("create", "token", name, "-n", namespace, "--duration", "1h", *bound)
        token = (await apiserver.kubectl(*words)).strip()
        config = yaml.safe_load(apiserver.kubeconfig.read_text())
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        folder = tmp_path / f"{namespace}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    return kubeconfig
