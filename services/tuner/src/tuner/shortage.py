"""Which errors say that memory or a disk ran out, whatever library raised them. Pure."""

from __future__ import annotations

import errno
from typing import Final

_NO_MEMORY: Final = ("can't allocate memory", "out of memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocator for CPUs, CUDA itself, C++ and cuBLAS say in a plain RuntimeError."""
_NO_ROOM: Final = ("No space left on device", "Disk quota exceeded", "unexpected pos ", "PytorchStreamWriter failed")
"""What safetensors says in an error of its own, and torch where its archive stops growing: it does not tell why."""


def disk_full(error: BaseException) -> bool:
    """Whether an exception says that a disk, or a share of one, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in str(error) for words in _NO_ROOM)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the GPU or of the machine, ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY))
    )
