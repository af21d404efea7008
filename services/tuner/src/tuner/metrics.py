"""The training's numbers for Prometheus, at /metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from kaito_api.report import TuningReport
from tuner.figures import Figures

_GAUGES: Final = (
    ("step", "Optimizer steps done."),
    ("total_steps", "Optimizer steps of the whole run."),
    ("epoch", "Passes over the data so far."),
    ("loss", "Training loss of the last step."),
    ("eval_loss", "Loss on the held-out samples."),
    ("tokens_per_second", "Tokens trained on in a second, smoothed."),
    ("eta_seconds", "Seconds until the last step."),
    ("peak_memory_bytes", "Most memory in use so far, of the GPU where there is one."),
)


def exposition(tuning: TuningReport) -> str:
    """The text format, version 0.0.4. Pure."""
    lines = []
    for name, words in _GAUGES:
        value = getattr(tuning, name)
        if value is not None:
            lines += [f"# HELP kaito_tuner_{name} {words}", f"# TYPE kaito_tuner_{name} gauge"]
            lines.append(f"kaito_tuner_{name} {value}")
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def serving(port: int, figures: Figures) -> AsyncIterator[None]:
    """Serve /metrics while the block runs; port 0 serves nothing."""
    if port == 0:
        yield
        return

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=exposition(figures.report()), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
