"""The products with adapters' matrices for a batch whose rows use different adapters, on a CPU. Pure torch.

One product for each adapter in the batch, over all rows that use it. vLLM 0.32 copies the adapter's matrices for every
row instead, and takes the rows that use none for users of the last slot (vllm-project/vllm#48421, #49656).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

NO_ADAPTER: Final = -1
"""The slot of a row that uses the base model alone."""
BUFFER: Final = torch.float32
"""Between the two products of an adapter, as in vLLM's kernels for GPUs."""


class Group(NamedTuple):
    """The rows of a batch that use the adapter in one slot: a slice where they follow each other, else their numbers."""

    slot: int
    rows: Any


def groups(slots: Sequence[int]) -> tuple[Group, ...]:
    """Return the groups of a batch, given each row's slot. Rows without an adapter are in none."""
    rows: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        if slot != NO_ADAPTER:
            rows.setdefault(slot, []).append(row)
    return tuple(Group(slot, _compact(found)) for slot, found in sorted(rows.items()))


def shrink(
    y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, batch: tuple[Group, ...], scale: float = 1.0
) -> None:
    """Set `y` to `scale * x @ A^T` in the rows of each group; `stacked` holds A (rank, in) of every slot."""
    for slot, rows in batch:
        found = _product(x[rows], _matrix(stacked, slot), y.dtype)
        y[rows, : found.shape[1]] = found * scale


def expand(
    y: torch.Tensor, x: torch.Tensor, stacked: torch.Tensor, batch: tuple[Group, ...], *, add: bool = True
) -> None:
    """Add `x @ B^T` to the rows of each group in `y`, or set them; `stacked` holds B (out, rank) of every slot.

    `y` may be wider than `out` or narrower: adapter and model are padded differently.
    """
    for slot, rows in batch:
        found = _product(x[rows].to(y.dtype), _matrix(stacked, slot), y.dtype)
        width = min(y.shape[1], found.shape[1])
        if add:
            y[rows, :width] += found[:, :width]
        else:
            y[rows, :width] = found[:, :width]


def _compact(rows: list[int]) -> Any:
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else torch.tensor(rows)


def _matrix(stacked: torch.Tensor, slot: int) -> torch.Tensor:
    matrix = stacked[slot]
    return matrix[0] if matrix.dim() == 3 else matrix


def _product(x: torch.Tensor, matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `x @ matrix^T` as `dtype`. Two of one type are multiplied as they are: a copy of the matrix costs most."""
    if x.dtype != matrix.dtype:
        x, matrix = x.to(dtype), matrix.to(dtype)
    return torch.nn.functional.linear(x, matrix).to(dtype)
