"""adapters.products: rows get their own adapter's product, rows without one stay bit for bit what they were."""

from __future__ import annotations

import pytest
import torch

from model_server.adapters.products import BUFFER, expand, groups, shrink

pytestmark = pytest.mark.slow  # imports torch

RANK, IN, OUT, SLOTS = 4, 12, 10, 3
BATCHES = {
    "one adapter": [1, 1, 1],
    "the base alone": [-1, -1],
    "beside the base": [2, -1, -1],
    "scattered": [0, -1, 2, 0, 1, 2, -1],
    "nothing": [],
}


def matrices(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("slots", BATCHES.values(), ids=BATCHES)
def test_groups_hold_every_row_that_uses_an_adapter_once(slots: list[int]) -> None:
    found = {}
    for slot, rows in groups(slots):
        for row in torch.arange(len(slots))[rows].tolist():
            assert row not in found
            found[row] = slot
    assert found == {row: slot for row, slot in enumerate(slots) if slot != -1}


@pytest.mark.parametrize("slots", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_each_row_gets_the_product_of_its_own_adapter(slots: list[int], dtype: torch.dtype, near: float) -> None:
    x = matrices(len(slots), IN, dtype=dtype)
    a, b = matrices(SLOTS, 1, RANK, IN, dtype=dtype), matrices(SLOTS, 1, OUT, RANK, dtype=dtype)
    before = matrices(len(slots), OUT, dtype=dtype)
    y, buffer = before.clone(), torch.zeros(len(slots), RANK, dtype=BUFFER)
    batch = groups(slots)
    shrink(buffer, x, a, batch, 0.5)
    expand(y, buffer, b, batch)
    for row, slot in enumerate(slots):
        if slot == -1:
            assert torch.equal(y[row], before[row])
        else:
            delta = b[slot, 0].double() @ (a[slot, 0].double() @ x[row].double()) * 0.5
            expected = before[row].double() + delta
            assert torch.allclose(y[row].double(), expected, rtol=near, atol=near)


@pytest.mark.parametrize("width", [OUT - 3, OUT, OUT + 3])
def test_outputs_may_be_padded_differently_and_replaced(width: int) -> None:
    x, b = matrices(2, RANK, dtype=torch.float32), matrices(SLOTS, OUT, RANK, dtype=torch.float32)
    y = torch.full((2, width), 7.0)
    expand(y, x, b, groups([-1, 2]), add=False)
    assert y[0].tolist() == [7.0] * width
    same = min(width, OUT)
    assert torch.allclose(y[1, :same], (b[2] @ x[1])[:same])
    assert y[1, same:].tolist() == [7.0] * (width - same)
