"""What the engine will run on, asked without opening a CUDA context in this process."""

from __future__ import annotations

from model_server.dtype import Device, missing_kernels
from model_server.exits import ExitCode, FatalError


def probe() -> Device:
    """Return the device that vLLM's platform detection found. Raises FatalError(ENGINE_LACKS_GPU) for none."""
    from model_server import vllm_compat

    platform = vllm_compat.current_platform()
    if platform.is_cpu():
        return Device(kind="cpu", name="CPU")
    if platform.is_unspecified():
        raise FatalError(
            ExitCode.ENGINE_LACKS_GPU,
            "this engine image needs a GPU and the pod sees none: check nvidia.com/gpu in the pod's limits and the "
            "device plugin of the node",
        )
    import torch

    # The platform asks NVML. torch.cuda.get_device_capability would hold a CUDA context (some 500 MiB) for good.
    capability = platform.get_device_capability()
    return Device(
        kind="cuda",
        name=platform.get_device_name(),
        capability=None if capability is None else (capability.major, capability.minor),
        architectures=tuple(torch.cuda.get_arch_list()),
    )


def check(device: Device) -> None:
    """Raise FatalError(ENGINE_LACKS_GPU) if the image carries no kernels for `device`."""
    problem = missing_kernels(device)
    if problem:
        raise FatalError(ExitCode.ENGINE_LACKS_GPU, problem)
