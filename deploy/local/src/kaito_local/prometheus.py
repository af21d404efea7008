"""A real Prometheus for tests: what it scrapes, whether the alerts' rules load, and what the dashboards' queries return."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import yaml

from kaito_local.compose.stack import running_stack
from kaito_local.locations import REPOSITORY
from kaito_local.ports import free_ports
from kubecore.testing.asserts import eventually

RULES: Final = REPOSITORY / "deploy" / "monitoring" / "rules.yaml"
BOARDS: Final = sorted((REPOSITORY / "deploy" / "monitoring" / "dashboards").glob("*.json"))
_TARGETS: Final = "targets.json"
_PATIENCE: Final = 90.0


class Target(NamedTuple):
    """One page of metrics; the labels are those that the ServiceMonitor or PodMonitor would give it."""

    job: str
    address: str
    labels: dict[str, str]


class Query(NamedTuple):
    """One query of a dashboard, its variables filled in."""

    board: str
    panel: str
    expression: str


def queries(namespace: str, workspace: str) -> list[Query]:
    """Every query of every dashboard, for one Workspace."""
    return [
        Query(
            file.stem,
            panel["title"],
            target["expr"].replace("$namespace", namespace).replace("$workspace", workspace),
        )
        for file in BOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


class Prometheus:
    """The HTTP API of a running Prometheus, and the file that names its targets."""

    def __init__(self, session: aiohttp.ClientSession, url: str, targets: Path) -> None:
        self._session = session
        self._url = url
        self._targets = targets

    async def scrape(self, targets: Sequence[Target]) -> None:
        """Scrape these from now on; returns when each has answered."""
        groups = [{"targets": [t.address], "labels": {**t.labels, "job": t.job}} for t in targets]
        # Renamed into place, for Prometheus reads whenever the file changes.
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(groups))
        fresh.rename(self._targets)
        wanted = {t.address for t in targets}

        async def answered() -> bool:
            found = await self.samples("up")
            return wanted <= {s["metric"]["instance"] for s in found if s["value"][1] == "1"}

        await eventually(answered, timeout=_PATIENCE)

    async def ready(self) -> bool:
        """Whether it answers: its port says 503 until the write-ahead log is read."""
        try:
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of /api/v1."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
            assert answer["status"] == "success", (parameters, answer.get("error"))
            return answer["data"]

    async def samples(self, query: str) -> list[Any]:
        """Evaluate a query now."""
        return list((await self.get("query", query=query))["result"])

    async def answer(self, wanted: Sequence[Query], *, idle: bool = False, timeout: float = _PATIENCE) -> None:
        """Wait until every one of the queries returns a number. Raises AssertionError with those that do not.

        A quantile over nothing is NaN, in Grafana an empty graph: it counts only where nothing needs to happen while the
        services are watched (`idle`). It still says that the series are there.
        """

        async def all_do() -> bool:
            silent = [query for query in wanted if not _numbers(await self.samples(query.expression), nan=idle)]
            assert not silent, silent
            return True

        await eventually(all_do, timeout=timeout)


def _numbers(samples: Sequence[Any], *, nan: bool) -> list[Any]:
    return [sample for sample in samples if nan or sample["value"][1] != "NaN"]


def write_config(folder: Path) -> Path:
    """Write prometheus.yml, our rules and an empty list of targets; returns the list's file. All paths in them are relative."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [RULES.name],
        # As the chart's monitors do: metrics about a Workspace keep its namespace, not that of the controller.
        "scrape_configs": [{"job_name": "kaito", "honor_labels": True, "file_sd_configs": [{"files": [_TARGETS]}]}],
    }
    (folder / RULES.name).write_bytes(RULES.read_bytes())
    (folder / _TARGETS).write_text("[]")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / _TARGETS


@asynccontextmanager
async def prometheus(folder: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus with our rules, scraping and evaluating every second; or use the container of `make test-compose`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        if stack := running_stack():
            yield Prometheus(session, stack.prometheus.url, Path(stack.prometheus.folder) / _TARGETS)
            return
        targets = write_config(folder)
        (port,) = free_ports(1)
        words = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        process = await asyncio.create_subprocess_exec(*words)
        try:
            server = Prometheus(session, f"http://127.0.0.1:{port}", targets)
            await eventually(server.ready, timeout=_PATIENCE)
            yield server
        finally:
            process.terminate()
            await process.wait()
