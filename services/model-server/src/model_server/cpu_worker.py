"""vLLM's worker for a CPU, with our products for adapters: `vllm_compat.engine_config` names it to vLLM.

Runs in the engine's processes only. Knows vLLM 0.32's PunicaWrapperCPU, by the methods that its base class declares; where
one of them is missing vLLM's own stays in use and the log says so.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from model_server.adapters import products

_OWN: Final = ("update_metadata", "add_shrink", "add_expand", "add_lora_embedding", "add_lora_logits")
_logger = logging.getLogger("vllm.model_server")


class Worker(CPUWorker):  # type: ignore[misc] # vLLM is not typed
    """CPUWorker whose adapters are multiplied by GroupedAdapters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Asked when the model is loaded. vLLM has no setting for it.
        missing = [name for name in _OWN if not hasattr(PunicaWrapperCPU, name)]
        if missing:
            _logger.warning("PunicaWrapperCPU has no %s: adapters are slow and touch other rows", ", ".join(missing))
        else:
            current_platform.get_punica_wrapper = lambda: f"{__name__}.{GroupedAdapters.__name__}"
        super().__init__(*args, **kwargs)


class GroupedAdapters(PunicaWrapperCPU):  # type: ignore[misc]
    """PunicaWrapperCPU that groups a batch's rows by adapter, once for a step."""

    _tokens: tuple[products.Group, ...] = ()
    _samples: tuple[int, ...] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the adapters of the next step's rows."""
        super().update_metadata(*args, **kwargs)
        self._tokens = products.groups(self.token_lora_indices.tolist())
        self._samples = tuple(self.sampler_indices.tolist())

    def add_shrink(self, y: Any, x: Any, lora_a_stacked: Any, scale: float, **_: Any) -> None:
        """y[i] = scale * x @ A_i, for the slices i of a layer."""
        x = x.view(-1, x.shape[-1])
        for number, stacked in enumerate(lora_a_stacked):
            part = y[number]
            products.shrink(part.view(-1, part.shape[-1]), x, stacked, self._tokens, scale)

    def add_expand(
        self,
        y: Any,
        x: Any,
        lora_b_stacked: Any,
        output_slices: tuple[int, ...],
        *,
        offset_start: int = 0,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        """y[:, slice i] += x[i] @ B_i, for the slices i of a layer, beginning at `offset_start`."""
        y = y.view(-1, y.shape[-1])
        start = offset_start
        for number, width in enumerate(output_slices):
            part = y[:, start : start + width]
            products.expand(part, x[number], lora_b_stacked[number], self._tokens, add=add_inputs)
            start += width

    def add_lora_embedding(self, y: Any, x: Any, lora_b_stacked: Any, add_inputs: bool = True, **_: Any) -> None:
        """y += x @ B."""
        products.expand(y, x, lora_b_stacked, self._tokens, add=add_inputs)

    def add_lora_logits(
        self, y: Any, x: Any, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, *, buffer: Any = None, **_: Any
    ) -> None:
        """y += scale * x @ A @ B, for the rows that are sampled."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if buffer is None:
            buffer = x.new_zeros((x.shape[0], lora_b_stacked.shape[-1]), dtype=products.BUFFER)
        batch = products.groups(self._sampled(x.shape[0]))
        products.shrink(buffer, x, lora_a_stacked, batch, scale)
        products.expand(y, buffer, lora_b_stacked, batch)

    def _sampled(self, rows: int) -> tuple[int, ...]:
        """Return the slots of rows of logits: one for each request, or else the prompt of one, for its logprobs.

        vLLM does not say whose prompt. Where requests differ it gets no adapter's part on lm_head; PunicaWrapperCPU ends the
        engine there.
        """
        if rows == len(self._samples):
            return self._samples
        return self._samples[:1] * rows if len(set(self._samples)) == 1 else ()
