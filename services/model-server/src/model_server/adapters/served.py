"""vLLM's registry of served models, speaking public names.

vLLM looks adapters up by the request's `model` and answers with the adapter's own name. Here the key is the public name,
the adapter's name is the engine's, and every answer is translated back. A lookup also notes the adapter on the HTTP
request that made it: that is how a version is known to be unused.
"""

from __future__ import annotations

from typing import Any

from model_server import vllm_compat
from model_server.adapters.version import Version
from model_server.lifecycle import CURRENT


class PublicNames(dict[str, Any]):
    """Public name to LoRARequest; a lookup marks the running HTTP request as a user of that version."""

    def __getitem__(self, name: str) -> Any:
        request = super().__getitem__(name)
        flight = CURRENT.get()
        if flight is not None:
            flight.adapter = name
            flight.engine_name = request.lora_name
        return request


def models_class() -> type[Any]:
    """Return a subclass of vLLM's OpenAIServingModels. Imports vLLM."""
    base: Any = vllm_compat.serving_models_class()

    class ServedModels(base):  # type: ignore[misc]
        """OpenAIServingModels with `publish` and `withdraw`, and without resolvers."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.lora_requests = PublicNames()
            self._public: dict[str, str] = {}
            """Engine name to public name. Kept for versions on their way out: their streams still run."""
            self._roots: dict[str, str] = {}

        def publish(self, version: Version, request: Any, root: str) -> None:
            """Let the public name mean this version from the next lookup on."""
            self._public[version.engine_name] = version.name
            self._roots[version.engine_name] = root
            self.lora_requests[version.name] = request

        def withdraw(self, name: str) -> None:
            """Stop serving under this name."""
            self.lora_requests.pop(name, None)

        def forget(self, version: Version) -> None:
            """Drop what is kept of a version that left the engine."""
            self._public.pop(version.engine_name, None)
            self._roots.pop(version.engine_name, None)

        def model_name(self, lora_request: Any = None) -> str:
            """Return the name that answers carry."""
            name: str = super().model_name(lora_request)
            return name if lora_request is None else self._public.get(name, name)

        async def show_available_models(self) -> Any:
            """Return the base model and the adapters, by public name."""
            listing = await self.registry.show_available_models()
            parent = self.base_model_paths[0].name
            for name, request in sorted(self.lora_requests.items()):
                listing.data.append(vllm_compat.model_card(name, self._roots[request.lora_name], parent))
            return listing

    return ServedModels
