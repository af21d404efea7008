"""Assembly of the application: vLLM's routes, ours, and the layers around both that admit requests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kaito_api.report import AdapterReport
from model_server import vllm_compat
from model_server.admission import AdmissionMiddleware, Application
from model_server.api_keys import ApiKeys
from model_server.authentication import AuthenticationMiddleware
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics
from model_server.routes import chat, constraint, health, not_served
from model_server.vllm_compat import EngineClient

if TYPE_CHECKING:
    from fastapi import FastAPI


async def build(
    engine: EngineClient,
    namespace: argparse.Namespace,
    *,
    lifecycle: Lifecycle,
    metrics: Metrics,
    models_class: type | None,
    rate_limit: bool,
    keys: ApiKeys | None,
    unserved: Callable[[str], AdapterReport | None],
) -> tuple[FastAPI, Application]:
    """Return vLLM's application with our routes, and the same with the layers around it that admit requests.

    `unserved` tells how a wanted adapter fares that is not served, None for any other name.
    """
    app = await vllm_compat.build_app(engine, namespace, models_class)
    vllm_compat.answer_unknown_models(app, not_served.answering(app.state.openai_serving_models, unserved))
    vllm_compat.blame_requests(app, constraint.note, constraint.blame)
    app.include_router(health.router(lifecycle))
    app.include_router(chat.router(has_template=vllm_compat.has_chat_template(app)))
    # Around the application, not among its middleware: vLLM returns an application that takes no more of those.
    guarded: Application = AdmissionMiddleware(
        app,
        lifecycle=lifecycle,
        metrics=metrics,
        sequences=partial(vllm_compat.unfinished, engine),
        batch=vllm_compat.max_batch(engine),
        rate_limit=rate_limit,
    )
    if keys is not None:
        guarded = AuthenticationMiddleware(guarded, keys=keys, metrics=metrics)
    return app, guarded
