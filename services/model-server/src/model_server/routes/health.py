"""`GET /readyz`: whether the Service should send traffic here. (`GET /health`, liveness, is vLLM's own.)"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from model_server.lifecycle import Lifecycle


def router(lifecycle: Lifecycle) -> APIRouter:
    """Return the route. 200 once the engine answers and the adapters named at start are settled; 503 while draining."""
    routes = APIRouter()

    @routes.get("/readyz", include_in_schema=True)
    async def readyz() -> JSONResponse:
        """Readiness."""
        state = str(lifecycle.phase)
        if lifecycle.ready:
            return JSONResponse({"state": state})
        return JSONResponse({"state": state, "waitingFor": lifecycle.waiting_for}, status_code=503)

    return routes
