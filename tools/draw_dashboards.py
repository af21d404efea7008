"""Draws the dashboards of deploy/monitoring/dashboards as SVG, from their JSON and what a Prometheus answers to their queries.

`python tools/draw_dashboards.py http://127.0.0.1:9090 --namespace default --workspace phi --out docs/pictures` draws all of them
for the last ten minutes. The pictures are not screenshots of Grafana: no Grafana runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from drawing.board import Window, board, chosen
from drawing.series import Series, fill, parse

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "monitoring" / "dashboards"
POINTS = 150
TIMEOUT = aiohttp.ClientTimeout(total=30)


class Prometheus:
    """The queries of panels, asked of one Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, url: str, window: Window) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._window = window

    async def series(self, panel: Mapping[str, Any], variables: Mapping[str, str]) -> list[Series]:
        """Return what a panel shows: over the window for a time series, at its end for every other type."""
        start, end, step = (str(value) for value in self._window)
        found = []
        for target in panel["targets"]:
            query = fill(target["expr"], variables)
            if panel["type"] == "timeseries":
                result = await self._ask("query_range", query=query, start=start, end=end, step=step)
            else:
                result = await self._ask("query", query=query, time=end)
            found += parse(result, target["legendFormat"])
        return found

    async def _ask(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters['query']}: {answer.get('error')}")
        return answer["data"]["result"]


async def draw(url: str, window: Window, values: Mapping[str, str], boards: Sequence[Path], out: Path) -> None:
    """Write one picture for each dashboard, and say what is empty in it."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        server = Prometheus(session, url, window)
        for file in boards:
            found = json.loads(file.read_text())
            variables = chosen(found, values)
            data = {panel["id"]: await server.series(panel, variables) for panel in found["panels"]}
            place = out / f"{file.stem}.svg"
            place.write_text(board(found, data, window, variables))
            empty = [panel["title"] for panel in found["panels"] if not data[panel["id"]]]
            sys.stdout.write(f"written: {place}{'; no data in: ' if empty else ''}{', '.join(empty)}\n")


def moment(words: str) -> float:
    """Return seconds since 1970 of a time in ISO 8601; without a zone it is UTC."""
    found = datetime.fromisoformat(words)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def main() -> int:
    """Read the command line and draw."""
    files = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prometheus", metavar="PROMETHEUS_URL")
    parser.add_argument("--namespace", help="value of $namespace")
    parser.add_argument("--workspace", help="value of $workspace")
    parser.add_argument(
        "--board", action="append", choices=files, metavar="NAME", help=f"of {', '.join(files)}; default: all"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the window (default: 10)")
    parser.add_argument("--end", type=moment, help="end of the window, as 2026-01-31T12:00:00Z (default: now)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    args = parser.parse_args()
    end = args.end or datetime.now(UTC).timestamp()
    seconds = args.minutes * 60
    window = Window(end - seconds, end, max(seconds / POINTS, 1.0))
    values = {name: value for name in ("namespace", "workspace") if (value := getattr(args, name))}
    args.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(args.prometheus, window, values, [files[name] for name in args.board or files], args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
